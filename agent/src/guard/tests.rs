//! The programs, run by a machine of the tests over a kernel of the tests: its types are those of `good-hooks` in the corpus.

use std::collections::BTreeMap;

use super::btf::Btf;
use super::programs::{MARKS, Object, Program, Writer};

const HOOKS: &[u8] = include_bytes!("../../../fuzz/corpus/agent/btf/good-hooks");
/// Processes: the agent's core, a child of its, the service manager, and others.
const CORE: u64 = 700;
const CHILD: u64 = 701;
const MANAGER: u64 = 1;
const OTHER: u64 = 800;
/// Where things lie in the machine's memory.
const CONTEXT: u64 = 0x1000;
const STACK: u64 = 0x2000;
const REFUSED: i32 = -1;
const DEVICE: u64 = 0xf1 << 20 | 2;
const FILE: Object = Object { device: 0xf1 << 20 | 2, inode: 0x1_0000_0007 };
const DIRECTORY: Object = Object { device: 3, inode: 9 };

/// Memory, four bytes a place.
#[derive(Default)]
struct World {
    memory: BTreeMap<u64, u32>,
    next: u64,
}

impl World {
    fn put(&mut self, at: u64, value: u64) {
        self.memory.insert(at, u32::try_from(value & 0xffff_ffff).expect("32 bits"));
        self.memory.insert(at + 4, u32::try_from(value >> 32).expect("32 bits"));
    }

    fn get(&self, at: u64) -> Option<u64> {
        let low = u64::from(*self.memory.get(&at)?);
        Some(low | u64::from(self.memory.get(&(at + 4)).copied().unwrap_or(0)) << 32)
    }

    fn room(&mut self) -> u64 {
        self.next += 0x100;
        0x1_0000 + self.next
    }

    /// A task of a process, and its parent's.
    fn task(&mut self, process: u64, parent: u64) -> u64 {
        let (task, of_parent) = (self.room(), self.room());
        self.put(of_parent + 12, parent);
        self.put(task + 12, process);
        self.put(task + 24, of_parent);
        task
    }

    fn inode(&mut self, device: u64, number: u64) -> u64 {
        let (inode, block) = (self.room(), self.room());
        self.put(block + 8, device);
        self.put(inode + 8, block);
        self.put(inode + 16, number);
        inode
    }

    /// A file of `/proc`, opened: of a task, or of none when that is 0.
    fn of_proc(&mut self, task: u64, name: &str) -> u64 {
        let [opened, known, block, dentry, text] = std::array::from_fn(|_| self.room());
        self.put(block + 16, 0x9fa0);
        self.put(known + 32 + 8, block);
        if task != 0 {
            let number = self.room();
            self.put(known, number);
            self.put(number + 16, task + 40);
        }
        let mut bytes = [0xaa; 24];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[name.len()] = 0;
        for (at, eight) in (text..).step_by(8).zip(bytes.chunks_exact(8)) {
            self.put(at, u64::from_ne_bytes(eight.try_into().expect("eight")));
        }
        self.put(dentry + 24, text);
        self.put(opened + 8, known + 32);
        self.put(opened + 24, dentry);
        opened
    }

    /// A name; of nothing when `inode` is 0.
    fn name(&mut self, inode: u64) -> u64 {
        let name = self.room();
        self.put(name + 8, inode);
        name
    }

    /// What the program answers when a process asks.
    fn ask(&mut self, program: &Program, who: u64, taken: &[u64]) -> i32 {
        for (place, value) in (0u64..).zip(taken) {
            self.put(CONTEXT + 8 * place, *value);
        }
        run(self, &program.code, who)
    }
}

