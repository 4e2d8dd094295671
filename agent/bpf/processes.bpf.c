// SPDX-License-Identifier: GPL-2.0-only OR LicenseRef-Picket
/* Tells of every process that begins, runs another program, or ends: what a file event alone (which carries nothing but
 * a number) cannot be resolved to once the process is gone.
 *
 * Each record goes into a ring that user space empties when it needs to know, or when a quarter of the ring is full:
 * nobody is woken for a process as such. A record that finds no room is counted in LOST and never missed silently.
 *
 *   record   kind u8, flags u8, lengths u16 of executable, arguments and groups, pid u32, parent u32, real, effective
 *            and login user u32, audit session u32, time u64, started u64; then executable, arguments, groups
 *
 * Times are nanoseconds since boot. Executable: the names of its path from the last to the first, each with a NUL.
 * Arguments: as the process was given them, each with a NUL. Groups: the names of its control group, likewise from the
 * last to the first. Integers are in the byte order of the host. */
#include "kernel.h"

enum { RING_BYTES = 512 * 1024, EXECUTABLE_BYTES = 1024, ARGUMENTS_BYTES = 1024, GROUPS_BYTES = 512 };
enum { NAME_BYTES = 256, GROUP_NAME_BYTES = 128, STEPS_MAX = 64, GROUPS_MAX = 6 };
enum { KIND_EXEC = 1, KIND_FORK = 2, KIND_EXIT = 3 };
enum { EXECUTABLE_CUT = 1, ARGUMENTS_CUT = 2, EXECUTABLE_DELETED = 4 };
enum { NOBODY = 0xffffffff };

struct record {
	u8 kind;
	u8 flags;
	u16 executable_bytes;
	u16 arguments_bytes;
	u16 groups_bytes;
	u32 pid;
	u32 parent;
	u32 real;
	u32 effective;
	u32 login;
	u32 session;
	u64 time;
	u64 started;
};

struct long_record {
	struct record head;
	u8 rest[EXECUTABLE_BYTES + ARGUMENTS_BYTES + GROUPS_BYTES];
};

struct {
	MAP_NUMBER(type, MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, RING_BYTES);
} RING SEC(".maps");

