// SPDX-License-Identifier: GPL-2.0-only OR LicenseRef-Picket
/* Counts every packet where it passes, so that user space reads sums and no packets: what it costs there does not grow
 * with a flood, and what it costs here is the same for every packet, whoever sends it.
 *
 * One counting function; three places where it can stand: a socket filter that sees all interfaces (`tap`), the
 * driver (`xdp`), the queueing discipline (`tc`). The tap also hands on, within budgets, what detectors must see whole:
 * ARP, neighbour discovery, DHCP, and what may be part of a scan: attempts, each once in some seconds, and the first answer to
 * each attempt that was handed on. So an attempt without an answer had none, however much was left out. It needs no
 * type information of the kernel: all that it reads is packets and the stable part of their description. Loads on 5.5
 * and later (arrays that can be mapped). */
#include "kernel.h"
#include "network_counts.h"

static long (*const load_bytes)(void *skb, u32 at, void *to, u32 bytes) = (void *)26;
static u32 (*const random_number)(void) = (void *)7;
static u32 (*const processor)(void) = (void *)8;

/* Keeps the compiler from reordering what is written before and after. */
#define BARRIER() asm volatile("" ::: "memory")

enum { FLAG_MAPPABLE = 1024 };
enum { ETHERNET_BYTES = 14, TAG_BYTES = 4, TAGS_MAX = 3, EXTENSIONS_MAX = 8, PACKET_BYTES_MAX = 65535 };
enum { TYPE_IPV4 = 0x0800, TYPE_ARP = 0x0806, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_QINQ = 0x88a8, TYPE_OLD_QINQ = 0x9100 };
enum { PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, PROTOCOL_ICMPV6 = 58, PROTOCOL_UDP_LITE = 136 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, DESTINATION = 60, MOBILITY = 135 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16, TCP_URG = 32 };
enum { PACKET_OTHERHOST = 3, PACKET_OUTGOING = 4 };
/* What a packet is to a scan. A datagram is an answer if it goes back where one came from, and else an attempt. */
enum { ROLE_NONE, ROLE_FRAME, ROLE_ATTEMPT, ROLE_ANSWER, ROLE_DATAGRAM, ROLE_ERROR };
enum { ICMP_ECHO_REPLY = 0, ICMP_UNREACHABLE = 3, ICMP_ECHO = 8, ICMPV6_UNREACHABLE = 1, ICMPV6_ECHO = 128, ICMPV6_ECHO_REPLY = 129 };
/* An attempt that goes on is handed on again after so many epochs. */
enum { AGAIN = 8 };
/* What wakes user space and is none of its business. */
enum { WAKE_SNAP = 1 };
enum { VERDICT_PASS_XDP = 2, VERDICT_NEXT_TC = -1 };
enum place { TAP, XDP, TC };

/* A packet, and where the program stands; `begin` and `end` are those of the driver's buffer. */
struct packet {
	void *context;
	const u8 *begin;
	const u8 *end;
	enum place place;
};

/* The stable descriptions of a packet, up to what is read (include/uapi/linux/bpf.h). */
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
};

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
};

