use super::*;
use crate::sense::processes::Actor;

const SECOND: u64 = 1_000_000_000;
const ROOT: Users = Users { real: Some(0), effective: Some(0), login: None, session: None };
const ALICE: Users = Users { real: Some(1000), effective: Some(1000), login: Some(1000), session: Some(3) };

fn table() -> Table {
    Table::new(Timestamp::from_seconds(1_000), KnownBy::Bpf)
}

fn fork(table: &mut Table, parent: u32, pid: u32, time: u64) {
    let act = Act::Fork { parent };
    table.apply(&Record { pid, started: time, time, users: ROOT, act });
}

fn exec(table: &mut Table, pid: u32, started: u64, time: u64, name: &str) {
    exec_as(table, pid, (started, time), name, ROOT, 1);
}

fn exec_as(table: &mut Table, pid: u32, (started, time): (u64, u64), name: &str, users: Users, parent: u32) {
    let executable = format!("{name}\0bin\0usr\0");
    let arguments = format!("{name}\0-c\0true\0");
    let program = RawProgram {
        executable: executable.as_bytes(),
        arguments: arguments.as_bytes(),
        ..RawProgram::default()
    };
    table.apply(&Record { pid, started, time, users, act: Act::Exec { parent, program } });
}

fn exit(table: &mut Table, pid: u32, started: u64, time: u64, users: Users) {
    table.apply(&Record { pid, started, time, users, act: Act::Exit });
}

fn who(table: &Table, pid: u32, time: u64) -> Option<Actor> {
    match table.at(pid, time) {
        Answer::Running(process) | Answer::Ended(process) => Some(process.actor()),
        Answer::Unknown => None,
    }
}

fn program(table: &Table, pid: u32, time: u64) -> String {
    who(table, pid, time).and_then(|actor| actor.executable).map(|path| path.text).unwrap_or_default()
}

#[test]
fn a_process_is_what_it_ran_last_and_its_child_what_it_ran_then() {
    let mut table = table();
    fork(&mut table, 1, 10, SECOND);
    exec(&mut table, 10, SECOND, SECOND + 1, "bash");
    fork(&mut table, 10, 11, 2 * SECOND);
    exec(&mut table, 10, SECOND, 3 * SECOND, "vim");
    assert_eq!(program(&table, 10, 4 * SECOND), "/usr/bin/vim");
    assert_eq!(program(&table, 11, 4 * SECOND), "/usr/bin/bash");
    let actor = who(&table, 11, 4 * SECOND).unwrap();
    assert_eq!(actor.started, Some(Timestamp::from_seconds(1_002)));
    let above: Vec<(u32, &str)> = actor
        .parents
        .iter()
        .map(|above| (above.pid, above.executable.as_ref().map_or("", |path| path.text.as_str())))
        .collect();
    assert_eq!(above, [(10, "/usr/bin/bash")]);
    assert_eq!(actor.command_line.unwrap().text, "bash -c true");
    assert_eq!(actor.known_by, "bpf");
}

#[test]
fn who_ended_is_known_for_a_while_with_the_user_that_he_was_last() {
    let mut table = table();
    fork(&mut table, 1, 10, SECOND);
    exec(&mut table, 10, SECOND, SECOND + 1, "nginx");
    exit(&mut table, 10, SECOND, 2 * SECOND, ALICE);
    assert_eq!((table.running(), table.ended()), (0, 1));
    assert!(matches!(table.at(10, 2 * SECOND), Answer::Ended(_)));
    let actor = who(&table, 10, 2 * SECOND).unwrap();
    assert_eq!((actor.uid, actor.login_uid, actor.audit_session), (Some(1000), Some(1000), Some(3)));
    table.expire(2 * SECOND + u64::try_from(KEPT.as_nanos()).unwrap());
    assert_eq!(table.at(10, 2 * SECOND), Answer::Unknown);
    assert_eq!(table.bytes(), 0);
}

#[test]
fn a_number_that_is_given_out_again_means_who_had_it_at_that_time() {
    let mut table = table();
    fork(&mut table, 1, 10, SECOND);
    exec(&mut table, 10, SECOND, SECOND, "old");
    exit(&mut table, 10, SECOND, 2 * SECOND, ROOT);
    fork(&mut table, 1, 10, 3 * SECOND);
    exec(&mut table, 10, 3 * SECOND, 3 * SECOND, "new");
    assert_eq!(program(&table, 10, 2 * SECOND), "/usr/bin/old");
    assert_eq!(program(&table, 10, 4 * SECOND), "/usr/bin/new");
    assert_eq!((table.running(), table.ended()), (1, 1));
    // The first one's end is over: the number means the second alone.
    table.expire(3 * SECOND + u64::try_from(KEPT.as_nanos()).unwrap());
    assert_eq!(table.at(10, 2 * SECOND), Answer::Unknown);
    assert_eq!(program(&table, 10, 4 * SECOND), "/usr/bin/new");
}

