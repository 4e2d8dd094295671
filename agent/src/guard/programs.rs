//! The guard's programs: what each hook of the kernel's LSM refuses.
//!
//! They have no maps: whom and what they guard stands in their instructions, so that there is nothing that anybody could change in
//! them. What changes (another file) is another set of programs, attached before the former one goes.
//!
//! They read the kernel's structures by `bpf_probe_read_kernel`, with offsets that the running kernel's BTF gives: that reading faults
//! softly on any address. Following pointers with plain loads would be faster and is not safe everywhere: verifiers from Linux 6.3 on
//! hold `dentry.d_inode` to be never null, which it is for a name that is not there yet, and drop the very test for it.

use super::btf::{Btf, BtfError, Parameter};
use crate::instructions::{Code, Label, Operation, Register, Side, Size, When};
use Register::{R0, R1, R2, R3, R6, R7, R8, R9, R10};

/// Files and directories that one set of programs guards.
pub const OBJECTS_MAX: usize = 96;

/// Helpers of the kernel, by their numbers in its interface.
const CURRENT_PROCESS: i32 = 14;
const READ_KERNEL: i32 = 113;
/// The answers: a process goes on, or hears `EPERM`.
const PASS: i32 = 0;
const REFUSE: i32 = -libc::EPERM;
/// The service manager, in the initial namespace of processes.
const MANAGER: i32 = 1;
/// `PTRACE_MODE_ATTACH`, `FMODE_WRITE`.
const ATTACH: u32 = 2;
const WRITE: u32 = 2;
/// What neither ends nor stops who does nothing about it.
const HARMLESS: [i32; 5] = [0, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
/// `PROC_SUPER_MAGIC`.
const PROC: i32 = 0x9fa0;
/// The sysctl that takes programs like these from their places, `kernel.ftrace_enabled`: as its name's first and second eight bytes read.
const SWITCH: [u64; 2] = [u64::from_le_bytes(*b"ftrace_e"), u64::from_le_bytes(*b"nabled\0\0")];
/// `FS_IOC_SETFLAGS` with words of 64 and of 32 bits, `FS_IOC_FSSETXATTR`, `FS_IOC_ENABLE_VERITY`: what makes a file immutable, or takes
/// that away.
pub(super) const MARKS: [i32; 4] = [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4080_6685];
/// Where a read lands.
const READ: i16 = -8;

/// A file or directory, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// `super_block.s_dev`: major number from bit 20 on, minor below.
    pub device: u32,
    /// `inode.i_ino`.
    pub inode: u64,
}

/// A program and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The hook.
    pub hook: &'static str,
    /// The number of its function in the kernel's BTF.
    pub function: u32,
    /// Instructions.
    pub code: Vec<u64>,
}

/// Where members lie in this kernel's structures, in bytes.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    task_process: u16,
    task_parent: u16,
    task_links: u16,
    numbered_tasks: u16,
    inode_number: u16,
    inode_super: u16,
    super_device: u16,
    super_kind: u16,
    dentry_inode: u16,
    dentry_name: u16,
    file_mode: u16,
    file_inode: u16,
    file_dentry: u16,
    proc_inode: u16,
    proc_number: u16,
}

impl Offsets {
    fn read(btf: &Btf<'_>) -> Result<Self, BtfError> {
        Ok(Self {
            task_process: btf.offset("task_struct", &["tgid"])?,
            task_parent: btf.offset("task_struct", &["real_parent"])?,
            task_links: btf.offset("task_struct", &["pid_links"])?,
            numbered_tasks: btf.offset("pid", &["tasks"])?,
            inode_number: btf.offset("inode", &["i_ino"])?,
            inode_super: btf.offset("inode", &["i_sb"])?,
            super_device: btf.offset("super_block", &["s_dev"])?,
            super_kind: btf.offset("super_block", &["s_magic"])?,
            dentry_inode: btf.offset("dentry", &["d_inode"])?,
            dentry_name: btf.offset("dentry", &["d_name", "name"])?,
            file_mode: btf.offset("file", &["f_mode"])?,
            file_inode: btf.offset("file", &["f_inode"])?,
            file_dentry: btf.offset("file", &["f_path", "dentry"])?,
            proc_inode: btf.offset("proc_inode", &["vfs_inode"])?,
            proc_number: btf.offset("proc_inode", &["pid"])?,
        })
    }
}

/// A hook with what its function takes.
struct Hook<'a> {
    name: &'static str,
    function: u32,
    parameters: Vec<Parameter<'a>>,
}

impl<'a> Hook<'a> {
    fn find(btf: &Btf<'a>, name: &'static str) -> Result<Self, BtfError> {
        let function = btf.function(&format!("bpf_lsm_{name}"))?;
        Ok(Self { name, function, parameters: btf.parameters(function)? })
    }

