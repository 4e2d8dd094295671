//! The uplink's key and certificates: opened once, before the sandbox closes, and renewed in place.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::certificate::{CertificateError, Facts, PEM_BYTES_MAX, from_pem};
use super::tls;

/// Shortest and longest pause between requests for renewal that were not answered.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(3_600);

/// Why key or certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate is not one.
    #[error("{path}: {source}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// The key is not one.
    #[error("{0} is not a private key in PEM")]
    Key(PathBuf),
    /// The certificate is for another key.
    #[error(
        "{0} is not for the private key beside it; another one for that key: agent enroll --renew 'picket1.…'"
    )]
    Mismatch(PathBuf),
    /// TLS refuses them.
    #[error("TLS refuses the key or a certificate: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a renewed certificate is not taken. The old one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// It is not one.
    #[error("the renewed certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// It is for another key or names somebody else.
    #[error("the renewed certificate is not for this agent's key and name")]
    Mismatch,
    /// Its time has not come: the collector's clock is ahead of ours.
    #[error("the renewed certificate is not valid before {0}, and this host's clock is behind that")]
    NotYet(Timestamp),
    /// It ends no later than the one in use.
    #[error("the renewed certificate ends no later than the one in use")]
    NotNewer,
    /// TLS refuses it.
    #[error("TLS refuses the renewed certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The request cannot be made.
    #[error("the request for a certificate cannot be made: {0}")]
    Request(String),
}

/// A private key with its certificate and the collector's CA.
pub struct Credentials {
    key: KeyPair,
    ca: CertificateDer<'static>,
    facts: Facts,
    config: Arc<ClientConfig>,
}

impl Credentials {
    /// Reads the three files.
    pub fn open(key: &Path, certificate: &Path, ca: &Path) -> Result<Self, CredentialError> {
        let text = Zeroizing::new(read_bounded(key)?);
        let text = std::str::from_utf8(&text).map_err(|_| CredentialError::Key(key.to_owned()))?;
        let pair = KeyPair::from_pem(text).map_err(|_| CredentialError::Key(key.to_owned()))?;
        let (certificate_der, ca) = (read_certificate(certificate)?, read_certificate(ca)?);
        let refused = |source| CredentialError::Certificate { path: certificate.to_owned(), source };
        let facts = Facts::read(&certificate_der).map_err(refused)?;
        if facts.public_key != pair.subject_public_key_info() {
            return Err(CredentialError::Mismatch(certificate.to_owned()));
        }
        let config = tls::agent_config(ca.clone(), certificate_der, private(&pair))?;
        Ok(Self { key: pair, ca, facts, config })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// When the certificate ends, seconds since the epoch.
    pub fn expires(&self) -> i64 {
        self.facts.not_after.seconds()
    }

    /// How long until a new certificate should be asked for; None when it is too late for that as well.
    pub fn renew_in(&self, now: Timestamp) -> Option<Duration> {
        (now < self.facts.not_after).then(|| self.facts.renew_at().since(now))
    }

    /// How long to wait for an answer before asking again: a quarter of what is left.
    pub fn retry_in(&self, now: Timestamp) -> Duration {
        (self.facts.not_after.since(now) / 4).clamp(RETRY_MIN, RETRY_MAX)
    }

    /// A request for a new certificate for the same key, PEM.
    pub fn request(&self) -> Result<String, RenewalError> {
        let subject = (self.facts.common_name.as_deref(), self.facts.organization.as_deref());
        request(&self.key, subject).map_err(RenewalError::Request)
    }

    /// Takes a renewed certificate, PEM, into use.
    pub fn renew(&mut self, pem: &str, now: Timestamp) -> Result<(), RenewalError> {
        let certificate = from_pem(pem.as_bytes())?;
        let facts = Facts::read(&certificate)?;
        if !is_renewal(&self.facts, &facts) {
            return Err(RenewalError::Mismatch);
        }
        // The one in use goes on working meanwhile, and renewal is asked for again.
        if facts.not_before > now {
            return Err(RenewalError::NotYet(facts.not_before));
        }
        if facts.not_after <= self.facts.not_after {
            return Err(RenewalError::NotNewer);
        }
        self.config = tls::agent_config(self.ca.clone(), certificate, private(&self.key))?;
        self.facts = facts;
        Ok(())
    }
}

/// Whether `new` is for the same key and names the same agent and tenant as `old`.
pub fn is_renewal(old: &Facts, new: &Facts) -> bool {
    let same_name = old.common_name == new.common_name && old.organization == new.organization;
    same_name && old.public_key == new.public_key
}

/// A PKCS #10 request for `key`, PEM, with the subject that the certificate shall have: CN and O.
pub fn request(key: &KeyPair, subject: (Option<&str>, Option<&str>)) -> Result<String, String> {
    let mut parameters = CertificateParams::new(Vec::new()).map_err(|error| error.to_string())?;
    let mut name = DistinguishedName::new();
    if let Some(common_name) = subject.0 {
        name.push(DnType::CommonName, common_name);
    }
    if let Some(organization) = subject.1 {
        name.push(DnType::OrganizationName, organization);
    }
    parameters.distinguished_name = name;
    let request = parameters.serialize_request(key).map_err(|error| error.to_string())?;
    request.pem().map_err(|error| error.to_string())
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// Reads a file that holds one certificate, PEM.
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, CredentialError> {
    let refused = |source| CredentialError::Certificate { path: path.to_owned(), source };
    from_pem(&read_bounded(path)?).map_err(refused)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let failed = |source| CredentialError::Read { path: path.to_owned(), source };
    // Large enough from the start: a buffer that grows leaves copies of the key behind.
    let mut bytes = Vec::with_capacity(PEM_BYTES_MAX + 1);
    let file = crate::layout::open_file(path).map_err(failed)?;
    let limit = u64::try_from(PEM_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa, Issuer, PKCS_ED25519, date_time_ymd};

    use super::*;

    #[test]
    fn a_renewed_certificate_whose_time_has_not_come_is_not_taken() {
        let dir = tempfile::tempdir().expect("directory");
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let ca_key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("certificate");
        let issuer = Issuer::new(ca, ca_key);
        let issue = |from, to| {
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name = DistinguishedName::new();
            leaf.distinguished_name.push(DnType::CommonName, "agent");
            leaf.distinguished_name.push(DnType::OrganizationName, "tenant");
            (leaf.not_before, leaf.not_after) = (from, to);
            leaf.signed_by(&key, &issuer).expect("certificate").pem()
        };
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let old = issue(date_time_ymd(2026, 11, 1), date_time_ymd(2026, 12, 1));
        let mut credentials = Credentials::open(
            &write("tls.key", key.serialize_pem()),
            &write("tls.crt", old),
            &write("ca.crt", ca_certificate.pem()),
        )
        .expect("credentials");
        let renewed = issue(date_time_ymd(2026, 11, 21), date_time_ymd(2026, 12, 21));
        let time = |text| Timestamp::parse(text).expect("time");
        let before = credentials.expires();
        assert!(matches!(
            credentials.renew(&renewed, time("2026-11-20T23:00:00Z")),
            Err(RenewalError::NotYet(_))
        ));
        assert_eq!(credentials.expires(), before);
        credentials.renew(&renewed, time("2026-11-21T01:00:00Z")).expect("taken");
        assert!(credentials.expires() > before);
    }
}