#[test]
fn what_was_seen_in_proc_does_not_replace_what_the_kernel_told() {
    let mut table = table();
    fork(&mut table, 1, 10, SECOND + 5);
    exec(&mut table, 10, SECOND + 5, SECOND + 6, "sh");
    let facts = ProgramFacts { executable: b"/usr/bin/late".as_slice().into(), ..ProgramFacts::default() };
    let snapshot = Snapshot { pid: 10, parent: 1, started: SECOND, users: ROOT, program: facts };
    table.learn(snapshot.clone());
    assert_eq!(program(&table, 10, 2 * SECOND), "/usr/bin/sh");
    // Of one that the kernel did not tell of, it is all there is; and the kernel's word then lies over it.
    table.learn(Snapshot { pid: 20, ..snapshot });
    assert_eq!(program(&table, 20, 2 * SECOND), "/usr/bin/late");
    assert_eq!(who(&table, 20, 2 * SECOND).unwrap().known_by, "proc");
    exec(&mut table, 20, SECOND + 9_000_000, 2 * SECOND, "sh");
    assert_eq!((program(&table, 20, 2 * SECOND).as_str(), table.running()), ("/usr/bin/sh", 2));
}

#[test]
fn an_end_or_a_program_of_another_with_the_same_number_is_not_taken_for_his() {
    let mut table = table();
    fork(&mut table, 1, 10, SECOND);
    exec(&mut table, 10, SECOND, SECOND, "sh");
    exit(&mut table, 10, SECOND * 9, SECOND * 10, ROOT);
    assert!(matches!(table.at(10, 11 * SECOND), Answer::Running(_)));
    exec_as(&mut table, 10, (9 * SECOND, 10 * SECOND), "other", ROOT, 1);
    assert_eq!(program(&table, 10, 11 * SECOND), "/usr/bin/other");
    exit(&mut table, 99, SECOND, SECOND, ROOT);
    assert_eq!(table.at(99, SECOND), Answer::Unknown);
}

#[test]
fn a_chain_of_forks_without_end_takes_bounded_memory() {
    let mut table = table();
    fork(&mut table, 1, 2, 1);
    exec(&mut table, 2, 1, 1, "worm");
    for pid in 3..5_000 {
        let time = u64::from(pid) * SECOND;
        fork(&mut table, pid - 1, pid, time);
        exec(&mut table, pid, time, time, "worm");
        exit(&mut table, pid - 1, time - SECOND, time, ROOT);
    }
    assert!(table.ended() <= 62, "{}", table.ended());
    assert!(table.bytes() < 300 * 1024, "{}", table.bytes());
    let actor = who(&table, 4_999, 5_000 * SECOND).unwrap();
    assert!((12..=16).contains(&actor.parents.len()), "{}", actor.parents.len());
    assert_eq!(actor.parents.first().map(|above| above.pid), Some(4_998));
}

#[test]
fn many_and_talkative_processes_take_bounded_memory_and_are_still_named() {
    let mut table = table();
    let long = [b'x'; 1_024];
    for pid in 2..20_000u32 {
        fork(&mut table, 1, pid, SECOND);
        let program = RawProgram { executable: b"sh\0bin\0", arguments: &long, ..RawProgram::default() };
        let act = Act::Exec { parent: 1, program };
        table.apply(&Record { pid, started: SECOND, time: SECOND, users: ROOT, act });
    }
    assert!(table.bytes() < BYTES_MAX * 3, "{}", table.bytes());
    assert!(table.cut() > 1_000);
    let (first, last) = (who(&table, 2, SECOND).unwrap(), who(&table, 19_999, SECOND).unwrap());
    assert_eq!((first.command_line.unwrap().text.len(), first.command_line_cut), (1_024, false));
    assert_eq!((last.command_line.unwrap().text.len(), last.command_line_cut), (SHORT_ARGUMENTS, true));
    assert_eq!(last.executable.unwrap().text, "/bin/sh");
    for pid in 2..20_000 {
        exit(&mut table, pid, SECOND, 2 * SECOND, ROOT);
    }
    assert_eq!((table.running(), table.ended()), (0, GONE_MAX));
    table.expire(100 * SECOND);
    assert_eq!((table.ended(), table.bytes()), (0, 0));
}

#[test]
fn more_processes_than_the_table_holds_are_not_taken_up() {
    let mut table = table();
    let count = u32::try_from(LIVING_MAX).unwrap();
    for pid in 2..count + 12 {
        fork(&mut table, 1, pid, SECOND);
    }
    assert_eq!((table.running(), table.cut()), (LIVING_MAX, 10));
    table.clear();
    assert_eq!((table.running(), table.bytes()), (0, 0));
}