    /// Where in the context parameters of a kind stand, in bytes: kernels differ in what stands before them.
    fn places(&self, kind: Parameter<'_>) -> impl Iterator<Item = i16> {
        let found = self.parameters.iter().enumerate().filter(move |(_, parameter)| **parameter == kind);
        found.filter_map(|(index, _)| i16::try_from(8 * index).ok())
    }

    fn place(&self, kind: Parameter<'_>, what: &str) -> Result<i16, BtfError> {
        let absent = || BtfError::Missing(format!("{what} among what bpf_lsm_{} takes", self.name));
        self.places(kind).next().ok_or_else(absent)
    }

    fn is(self, code: Code) -> Result<Program, BtfError> {
        let absent = || BtfError::Missing(format!("room for the jumps of bpf_lsm_{}", self.name));
        Ok(Program { hook: self.name, function: self.function, code: code.finish().ok_or_else(absent)? })
    }
}

/// Writes programs for one kernel and one agent.
pub struct Writer<'b, 'a> {
    btf: &'b Btf<'a>,
    offsets: Offsets,
    core: i32,
}

impl<'b, 'a> Writer<'b, 'a> {
    /// For the agent whose core is process `core`, numbered as in the initial namespace.
    ///
    /// # Errors
    /// [`BtfError::Missing`] when the kernel has not what is needed.
    pub fn new(btf: &'b Btf<'a>, core: i32) -> Result<Self, BtfError> {
        Ok(Self { btf, offsets: Offsets::read(btf)?, core })
    }