/// Instructions as RFC 9669 has them, those of them that are used. Panics on others, and on what a verifier would refuse.
fn run(world: &mut World, code: &[u64], who: u64) -> i32 {
    let (mut registers, mut at) = ([0u64; 11], 0);
    (registers[1], registers[10]) = (CONTEXT, STACK);
    loop {
        let [operation, names, low, high, a, b, c, d] = code[at].to_ne_bytes();
        let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
        let offset = i64::from(i16::from_ne_bytes([low, high]));
        let number = i64::from(i32::from_ne_bytes([a, b, c, d])).cast_unsigned();
        let side = if operation & 8 == 8 { registers[from] } else { number };
        at += 1;
        match operation {
            0x18 => {
                registers[to] = (number & 0xffff_ffff) | code[at] >> 32 << 32;
                at += 1;
            }
            0x61 | 0x79 => {
                let place = registers[from].wrapping_add_signed(offset);
                let value = world.get(place).expect("a plain load reads what is there");
                registers[to] = if operation == 0x61 { value & 0xffff_ffff } else { value };
            }
            0x07 | 0x0f => registers[to] = registers[to].wrapping_add(side),
            0x17 => registers[to] = registers[to].wrapping_sub(side),
            0x67 => registers[to] <<= side,
            0x77 => registers[to] >>= side,
            0xb7 | 0xbf => registers[to] = side,
            0xb4 => registers[to] = side & 0xffff_ffff,
            0x54 => registers[to] &= side & 0xffff_ffff,
            0x05 => at = at.checked_add_signed(isize::try_from(offset).expect("near")).expect("within"),
            0x15 | 0x1d if registers[to] == side => at += usize::try_from(offset).expect("forward"),
            0x55 | 0x5d if registers[to] != side => at += usize::try_from(offset).expect("forward"),
            0x15 | 0x1d | 0x55 | 0x5d => {}
            0x85 => {
                registers[0] = call(world, number, &registers, who);
                registers[1..6].fill(u64::MAX);
            }
            0x95 => return i32::try_from(registers[0].cast_signed()).expect("an answer"),
            other => panic!("operation {other:#x} is not known"),
        }
    }
}

/// `bpf_get_current_pid_tgid` and `bpf_probe_read_kernel`, which gives nothing where nothing is.
fn call(world: &mut World, helper: u64, registers: &[u64; 11], who: u64) -> u64 {
    match helper {
        14 => who << 32 | 0x77,
        113 => {
            let value = world.get(registers[3]).unwrap_or(0);
            let value = if registers[2] == 4 { value & 0xffff_ffff } else { value };
            assert!(registers[1] + registers[2] <= STACK, "it lands on the stack");
            world.put(registers[1], value);
            0
        }
        other => panic!("helper {other}"),
    }
}

fn programs() -> BTreeMap<&'static str, Program> {
    let btf = Btf::read(HOOKS).expect("types");
    let writer = Writer::new(&btf, i32::try_from(CORE).expect("small")).expect("all is there");
    let mut all = writer.of_processes().expect("written");
    all.extend(writer.of_files(&[FILE], &[DIRECTORY]).expect("written"));
    all.into_iter().map(|program| (program.hook, program)).collect()
}

#[test]
fn signals_that_end_or_stop_the_agent_are_refused_to_all_but_its_own_and_the_service_manager() {
    let program = &programs()["task_kill"];
    for (who, whom, signal, answer) in [
        (OTHER, CORE, libc::SIGKILL, REFUSED),
        (OTHER, CORE, libc::SIGSTOP, REFUSED),
        (OTHER, CORE, libc::SIGRTMIN(), REFUSED),
        (OTHER, CHILD, libc::SIGTERM, REFUSED),
        (CHILD, CORE, libc::SIGTERM, REFUSED),
        (OTHER, CORE, 0, 0),
        (OTHER, CORE, libc::SIGCONT, 0),
        (MANAGER, CORE, libc::SIGKILL, 0),
        (MANAGER, CHILD, libc::SIGTERM, 0),
        (CORE, CHILD, libc::SIGKILL, 0),
        (CORE, CORE, libc::SIGABRT, 0),
        (CHILD, CHILD, libc::SIGABRT, 0),
        (OTHER, OTHER, libc::SIGKILL, 0),
        (OTHER, MANAGER, libc::SIGTERM, 0),
    ] {
        let mut world = World::default();
        let parent = if whom == CHILD { CORE } else { 1 };
        let task = world.task(whom, parent);
        let signal_bits = u64::from(signal.cast_unsigned());
        let answered = world.ask(program, who, &[task, 0, signal_bits]);
        assert_eq!(answered, answer, "{who} sends {signal} to {whom}");
    }
}