struct ipv4 {
	u8 version_length;
	u8 service;
	u16 total;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct ipv6 {
	u32 version;
	u16 payload;
	u8 next;
	u8 hops;
	u32 source[4];
	u32 destination[4];
};

#define MAPPED_ARRAY(name, entries, what)                                                                               \
	struct {                                                                                                        \
		MAP_NUMBER(type, MAP_TYPE_ARRAY);                                                                       \
		MAP_NUMBER(max_entries, entries);                                                                       \
		MAP_NUMBER(map_flags, FLAG_MAPPABLE);                                                                   \
		MAP_TYPE(key, u32);                                                                                     \
		MAP_TYPE(value, what);                                                                                  \
	} name SEC(".maps")

/* How many entries those have that grow with the processors is set when they are made. */
MAPPED_ARRAY(CONTROL, 1, struct control);
MAPPED_ARRAY(INTERFACES, INTERFACES_MAX, struct interface);
MAPPED_ARRAY(TOTALS, 1, struct counts);
MAPPED_ARRAY(SOURCES, 1, struct talker);
MAPPED_ARRAY(TARGETS, 1, struct talker);
MAPPED_ARRAY(DISTINCT, DIRECTIONS *CLASSES, struct distinct);
MAPPED_ARRAY(PACES, 1, struct pace);

/* By the hash of who tries what; the later attempt takes the slot. */
struct {
	MAP_NUMBER(type, MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, ASKED_SLOTS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct asked);
} ASKED SEC(".maps");

char LICENCE[] SEC("license") = "Dual MIT/GPL";

/* What there is to count of a packet. */
struct seen {
	u64 source[2];
	u64 destination[2];
	u16 port;
	u8 class;
	u8 ttl;
	u8 has_address;
	u8 role;
	u8 budget;
	/* Where its IP packet goes on, and with what; until then its class is what it will be if nothing follows. */
	u8 version;
	u8 protocol;
	u8 fragment;
	u8 partial;
	/* Ports of source and destination; of an echo, its number and none. */
	u16 from;
	u16 to;
	u32 at;
	u32 wire;
};

INLINE u16 swapped(u16 number)
{
	return __builtin_bswap16(number);
}

/* `bytes` of the packet from `at` on: where they lie in the driver's buffer, or copied into `room`. */
INLINE const void *bytes_at(const struct packet *packet, u32 at, void *room, const u32 bytes)
{
	if (packet->place == XDP) {
		const u8 *here;

		if (at > 0x7fff)
			return 0;
		here = packet->begin + at;
		return here + bytes <= packet->end ? here : 0;
	}
	return load_bytes(packet->context, at, room, bytes) == 0 ? room : 0;
}

/* AMPLIFIERS in agent/src/detect/network/class.rs. */
INLINE u8 amplifies(u16 port)
{
	switch (port) {
	case 17: case 19: case 53: case 69: case 111: case 123: case 137: case 161: case 177: case 389: case 427:
	case 520: case 1194: case 1434: case 1604: case 1900: case 3283: case 3478: case 3702: case 5093: case 5351:
	case 5353: case 5683: case 10001: case 11211: case 17185: case 27015: case 27960: case 33848: case 37810:
		return 1;
	}
	return 0;
}

INLINE u8 class_of_flags(u8 flags)
{
	if (flags & TCP_SYN && flags & (TCP_FIN | TCP_RST))
		return CLASS_STEALTH;
	if (flags & TCP_SYN)
		return flags & TCP_ACK ? CLASS_SYN_ACK : CLASS_SYN;
	if (flags & TCP_RST)
		return CLASS_RST;
	if (!(flags & TCP_ACK))
		return CLASS_STEALTH;
	return CLASS_ACK;
}

/* `wire`: bytes from `at` on, by the lengths of the headers before. */
INLINE void see_tcp(const struct packet *packet, u32 at, u32 wire, u8 direction, struct seen *seen)
{
	u8 room[14] __attribute__((aligned(8)));
	const u8 *head = bytes_at(packet, at, room, sizeof(room));
	u32 length;

	seen->class = CLASS_MALFORMED;
	if (!head || wire < 20)
		return;
	length = (head[12] >> 4) * 4;
	if (length < 20 || length > wire)
		return;
	seen->from = swapped(*(const u16 *)head);
	seen->to = seen->port = swapped(*(const u16 *)(head + 2));
	seen->class = class_of_flags(head[13]);
	if (seen->class == CLASS_SYN || seen->class == CLASS_STEALTH) {
		seen->role = ROLE_ATTEMPT;
		seen->budget = direction == DIRECTION_OUT ? BUDGET_SYNS_OUT : BUDGET_SYNS_IN;
		if (seen->class == CLASS_STEALTH)
			seen->budget = BUDGET_STEALTH;
	} else if (seen->class == CLASS_RST || seen->class == CLASS_SYN_ACK) {
		seen->role = ROLE_ANSWER;
	}
}

INLINE void see_udp(const struct packet *packet, u32 at, u32 wire, u8 lite, u8 direction, struct seen *seen)
{
	u8 room[8] __attribute__((aligned(8)));
	const u16 *head = bytes_at(packet, at, room, sizeof(room));
	u16 source, length;

	seen->class = CLASS_MALFORMED;
	if (!head || wire < 8)
		return;
	length = swapped(head[2]);
	/* Zero: longer than the field can tell. */
	if (!lite && length != 0 && (length < 8 || length > wire))
		return;
	source = swapped(head[0]);
	seen->port = swapped(head[1]);
	seen->from = source;
	seen->to = seen->port;
	seen->class = CLASS_UDP;
	seen->role = ROLE_DATAGRAM;
	seen->budget = direction == DIRECTION_OUT ? BUDGET_DATAGRAMS_OUT : BUDGET_DATAGRAMS_IN;
	if (seen->port == 67 || seen->port == 68 || seen->port == 546 || seen->port == 547)
		seen->role = ROLE_FRAME;
	if (!amplifies(source))
		return;
	seen->class = CLASS_AMPLIFICATION;
	seen->role = ROLE_ANSWER;
	/* The service that is misused. */
	seen->port = source;
}

INLINE void see_icmp(const struct packet *packet, u32 at, u32 wire, u8 version, u8 direction, struct seen *seen)
{
	u8 room[8] __attribute__((aligned(8)));
	const u8 *head = bytes_at(packet, at, room, sizeof(room));
	u16 number;

	seen->class = CLASS_MALFORMED;
	if (!head || wire < 8)
		return;
	seen->class = CLASS_ICMP;
	seen->port = head[0];
	if (version == 6 && head[0] >= 133 && head[0] <= 137) {
		seen->class = CLASS_NEIGHBOUR;
		seen->role = ROLE_FRAME;
		return;
	}
	number = *(const u16 *)(head + 4);
	if (head[0] == (version == 6 ? ICMPV6_ECHO : ICMP_ECHO)) {
		seen->role = ROLE_ATTEMPT;
		seen->budget = direction == DIRECTION_OUT ? BUDGET_SYNS_OUT : BUDGET_SYNS_IN;
		seen->from = number;
	} else if (head[0] == (version == 6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY)) {
		seen->role = ROLE_ANSWER;
		seen->to = number;
	} else if (head[0] == (version == 6 ? ICMPV6_UNREACHABLE : ICMP_UNREACHABLE)) {
		seen->role = ROLE_ERROR;
		seen->budget = BUDGET_ERRORS;
	}
}

INLINE void see_above(const struct packet *packet, u8 direction, struct seen *seen)
{
	u8 protocol = seen->protocol;

	if (protocol == PROTOCOL_TCP)
		see_tcp(packet, seen->at, seen->wire, direction, seen);
	else if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_UDP_LITE)
		see_udp(packet, seen->at, seen->wire, protocol == PROTOCOL_UDP_LITE, direction, seen);
	else if (protocol == (seen->version == 6 ? PROTOCOL_ICMPV6 : PROTOCOL_ICMP))
		see_icmp(packet, seen->at, seen->wire, seen->version, direction, seen);
	else
		seen->class = CLASS_OTHER_IP;
}

