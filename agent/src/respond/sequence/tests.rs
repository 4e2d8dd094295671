use picket_protocol::playbook::Step;

use super::*;

const COMMAND: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

fn step(name: &str, action: Action, otherwise: Otherwise) -> Step {
    let when = Condition::Always {};
    Step { name: name.to_owned(), action, lease: 60, when, timeout: 30, otherwise }
}

fn sequence(steps: Vec<Step>) -> Sequence {
    let order = Order {
        id: COMMAND,
        action: Action::Playbook { name: "test".to_owned(), steps },
        lease: Duration::ZERO,
        subject: Subject {
            id: Some(COMMAND),
            step: None,
            signers: Vec::new(),
            envelope_sha256: String::new(),
        },
        reason: String::new(),
        ticket: String::new(),
        parties: None,
        automatic: false,
    };
    Sequence::of(&order, Timestamp::default()).unwrap()
}

fn two(otherwise: Otherwise) -> Sequence {
    let end = Action::EndSessions { user: "frida".to_owned() };
    sequence(vec![step("isolate", Action::Isolate {}, otherwise), step("end", end, Otherwise::Stop)])
}

fn next(sequence: &Sequence) -> (&'static str, &str) {
    match sequence.next() {
        Next::Await(stage) => ("await", &stage.step.name),
        Next::Consider(stage) => ("consider", &stage.step.name),
        Next::Stop(stage) => ("stop", &stage.step.name),
        Next::Done => ("done", ""),
    }
}

fn told(sequence: &mut Sequence, number: u32, outcomes: &[Outcome]) {
    let act = act_id(COMMAND, number);
    sequence.begin(act, "boot", Moment { wall: Timestamp::default(), boot: Duration::ZERO });
    outcomes.iter().for_each(|outcome| sequence.note(act, *outcome, "title"));
}

#[test]
fn one_step_follows_the_other_when_it_is_confirmed() {
    let mut sequence = two(Otherwise::Stop);
    assert_eq!(next(&sequence), ("consider", "isolate"));
    told(&mut sequence, 1, &[]);
    assert_eq!(next(&sequence), ("await", "isolate"));
    told(&mut sequence, 1, &[Outcome::Applied]);
    assert_eq!(next(&sequence), ("await", "isolate"), "it is not known yet whether it holds");
    told(&mut sequence, 1, &[Outcome::Confirmed]);
    assert_eq!(next(&sequence), ("consider", "end"));
    told(&mut sequence, 2, &[Outcome::Applied]);
    assert_eq!(next(&sequence), ("done", ""), "what has no undo is done with its one receipt");
    sequence.note(act_id(COMMAND, 1), Outcome::Expired, "title");
    assert_eq!((next(&sequence), sequence.left), (("done", ""), Some(Outcome::Expired)));
    assert_eq!(sequence.stages[0].state, StepState::Succeeded, "it did what it should");
}

#[test]
fn what_fails_stops_the_sequence_or_not() {
    for outcome in [Outcome::Failed, Outcome::Reverted, Outcome::Released, Outcome::Expired] {
        let mut stops = two(Otherwise::Stop);
        told(&mut stops, 1, &[Outcome::Applied, outcome]);
        assert_eq!(next(&stops), ("stop", "isolate"), "{outcome:?}");
        let mut goes_on = two(Otherwise::GoOn);
        told(&mut goes_on, 1, &[Outcome::Applied, outcome]);
        assert_eq!(next(&goes_on), ("consider", "end"), "{outcome:?}");
    }
}