#[test]
fn signals_of_files_tracing_and_limits_are_refused_as_well() {
    let all = programs();
    let mut world = World::default();
    let (core, child, other) = (world.task(CORE, 1), world.task(CHILD, CORE), world.task(OTHER, 1));
    for (hook, who, taken, answer) in [
        // In whose name such a signal comes says nothing.
        ("file_send_sigiotask", CORE, [core, 0, 9], REFUSED),
        ("file_send_sigiotask", OTHER, [other, 0, 9], 0),
        ("ptrace_access_check", OTHER, [core, 2 | 8, 0], REFUSED),
        ("ptrace_access_check", OTHER, [child, 2 | 16, 0], REFUSED),
        ("ptrace_access_check", OTHER, [core, 1 | 8, 0], 0),
        ("ptrace_access_check", OTHER, [other, 2, 0], 0),
        ("ptrace_access_check", CORE, [child, 2, 0], 0),
        ("task_setrlimit", OTHER, [core, 0, 0], REFUSED),
        ("task_setrlimit", CHILD, [child, 0, 0], 0),
        ("task_setrlimit", MANAGER, [core, 0, 0], 0),
        ("task_setrlimit", OTHER, [other, 0, 0], 0),
    ] {
        assert_eq!(world.ask(&all[hook], who, &taken), answer, "{hook} of {taken:?} by {who}");
    }
}

#[test]
fn the_agents_files_are_guarded_and_no_others() {
    let all = programs();
    let mut world = World::default();
    let [file, other_device, other_number, directory] = [
        (DEVICE, FILE.inode),
        (DEVICE + 1, FILE.inode),
        (DEVICE, FILE.inode & 0xffff_ffff),
        (u64::from(DIRECTORY.device), DIRECTORY.inode),
    ]
    .map(|(device, number)| world.inode(device, number));
    let open = |world: &mut World, inode: u64, mode: u64, who: u64| {
        let opened = world.room();
        world.put(opened, mode);
        world.put(opened + 8, inode);
        world.ask(&all["file_open"], who, &[opened])
    };
    for (inode, mode, who, answer) in [
        (file, 2, OTHER, REFUSED),
        (file, 3, CHILD, REFUSED),
        (file, 1, OTHER, 0),
        (file, 2, CORE, 0),
        (file, 2, MANAGER, 0),
        (other_device, 2, OTHER, 0),
        (other_number, 2, OTHER, 0),
        (directory, 2, OTHER, 0),
    ] {
        assert_eq!(open(&mut world, inode, mode, who), answer, "{mode} of {inode:#x} by {who}");
    }
    let [file, other, directory, nothing] = [file, other_number, directory, 0].map(|inode| world.name(inode));
    for (hook, taken, answer) in [
        ("inode_setattr", [0, file, 0, 0], REFUSED),
        ("inode_setattr", [0, directory, 0, 0], 0),
        ("inode_setxattr", [0, file, 0, 0], REFUSED),
        ("inode_setxattr", [0, other, 0, 0], 0),
        ("inode_removexattr", [0, file, 0, 0], REFUSED),
        ("inode_set_acl", [0, file, 0, 0], REFUSED),
        ("inode_set_acl", [0, other, 0, 0], 0),
        ("inode_unlink", [0, file, 0, 0], REFUSED),
        ("inode_unlink", [0, other, 0, 0], 0),
        ("inode_rmdir", [0, directory, 0, 0], REFUSED),
        ("inode_rename", [0, file, 0, nothing], REFUSED),
        ("inode_rename", [0, other, 0, file], REFUSED),
        ("inode_rename", [0, directory, 0, nothing], REFUSED),
        ("inode_rename", [0, other, 0, nothing], 0),
    ] {
        assert_eq!(world.ask(&all[hook], OTHER, &taken), answer, "{hook} of {taken:?}");
        assert_eq!(world.ask(&all[hook], CORE, &taken), 0, "{hook} by the core");
    }
}