INLINE u64 mapped(u32 address)
{
	return (u64)address << 32 | 0xffff0000;
}

INLINE void see_ipv4(const struct packet *packet, u32 at, u32 wire, struct seen *seen)
{
	struct ipv4 room;
	const struct ipv4 *head = bytes_at(packet, at, &room, sizeof(room));
	u32 length, total, parts;

	seen->class = CLASS_MALFORMED;
	if (!head || head->version_length >> 4 != 4)
		return;
	seen->source[1] = mapped(head->source);
	seen->destination[1] = mapped(head->destination);
	seen->ttl = head->ttl;
	seen->has_address = 1;
	length = (head->version_length & 15) * 4;
	total = swapped(head->total);
	/* What the kernel has put together may be longer than the field can tell. */
	if (total == 0 && wire > PACKET_BYTES_MAX)
		total = wire;
	if (length < 20 || total < length || total > wire)
		return;
	parts = swapped(head->fragment);
	if (parts & 0x3fff) {
		if ((parts & 0x1fff) * 8 + total - length <= PACKET_BYTES_MAX)
			seen->class = CLASS_FRAGMENT;
		return;
	}
	seen->version = 4;
	seen->protocol = head->protocol;
	seen->at = at + length;
	seen->wire = total - length;
}

/* The verifier follows each way to a value that it knows. Where many ways meet, what they bring is made unknown to it, by
 * a walk through memory that it does not follow: else it would check the rest once for each of them. */