struct {
	MAP_NUMBER(type, MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} LOST SEC(".maps");

struct {
	MAP_NUMBER(type, MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct long_record);
} SCRATCH SEC(".maps");

/* Programs that read kernel memory must be under a licence that the kernel accepts; this one file is. */
char LICENCE[] SEC("license") = "Dual MIT/GPL";

INLINE void hand_over(void *record, u64 bytes)
{
	u32 zero = 0;
	u64 flags = ring_query(&RING, RING_AVAILABLE) > RING_BYTES / 4 ? RING_FORCE_WAKEUP : RING_NO_WAKEUP;
	if (ring_output(&RING, record, bytes, flags) != 0) {
		u64 *lost = map_lookup(&LOST, &zero);
		if (lost)
			__sync_fetch_and_add(lost, 1);
	}
}

INLINE void describe(struct record *record, u8 kind, struct task_struct *task)
{
	struct task_struct *leader = 0;
	const struct cred *cred = 0;
	s32 tgid = 0;

	__builtin_memset(record, 0, sizeof(*record));
	record->kind = kind;
	record->time = since_boot();
	READ(tgid, task->tgid);
	record->pid = tgid;
	READ(leader, task->group_leader);
	if (FIELD_EXISTS(task_struct, start_boottime))
		READ(record->started, leader->start_boottime);
	else
		READ(record->started, ((struct task_struct___older *)leader)->real_start_time);
	READ(cred, task->cred);
	READ(record->real, cred->uid.val);
	READ(record->effective, cred->euid.val);
	record->login = NOBODY;
	record->session = NOBODY;
	if (FIELD_EXISTS(task_struct, loginuid)) {
		READ(record->login, task->loginuid.val);
		READ(record->session, task->sessionid);
	}
}

/* The names of a path, from the last to the first, across mounts; how many bytes. */
INLINE u64 put_path(struct long_record *record, struct file *file)
{
	struct vfsmount *mounted = 0;
	struct dentry *dentry = 0;
	struct mount *mount;
	u64 at = 0;

	READ(dentry, file->f_path.dentry);
	READ(mounted, file->f_path.mnt);
	mount = (void *)mounted - FIELD_OFFSET(mount, mnt);
	for (int step = 0; step < STEPS_MAX; step++) {
		struct dentry *parent = 0, *root = 0;
		struct mount *above = 0;
		const u8 *name = 0;
		long bytes;

		READ(root, mount->mnt.mnt_root);
		if (dentry == root) {
			READ(above, mount->mnt_parent);
			if (above == mount || !above)
				return at;
			READ(dentry, mount->mnt_mountpoint);
			mount = above;
			continue;
		}
		READ(parent, dentry->d_parent);
		if (dentry == parent || !parent) {
			if (at > 0)
				return at;
			/* A file without any directory, as memory files are: its name is all there is. */
			parent = root;
		}
		if (at > EXECUTABLE_BYTES - NAME_BYTES)
			break;
		READ(name, dentry->d_name.name);
		bytes = probe_read_kernel_string(&record->rest[at], NAME_BYTES, name);
		if (bytes <= 0 || bytes > NAME_BYTES)
			break;
		at += bytes;
		dentry = parent;
	}
	record->head.flags |= EXECUTABLE_CUT;
	return at;
}

INLINE struct kernfs_node *above_group(struct kernfs_node *group)
{
	struct kernfs_node *above = 0;

	if (FIELD_EXISTS(kernfs_node, parent))
		READ(above, group->parent);
	else
		READ(above, ((struct kernfs_node___newer *)group)->__parent);
	return above;
}

/* The control group in the unified hierarchy; where that is not in use, in the first other that has one. */
INLINE struct kernfs_node *find_group(struct task_struct *task)
{
	struct kernfs_node *node = 0;
	struct css_set *groups = 0;
	struct cgroup *group = 0;
	u32 hierarchies;

	READ(groups, task->cgroups);
	READ(group, groups->dfl_cgrp);
	READ(node, group->kn);
	if (node && above_group(node))
		return node;
	hierarchies = FIELD_BYTES(css_set, subsys) / sizeof(void *);
	for (u32 at = 0; at < 16; at++) {
		struct cgroup_subsys_state *state = 0;
		const void *slots = (void *)groups + FIELD_OFFSET(css_set, subsys);

		if (at >= hierarchies)
			break;
		probe_read_kernel(&state, sizeof(state), slots + at * sizeof(void *));
		group = 0;
		node = 0;
		READ(group, state->cgroup);
		READ(node, group->kn);
		if (node && above_group(node))
			return node;
	}
	return 0;
}

/* Where the names of the control group end, which begin at `begin`. */
INLINE u64 put_groups(struct long_record *record, u64 begin, struct task_struct *task)
{
	struct kernfs_node *node = find_group(task);
	u64 at = begin;

	for (int step = 0; step < GROUPS_MAX; step++) {
		struct kernfs_node *above;
		const char *name = 0;
		long bytes;

		if (!node || at > sizeof(record->rest) - GROUP_NAME_BYTES)
			break;
		above = above_group(node);
		if (!above)
			break;
		READ(name, node->name);
		bytes = probe_read_kernel_string(&record->rest[at], GROUP_NAME_BYTES, name);
		if (bytes <= 0 || bytes > GROUP_NAME_BYTES)
			break;
		at += bytes;
		node = above;
	}
	return at;
}

SEC("raw_tracepoint/sched_process_exec")
int process_exec(struct raw_arguments *context)
{
	struct task_struct *task = (void *)context->arguments[0], *parent = 0;
	struct long_record *record;
	struct dentry *dentry = 0;
	struct inode *inode = 0;
	struct mm_struct *mm = 0;
	struct file *file = 0;
	u64 begin = 0, end = 0, at, bytes;
	u32 zero = 0, links = 1;
	s32 above = 0;

	record = map_lookup(&SCRATCH, &zero);
	if (!record)
		return 0;
	describe(&record->head, KIND_EXEC, task);
	READ(parent, task->real_parent);
	READ(above, parent->tgid);
	record->head.parent = above;
	READ(mm, task->mm);
	READ(file, mm->exe_file);
	at = put_path(record, file);
	if (at > EXECUTABLE_BYTES)
		return 0;
	record->head.executable_bytes = at;
	READ(dentry, file->f_path.dentry);
	READ(inode, dentry->d_inode);
	READ(links, inode->i_nlink);
	if (links == 0)
		record->head.flags |= EXECUTABLE_DELETED;

	READ(begin, mm->arg_start);
	READ(end, mm->arg_end);
	bytes = end - begin > ARGUMENTS_BYTES ? ARGUMENTS_BYTES : end - begin;
	if (end - begin > ARGUMENTS_BYTES)
		record->head.flags |= ARGUMENTS_CUT;
	if (bytes > ARGUMENTS_BYTES || probe_read_user(&record->rest[at], bytes, (void *)begin) != 0)
		bytes = 0;
	record->head.arguments_bytes = bytes;
	at += bytes;

	bytes = put_groups(record, at, task);
	OPAQUE(bytes);
	if (bytes > sizeof(record->rest))
		return 0;
	record->head.groups_bytes = bytes - at;
	hand_over(record, sizeof(record->head) + bytes);
	return 0;
}

SEC("raw_tracepoint/sched_process_fork")
int process_fork(struct raw_arguments *context)
{
	struct task_struct *parent = (void *)context->arguments[0];
	struct task_struct *child = (void *)context->arguments[1];
	struct record record;
	s32 pid = 0, above = 0;

	READ(pid, child->pid);
	describe(&record, KIND_FORK, child);
	if (record.pid != (u32)pid)
		return 0; /* a thread */
	READ(above, parent->tgid);
	record.parent = above;
	hand_over(&record, sizeof(record));
	return 0;
}

SEC("raw_tracepoint/sched_process_exit")
int process_exit(struct raw_arguments *context)
{
	struct task_struct *task = (void *)context->arguments[0];
	struct signal_struct *signal = 0;
	struct record record;
	s32 live = 0;

	READ(signal, task->signal);
	READ(live, signal->live.counter);
	if (live != 0)
		return 0; /* other threads go on */
	describe(&record, KIND_EXIT, task);
	hand_over(&record, sizeof(record));
	return 0;
}
