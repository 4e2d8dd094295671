// SPDX-License-Identifier: GPL-2.0-only OR LicenseRef-Picket
/* Counts who begins TCP connections, by process, while somebody wants to know: it is attached for the seconds in which a scan
 * from this host goes on whose process is not known. A try that is refused at once leaves no socket that the kernel could
 * be asked for; its tracepoint inet_sock_set_state (4.16 and later) is passed by the process that connects. */
#include "kernel.h"

enum { SLOTS = 256, TCP_SYN_SENT = 2, TCP_CLOSE = 7 };

static u64 (*const current)(void) = (void *)14;

/* The process that connects most of those that share the slot: a vote of the majority. */
struct connecting {
	u32 pid;
	u32 count;
};

struct {
	MAP_NUMBER(type, MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, SLOTS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct connecting);
} CONNECTING SEC(".maps");

char LICENCE[] SEC("license") = "Dual MIT/GPL";

struct change_of_state {
	u64 socket;
	u64 before;
	u64 after;
};

SEC("raw_tracepoint")
int network_connects(struct change_of_state *change)
{
	struct connecting *slot;
	u32 pid, at;

	if ((u32)change->before != TCP_CLOSE || (u32)change->after != TCP_SYN_SENT)
		return 0;
	pid = current() >> 32;
	at = pid & (SLOTS - 1);
	slot = map_lookup(&CONNECTING, &at);
	if (!slot)
		return 0;
	if (slot->pid != pid) {
		if (slot->count > 1) {
			slot->count--;
			return 0;
		}
		slot->pid = pid;
		slot->count = 0;
	}
	slot->count++;
	return 0;
}