#[test]
fn evidence_that_is_sealed_is_enough_and_is_kept_until_it_is_handed_over() {
    let preserve =
        Action::Preserve { profiles: Default::default(), paths: vec!["/x".to_owned()], process: None };
    let new = || {
        let steps = vec![
            step("preserve", preserve.clone(), Otherwise::Stop),
            step("isolate", Action::Isolate {}, Otherwise::Stop),
        ];
        sequence(steps)
    };
    let mut sequence = new();
    told(&mut sequence, 1, &[]);
    assert_eq!((next(&sequence), sequence.stages[0].kept), (("await", "preserve"), false));
    told(&mut sequence, 1, &[Outcome::Applied]);
    assert_eq!((next(&sequence), sequence.stages[0].kept), (("consider", "isolate"), true));
    for (outcome, left) in [
        (Outcome::Confirmed, None),
        (Outcome::Failed, None),
        (Outcome::Expired, Some(Outcome::Expired)),
        (Outcome::Released, Some(Outcome::Released)),
    ] {
        let mut later = sequence.clone();
        later.note(act_id(COMMAND, 1), outcome, "title");
        assert_eq!(next(&later), ("consider", "isolate"), "what becomes of it later undoes no step");
        assert_eq!((later.stages[0].kept, later.left), (false, left), "{outcome:?}");
        let mut early = new();
        told(&mut early, 1, &[outcome]);
        let ends = if outcome == Outcome::Confirmed { "consider" } else { "stop" };
        assert_eq!(next(&early).0, ends, "{outcome:?}");
    }
}

#[test]
fn conditions_are_about_what_came_before() {
    let mut sequence = two(Otherwise::GoOn);
    let nothing = |_: &str, _| Ok(false);
    let due = |sequence: &Sequence, when: Condition| sequence.is_due(&when, &nothing).unwrap();
    let succeeded = || Condition::Succeeded { step: "isolate".to_owned() };
    let failed = || Condition::Failed { step: "isolate".to_owned() };
    assert!(!due(&sequence, succeeded()) && !due(&sequence, failed()));
    told(&mut sequence, 1, &[Outcome::Confirmed]);
    assert!(due(&sequence, succeeded()) && !due(&sequence, failed()));
    let mut sequence = two(Otherwise::GoOn);
    told(&mut sequence, 1, &[Outcome::Reverted]);
    assert!(!due(&sequence, succeeded()) && due(&sequence, failed()));
    let rule = || "file.*".to_owned();
    assert!(!due(&sequence, Condition::Found { rule: rule(), seconds: 60 }));
    assert!(due(&sequence, Condition::NotFound { rule: rule(), seconds: 60 }));
    let unknown = |_: &str, _| Err("the database is away".to_owned());
    assert!(sequence.is_due(&Condition::NotFound { rule: rule(), seconds: 60 }, &unknown).is_err());
}

#[test]
fn it_is_read_back_as_it_was_written() {
    let mut sequence = two(Otherwise::Stop);
    told(&mut sequence, 1, &[Outcome::Confirmed]);
    let text = serde_json::to_string(&sequence).unwrap();
    assert_eq!(serde_json::from_str::<Sequence>(&text).unwrap(), sequence);
}

#[test]
fn a_restore_has_its_steps_in_order() {
    let order = Order {
        id: COMMAND,
        action: Action::Restore {
            command: Uuid::nil(),
            services: vec!["tcp/443".parse().unwrap(), "udp/53".parse().unwrap()],
            pause: 30,
            accept: vec!["account.changed /etc/shadow".to_owned()],
        },
        lease: Duration::from_secs(86_400),
        subject: Subject {
            id: Some(COMMAND),
            step: None,
            signers: Vec::new(),
            envelope_sha256: String::new(),
        },
        reason: String::new(),
        ticket: String::new(),
        parties: None,
        automatic: false,
    };
    let sequence = Sequence::of(&order, Timestamp::default()).unwrap();
    let names: Vec<&str> = sequence.stages.iter().map(|stage| stage.step.name.as_str()).collect();
    assert_eq!(names, ["assess", "open-tcp-443", "open-udp-53", "release", "watch"]);
    assert!(sequence.stages.iter().all(|stage| stage.otherwise == Otherwise::Stop));
    assert_eq!(sequence.stages[4].lease, 86_400);
}
