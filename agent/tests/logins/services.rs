//! Logs that services write themselves: they come and go with the services.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use picket_agent::config::{LoginsConfig, ServiceLog};

use crate::ledger::{Bench, Run, assert_complete, config, wait_for};

fn rules(dir: &Path) -> LoginsConfig {
    let parsers_dir = dir.join("parsers.d");
    std::fs::create_dir(&parsers_dir).unwrap();
    let logs = dir.join("var");
    let text = format!(
        "service = \"shop\"\nlogs = [\"{0}/shop/*/door.log\", \"{0}/shop.log\"]\n\
         [[rule]]\nevent = \"login.failure\"\npattern = 'door: no entry for {{user}} from {{address}}'\n\
         [[sample]]\nlog = 'door: no entry for al from 192.0.2.7'\nevent = \"login.failure\"\nuser = \"al\"\naddress = \"192.0.2.7\"\n\
         [[sample]]\nlog = 'door: open'\nevent = \"none\"\n",
        logs.display()
    );
    std::fs::write(parsers_dir.join("shop.toml"), text).unwrap();
    std::fs::create_dir(&logs).unwrap();
    LoginsConfig { parsers_dir, ..config(&[&dir.join("auth.log")]) }
}

fn refused(log: &Path, n: u64) {
    let [.., a, b, c] = n.to_be_bytes();
    let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
    writeln!(file, "door: no entry for u{n:07} from 10.{a}.{b}.{c}").unwrap();
}

fn is_read(run: &Run, log: &Path) -> bool {
    let name = log.display().to_string();
    run.report().sources.iter().any(|source| source.source == name)
}

#[test]
fn a_service_that_is_installed_while_the_agent_runs_is_read_from_its_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = rules(dir.path());
    let bench = Bench::new(dir.path());
    let run = bench.start(&config);
    wait_for("the sensor", || run.report().sources.first().map(|_| ()));
    let begin = std::time::Instant::now();
    // Directories that appear later, one in the other.
    let first = dir.path().join("var/shop/one/door.log");
    std::fs::create_dir_all(first.parent().unwrap()).unwrap();
    refused(&first, 0);
    refused(&first, 1);
    wait_for("the first two", || (bench.sealed().len() == 2).then_some(()));
    let second = dir.path().join("var/shop/two/door.log");
    std::fs::create_dir(second.parent().unwrap()).unwrap();
    refused(&second, 2);
    let single = dir.path().join("var/shop.log");
    refused(&single, 3);
    refused(&first, 4);
    wait_for("the others", || (bench.sealed().len() == 5).then_some(()));
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(25),
        "woken, not by the clock: {:?}",
        begin.elapsed()
    );
    run.stop();

    // Installed while nobody looked.
    let third = dir.path().join("var/shop/three/door.log");
    std::fs::create_dir(third.parent().unwrap()).unwrap();
    refused(&third, 5);
    refused(&second, 6);
    let run = bench.start(&config);
    wait_for("what came meanwhile", || (bench.sealed().len() == 7).then_some(()));
    wait_for("the status", || (is_read(&run, &third) && is_read(&run, &single)).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 7);
}

#[test]
fn what_was_there_before_the_agent_is_read_from_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = rules(dir.path());
    let log = dir.path().join("var/shop.log");
    refused(&log, 9);
    let bench = Bench::new(dir.path());
    let run = bench.start(&config);
    wait_for("the source", || is_read(&run, &log).then_some(()));
    refused(&log, 0);
    wait_for("the new line", || (bench.sealed().len() == 1).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 1);
}

#[test]
fn a_log_that_is_named_with_its_service_is_read_by_its_rules() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let path = format!("{}/*.txt", elsewhere.display());
    let named = ServiceLog { path, service: "shop".to_owned() };
    let config = LoginsConfig { service_logs: vec![named], ..rules(dir.path()) };
    let bench = Bench::new(dir.path());
    let run = bench.start(&config);
    wait_for("the sensor", || run.report().sources.first().map(|_| ()));
    let log = elsewhere.join("door.txt");
    refused(&log, 0);
    wait_for("its line", || (bench.sealed().len() == 1).then_some(()));
    wait_for("the status", || is_read(&run, &log).then_some(()));
    run.stop();
    assert_complete(&bench.sealed(), 1);
}
