//! `soc.toml`: which collector, which CA, which token.
//!
//! ```toml
//! address = "collector.example:8443"   # host:port
//! ca = "ca.crt"                        # PEM; relative to this file
//! token = "picket-op.…"                # or: token_file = "token", relative to this file
//! server_name = "collector.example"    # optional: the name in the certificate, when it is not the address
//! witness = "collector+…"              # optional: pins the key that cosignatures are checked with
//! ```

use std::path::{Path, PathBuf};

use picket_protocol::join::is_address;
use picket_protocol::note::VerifierKey;
use zeroize::Zeroizing;

use super::error::SocError;

/// Longest file that is read here.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the collector is and how it is known.
pub struct SocConfig {
    /// The file itself.
    pub path: PathBuf,
    /// `host:port`.
    pub address: String,
    /// Name in the server's certificate.
    pub server_name: String,
    /// The CA certificate, PEM.
    pub ca: Vec<u8>,
    /// The operator's token.
    pub token: Zeroizing<String>,
    /// The pinned witness key, when the file names one.
    pub witness: Option<VerifierKey>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    address: String,
    ca: PathBuf,
    token: Option<String>,
    token_file: Option<PathBuf>,
    server_name: Option<String>,
    witness: Option<String>,
}

/// `--config`, else `SOC_CONFIG`, else `~/.config/picket/soc.toml`.
///
/// # Errors
/// When there is neither of the first two nor a home directory.
pub fn config_path(argument: Option<&Path>) -> Result<PathBuf, SocError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = argument.map(Path::to_owned).or_else(|| variable("SOC_CONFIG")) {
        return Ok(path);
    }
    let base = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let base =
        base.ok_or_else(|| SocError::Usage("no HOME: name a configuration with --config".to_owned()))?;
    Ok(base.join("picket").join("soc.toml"))
}

impl SocConfig {
    /// Reads and checks the file at `path` and those that it names.
    ///
    /// # Errors
    /// Usage: the message names the key and the line.
    pub fn load(path: &Path) -> Result<Self, SocError> {
        let usage = |text: String| SocError::Usage(format!("{}: {text}", path.display()));
        let text = read_bounded(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => usage(
                "no such file. Ask an admin for one (`collector operator add NAME --role viewer --soc-config FILE`) \
                 and name it with --config or SOC_CONFIG"
                    .to_owned(),
            ),
            _ => usage(error.to_string()),
        })?;
        let text = Zeroizing::new(String::from_utf8(text).map_err(|_| usage("not UTF-8 text".to_owned()))?);
        let raw: Raw = toml::from_str(&text).map_err(|error| usage(describe(&text, &error)))?;
        let beside = |file: &Path| path.parent().unwrap_or(Path::new(".")).join(file);
        if !is_address(&raw.address) {
            return Err(usage(format!("address: {:?} is not host:port", raw.address)));
        }
        let ca = read_bounded(&beside(&raw.ca))
            .map_err(|error| usage(format!("ca {}: {error}", raw.ca.display())))?;
        let token = match (raw.token, raw.token_file) {
            (Some(token), None) => Zeroizing::new(token),
            (None, Some(file)) => {
                let bytes = read_bounded(&beside(&file))
                    .map_err(|error| usage(format!("token_file {}: {error}", file.display())))?;
                Zeroizing::new(
                    String::from_utf8(bytes).map_err(|_| usage("token_file: not text".to_owned()))?,
                )
            }
            _ => return Err(usage("give one of token and token_file".to_owned())),
        };
        let token = Zeroizing::new(token.trim().to_owned());
        if !token.starts_with("picket-op.") || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(usage("token: an operator's token begins with \"picket-op.\"".to_owned()));
        }
        let witness = raw.witness.as_deref().map(VerifierKey::parse).transpose();
        let witness = witness.map_err(|error| usage(format!("witness: {error}")))?;
        let host = raw.address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = raw.server_name.unwrap_or(host);
        Ok(Self { path: path.to_owned(), address: raw.address, server_name, ca, token, witness })
    }
}

/// Message and line, but no text of the file: it holds the token.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
    let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}{line}", error.message().lines().next().unwrap_or_default())
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(std::io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<SocConfig, SocError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), "PEM").unwrap();
        std::fs::write(directory.path().join("token"), "picket-op.abc\n").unwrap();
        let path = directory.path().join("soc.toml");
        std::fs::write(&path, text).unwrap();
        SocConfig::load(&path)
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load("address = \"[::1]:8443\"\nca = \"ca.crt\"\ntoken_file = \"token\"").unwrap();
        assert_eq!((config.server_name.as_str(), config.token.as_str()), ("::1", "picket-op.abc"));
        assert_eq!(config.ca, b"PEM");
    }

    #[test]
    fn each_mistake_is_named_with_its_line_and_without_the_token() {
        let base = "address = \"h:1\"\nca = \"ca.crt\"\ntoken = \"picket-op.SECRET\"\n";
        let cases = [
            (format!("{base}color = 1\n"), "line 4"),
            (base.replace("h:1", "nonsense"), "not host:port"),
            (base.replace("ca.crt", "gone.crt"), "gone.crt"),
            (base.replace("picket-op.", "other."), "picket-op."),
            (format!("{base}token_file = \"token\"\n"), "one of token and token_file"),
            (format!("{base}witness = \"x\"\n"), "witness"),
            (format!("{base}token = 3"), "line 4"),
        ];
        for (text, expected) in cases {
            let error = load(&text).err().map(|error| (error.exit_code(), error.to_string())).unwrap();
            assert!(error.0 == 3 && error.1.contains(expected), "{text}: {error:?}");
            assert!(!error.1.contains("SECRET"), "{error:?}");
        }
    }
}
