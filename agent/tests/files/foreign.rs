//! What happens outside the trees is dropped by a look at a table of directories: it must not make the sensor blind
//! for a directory that comes into a tree after that, nor for a watched file that is written by a name outside.

use std::fs;
use std::path::Path;

use super::lab::Lab;

/// Makes `directory` one that is known to lie outside: something happens in it again and again, and the sensor is past
/// it when it has told of something that happened later.
fn make_known(lab: &Lab, directory: &Path) {
    for round in 0..3 {
        (0..20).for_each(|n| fs::write(directory.join(format!("f{n}")), "x").unwrap());
        let place = directory.strip_prefix(lab.outside()).unwrap().display().to_string().replace('/', "-");
        let name = format!("after-{place}-{round}");
        fs::write(lab.tree().join(&name), "y").unwrap();
        told(lab, &format!("tree/{name}"));
    }
}

/// Only events can have told: no test here is as long as the interval of scans.
fn told(lab: &Lab, path: &str) {
    lab.wait(path, |lab| lab.seen().iter().any(|(_, seen)| seen == path));
}

#[test]
fn a_directory_that_was_outside_is_seen_once_it_is_in_a_tree() {
    let mut lab = Lab::new("fanotify");
    let (tree, outside) = (lab.tree(), lab.outside());
    fs::create_dir_all(outside.join("hot/deep")).unwrap();
    lab.start();
    make_known(&lab, &outside.join("hot"));
    make_known(&lab, &outside.join("hot/deep"));

    fs::rename(outside.join("hot"), tree.join("in")).unwrap();
    fs::write(tree.join("in/new"), "1").unwrap();
    fs::write(tree.join("in/deep/new"), "1").unwrap();
    told(&lab, "tree/in");
    fs::write(tree.join("in/later"), "2").unwrap();
    fs::write(tree.join("in/deep/later"), "2").unwrap();
    told(&lab, "tree/in/later");
    told(&lab, "tree/in/deep/later");

    // Out, known as outside again, and in within its parent.
    fs::create_dir(outside.join("above")).unwrap();
    fs::rename(tree.join("in"), outside.join("above/hot")).unwrap();
    make_known(&lab, &outside.join("above/hot"));
    assert!(!lab.seen().iter().any(|(_, path)| path.starts_with("outside")), "{:?}", lab.seen());
    fs::rename(outside.join("above"), tree.join("again")).unwrap();
    told(&lab, "tree/again");
    fs::write(tree.join("again/hot/last"), "3").unwrap();
    told(&lab, "tree/again/hot/last");
}

#[test]
fn a_watched_file_that_is_written_by_a_name_outside_is_seen() {
    let mut lab = Lab::new("fanotify");
    let outside = lab.outside();
    fs::create_dir(outside.join("hot")).unwrap();
    lab.start();
    make_known(&lab, &outside.join("hot"));
    let watched = lab.tree().join("file");
    fs::write(&watched, "one").unwrap();
    told(&lab, "tree/file");
    fs::hard_link(&watched, outside.join("hot/other")).unwrap();
    lab.wait("the look at its links", |lab| lab.scan().errors == 0);
    lab.forget();
    fs::write(outside.join("hot/other"), "two, by its other name").unwrap();
    told(&lab, "tree/file");
    // The name outside goes: the watched file has one link less, and is seen still.
    fs::remove_file(outside.join("hot/other")).unwrap();
    lab.forget();
    fs::write(&watched, "three").unwrap();
    told(&lab, "tree/file");
}
