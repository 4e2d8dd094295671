/* What the programs here need of the kernel, declared by hand: no header of any kernel is needed to build them.
 *
 * Only the names of fields matter. Where each field lies in the kernel that runs is looked up in that kernel's own type
 * information when a program is loaded (CO-RE), so one object serves all kernels from 5.8 on. A name with three
 * underscores stands for another version's layout of the type before them. */
#ifndef PICKET_KERNEL_H
#define PICKET_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* Map definitions as loaders read them from type information. */
#define MAP_NUMBER(field, value) int(*field)[value]
#define MAP_TYPE(field, type) type *field
enum { MAP_TYPE_ARRAY = 2, MAP_TYPE_PERCPU_ARRAY = 6, MAP_TYPE_RINGBUF = 27 };

/* Helpers of the kernel, by their numbers in its interface. */
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const probe_read_user)(void *to, u32 bytes, const void *from) = (void *)112;
static long (*const probe_read_kernel)(void *to, u32 bytes, const void *from) = (void *)113;
static long (*const probe_read_kernel_string)(void *to, u32 bytes, const void *from) = (void *)115;
static u64 (*const since_boot)(void) = (void *)125;
static long (*const ring_output)(void *ring, void *data, u64 bytes, u64 flags) = (void *)130;
static u64 (*const ring_query)(void *ring, u64 what) = (void *)134;

enum { RING_NO_WAKEUP = 1, RING_FORCE_WAKEUP = 2, RING_AVAILABLE = 0 };

/* Reads a field of a kernel object that is not known to be there; zero when it is not. */
#define READ(to, from) probe_read_kernel(&(to), sizeof(to), &(from))
/* Keeps the compiler from leaving out a comparison that it can prove and the kernel's verifier cannot. */
#define OPAQUE(number) asm volatile("" : "+r"(number))
#define FIELD_OFFSET(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 0)
#define FIELD_BYTES(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 1)
#define FIELD_EXISTS(type, field) __builtin_preserve_field_info(((struct type *)0)->field, 2)

/* What a raw tracepoint is given. */
struct raw_arguments {
	u64 arguments[2];
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct user {
	u32 val;
};

struct cred {
	struct user uid;
	struct user euid;
};

struct counter {
	s32 counter;
};

struct signal_struct {
	struct counter live;
};

struct name {
	const u8 *name;
};

struct inode {
	u32 i_nlink;
};

struct dentry {
	struct dentry *d_parent;
	struct name d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
};

struct mm_struct {
	u64 arg_start;
	u64 arg_end;
	struct file *exe_file;
};

struct kernfs_node {
	struct kernfs_node *parent;
	const char *name;
};

/* From 6.15 on. */
struct kernfs_node___newer {
	struct kernfs_node *__parent;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	s32 pid;
	s32 tgid;
	u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct css_set *cgroups;
	struct user loginuid;
	u32 sessionid;
};

/* Before 5.5, and in distributions' kernels that were 4.18 once. */
struct task_struct___older {
	u64 real_start_time;
};

#pragma clang attribute pop

#endif
