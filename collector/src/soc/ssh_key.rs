//! Keys of OpenSSH: their `.pub` files, and signing with them by `ssh-keygen -Y sign`. That is a program of its own, so
//! that ssh-agent, passphrases and the touch of a token work as they do everywhere else, and no private key is read
//! here.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use picket_protocol::crypto::from_base64;
use picket_protocol::finding::printable;
use picket_protocol::ssh::{SshError, SshKey};
use picket_protocol::sshsig::SshSignature;
use zeroize::Zeroizing;

use super::error::SocError;

const PROGRAM: &str = "ssh-keygen";
const FILE_BYTES_MAX: u64 = 4_096;
/// Longest output that is read: a signature has some 600 bytes.
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;
const ARMOUR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const ARMOUR_END: &str = "-----END SSH SIGNATURE-----";

/// Reads a `.pub` file: the key, and the comment behind it.
///
/// # Errors
/// When the file holds none, or one of a type that is not accepted.
pub fn read_public(path: &Path) -> Result<(SshKey, String), SocError> {
    // Somebody may name the private half by mistake.
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(SocError::file("read", path))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(SocError::file("read", path))?;
    let text = text.trim();
    if text.lines().count() != 1 {
        return Err(SocError::Usage(format!("{} is not the .pub file of an SSH key", path.display())));
    }
    let parsed = SshKey::parse_line(text);
    let (key, comment) = parsed
        .map_err(|error| SocError::Usage(format!("{}: {}", path.display(), printable(&error.to_string()))))?;
    Ok((key, comment.to_owned()))
}

/// A key that `ssh-keygen` signs with: its file, or the `.pub` file of one that ssh-agent holds.
pub struct SshSigner {
    path: PathBuf,
    key: SshKey,
}

impl SshSigner {
    /// Finds the public half of `path`: in `path.pub`, or in `path` itself.
    ///
    /// # Errors
    /// When neither is there, or it is of a type that is not accepted.
    pub fn open(path: &Path) -> Result<Self, SocError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        let beside = PathBuf::from(beside);
        let public = if beside.exists() { &beside } else { path };
        match read_public(public) {
            Ok((key, _)) => Ok(Self { path: path.to_owned(), key }),
            Err(SocError::Usage(_)) if public == path && path.extension().is_none_or(|end| end != "pub") => {
                Err(SocError::Usage(format!(
                    "the public half of {path} is missing: ssh-keygen -y -f {path} > {path}.pub writes it",
                    path = path.display()
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// The public half.
    pub fn key(&self) -> &SshKey {
        &self.key
    }

    /// Has `ssh-keygen` sign `message`, and gives the signature in its binary form, verified.
    ///
    /// # Errors
    /// When the program is missing, does not sign, or signs with another key.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<Vec<u8>, SocError> {
        if self.key.application().is_some() {
            super::notice("touch the token when it blinks");
        }
        let output = self.run(namespace, message)?;
        let unreadable = || SocError::Failing(format!("{PROGRAM} printed something else than a signature"));
        let bytes = from_armour(&output).ok_or_else(unreadable)?;
        let verdict = SshSignature::decode(&bytes).and_then(|s| s.verify(&self.key, namespace, message));
        verdict.map_err(|error| match error {
            SshError::OtherKey(found) => SocError::Bad(format!(
                "not signed: {} is another key ({found}) than its .pub file says ({})",
                self.path.display(),
                self.key
            )),
            error => SocError::Bad(format!("not signed: {}", printable(&error.to_string()))),
        })?;
        Ok(bytes)
    }

    /// The message goes through a pipe; what the program asks and complains of goes to the terminal.
    fn run(&self, namespace: &str, message: &[u8]) -> Result<String, SocError> {
        let mut command = Command::new(PROGRAM);
        command.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(&self.path);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                SocError::Failing(format!("{PROGRAM} is missing: it comes with OpenSSH (openssh-client)"))
            }
            _ => SocError::Failing(format!("cannot run {PROGRAM}: {error}")),
        })?;
        let talked = talk(&mut child, message);
        let status = child.wait().map_err(|error| SocError::Failing(format!("{PROGRAM}: {error}")))?;
        if !status.success() {
            return Err(SocError::Bad(format!("not signed: {PROGRAM} refused ({status}), as it says above")));
        }
        talked.map_err(|error| SocError::Failing(format!("cannot talk to {PROGRAM}: {error}")))
    }
}

/// It reads all before it prints, so one after the other cannot block.
fn talk(child: &mut Child, message: &[u8]) -> std::io::Result<String> {
    if let Some(mut input) = child.stdin.take() {
        input.write_all(message)?;
    }
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(OUTPUT_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The bytes within the armour, and nothing around it.
fn from_armour(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim().strip_prefix(ARMOUR_BEGIN)?.strip_suffix(ARMOUR_END)?;
    from_base64(&inner.lines().collect::<String>())
}

#[cfg(test)]
mod tests;
