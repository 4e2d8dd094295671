//! Places where files come and go all day: watched, and silent but for what means something.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::filesystems::run;
use crate::lab::Lab;

fn quiet_place(rung: &str) {
    let mut lab = Lab::new(rung);
    let place = lab.directory.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("old"), "x").unwrap();
    lab.config.quiet_trees = vec![place.clone()];
    lab.start();
    // What programs do there all day, and somebody who tidies up: nothing of it is a mass change.
    for number in 0..200 {
        fs::write(place.join(format!("job{number}")), format!("{number} ").repeat(100)).unwrap();
    }
    fs::create_dir(place.join("cache")).unwrap();
    fs::write(place.join("old"), "changed").unwrap();
    fs::set_permissions(place.join("old"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::File::create(place.join("large")).unwrap().set_len(100 << 20).unwrap();
    lab.wait("all of it in the baseline", |lab| lab.rows().len() >= 204);
    for number in 0..200 {
        fs::remove_file(place.join(format!("job{number}"))).unwrap();
    }
    fs::copy("/bin/true", place.join("tool")).unwrap();
    lab.expect(rung, &[("file.created", "place/tool")]);
    assert_eq!(lab.counter("large_waiting"), 0);
    lab.forget();
    fs::copy("/bin/true", place.join("sshd")).unwrap();
    lab.expect(rung, &[("file.masquerade", "place/sshd")]);
    lab.forget();
    fs::create_dir(place.join("... ")).unwrap();
    lab.expect(rung, &[("file.hidden", "place/... ")]);
    lab.forget();
    run("chmod", &["4755", place.join("tool").to_str().unwrap()]);
    lab.expect(rung, &[("privilege.setuid", "place/tool")]);
    lab.forget();
    // Beside it all is told as ever.
    fs::write(lab.tree().join("f"), "x").unwrap();
    lab.expect(rung, &[("file.created", "tree/f")]);
}

#[test]
fn fanotify_tells_of_a_place_where_anybody_may_write_only_what_means_something() {
    quiet_place("fanotify");
}

#[test]
fn inotify_tells_of_a_place_where_anybody_may_write_only_what_means_something() {
    quiet_place("inotify");
}