INLINE void forget(struct pace *pace, struct seen *seen)
{
	volatile u32 *scratch = pace->scratch;

	scratch[0] = seen->at;
	scratch[1] = seen->wire;
	scratch[2] = seen->protocol | seen->version << 8 | seen->fragment << 16 | seen->partial << 24;
	seen->at = scratch[0];
	seen->wire = scratch[1];
	seen->protocol = scratch[2];
	seen->version = scratch[2] >> 8;
	seen->fragment = scratch[2] >> 16;
	seen->partial = scratch[2] >> 24;
}

INLINE void see_extensions(const struct packet *packet, struct pace *pace, struct seen *seen)
{
	for (int step = 0; step <= EXTENSIONS_MAX; step++) {
		u16 space[2];
		const u8 *extension;
		u8 next = seen->protocol;
		u32 bytes;

		if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION && next != MOBILITY &&
		    next != AUTHENTICATION && next != FRAGMENT) {
			seen->version = 6;
			return;
		}
		extension = bytes_at(packet, seen->at, space, sizeof(space));
		if (!extension)
			return;
		bytes = next == AUTHENTICATION ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		if (next == FRAGMENT) {
			u32 part = swapped(*(const u16 *)(extension + 2));

			bytes = 8;
			seen->fragment = 1;
			seen->partial = part & 1;
			if (seen->wire < bytes || (part & 0xfff8) + seen->wire - bytes > PACKET_BYTES_MAX)
				return;
			if (part & 0xfff8) {
				seen->class = CLASS_FRAGMENT;
				return;
			}
		}
		if (seen->wire < bytes)
			return;
		seen->at += bytes;
		seen->wire -= bytes;
		seen->protocol = extension[0];
		forget(pace, seen);
	}
}

INLINE void see_ipv6(const struct packet *packet, struct pace *pace, u32 at, u32 wire, struct seen *seen)
{
	struct ipv6 room;
	const struct ipv6 *head = bytes_at(packet, at, &room, sizeof(room));
	u32 payload;
	u8 next;

	seen->class = CLASS_MALFORMED;
	if (!head || (head->version & 0xf0) != 0x60)
		return;
	seen->source[0] = (u64)head->source[1] << 32 | head->source[0];
	seen->source[1] = (u64)head->source[3] << 32 | head->source[2];
	seen->destination[0] = (u64)head->destination[1] << 32 | head->destination[0];
	seen->destination[1] = (u64)head->destination[3] << 32 | head->destination[2];
	seen->ttl = head->hops;
	seen->has_address = 1;
	next = head->next;
	payload = swapped(head->payload);
	at += sizeof(room);
	wire -= sizeof(room);
	/* Jumbograms, and what the kernel has put together, tell no length here. */
	if (payload != 0 || (next != HOP_BY_HOP && wire <= PACKET_BYTES_MAX)) {
		if (payload > wire)
			return;
		wire = payload;
	}
	seen->at = at;
	seen->wire = wire;
	seen->protocol = head->next;
	see_extensions(packet, pace, seen);
}

/* The finish of MurmurHash3: neighbours end up far apart, which sums of one multiplication do not achieve. */
INLINE u64 hashed(u64 high, u64 low, u64 seed)
{
	u64 hash = low ^ seed ^ high * 0x9e3779b97f4a7c15ull;

	hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdull;
	hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53ull;
	return hash ^ hash >> 33;
}

