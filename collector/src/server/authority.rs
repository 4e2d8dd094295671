//! The collector's certificate authority: issues agents' certificates, and reads them back at the door.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use picket_protocol::crypto::{Hash, sha256};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::store::Certificate;

/// Life of the CA.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Life of the server's certificate; it is replaced by itself.
const SERVER_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// The server's certificate is replaced when it has less than this left.
pub const SERVER_RENEWAL: Duration = Duration::from_secs(60 * 86_400);
/// Certificates begin this long before now, for hosts whose clock is a little behind; short-lived ones a quarter of
/// their life, so that two thirds of it are not over when they are made.
const BACKDATE: Duration = Duration::from_secs(3_600);
/// Longest request that is parsed.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The CA's own files.
    #[error("the CA cannot be used: {0}")]
    Ca(String),
    /// The request is malformed, or not signed by its own key.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// The certificate that was presented is not one of this CA's agents.
    #[error("not an agent's certificate: {0}")]
    NotAnAgent(&'static str),
}

/// A key and its certificate, PEM.
pub struct Pair {
    /// PKCS #8.
    pub key: Zeroizing<String>,
    /// X.509.
    pub certificate: String,
}

impl Pair {
    /// Whether the certificate is of this key.
    pub fn is_matching(&self) -> bool {
        use rcgen::PublicKeyData as _;
        let Ok(key) = KeyPair::from_pem(&self.key) else { return false };
        let Ok(der) = CertificateDer::from_pem_slice(self.certificate.as_bytes()) else { return false };
        X509Certificate::from_der(&der)
            .is_ok_and(|(_, found)| found.public_key().raw == key.subject_public_key_info())
    }
}

/// The CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// Who a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The agent.
    pub agent: AgentId,
    /// Whose host.
    pub tenant: Tenant,
    /// The certificate's serial number.
    pub serial: Vec<u8>,
    /// Its beginning.
    pub begins: Timestamp,
    /// Its end.
    pub expires: Timestamp,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: Hash,
}

fn ca_error(error: impl ToString) -> AuthorityError {
    AuthorityError::Ca(error.to_string())
}

impl Authority {
    /// A new CA (ECDSA P-256, which every client of the API understands).
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn create(name: &str, now: Timestamp) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate().map_err(ca_error)?;
        let mut params = params(name, None, now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(ca_error)?;
        Ok(Pair { key: Zeroizing::new(key.serialize_pem()), certificate: certificate.pem() })
    }

    /// Opens a CA from its PEM files.
    ///
    /// # Errors
    /// When they are not such, or do not belong together.
    pub fn open(pair: &Pair) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(&pair.key).map_err(ca_error)?;
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(ca_error)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(ca_error)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(ca_error("its key and its certificate do not belong together"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(ca_error)?;
        Ok(Self { issuer, pem: pair.certificate.clone(), der: der.into_owned() })
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's certificate, DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the CA's certificate: what join strings carry.
    pub fn digest(&self) -> Hash {
        sha256(&[&self.der])
    }

    /// A key and certificate for the server itself under `names`.
    ///
    /// # Errors
    /// When a name is not a host name or address.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate().map_err(ca_error)?;
        let mut params = params(names.first().map_or("collector", String::as_str), None, now, SERVER_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for name in names {
            params.subject_alt_names.push(match IpAddr::from_str(name) {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(ca_error)?),
            });
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(ca_error)?;
        Ok(Pair { key: Zeroizing::new(key.serialize_pem()), certificate: certificate.pem() })
    }

    /// A client certificate for an agent. Of the request only the key counts: the names are ours.
    ///
    /// # Errors
    /// When the request is malformed or not signed by its key.
    pub fn issue_agent(
        &self,
        csr: &Request,
        agent: AgentId,
        tenant: &Tenant,
        now: Timestamp,
        life: Duration,
    ) -> Result<Certificate, AuthorityError> {
        let mut params = params(&agent.to_string(), Some(tenant.as_str()), now, life)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let certificate = params.signed_by(&csr.0.public_key, &self.issuer).map_err(ca_error)?;
        let expires = Timestamp::from_seconds(now.plus(life).seconds());
        Ok(Certificate { pem: certificate.pem(), serial, expires, tls_key: csr.key() })
    }
}

/// A certificate request whose signature by its own key was checked.
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Parses and checks a PKCS #10 request, PEM.
    ///
    /// # Errors
    /// When it is malformed, too long or not signed by its key.
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        if pem.len() > CSR_BYTES_MAX {
            return Err(AuthorityError::Request("too long".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_pem(pem);
        request.map(Self).map_err(|error| AuthorityError::Request(error.to_string()))
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub fn key(&self) -> Hash {
        sha256(&[&self.0.public_key.subject_public_key_info()])
    }
}

impl Identity {
    /// Reads a certificate that the TLS layer found to be issued by this CA.
    ///
    /// # Errors
    /// When it does not name an agent and a tenant.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        use AuthorityError::NotAnAgent;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotAnAgent("not X.509"))?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let agent = name.and_then(AgentId::parse).ok_or(NotAnAgent("no agent id"))?;
        let tenant = subject.iter_organization().next().and_then(|name| name.as_str().ok());
        let tenant = tenant.and_then(Tenant::parse).ok_or(NotAnAgent("no tenant"))?;
        let begins = Timestamp::from_seconds(certificate.validity().not_before.timestamp());
        let expires = Timestamp::from_seconds(certificate.validity().not_after.timestamp());
        let key = sha256(&[certificate.public_key().raw]);
        Ok(Self { agent, tenant, serial: certificate.raw_serial().to_vec(), begins, expires, key })
    }
}

/// A certificate (DER) as PEM (RFC 7468).
pub fn pem_of(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut line = 0;
    for letter in picket_protocol::crypto::to_base64(der).chars() {
        if line == 64 {
            text.push('\n');
            line = 0;
        }
        text.push(letter);
        line += 1;
    }
    text + "\n-----END CERTIFICATE-----\n"
}

/// From when to when a certificate (PEM) is valid.
///
/// # Errors
/// When it is not one.
pub fn validity_of(pem: &str) -> Result<(Timestamp, Timestamp), AuthorityError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(ca_error)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(ca_error)?;
    let validity = certificate.validity();
    let time = |time: ASN1Time| Timestamp::from_seconds(time.timestamp());
    Ok((time(validity.not_before), time(validity.not_after)))
}

/// The names (subject alternative names) of a certificate (PEM), sorted.
///
/// # Errors
/// When it is not one.
pub fn names_of(pem: &str) -> Result<Vec<String>, AuthorityError> {
    use x509_parser::extensions::GeneralName;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(ca_error)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(ca_error)?;
    let extension = certificate.subject_alternative_name().map_err(ca_error)?;
    let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    let mut names: Vec<String> = names.iter().filter_map(text).collect();
    names.sort();
    Ok(names)
}

fn params(
    name: &str,
    organization: Option<&str>,
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    let backdate = i64::try_from(BACKDATE.min(life / 4).as_secs()).unwrap_or(0);
    params.not_before = date(Timestamp::from_seconds(now.seconds().saturating_sub(backdate)))?.to_datetime();
    params.not_after = date(now.plus(life))?.to_datetime();
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn date(time: Timestamp) -> Result<ASN1Time, AuthorityError> {
    ASN1Time::from_timestamp(time.seconds()).map_err(ca_error)
}

/// 16 random bytes, positive and without leading zeros, so that they read back as they are.
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut bytes: [u8; 16] = super::data_dir::random().map_err(ca_error)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(bytes)
}
