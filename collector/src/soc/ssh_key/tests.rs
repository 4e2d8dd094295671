use picket_protocol::crypto::{SigningKey, to_base64};

use super::*;

fn key(seed: u8) -> SshKey {
    SshKey::of_file(SigningKey::from_seed([seed; 32]).public()).unwrap()
}

#[test]
fn armour_is_whole_or_not_read() {
    let body = "A".repeat(72) + "\nAAAA\n";
    let good = format!("{ARMOUR_BEGIN}\n{body}{ARMOUR_END}\n");
    assert_eq!(from_armour(&good), Some(vec![0; 57]));
    assert_eq!(from_armour(&good.replace('\n', "\r\n")), Some(vec![0; 57]));
    for bad in [
        String::new(),
        ARMOUR_BEGIN.to_owned(),
        format!("warning\n{good}"),
        format!("{good}{good}"),
        good.replace("AAAA\n-", "AAA!\n-"),
        good.replace("SIGNATURE", "KEY"),
    ] {
        assert_eq!(from_armour(&bad), None, "{bad}");
    }
}

#[test]
fn public_halves_are_found_and_others_named() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let public = write("id.pub", &format!("{} carol at home\n", key(1)));
    assert_eq!(read_public(&public).unwrap(), (key(1), "carol at home".to_owned()));
    let path = write("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    for path in [&path, &public] {
        assert_eq!(SshSigner::open(path).unwrap().key(), &key(1));
    }
    let refused = |path: &Path, expected: &str| {
        let error = SshSigner::open(path).err().unwrap();
        assert!(error.exit_code() == 3 && error.to_string().contains(expected), "{error}");
    };
    refused(&write("lone", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"), "ssh-keygen -y -f");
    let rsa = format!("ssh-rsa {} al@laptop\n", to_base64(&[0; 300]));
    refused(&write("rsa.pub", &rsa), "only ssh-ed25519 and sk-ssh-ed25519@openssh.com");
    refused(&write("two.pub", &format!("{}\n{}\n", key(1), key(2))), "not the .pub file");
    refused(&write("empty.pub", ""), "not the .pub file");
    assert_eq!(SshSigner::open(&directory.path().join("none")).err().unwrap().exit_code(), 2);
}
