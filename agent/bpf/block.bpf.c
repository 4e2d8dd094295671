// SPDX-License-Identifier: GPL-2.0-only OR LicenseRef-Picket
/* Drops in the driver what the firewall's own tables drop anyway: packets to this host whose source is blocked. Whatever is not
 * plainly such a packet goes on to the firewall, which decides. Each source names the lease that it is blocked by, and the end of each
 * lease stands in an array, so that the kernel ends it by itself. Reads packets and nothing of the kernel's types; a clock
 * that goes on while the host sleeps is there from 5.8 on. */
#include "kernel.h"

enum { MAP_TYPE_HASH = 1, MAP_TYPE_LPM_TRIE = 11, FLAG_NO_PREALLOC = 1 };
enum { ETHERNET_BYTES = 14, TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd };
enum { IPV4_BYTES = 20, IPV4_SOURCE = 12, IPV6_BYTES = 40, IPV6_SOURCE = 8 };
enum { VERDICT_DROP = 1, VERDICT_PASS = 2 };
/* Instead of a lease: goes on in any case. */
enum { SPARED = 0 };
/* Leases, and interfaces; the same numbers are in early_drop.rs. */
enum { LEASES = 65, INTERFACES = 16 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
};

struct hardware {
	u8 address[6];
	u16 unused;
};

struct address4 {
	u32 words[1];
};

struct address6 {
	u32 words[4];
};

struct network4 {
	u32 length;
	struct address4 address;
};

struct network6 {
	u32 length;
	struct address6 address;
};

#define SOURCES(name, kind, flags, what)                                                                               \
	struct {                                                                                                       \
		MAP_NUMBER(type, kind);                                                                                \
		MAP_NUMBER(max_entries, 1);                                                                            \
		MAP_NUMBER(map_flags, flags);                                                                          \
		MAP_TYPE(key, what);                                                                                   \
		MAP_TYPE(value, u32);                                                                                  \
	} name SEC(".maps")

/* How many there are is told when it is loaded. */
SOURCES(HOSTS4, MAP_TYPE_HASH, 0, struct address4);
SOURCES(HOSTS6, MAP_TYPE_HASH, 0, struct address6);
SOURCES(NETWORKS4, MAP_TYPE_LPM_TRIE, FLAG_NO_PREALLOC, struct network4);
SOURCES(NETWORKS6, MAP_TYPE_LPM_TRIE, FLAG_NO_PREALLOC, struct network6);

/* Nanoseconds since boot. */
struct {
	MAP_NUMBER(type, MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, LEASES);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} ENDS SEC(".maps");

/* Hardware addresses by the numbers of interfaces: what is for others, of whom the firewall may know nothing, goes on. */
struct {
	MAP_NUMBER(type, MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, INTERFACES);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct hardware);
} OWN SEC(".maps");

char LICENCE[] SEC("license") = "Dual MIT/GPL";

/* Whether a lease has not ended. */
INLINE int runs(const u32 *lease)
{
	const u64 *end;

	if (!lease || *lease == SPARED)
		return 0;
	end = map_lookup(&ENDS, lease);
	return end && since_boot() < *end;
}

INLINE int is_own(const u8 *frame, u32 interface)
{
	const struct hardware *own = map_lookup(&OWN, &interface);
	const u16 *to = (const u16 *)frame, *mine;

	if (!own)
		return 0;
	mine = (const u16 *)own->address;
	return to[0] == mine[0] && to[1] == mine[1] && to[2] == mine[2];
}

INLINE int is_blocked4(const u8 *source)
{
	struct network4 network = { .length = 32 };
	const u32 *lease;

	network.address = *(const struct address4 *)source;
	lease = map_lookup(&HOSTS4, &network.address);
	if (lease && (*lease == SPARED || runs(lease)))
		return *lease != SPARED;
	return runs(map_lookup(&NETWORKS4, &network));
}

INLINE int is_blocked6(const u8 *source)
{
	struct network6 network = { .length = 128 };
	const u32 *lease;

	network.address = *(const struct address6 *)source;
	lease = map_lookup(&HOSTS6, &network.address);
	if (lease && (*lease == SPARED || runs(lease)))
		return *lease != SPARED;
	return runs(map_lookup(&NETWORKS6, &network));
}

SEC("xdp")
int block_early(struct xdp_md *md)
{
	const u8 *frame = (void *)(u64)md->data;
	const u8 *end = (void *)(u64)md->data_end;
	const u8 *packet;
	u32 type;

	/* Else the compiler keeps them as the numbers of 32 bits that they seem to be. */
	OPAQUE(frame);
	OPAQUE(end);
	packet = frame + ETHERNET_BYTES;
	if (packet > end)
		return VERDICT_PASS;
	type = frame[12] << 8 | frame[13];
	if (type == TYPE_IPV4) {
		if (packet + IPV4_BYTES > end || !is_own(frame, md->ingress_ifindex))
			return VERDICT_PASS;
		return is_blocked4(packet + IPV4_SOURCE) ? VERDICT_DROP : VERDICT_PASS;
	}
	if (type == TYPE_IPV6) {
		if (packet + IPV6_BYTES > end || !is_own(frame, md->ingress_ifindex))
			return VERDICT_PASS;
		return is_blocked6(packet + IPV6_SOURCE) ? VERDICT_DROP : VERDICT_PASS;
	}
	return VERDICT_PASS;
}