/* `slot` is that of the hash of its key: address, port, class, interface and direction. */
INLINE void vote(struct talker *slot, const u64 *address, u16 port, u8 class, u8 interface, u8 direction, u32 packets,
		 u32 bytes, u32 epoch)
{
	if (!slot)
		return;
	if (slot->epoch == epoch) {
		if (slot->address[1] == address[1] && slot->address[0] == address[0] && slot->port == port &&
		    slot->class == class && slot->interface == interface && slot->direction == direction) {
			slot->votes += packets;
			slot->packets += packets;
			slot->bytes += bytes;
			return;
		}
		if (slot->votes > packets) {
			slot->votes -= packets;
			return;
		}
	}
	/* Not of this epoch until it is whole: user space may be reading. */
	slot->epoch = 0;
	BARRIER();
	slot->address[0] = address[0];
	slot->address[1] = address[1];
	slot->packets = packets;
	slot->bytes = bytes;
	slot->votes = packets;
	slot->port = port;
	slot->class = class;
	slot->interface = interface;
	slot->direction = direction;
	BARRIER();
	slot->epoch = epoch;
}

INLINE void count(const struct control *control, const struct seen *seen, u32 cpu, u32 slot, u8 direction, u32 packets,
		  u32 bytes)
{
	u32 at = cpu * control->interfaces + slot, place, cell_at, ttl;
	struct distinct *distinct;
	struct counts *counts;
	u64 hash, more;
	u8 cell;

	counts = map_lookup(&TOTALS, &at);
	if (!counts)
		return;
	place = direction * CLASSES + seen->class;
	OPAQUE(place);
	place &= DIRECTIONS * CLASSES - 1;
	counts->by[place].packets += packets;
	counts->by[place].bytes += bytes;
	if (!seen->has_address)
		return;
	more = (u64)slot << 48 ^ (u64)place << 32;
	hash = hashed(seen->source[0], seen->source[1], control->seed ^ more);
	distinct = map_lookup(&DISTINCT, &place);
	if (distinct) {
		cell = control->cell;
		cell_at = hash & (CELLS - 1);
		ttl = seen->ttl;
		OPAQUE(ttl);
		ttl &= 255;
		if (distinct->cells[cell_at] != cell)
			distinct->cells[cell_at] = cell;
		if (distinct->ttls[ttl] != cell)
			distinct->ttls[ttl] = cell;
	}
	at = cpu * control->sources + ((u32)(hash >> 40) & (control->sources - 1));
	vote(map_lookup(&SOURCES, &at), seen->source, 0, seen->class, slot, direction, packets, bytes, control->epoch);
	hash = hashed(seen->destination[0], seen->destination[1], control->seed ^ more ^ seen->port);
	at = cpu * control->targets + ((u32)(hash >> 40) & (control->targets - 1));
	vote(map_lookup(&TARGETS, &at), seen->destination, seen->port, seen->class, slot, direction, packets, bytes,
	     control->epoch);
}

/* As above, of what was found behind the IP header. */
INLINE void forget_found(struct pace *pace, struct seen *seen)
{
	volatile u32 *scratch = pace->scratch;

	scratch[3] = seen->class | seen->role << 8 | seen->budget << 16 | seen->protocol << 24;
	scratch[4] = seen->from | seen->to << 16;
	seen->class = scratch[3];
	seen->role = scratch[3] >> 8;
	seen->budget = scratch[3] >> 16;
	seen->protocol = scratch[3] >> 24;
	seen->from = scratch[4];
	seen->to = scratch[4] >> 16;
}

/* Whether a budget has room for a packet: for all up to half of it, then by chance. */
INLINE u32 has_room(const struct control *control, const struct pace *pace, u32 budget)
{
	u32 spent = pace->used[budget], most = control->budgets[budget];

	if (spent >= most)
		return 0;
	return spent < most / 2 || control->sample <= 1 || random_number() % control->sample == 0;
}

INLINE u32 spend(struct pace *pace, u32 budget)
{
	pace->used[budget]++;
	pace->passed[budget]++;
	return 1;
}

/* Stands for an attempt, which way it goes included: what passes this host is seen both ways. */
INLINE u64 print_of(const struct control *control, const u64 *from, u16 from_port, const u64 *to, u16 to_port,
		    u8 protocol, u8 direction)
{
	u64 what = (u64)from_port << 32 | (u64)to_port << 16 | protocol << 8 | direction;

	return hashed(to[0], to[1], hashed(from[0], from[1], control->seed ^ what));
}

