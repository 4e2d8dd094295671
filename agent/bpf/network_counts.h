/* How network.bpf.c lays out what it counts. User space maps these arrays and reads them without a system call; the
 * same layout in Rust is `agent/src/sense/network/layout.rs`, and a test holds the two together.
 *
 * Everything has a fixed size. What is written for each packet lies in a block of the processor that counts, so no two
 * processors write the same place; only `cells` is shared, where each writes the same byte or none. */
#ifndef PICKET_NETWORK_COUNTS_H
#define PICKET_NETWORK_COUNTS_H

enum { INTERFACES_MAX = 1024, CELLS = 8192, DIRECTIONS = 4, CLASSES = 16, ASKED_SLOTS = 16384 };

/* In the order of `Class` in agent/src/detect/network/class.rs. */
enum {
	CLASS_MALFORMED,
	CLASS_FRAGMENT,
	CLASS_SYN,
	CLASS_SYN_ACK,
	CLASS_RST,
	CLASS_STEALTH,
	CLASS_ACK,
	CLASS_AMPLIFICATION,
	CLASS_UDP,
	CLASS_ICMP,
	CLASS_ARP,
	CLASS_NEIGHBOUR,
	CLASS_OTHER_IP,
	CLASS_OTHER,
};

enum { DIRECTION_IN, DIRECTION_OUT, DIRECTION_PASSING };

/* What is handed on has a budget by what it is. Answers have none of their own: each is the one answer to an attempt that
 * was handed on. */
enum {
	BUDGET_FRAMES,		/* ARP, ND and DHCP */
	BUDGET_STEALTH,		/* TCP with flags that no connection has */
	BUDGET_ERRORS,		/* ICMP: unreachable */
	BUDGET_SYNS_IN,		/* SYNs and echo requests, to this host or past it */
	BUDGET_SYNS_OUT,	/* and from it */
	BUDGET_DATAGRAMS_IN,	/* UDP that is no answer, likewise */
	BUDGET_DATAGRAMS_OUT,
	BUDGETS = 8,		/* room for so many */
};

/* An interface: its packets have no Ethernet header; they are neither counted nor handed on, because the interface
 * below or nobody's concern; those that come in are counted by another program. */
enum { INTERFACE_BARE = 1, INTERFACE_SKIPPED = 2, INTERFACE_COUNTED_BELOW = 4 };

/* Written by user space alone. */
struct control {
	u32 epoch;		/* counts up each second; never 0 */
	u32 cell;		/* 1 to 255: what marks a cell in this epoch */
	u32 wake;		/* so many packets on one processor in one epoch wake user space; 0: none do */
	u32 sample;		/* beyond half of a budget, one in so many is handed on */
	u32 snap;		/* bytes of a frame that is handed on */
	u32 interfaces;		/* interface slots in a processor's block */
	u32 sources;		/* slots of sources in a processor's block, a power of two */
	u32 targets;		/* likewise of targets */
	u32 processors;
	u32 budgets[BUDGETS];	/* packets handed on in one epoch and by one processor */
	u64 seed;		/* of the hash: who sends cannot choose where it is counted */
};

struct interface {
	u32 index;
	u16 slot;
	u16 flags;
};

struct count {
	u64 packets;
	u64 bytes;
};

struct counts {
	struct count by[DIRECTIONS * CLASSES];
};

/* Heaviest of those that share the slot: a vote of the majority. Of another epoch: free. */
struct talker {
	u64 address[2];
	u64 packets;
	u64 bytes;
	u32 epoch;
	u32 votes;
	u16 port;
	u8 class;
	u8 interface;
	u8 direction;
	u8 unused[19];
};

/* Of a direction and class, all interfaces together. */
struct distinct {
	u8 cells[CELLS];	/* one for each hash of a source */
	u8 ttls[256];
};

/* An attempt that was handed on: which, in which epoch, and whether its answer was. */
struct asked {
	u32 print;
	u32 epoch;		/* times two; odd when it was answered */
};

/* What one processor saw. */
struct pace {
	u64 counted;		/* packets ever counted */
	u64 wakes;
	u64 answers;		/* ever handed on */
	u64 seen[BUDGETS];	/* of what has a budget, ever seen, and handed on */
	u64 passed[BUDGETS];
	u32 epoch;
	u32 packets;		/* in this epoch, as the others below */
	u32 used[BUDGETS];
	u32 scratch[5];		/* for one packet */
	u32 unused[11];
};

#endif
