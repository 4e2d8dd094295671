//! What ransomware, wipers and vandals do, done by real programs; and the noise that must stay silent.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, rule};

/// Runs a script of `sh` in the lab's directory; the tree is `tree`.
fn sh(lab: &Lab, script: &str) {
    let output =
        Command::new("sh").args(["-euc", script]).current_dir(lab.directory.path()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

const PROSE: &str =
    "The quarterly figures by region, with the notes of the meeting and what was agreed there.\n";

/// Folders with documents, each of its own content, as they were before the agent came.
fn documents(tree: &Path, folders: usize, files: usize) {
    for folder in 0..folders {
        let folder_path = tree.join(format!("office/{folder}"));
        fs::create_dir_all(&folder_path).unwrap();
        for file in 0..files {
            let text = format!("{folder}-{file}\n{}", PROSE.repeat(20 + file));
            fs::write(folder_path.join(format!("report-{file}.odt")), text).unwrap();
        }
    }
}

fn started(folders: usize, files: usize) -> Lab {
    let mut lab = Lab::new("fanotify");
    documents(&lab.tree(), folders, files);
    lab.start();
    lab
}

fn of_rule(lab: &Lab, wanted: &str) -> Vec<Value> {
    let findings = lab.findings.lock().unwrap();
    findings.iter().filter(|finding| rule(finding) == wanted).cloned().collect()
}

/// Waits until an alarm says that `files` came to harm as `harm`; all alarms must be one finding that grew.
fn alarm(lab: &Lab, harm: &str, files: u64) -> Value {
    let count = |finding: &Value| {
        let harms = finding["evidence"]["harms"].as_array().unwrap();
        let of_it = harms.iter().find(|part| part["harm"] == harm);
        of_it.map_or(0, |part| part["files"].as_u64().unwrap())
    };
    lab.wait(&format!("an alarm about {files} files {harm}"), |lab| {
        of_rule(lab, "file.mass-change").iter().any(|finding| count(finding) >= files)
    });
    let alarms = of_rule(lab, "file.mass-change");
    assert!(alarms.iter().all(|alarm| alarm["id"] == alarms[0]["id"]), "several acts: {alarms:#?}");
    assert!(alarms.iter().all(|alarm| alarm["severity"] == "critical"));
    // The first was raised early, and names victims.
    assert!(alarms[0]["observed"]["count"].as_u64().unwrap() <= 2_000);
    assert!(!alarms[0]["evidence"]["victims"].as_array().unwrap().is_empty());
    alarms.last().unwrap().clone()
}

const NOTE: &str = "ALL YOUR FILES HAVE BEEN ENCRYPTED. To decrypt them send 0.5 bitcoin to the wallet below and \
                    write to us by Tor browser. Do not rename the files. Your id: 77f1c3";

#[test]
fn files_that_openssl_encrypts_one_by_one_are_one_act_with_its_note() {
    let lab = started(6, 10);
    sh(
        &lab,
        &format!(
            "find tree/office -type f | while read -r file; do
               openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:secret -in \"$file\" -out \"$file.locked\"
               rm \"$file\"
             done
             for folder in tree/office/*; do echo '{NOTE}' > \"$folder/HOW_TO_RECOVER.txt\"; done"
        ),
    );
    let found = alarm(&lab, "encrypted", 60);
    let title = found["title"].as_str().unwrap();
    assert!(title.contains("encrypted 60 files in 6 folders") && title.contains("*.locked"), "{title}");
    assert!(found["attack"].as_array().unwrap().contains(&"T1486".into()));
    lab.wait("the note", |lab| {
        let alarms = of_rule(lab, "file.mass-change");
        alarms.iter().any(|alarm| alarm["evidence"]["note"]["folders"].as_u64() >= Some(5))
            || of_rule(lab, "file.note-dropped").len() == 1
    });
}

#[test]
fn files_encrypted_in_place_are_told_by_their_entropy() {
    let lab = started(3, 10);
    sh(
        &lab,
        "for file in tree/office/*/*; do
           openssl enc -chacha20 -pbkdf2 -iter 1 -nosalt -pass pass:secret -in \"$file\" -out outside/new
           cat outside/new > \"$file\"
         done",
    );
    let found = alarm(&lab, "encrypted", 30);
    let entropy = &found["evidence"]["entropy"];
    assert!(
        entropy["before"].as_f64().unwrap() < 5.0 && entropy["after"].as_f64().unwrap() > 7.0,
        "{entropy}"
    );
}

#[test]
fn the_first_victims_suffice() {
    let lab = started(1, 12);
    sh(
        &lab,
        "for file in tree/office/0/*; do
           openssl enc -aes-256-cbc -pbkdf2 -iter 1 -pass pass:secret -in \"$file\" -out outside/new
           mv outside/new \"$file\"
         done",
    );
    alarm(&lab, "encrypted", 10);
}

#[test]
fn shredded_and_emptied_files_are_one_act_each() {
    let lab = started(3, 10);
    sh(&lab, "find tree/office -type f -exec shred -n 1 {} +");
    alarm(&lab, "encrypted", 30);
    let lab = started(3, 10);
    sh(&lab, "find tree/office -type f -exec shred -n 0 -z {} +");
    alarm(&lab, "blanked", 30);
    let lab = started(3, 10);
    sh(&lab, "for file in tree/office/*/*; do : > \"$file\"; done");
    alarm(&lab, "blanked", 30);
}

#[test]
fn a_tree_that_rm_takes_away_is_an_alarm() {
    let lab = started(5, 10);
    sh(&lab, "rm -rf tree/office");
    let found = alarm(&lab, "deleted", 50);
    assert!(found["attack"].as_array().unwrap().contains(&"T1485".into()));
}

#[test]
fn pages_overwritten_by_the_same_are_defaced() {
    let lab = started(3, 10);
    sh(
        &lab,
        "echo '<html><h1>hacked by the grey cats</h1></html>' > outside/page
         for file in tree/office/*/*; do cp outside/page \"$file\"; done",
    );
    alarm(&lab, "defaced", 30);
}

#[test]
fn files_that_only_take_an_odd_ending_are_an_alarm() {
    let lab = started(3, 10);
    sh(&lab, "for file in tree/office/*/*; do mv \"$file\" \"$file.crypt\"; done");
    let found = alarm(&lab, "renamed", 30);
    assert!(found["title"].as_str().unwrap().contains("*.crypt"));
}

#[test]
fn a_note_dropped_in_many_folders_is_told_by_itself() {
    let lab = started(7, 2);
    sh(
        &lab,
        &format!("for folder in tree/office/*; do echo '{NOTE} '$folder > \"$folder/READ_ME.txt\"; done"),
    );
    lab.wait("the note in 7 folders", |lab| {
        of_rule(lab, "file.note-dropped").iter().any(|note| note["observed"]["count"].as_u64() >= Some(5))
    });
    let notes = of_rule(&lab, "file.note-dropped");
    assert!(notes.iter().all(|note| note["id"] == notes[0]["id"] && note["severity"] == "critical"));
    let facts = &notes[0]["evidence"]["note"];
    assert_eq!(facts["fingerprint"].as_str().unwrap().len(), 16);
    assert!(facts["demand"].as_bool().unwrap());
    assert!(of_rule(&lab, "file.mass-change").is_empty());
}

#[test]
fn one_touch_of_a_canary_is_critical_and_its_making_is_no_news() {
    let mut lab = Lab::new("fanotify");
    documents(&lab.tree(), 2, 2);
    lab.start();
    lab.stop();
    // It is made when everything was known already.
    lab.config.canaries = vec![lab.tree().join("office/0"), lab.tree().join("office/1")];
    lab.start();
    lab.scan();
    assert!(lab.seen().is_empty(), "{:?}", lab.seen());
    sh(&lab, "for file in tree/office/0/.*.csv; do echo x >> \"$file\"; done; rm -r tree/office/1");
    lab.wait("both canaries", |lab| of_rule(lab, "file.canary").len() == 2);
    assert!(of_rule(&lab, "file.canary").iter().all(|finding| finding["severity"] == "critical"));
}

/// After the noise everything is compared once more, and what was held is due.
fn silent(lab: &Lab, what: &str) {
    lab.scan();
    std::thread::sleep(lab.tuning.mass_change.hold + std::time::Duration::from_millis(100));
    lab.scan();
    let alarms: Vec<String> = ["file.mass-change", "file.note-dropped"]
        .into_iter()
        .flat_map(|rule| of_rule(lab, rule))
        .map(|finding| finding["title"].to_string())
        .collect();
    assert!(alarms.is_empty(), "{what}: {alarms:?}");
}

#[test]
fn an_archive_with_a_licence_in_each_folder_is_no_alarm() {
    let lab = started(1, 1);
    sh(
        &lab,
        "mkdir outside/pack && cd outside/pack
         for folder in $(seq 40); do
           mkdir $folder
           echo 'Permission is hereby granted, free of charge, to any person obtaining a copy' > $folder/LICENSE
           for file in $(seq 50); do echo \"content $folder $file\" > $folder/$file.txt; done
           head -c 3000 /dev/urandom > $folder/key.bin
         done
         tar cf ../pack.tar . && cd ../../tree && tar xf ../outside/pack.tar && tar xf ../outside/pack.tar",
    );
    silent(&lab, "tar");
}

#[test]
fn git_checkout_of_another_branch_and_back_is_no_alarm() {
    let lab = started(1, 1);
    sh(
        &lab,
        "cd tree && git init -q work && cd work && git config user.email a@example.com && git config user.name a
         git config gc.auto 0
         for file in $(seq 200); do echo \"one $file\" > $file.txt; done
         git add . && git commit -qm one
         git checkout -qb other
         for file in $(seq 100); do echo \"other $file\" > $file.txt; done
         git rm -q $(seq -f %g.txt 101 200) && git add . && git commit -qm other",
    );
    lab.scan();
    sh(
        &lab,
        "cd tree/work && git checkout -q master 2>/dev/null || git checkout -q main; git checkout -q other",
    );
    silent(&lab, "git");
}

#[test]
fn building_and_cleaning_is_no_alarm() {
    let lab = started(1, 1);
    sh(
        &lab,
        "mkdir tree/source && cd tree/source
         for unit in $(seq 30); do echo \"int f$unit(void) { return $unit; }\" > u$unit.c; done
         printf 'OBJECTS=%s\\nall: $(OBJECTS)\\n\\tar rcs lib.a $(OBJECTS)\\nclean:\\n\\trm -f *.o lib.a\\n' \
           \"$(seq -f 'u%g.o' -s ' ' 30)\" > Makefile
         make -s && make -s clean && make -s",
    );
    lab.scan();
    sh(&lab, "cd tree/source && make -s clean");
    silent(&lab, "make");
}

#[test]
fn a_deployment_by_rsync_is_no_alarm() {
    let lab = started(1, 1);
    sh(
        &lab,
        "mkdir outside/one outside/two
         for file in $(seq 500); do echo \"version one of $file\" > outside/one/$file.html; done
         for file in $(seq 400); do echo \"version two of $file\" > outside/two/$file.html; done
         rsync -a --delete outside/one/ tree/site/",
    );
    lab.scan();
    sh(&lab, "rsync -a --delete outside/two/ tree/site/");
    silent(&lab, "rsync");
}

#[test]
fn compressing_and_rotating_is_no_alarm() {
    let lab = started(1, 1);
    sh(&lab, "mkdir tree/old && for file in $(seq 60); do seq $file 3000 > tree/old/log.$file; done");
    lab.scan();
    sh(&lab, "gzip tree/old/*");
    silent(&lab, "gzip");
}