    /// Refuses signal 0 from the core to itself, and nothing else: shows that programs of this kind are asked at all, and that the core's
    /// number is the one that it has in the initial namespace.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn trial(&self) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "task_kill")?;
        let (mut code, mut pass) = (Code::default(), Label::default());
        code.copy(R6, R1);
        code.load(R7, R6, hook.place(TASK, "a task")?, Size::Long);
        code.load(R8, R6, hook.place(Parameter::Number, "a number")?, Size::Word);
        code.jump_if(When::IsNot, R8, Side::Number(0), &mut pass);
        self.follow(&mut code, R7, R7, self.offsets.task_process, Size::Word);
        code.jump_if(When::IsNot, R7, Side::Number(self.core), &mut pass);
        self.current(&mut code);
        code.jump_if(When::IsNot, R0, Side::Number(self.core), &mut pass);
        code.answer(REFUSE);
        code.land(pass);
        code.answer(PASS);
        hook.is(code)
    }

    /// Those that guard the agent's processes.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn of_processes(&self) -> Result<Vec<Program>, BtfError> {
        Ok(vec![self.signals()?, self.signals_of_files()?, self.tracing()?, self.limits()?])
    }

    /// Those that guard files (and what is said of them), and directories (their names alone).
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn of_files(&self, files: &[Object], directories: &[Object]) -> Result<Vec<Program>, BtfError> {
        let both: Vec<Object> = files.iter().chain(directories).copied().collect();
        let mut programs = vec![
            self.writing(files)?,
            self.names("inode_setattr", files)?,
            self.names("inode_setxattr", files)?,
            self.names("inode_removexattr", files)?,
            self.names("inode_unlink", files)?,
            self.names("inode_rmdir", directories)?,
            self.names("inode_rename", &both)?,
            self.marks("file_ioctl", &both)?,
        ];
        // Where a kernel has not these it asks one of those above for the same.
        for hook in ["inode_set_acl", "inode_remove_acl"] {
            if self.has(hook) {
                programs.push(self.names(hook, files)?);
            }
        }
        if self.has("inode_file_setattr") {
            programs.push(self.names("inode_file_setattr", &both)?);
        }
        if self.has("file_ioctl_compat") {
            programs.push(self.marks("file_ioctl_compat", &both)?);
        }
        Ok(programs)
    }

    fn has(&self, hook: &str) -> bool {
        self.btf.function(&format!("bpf_lsm_{hook}")).is_ok()
    }

    /// `kill(2)` and its kin. What the kernel sends by itself, a parent's death among it, is not asked here.
    fn signals(&self) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "task_kill")?;
        let (mut code, mut pass) = (Code::default(), Label::default());
        code.copy(R6, R1);
        code.load(R7, R6, hook.place(Parameter::Number, "a number")?, Size::Word);
        for signal in HARMLESS {
            code.jump_if(When::Is, R7, Side::Number(signal), &mut pass);
        }
        self.if_ours(&mut code, hook.place(TASK, "a task")?, &mut pass);
        self.unless_allowed(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// The signal that `fcntl(2)` has sent to whoever is named owner of a file (`F_SETOWN`, `F_SETSIG`); the agent wants none. It comes in
    /// the name of no process.
    fn signals_of_files(&self) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "file_send_sigiotask")?;
        let (mut code, mut pass) = (Code::default(), Label::default());
        code.copy(R6, R1);
        self.if_ours(&mut code, hook.place(TASK, "a task")?, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// `ptrace(2)`, and the memory and descriptors of a process by other ways; what `ps` reads is not among it.
    fn tracing(&self) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "ptrace_access_check")?;
        let (mut code, mut pass) = (Code::default(), Label::default());
        code.copy(R6, R1);
        code.load(R7, R6, hook.place(Parameter::Number, "a number")?, Size::Word);
        code.keep(R7, ATTACH);
        code.jump_if(When::Is, R7, Side::Number(0), &mut pass);
        self.if_ours(&mut code, hook.place(TASK, "a task")?, &mut pass);
        self.unless_allowed(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// `prlimit(2)`: a limit of processor time ends a process as a signal does.
    fn limits(&self) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "task_setrlimit")?;
        let (mut code, mut pass) = (Code::default(), Label::default());
        code.copy(R6, R1);
        self.if_ours(&mut code, hook.place(TASK, "a task")?, &mut pass);
        self.unless_allowed(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// Opening for writing: the files; what `/proc` has of the agent's processes (`oom_score_adj` among it), by whatever mount and number
    /// of a thread; and the sysctl that would take the programs from their places.
    fn writing(&self, files: &[Object]) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, "file_open")?;
        let (mut code, mut pass, mut refuse) = (Code::default(), Label::default(), Label::default());
        code.load(R6, R1, hook.place(Parameter::Pointer(b"file"), "a file")?, Size::Long);
        // The one plain load of a member: the kernel hands over a file, and most are opened for reading.
        code.load(R7, R6, self.offsets.file_mode.cast_signed(), Size::Word);
        code.keep(R7, WRITE);
        code.jump_if(When::Is, R7, Side::Number(0), &mut pass);
        self.follow(&mut code, R8, R6, self.offsets.file_inode, Size::Long);
        self.of_proc(&mut code, &mut pass, &mut refuse);
        self.if_object(&mut code, files, &mut refuse);
        code.jump(&mut pass);
        code.land(refuse);
        self.if_others(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// Passes or refuses the inode whose address is in R8, opened as the file in R6, when it is one of `/proc`; goes on when it is none.
    fn of_proc(&self, code: &mut Code, pass: &mut Label, refuse: &mut Label) {
        let (mut of_disk, mut of_nobody) = (Label::default(), Label::default());
        self.follow(code, R9, R8, self.offsets.inode_super, Size::Long);
        self.follow(code, R9, R9, self.offsets.super_kind, Size::Long);
        code.jump_if(When::IsNot, R9, Side::Number(PROC), &mut of_disk);
        // The inode lies within what `/proc` knows of it; that names the process's number, and the number its tasks.
        code.alter(Operation::Subtract, R8, Side::Number(i32::from(self.offsets.proc_inode)));
        self.follow(code, R7, R8, self.offsets.proc_number, Size::Long);
        code.jump_if(When::Is, R7, Side::Number(0), &mut of_nobody);
        self.follow(code, R7, R7, self.offsets.numbered_tasks, Size::Long);
        code.jump_if(When::Is, R7, Side::Number(0), pass);
        code.alter(Operation::Subtract, R7, Side::Number(i32::from(self.offsets.task_links)));
        self.if_task_ours(code, pass);
        self.unless_allowed(code, pass);
        code.jump(refuse);
        code.land(of_nobody);
        self.follow(code, R9, R6, self.offsets.file_dentry, Size::Long);
        self.follow(code, R9, R9, self.offsets.dentry_name, Size::Long);
        self.follow(code, R8, R9, 0, Size::Long);
        code.set_long(R1, SWITCH[0]);
        code.jump_if(When::IsNot, R8, Side::Of(R1), pass);
        self.follow(code, R8, R9, 8, Size::Long);
        // The byte behind the name and its end is anything.
        code.alter(Operation::Up, R8, Side::Number(8));
        code.set_long(R1, SWITCH[1] << 8);
        code.jump_if(When::Is, R8, Side::Of(R1), refuse);
        code.jump(pass);
        code.land(of_disk);
    }

    /// What makes a file immutable, by `ioctl(2)`: for that it need not be open for writing.
    fn marks(&self, hook: &'static str, objects: &[Object]) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, hook)?;
        let (mut code, mut pass, mut refuse) = (Code::default(), Label::default(), Label::default());
        let mut asked = Label::default();
        code.copy(R6, R1);
        code.load(R7, R6, hook.place(Parameter::Number, "a number")?, Size::Word);
        for mark in MARKS {
            code.jump_if(When::Is, R7, Side::Number(mark), &mut asked);
        }
        code.jump(&mut pass);
        code.land(asked);
        code.load(R7, R6, hook.place(Parameter::Pointer(b"file"), "a file")?, Size::Long);
        self.follow(&mut code, R8, R7, self.offsets.file_inode, Size::Long);
        self.if_object(&mut code, objects, &mut refuse);
        code.jump(&mut pass);
        code.land(refuse);
        self.if_others(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    /// What is done to names, and to what they stand for.
    fn names(&self, hook: &'static str, objects: &[Object]) -> Result<Program, BtfError> {
        let hook = Hook::find(self.btf, hook)?;
        hook.place(DENTRY, "a name")?;
        let (mut code, mut pass, mut refuse) = (Code::default(), Label::default(), Label::default());
        code.copy(R6, R1);
        for place in hook.places(DENTRY) {
            code.load(R7, R6, place, Size::Long);
            self.follow(&mut code, R8, R7, self.offsets.dentry_inode, Size::Long);
            self.if_object(&mut code, objects, &mut refuse);
        }
        code.jump(&mut pass);
        code.land(refuse);
        self.if_others(&mut code, &mut pass);
        self.refuse(hook, code, pass)
    }

    fn refuse(&self, hook: Hook<'_>, mut code: Code, pass: Label) -> Result<Program, BtfError> {
        code.answer(REFUSE);
        code.land(pass);
        code.answer(PASS);
        hook.is(code)
    }

    /// Goes on when the task at that place of the context is the core or a child of its; its process is in R8 then.
    fn if_ours(&self, code: &mut Code, place: i16, pass: &mut Label) {
        code.load(R7, R6, place, Size::Long);
        self.if_task_ours(code, pass);
    }

    /// The same of the task whose address is in R7.
    fn if_task_ours(&self, code: &mut Code, pass: &mut Label) {
        let mut ours = Label::default();
        self.follow(code, R8, R7, self.offsets.task_process, Size::Word);
        code.jump_if(When::Is, R8, Side::Number(self.core), &mut ours);
        self.follow(code, R9, R7, self.offsets.task_parent, Size::Long);
        self.follow(code, R9, R9, self.offsets.task_process, Size::Word);
        code.jump_if(When::IsNot, R9, Side::Number(self.core), pass);
        code.land(ours);
    }

    /// Passes what the core, the service manager, or the process in R8 itself asks for.
    fn unless_allowed(&self, code: &mut Code, pass: &mut Label) {
        self.if_others(code, pass);
        code.jump_if(When::Is, R0, Side::Of(R8), pass);
    }

    /// Passes what the core or the service manager asks for; who asks is in R0 then.
    fn if_others(&self, code: &mut Code, pass: &mut Label) {
        self.current(code);
        code.jump_if(When::Is, R0, Side::Number(self.core), pass);
        code.jump_if(When::Is, R0, Side::Number(MANAGER), pass);
    }

    /// The process that asks, to R0.
    fn current(&self, code: &mut Code) {
        code.call(CURRENT_PROCESS);
        code.alter(Operation::Down, R0, Side::Number(32));
    }

    /// Leaves when the inode whose address is in R8 is one of `objects`; uses R7 to R9.
    fn if_object(&self, code: &mut Code, objects: &[Object], found: &mut Label) {
        self.follow(code, R9, R8, self.offsets.inode_super, Size::Long);
        self.follow(code, R8, R8, self.offsets.inode_number, Size::Long);
        self.follow(code, R9, R9, self.offsets.super_device, Size::Word);
        let mut objects: Vec<Object> = objects.to_vec();
        objects.sort_unstable();
        objects.dedup();
        for same in objects.chunk_by(|one, other| one.device == other.device) {
            let mut next = Label::default();
            code.set_word(R1, same.first().map_or(0, |object| object.device));
            code.jump_if(When::IsNot, R9, Side::Of(R1), &mut next);
            for object in same {
                code.set_long(R1, object.inode);
                code.jump_if(When::Is, R8, Side::Of(R1), found);
            }
            code.land(next);
        }
    }

    /// Reads from `offset` behind the address in `from`; none is read as 0.
    fn follow(&self, code: &mut Code, to: Register, from: Register, offset: u16, size: Size) {
        let bytes = if matches!(size, Size::Long) { 8 } else { 4 };
        code.copy(R3, from);
        code.alter(Operation::Add, R3, Side::Number(i32::from(offset)));
        code.set(R2, bytes);
        code.copy(R1, R10);
        code.alter(Operation::Add, R1, Side::Number(i32::from(READ)));
        code.call(READ_KERNEL);
        code.load(to, R10, READ, size);
    }
}

const TASK: Parameter<'static> = Parameter::Pointer(b"task_struct");
const DENTRY: Parameter<'static> = Parameter::Pointer(b"dentry");