INLINE struct asked *asked_of(u64 print)
{
	u32 at = print & (ASKED_SLOTS - 1);

	return map_lookup(&ASKED, &at);
}

/* Whether this attempt is handed on. In a flood most are told by the budget alone; of datagrams, which may be a stream's, only
 * those are seen that are not repeated. */
INLINE u32 attempt(const struct control *control, const struct seen *seen, struct pace *pace, u32 budget, u8 direction,
		   u32 packets)
{
	u32 streams = seen->role == ROLE_DATAGRAM, mark, epoch = control->epoch;
	struct asked *asked;
	u64 print;

	if (!streams)
		pace->seen[budget] += packets;
	if (streams ? pace->used[budget] >= control->budgets[budget] : !has_room(control, pace, budget))
		return 0;
	print = print_of(control, seen->source, seen->from, seen->destination, seen->to, seen->protocol, direction);
	asked = asked_of(print);
	mark = print >> 32 | 1;
	if (!asked || (asked->print == mark && epoch - (asked->epoch >> 1) < AGAIN))
		return 0;
	if (streams) {
		pace->seen[budget] += packets;
		if (!has_room(control, pace, budget))
			return 0;
	}
	asked->print = mark;
	asked->epoch = epoch << 1;
	return spend(pace, budget);
}

enum { NO_ANSWER, LATER_ANSWER, FIRST_ANSWER };

/* Whether it answers an attempt that was handed on. */
INLINE u32 answer(const struct control *control, const struct seen *seen, u8 direction)
{
	u8 way = direction == DIRECTION_PASSING ? DIRECTION_PASSING : direction ^ 1;
	u64 print = print_of(control, seen->destination, seen->to, seen->source, seen->from, seen->protocol, way);
	struct asked *asked = asked_of(print);

	if (!asked || asked->print != (u32)(print >> 32 | 1))
		return NO_ANSWER;
	if (asked->epoch & 1)
		return LATER_ANSWER;
	asked->epoch |= 1;
	return FIRST_ANSWER;
}

INLINE u32 passes(const struct control *control, const struct seen *seen, struct pace *pace, u8 direction, u32 packets)
{
	u32 budget = seen->budget;
	u8 role = seen->role;

	if (role == ROLE_NONE)
		return 0;
	if (role == ROLE_FRAME)
		budget = BUDGET_FRAMES;
	OPAQUE(budget);
	budget &= BUDGETS - 1;
	if (role == ROLE_FRAME || role == ROLE_ERROR) {
		pace->seen[budget] += packets;
		return has_room(control, pace, budget) ? spend(pace, budget) : 0;
	}
	if (role == ROLE_ANSWER || role == ROLE_DATAGRAM) {
		u32 found = answer(control, seen, direction);

		pace->answers += found == FIRST_ANSWER;
		if (role == ROLE_ANSWER || found != NO_ANSWER)
			return found == FIRST_ANSWER;
	}
	return attempt(control, seen, pace, budget, direction, packets);
}

/* How many bytes of the packet user space is to see; 0 for most. */
INLINE u32 hand_on(const struct control *control, const struct seen *seen, struct pace *pace, u8 direction, u32 packets)
{
	if (pace->epoch != control->epoch) {
		pace->epoch = control->epoch;
		pace->packets = 0;
		for (int budget = 0; budget < BUDGETS; budget++)
			pace->used[budget] = 0;
	}
	pace->packets += packets;
	if (passes(control, seen, pace, direction, packets))
		return control->snap;
	if (control->wake != 0 && pace->packets >= control->wake && pace->packets - packets < control->wake) {
		pace->wakes++;
		return WAKE_SNAP;
	}
	return 0;
}

INLINE u8 is_tag(u16 type)
{
	return type == TYPE_VLAN || type == TYPE_QINQ || type == TYPE_OLD_QINQ;
}

