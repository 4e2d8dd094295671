// SPDX-License-Identifier: GPL-2.0-only OR LicenseRef-Picket
/* The least that a program can do that counts packets: what the benchmark holds the agent's program against. */
#include "../../agent/bpf/kernel.h"

struct {
	MAP_NUMBER(type, MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} BARE SEC(".maps");

char LICENCE[] SEC("license") = "Dual MIT/GPL";

SEC("xdp")
int bare(void *context)
{
	u32 zero = 0;
	u64 *count = map_lookup(&BARE, &zero);

	(void)context;
	if (count)
		*count += 1;
	return 2;
}
