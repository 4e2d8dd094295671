//! The kernel's audit, the real one: rules are added and removed, and it is switched off for a moment. There is one for the
//! whole machine, so it is put back as it was whatever happens, and one test at a time touches it.

use std::fs::File;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::lab::Lab;

/// What `auditctl` does, without the package whose installation starts a daemon: `AUDIT_SET` of `enabled`,
/// `AUDIT_ADD_RULE` and `AUDIT_DEL_RULE` of `always,exit -F arch=b64 -S acct -F auid=<number>`.
const AUDITCTL: &str = r#"
import socket, struct, sys
audit = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
def ask(kind, body):
    audit.send(struct.pack('=IHHII', 16 + len(body), kind, 5, 1, 0) + body)
    error = struct.unpack('=i', audit.recv(65536)[16:20])[0]
    if error: sys.exit('audit: error %d' % error)
def rule(number):
    words = [0] * 64
    words[163 // 32] = 1 << (163 % 32)
    fields, values, flags = [11, 9] + [0] * 62, [0xC000003E, number] + [0] * 62, [0x40000000] * 2 + [0] * 62
    return struct.pack('=III256I', 4, 2, 2, *(words + fields + values + flags)) + struct.pack('=I', 0)
act = sys.argv[1]
if act == 'get':
    audit.send(struct.pack('=IHHII', 16, 1000, 1, 1, 0))
    print(struct.unpack('=I', audit.recv(65536)[20:24])[0])
elif act == 'set': ask(1001, struct.pack('=10I', 1, int(sys.argv[2]), 0, 0, 0, 0, 0, 0, 0, 0))
elif act == 'add': ask(1011, rule(int(sys.argv[2])))
elif act == 'remove': ask(1012, rule(int(sys.argv[2])))
"#;

fn auditctl(arguments: &[&str]) -> Result<String, String> {
    let out = Command::new("python3").args(["-c", AUDITCTL]).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// As it was, at the end.
struct AsItWas {
    enabled: String,
    _alone: File,
}

impl AsItWas {
    fn take() -> Self {
        // The lock of all tests that touch audit (tests/src/audit.rs).
        let alone = File::options().create(true).append(true).open("/run/lock/picket-audit").unwrap();
        flock(&alone, FlockOperation::LockExclusive).unwrap();
        Self { enabled: auditctl(&["get"]).unwrap(), _alone: alone }
    }
}

impl Drop for AsItWas {
    fn drop(&mut self) {
        let _gone = ["31337", "31338"].map(|rule| auditctl(&["remove", rule]).is_ok());
        let _restored = auditctl(&["set", &self.enabled]).is_ok();
    }
}

#[test]
fn audit_that_is_switched_off_or_loses_its_rules_is_told() {
    let before = AsItWas::take();
    assert_ne!(before.enabled, "2", "audit is locked on this machine until it starts anew");
    auditctl(&["set", "1"]).unwrap();
    for rule in ["31337", "31338"] {
        auditctl(&["add", rule]).unwrap();
    }
    let mut lab = Lab::new();
    lab.start(&["audit"]);
    auditctl(&["remove", "31337"]).unwrap();
    lab.told("defence.audit", "high", "1 rule of audit removed");
    lab.forget();
    auditctl(&["add", "31337"]).unwrap();
    lab.told("defence.audit", "info", "Audit records as much as before again");
    lab.forget();
    auditctl(&["set", "0"]).unwrap();
    let finding = lab.told("defence.audit", "high", "Audit was switched off in the kernel");
    assert_eq!(finding["attack"][0], "T1562.012");
    lab.forget();
    auditctl(&["set", "1"]).unwrap();
    lab.told("defence.audit", "info", "Audit records as much as before again");
}