INLINE u32 take(const struct packet *packet, u32 index, u8 direction, u16 type, u32 bytes, u32 packets)
{
	struct seen seen = { .class = CLASS_OTHER, .role = ROLE_NONE };
	u32 zero = 0, at, cpu, slot = 0, flags = 0, wire;
	const struct interface *interface;
	const struct control *control;
	struct pace *pace;

	control = map_lookup(&CONTROL, &zero);
	at = index & (INTERFACES_MAX - 1);
	interface = map_lookup(&INTERFACES, &at);
	cpu = processor();
	pace = map_lookup(&PACES, &cpu);
	if (!control || !interface || !pace || control->epoch == 0)
		return 0;
	if (interface->index == index) {
		slot = interface->slot;
		flags = interface->flags;
	}
	if (flags & INTERFACE_SKIPPED)
		return 0;
	at = flags & INTERFACE_BARE ? 0 : ETHERNET_BYTES;
	if (packet->place == XDP) {
		u16 room;
		const u16 *kind = bytes_at(packet, ETHERNET_BYTES - 2, &room, sizeof(room));

		type = kind ? swapped(*kind) : 0;
	}
	for (int tag = 0; tag < TAGS_MAX; tag++) {
		u16 room[2];
		const u16 *inner;

		if (!is_tag(type))
			break;
		inner = bytes_at(packet, at, room, sizeof(room));
		if (!inner) {
			seen.class = CLASS_MALFORMED;
			break;
		}
		type = swapped(inner[1]);
		at += TAG_BYTES;
	}
	wire = bytes > at ? bytes - at : 0;
	if (is_tag(type)) {
		seen.class = CLASS_MALFORMED;
	} else if (type == TYPE_IPV4) {
		see_ipv4(packet, at, wire, &seen);
	} else if (type == TYPE_IPV6) {
		see_ipv6(packet, pace, at, wire, &seen);
	} else if (type == TYPE_ARP) {
		seen.class = CLASS_ARP;
		seen.role = ROLE_FRAME;
	}
	forget(pace, &seen);
	if (seen.version != 0) {
		see_above(packet, direction, &seen);
		/* The first of several parts may end anywhere. */
		if (seen.fragment && (seen.partial || seen.class != CLASS_MALFORMED)) {
			seen.class = CLASS_FRAGMENT;
			seen.role = ROLE_NONE;
		}
	}
	forget_found(pace, &seen);
	if (packet->place != TAP || direction == DIRECTION_OUT || !(flags & INTERFACE_COUNTED_BELOW)) {
		count(control, &seen, cpu, slot, direction, packets, bytes);
		pace->counted += packets;
	}
	return packet->place == TAP ? hand_on(control, &seen, pace, direction, packets) : 0;
}

INLINE u32 segments(const struct __sk_buff *skb)
{
	u32 number = skb->gso_segs;

	return number ? number : 1;
}

INLINE u8 direction_of(const struct __sk_buff *skb)
{
	if (skb->pkt_type == PACKET_OUTGOING)
		return DIRECTION_OUT;
	return skb->pkt_type == PACKET_OTHERHOST ? DIRECTION_PASSING : DIRECTION_IN;
}

SEC("socket")
int network_tap(struct __sk_buff *skb)
{
	const struct packet packet = { .context = skb, .place = TAP };

	return take(&packet, skb->ifindex, direction_of(skb), swapped(skb->protocol), skb->len, segments(skb));
}

SEC("xdp")
int network_xdp(struct xdp_md *md)
{
	const u8 *begin = (void *)(u64)md->data;
	const u8 *end = (void *)(u64)md->data_end;

	/* Else the compiler keeps them as the numbers of 32 bits that they seem to be. */
	OPAQUE(begin);
	OPAQUE(end);
	const struct packet packet = { .context = md, .begin = begin, .end = end, .place = XDP };

	take(&packet, md->ingress_ifindex, DIRECTION_IN, 0, end - begin, 1);
	return VERDICT_PASS_XDP;
}

SEC("classifier")
int network_tc(struct __sk_buff *skb)
{
	const struct packet packet = { .context = skb, .place = TC };

	take(&packet, skb->ifindex, direction_of(skb), swapped(skb->protocol), skb->len, segments(skb));
	return VERDICT_NEXT_TC;
}