#[test]
fn files_and_directories_of_the_agents_cannot_be_made_immutable() {
    let program = &programs()["file_ioctl"];
    let mut world = World::default();
    let set_flags = u64::from(MARKS[0].cast_unsigned());
    for (device, inode, command, who, answer) in [
        (DEVICE, FILE.inode, set_flags, OTHER, REFUSED),
        (u64::from(DIRECTORY.device), DIRECTORY.inode, set_flags, OTHER, REFUSED),
        (DEVICE, FILE.inode, u64::from(MARKS[2].cast_unsigned()), CHILD, REFUSED),
        (DEVICE, FILE.inode, set_flags, CORE, 0),
        (DEVICE, FILE.inode, set_flags, MANAGER, 0),
        // FS_IOC_GETFLAGS.
        (DEVICE, FILE.inode, 0x8008_6601, OTHER, 0),
        (DEVICE, FILE.inode + 1, set_flags, OTHER, 0),
    ] {
        let inode = world.inode(device, inode);
        let opened = world.room();
        world.put(opened + 8, inode);
        let answered = world.ask(program, who, &[opened, command, 0]);
        assert_eq!(answered, answer, "{command:#x} of {inode:#x} by {who}");
    }
}

#[test]
fn what_proc_has_of_the_agents_processes_is_not_written_nor_the_switch_of_all_programs() {
    let program = &programs()["file_open"];
    let mut world = World::default();
    let [core, child, other] =
        [(CORE, 1), (CHILD, CORE), (OTHER, 1)].map(|(process, parent)| world.task(process, parent));
    let nobody = 0;
    for (task, name, mode, who, answer) in [
        (core, "oom_score_adj", 2, OTHER, REFUSED),
        (child, "oom_score_adj", 3, OTHER, REFUSED),
        (core, "oom_score_adj", 1, OTHER, 0),
        (core, "oom_score_adj", 2, CORE, 0),
        (core, "oom_score_adj", 2, MANAGER, 0),
        (child, "oom_score_adj", 2, CHILD, 0),
        (other, "oom_score_adj", 2, OTHER, 0),
        (nobody, "ftrace_enabled", 2, OTHER, REFUSED),
        (nobody, "ftrace_enabled", 1, OTHER, 0),
        (nobody, "ftrace_enabled", 2, MANAGER, 0),
        (nobody, "ftrace_enabler", 2, OTHER, 0),
        (nobody, "ftrace_enabled_", 2, OTHER, 0),
        (nobody, "ftrace_dump_on_oops", 2, OTHER, 0),
    ] {
        let opened = world.of_proc(task, name);
        world.put(opened, mode);
        assert_eq!(world.ask(program, who, &[opened]), answer, "{name} of {task:#x}, {mode} by {who}");
    }
}

#[test]
fn the_trial_refuses_nothing_but_the_cores_own_question() {
    let btf = Btf::read(HOOKS).expect("types");
    let writer = Writer::new(&btf, i32::try_from(CORE).expect("small")).expect("all is there");
    let trial = writer.trial().expect("written");
    for (who, whom, signal, answer) in
        [(CORE, CORE, 0, REFUSED), (CORE, CORE, 15, 0), (OTHER, CORE, 0, 0), (CORE, OTHER, 0, 0)]
    {
        let mut world = World::default();
        let task = world.task(whom, 1);
        assert_eq!(world.ask(&trial, who, &[task, 0, signal]), answer, "{who} {whom} {signal}");
    }
}

#[test]
fn every_hook_is_found_in_this_kernels_types() {
    let bytes = std::fs::read(super::BTF).expect("a kernel with BTF");
    let btf = Btf::read(&bytes).expect("types");
    // A kernel without BPF LSM has no such functions, and says which it lacks.
    if let Err(error) = btf.function("bpf_lsm_task_kill") {
        assert_eq!(error.to_string(), "it has no function bpf_lsm_task_kill");
        return;
    }
    let writer = Writer::new(&btf, 700).expect("members");
    let all = [writer.of_processes(), writer.of_files(&[FILE], &[DIRECTORY])];
    assert!(all.into_iter().map(|programs| programs.expect("written").len()).sum::<usize>() >= 12);
}

#[test]
fn a_kernel_without_the_module_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("lsm");
    let error = super::check_modules(&list).expect_err("not there");
    assert!(error.fix().contains("mount -t securityfs"), "{error}");
    std::fs::write(&list, "lockdown,capability,bpfish\n").expect("written");
    let error = super::check_modules(&list).expect_err("not on it");
    assert!(error.to_string().contains("lockdown,capability,bpfish, without bpf"), "{error}");
    assert!(error.fix().contains("add bpf to lsm="), "{error}");
    std::fs::write(&list, "lockdown,capability,bpf\n").expect("written");
    assert!(super::check_modules(&list).is_ok());
}
