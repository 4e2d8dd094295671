//! The server's own certificate while the collector runs: replaced before it ends, or when somebody asks for it, without a restart.
//! Connections that are there go on; new ones see the new one.

use std::sync::{Arc, PoisonError};

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::authority::{Authority, AuthorityError, Pair, names_of, validity_of};
use super::config::Config;
use super::data_dir::{DataDir, DataDirError};
use super::listener::SharedTls;
use super::meters::Meters;
use super::tls::{self, TlsError};

/// Why it was not replaced. The one before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The files.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What was made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a certificate says, for whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// Its names, sorted.
    pub names: Vec<String>,
    /// Its end.
    pub expires: Timestamp,
    /// SHA-256 of it (DER), in hex.
    pub sha256: String,
}

/// The files of a certificate, and the TLS configuration that uses it.
#[derive(Clone)]
pub struct ServerCertificate {
    directory: DataDir,
    /// None when the collector does not run.
    running: Option<(SharedTls, Arc<Meters>)>,
}

impl ServerCertificate {
    /// Of the collector in `directory`; of one that runs, what its listener uses, and its figures.
    pub fn new(directory: DataDir, running: Option<(SharedTls, Arc<Meters>)>) -> Self {
        Self { directory, running }
    }

    /// Replaces it where it ends soon, is not valid yet, or has other names than the configuration.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn keep_fresh(
        &self,
        authority: &Authority,
        config: &Config,
        now: Timestamp,
    ) -> Result<(), CertificateError> {
        let pair = self.directory.server_pair(authority, config, now)?;
        self.use_it(authority, &pair)
    }

    /// Replaces it, and its key.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn replace(
        &self,
        authority: &Authority,
        config: &Config,
        now: Timestamp,
    ) -> Result<Shown, CertificateError> {
        let pair = self.directory.write_server(authority, config, now)?;
        self.use_it(authority, &pair)?;
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
        let der = der.map_err(|error| AuthorityError::Ca(error.to_string()))?;
        let (names, expires) = (names_of(&pair.certificate)?, validity_of(&pair.certificate)?.1);
        Ok(Shown { names, expires, sha256: hex(&sha256(&[&der])) })
    }

    fn use_it(&self, authority: &Authority, pair: &Pair) -> Result<(), CertificateError> {
        let Some((tls, meters)) = &self.running else { return Ok(()) };
        let fresh = tls::server_config(authority, pair, self.directory.ticket_seed()?)?;
        *tls.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        meters.certificate(validity_of(&pair.certificate)?.1);
        Ok(())
    }
}
