//! TLS 1.3 as the uplink speaks it: one CA, one name, a client certificate, ALPN, tickets. Other versions are
//! not compiled in.

use std::sync::Arc;

use picket_protocol::crypto::{Hash, sha256};
use picket_protocol::message::{ALPN_AGENT, ALPN_ENROLL, ALPN_HTTP};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Tickets that are kept: one is used for each reconnect.
const SESSIONS_MAX: usize = 4;
/// Most certificates that an enrolling server's chain may have.
const CHAIN_MAX: usize = 8;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(Arc::new(roots))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])
}

/// The configuration of an agent's connection. Made anew when the certificate is renewed, so that no ticket
/// speaks for the old one.
pub fn agent_config(
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build().map_err(other)?;
    let mut config =
        builder()?.with_webpki_verifier(verifier).with_client_auth_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// The configuration of one plain question to the collector: as `config`, without a ticket and by HTTP.
pub fn question_config(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The same for a host whose own key or certificate is of no use: the collector proves itself, and we do not.
pub fn nameless_config(ca: CertificateDer<'static>) -> Result<Arc<ClientConfig>, Error> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build().map_err(other)?;
    Ok(question_config(&builder()?.with_webpki_verifier(verifier).with_no_client_auth()))
}

/// The configuration of an enrolment: the server's chain must hold the CA certificate with this digest.
pub fn enrol_config(ca: Hash) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Arc::new(DigestVerifier { ca, provider: provider() });
    let mut config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_ENROLL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Checks that `ca` issued `certificate` for use as a client, at `now`.
pub fn check_client_certificate(
    ca: CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider()).build().map_err(other)?;
    verifier.verify_client_cert(certificate, &[], now).map(|_verified| ())
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::General(error.to_string())
}

/// Trusts the CA that the join string names by its digest, and no other; all else is as webpki has it: chain,
/// name, time, usage, signatures.
#[derive(Debug)]
struct DigestVerifier {
    ca: Hash,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for DigestVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let named = intermediates.iter().take(CHAIN_MAX).find(|sent| sha256(&[sent.as_ref()]) == self.ca);
        let ca = named.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(ca.clone().into_owned())?, provider());
        let verifier = verifier.build().map_err(other)?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    /// TLS 1.2 is not compiled in; should it ever be, nothing verifies.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether it means that the server's certificate is not from the collector's CA.
pub fn is_foreign(error: &Error) -> bool {
    use CertificateError as C;
    matches!(error, Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature))
}

/// A TLS error as a sentence for whoever must do something about it.
pub fn explain(error: &Error) -> String {
    use CertificateError as C;
    let hint = match error {
        error if is_foreign(error) => {
            "the server's certificate is not from the collector's CA: another server, or something between that opens TLS"
        }
        Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "the server's certificate has expired, or this host's clock is ahead"
        }
        Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet, or this host's clock is behind"
        }
        Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the server's certificate is for another name than the address says"
        }
        Error::AlertReceived(alert @ AlertDescription::CertificateExpired) => {
            return format!(
                "the collector refused the connection ({alert:?}): this host's certificate has expired, `agent enroll --renew` with a new join string renews it"
            );
        }
        Error::AlertReceived(alert) => {
            return format!(
                "the collector refused the connection ({alert:?}): was this host revoked, or did its certificate expire?"
            );
        }
        Error::NoApplicationProtocol => "the server does not speak Picket's protocol",
        Error::PeerIncompatible(_) => "the server does not speak TLS 1.3",
        Error::InvalidMessage(_) => "the server does not speak TLS",
        _ => return error.to_string(),
    };
    format!("{hint} ({error})")
}
