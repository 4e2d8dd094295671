//! Accounts, read from /etc/passwd itself: the agent's own user is a system account, and a look-up through
//! NSS would load foreign modules into a process that runs as root.

use std::path::Path;

/// Longest /etc/passwd that is read, in bytes.
const PASSWD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Whom a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Why a user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Nobody of that name.
    #[error("there is no user {0:?}; create it (`useradd --system --no-create-home {0}`) or set uplink.user")]
    Unknown(String),
    /// A process that talks to the network must not be root.
    #[error("uplink.user is root; it must be an unprivileged user")]
    Root,
    /// /etc/passwd cannot be read.
    #[error("cannot read /etc/passwd: {0}")]
    Read(#[from] std::io::Error),
}

impl Account {
    /// Finds a user by name or number. A number needs no entry: its group is then the same number. Root is
    /// refused.
    pub fn find(user: &str) -> Result<Self, AccountError> {
        use std::io::Read as _;
        let mut passwd = Vec::new();
        match std::fs::File::open(Path::new("/etc/passwd")) {
            Ok(file) => drop(file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Self::find_in(&String::from_utf8_lossy(&passwd), user)
    }

    fn find_in(passwd: &str, user: &str) -> Result<Self, AccountError> {
        let number = user.parse::<u32>().ok();
        let found = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (name == user || number == Some(uid)).then_some(Self { uid, gid })
        });
        let by_number = number.map(|id| Self { uid: id, gid: id });
        let account = found.or(by_number).ok_or_else(|| AccountError::Unknown(user.to_owned()))?;
        if account.uid == 0 || account.gid == 0 || account.uid == u32::MAX || account.gid == u32::MAX {
            return Err(AccountError::Root);
        }
        Ok(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\npicket:x:998:997::/:/usr/sbin/nologin\nwheelish:x:500:0::/:/bin/sh\n";

    #[test]
    fn finds_by_name_and_by_number() {
        let picket = Account { uid: 998, gid: 997 };
        assert_eq!(Account::find_in(PASSWD, "picket").expect("listed"), picket);
        assert_eq!(Account::find_in(PASSWD, "998").expect("listed"), picket);
        assert_eq!(Account::find_in(PASSWD, "12345").expect("a number"), Account { uid: 12345, gid: 12345 });
    }

    #[test]
    fn refuses_root_and_strangers() {
        for user in ["root", "0", "wheelish", "4294967295"] {
            assert!(matches!(Account::find_in(PASSWD, user), Err(AccountError::Root)), "{user}");
        }
        assert!(matches!(Account::find_in(PASSWD, "nobody-here"), Err(AccountError::Unknown(_))));
        assert!(matches!(Account::find_in(PASSWD, ""), Err(AccountError::Unknown(_))));
    }
}
