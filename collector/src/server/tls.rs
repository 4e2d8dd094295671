//! TLS of the one port: 1.3 only, a client certificate asked for but not insisted on, since enrolment and the
//! API come without one; what a connection may do is decided behind the handshake, by its ALPN name.
//!
//! A certificate of ours that has ended passes the handshake, and nothing else: the door turns its host away and says
//! what to do, which an alert of TLS could not, and knows whom it names in the log.
//!
//! Session tickets are sealed with keys derived from a seed that is kept, so that a thousand agents that come
//! back after a restart resume their sessions. A resumed session carries the certificate of the first one; it is
//! checked again like any other.

use std::sync::Arc;
use std::time::Duration;

use picket_protocol::message::{ALPN_AGENT, ALPN_ENROLL, ALPN_HTTP};
use ring::{aead, hmac};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::authority::{Authority, Identity, Pair};
use super::data_dir::{Seed, random};

/// Life of a ticket and of the key that seals it.
const TICKET_SECONDS: u32 = 12 * 3_600;
/// Longest ticket that is opened; ours have some 700 bytes with the agent's certificate in them.
const TICKET_BYTES_MAX: usize = 8_192;
const NAME_BYTES: usize = 16;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

fn error(error: impl ToString) -> TlsError {
    TlsError(error.to_string())
}

/// The server's TLS configuration.
///
/// # Errors
/// When the server's key and certificate are not such.
pub fn server_config(
    authority: &Authority,
    pair: &Pair,
    tickets: Seed,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).map_err(error)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(error)?;
    // The CA goes with it: a host that enrols knows nothing of it but the digest in its join string.
    let own = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(error)?;
    let chain = vec![own, authority.der().clone()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(error)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(error)?
        .with_client_cert_verifier(Arc::new(Agents(clients)))
        .with_single_cert(chain, key)
        .map_err(error)?;
    config.alpn_protocols = [ALPN_AGENT, ALPN_ENROLL, ALPN_HTTP].map(<[u8]>::to_vec).to_vec();
    config.send_tls13_tickets = 1;
    config.ticketer = Arc::new(Tickets { seed: tickets, clock: || super::shared::wall_clock().seconds() });
    // Nothing is kept per session on this side.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Verifies agents' certificates; one that has ended as at its last second.
#[derive(Debug)]
struct Agents(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Agents {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(certificate, intermediates, now);
        let Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) = &verified
        else {
            return verified;
        };
        let Some(last) = last_second(certificate) else { return verified };
        self.0.verify_client_cert(certificate, intermediates, last)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The last second of a certificate that names an agent.
fn last_second(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let ended = Identity::read(certificate).ok()?.expires.seconds();
    let last = u64::try_from(ended).ok()?.checked_sub(1)?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(last)))
}

/// Seals tickets with a key of the current twelve hours, and opens those of the current and the last.
struct Tickets {
    seed: Seed,
    clock: fn() -> i64,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

struct TicketKey {
    name: [u8; NAME_BYTES],
    key: aead::LessSafeKey,
}

impl Tickets {
    fn epoch(&self) -> i64 {
        (self.clock)().div_euclid(i64::from(TICKET_SECONDS))
    }

    fn key(&self, epoch: i64) -> Option<TicketKey> {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, &*self.seed);
        let derive = |label: &[u8]| hmac::sign(&seed, &[label, &epoch.to_be_bytes()].concat());
        let name = derive(b"picket ticket name/v1 ").as_ref().first_chunk().copied()?;
        let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, derive(b"picket ticket key/v1 ").as_ref())
            .ok()?;
        Some(TicketKey { name, key: aead::LessSafeKey::new(key) })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.key(self.epoch())?;
        let nonce: [u8; aead::NONCE_LEN] = random().ok()?;
        let mut sealed = plain.to_vec();
        let unique = aead::Nonce::assume_unique_for_key(nonce);
        key.key.seal_in_place_append_tag(unique, aead::Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        let epoch = self.epoch();
        let mut keys = [epoch, epoch - 1].into_iter().filter_map(|epoch| self.key(epoch));
        // The name is no secret: it only says which key.
        let key = keys.find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(*nonce);
        let length = key.key.open_in_place(nonce, aead::Aad::from(key.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(clock: fn() -> i64) -> Tickets {
        Tickets { seed: zeroize::Zeroizing::new([7; 32]), clock }
    }

    #[test]
    fn a_ticket_outlives_a_restart_but_not_its_key() {
        let ticket = tickets(|| 1_000_000).encrypt(b"session").unwrap();
        let next = tickets(|| 1_000_000 + 43_200);
        assert_eq!(next.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets(|| 1_000_000 + 2 * 43_200).decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_foreign_ticket_is_not_opened() {
        let ours = tickets(|| 5);
        let ticket = ours.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ours.decrypt(&changed), None, "byte {at}");
            assert_eq!(ours.decrypt(&ticket[..at]), None, "cut at {at}");
        }
        let foreign = Tickets { seed: zeroize::Zeroizing::new([8; 32]), clock: || 5 };
        assert_eq!(foreign.decrypt(&ticket), None);
    }
}
