//! The few facts that the agent needs of an X.509 certificate (RFC 5280, 4.1), read by one cursor: validity,
//! subject, public key. Signatures and chains are webpki's business, never this reader's.

use picket_protocol::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Longest PEM file or message that is read, in bytes.
pub const PEM_BYTES_MAX: usize = 64 * 1024;
/// Longest subject attribute that is read, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 256;

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// id-at-commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// id-at-organizationName, 2.5.4.10.
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// What a certificate says. Nothing of it is verified here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid to.
    pub not_after: Timestamp,
    /// Subject CN: the agent's id.
    pub common_name: Option<String>,
    /// Subject O: the tenant.
    pub organization: Option<String>,
    /// The SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// Why bytes are not a certificate that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or not exactly one certificate.
    #[error("not one certificate in PEM")]
    Pem,
    /// Not DER of the expected shape.
    #[error("the certificate is malformed at its {0}")]
    Malformed(&'static str),
}

/// The one certificate in a PEM text.
pub fn from_pem(pem: &[u8]) -> Result<CertificateDer<'static>, CertificateError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(CertificateError::Pem);
    }
    let mut found = CertificateDer::pem_slice_iter(pem);
    let first = found.next().and_then(Result::ok).ok_or(CertificateError::Pem)?;
    if found.next().is_some() { Err(CertificateError::Pem) } else { Ok(first) }
}

impl Facts {
    /// Reads a certificate in DER.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        use CertificateError::Malformed;
        let mut outer = Cursor(der);
        let mut certificate = Cursor(outer.take(SEQUENCE, "outer sequence")?);
        let mut body = Cursor(certificate.take(SEQUENCE, "body")?);
        if body.peek() == Some(VERSION) {
            body.take(VERSION, "version")?;
        }
        body.take(INTEGER, "serial number")?;
        body.take(SEQUENCE, "signature algorithm")?;
        body.take(SEQUENCE, "issuer")?;
        let mut validity = Cursor(body.take(SEQUENCE, "validity")?);
        let not_before = validity.time().ok_or(Malformed("validity"))?;
        let not_after = validity.time().ok_or(Malformed("validity"))?;
        let subject = body.take(SEQUENCE, "subject")?;
        let public_key = body.whole(SEQUENCE, "public key")?.to_vec();
        let common_name = attribute(subject, COMMON_NAME)?;
        let organization = attribute(subject, ORGANIZATION)?;
        Ok(Self { not_before, not_after, common_name, organization, public_key })
    }

    /// When to ask for a new one: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        self.not_before.plus(self.not_after.since(self.not_before) / 3 * 2)
    }
}

/// The one attribute `id` of a name; None when absent, an error when there are two: then it is anyone's guess
/// which one another program reads.
fn attribute(name: &[u8], id: &[u8]) -> Result<Option<String>, CertificateError> {
    let bad = CertificateError::Malformed("subject");
    let (mut sets, mut found) = (Cursor(name), None);
    while sets.peek().is_some() {
        let mut set = Cursor(sets.take(SET, "subject")?);
        while set.peek().is_some() {
            let mut pair = Cursor(set.take(SEQUENCE, "subject")?);
            if pair.take(OBJECT_ID, "subject")? != id {
                continue;
            }
            let tag = pair.peek().filter(|tag| [UTF8_STRING, PRINTABLE_STRING].contains(tag)).ok_or(bad)?;
            let value = pair.take(tag, "subject")?;
            let text = std::str::from_utf8(value).map_err(|_| bad)?;
            if value.len() > ATTRIBUTE_BYTES_MAX || found.is_some() {
                return Err(bad);
            }
            found = Some(text.to_owned());
        }
    }
    Ok(found)
}

/// Reads DER: tag, definite length, content.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, which must have this tag.
    fn take(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], CertificateError> {
        Ok(self.element(tag, what)?.1)
    }

    /// The next element with its tag and length.
    fn whole(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], CertificateError> {
        Ok(self.element(tag, what)?.0)
    }

    fn element(&mut self, tag: u8, what: &'static str) -> Result<(&'a [u8], &'a [u8]), CertificateError> {
        let bad = CertificateError::Malformed(what);
        let (header, length) = self.header(tag).ok_or(bad)?;
        let end = header.checked_add(length).ok_or(bad)?;
        let (whole, rest) = self.0.split_at_checked(end).ok_or(bad)?;
        self.0 = rest;
        Ok((whole, whole.get(header..).ok_or(bad)?))
    }

    /// Bytes of the header, and the length that it states: in short form or in one or two bytes, minimal.
    fn header(&self, tag: u8) -> Option<(usize, usize)> {
        match self.0 {
            [found, ..] if *found != tag => None,
            [_, length @ 0..=0x7f, ..] => Some((2, usize::from(*length))),
            [_, 0x81, length, ..] if *length >= 0x80 => Some((3, usize::from(*length))),
            [_, 0x82, high, low, ..] if *high > 0 => Some((4, usize::from(*high) << 8 | usize::from(*low))),
            _ => None,
        }
    }

    /// UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
    fn time(&mut self) -> Option<Timestamp> {
        let tag = self.peek()?;
        let text = std::str::from_utf8(self.take(tag, "validity").ok()?).ok()?;
        let text = text.strip_suffix('Z').filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        let (year, rest) = match tag {
            UTC_TIME if text.len() == 12 => {
                let (year, rest) = text.split_at_checked(2)?;
                let century = if year.parse::<u8>().ok()? < 50 { "20" } else { "19" };
                (format!("{century}{year}"), rest)
            }
            GENERALIZED_TIME if text.len() == 14 => {
                let (year, rest) = text.split_at_checked(4)?;
                (year.to_owned(), rest)
            }
            _ => return None,
        };
        let part = |at: usize| rest.get(at..at + 2);
        let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
        Timestamp::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, date_time_ymd};

    use super::*;

    fn certificate() -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "0199c0de-0000-7000-8000-000000000001");
        name.push(DnType::OrganizationName, "acme");
        parameters.distinguished_name = name;
        parameters.not_before = date_time_ymd(2026, 11, 1);
        parameters.not_after = date_time_ymd(2026, 12, 1);
        (parameters.self_signed(&key).expect("certificate").der().to_vec(), key)
    }

    #[test]
    fn reads_what_rcgen_writes() {
        let (der, key) = certificate();
        let facts = Facts::read(&der).expect("readable");
        assert_eq!(facts.not_before, Timestamp::parse("2026-11-01T00:00:00Z").expect("time"));
        assert_eq!(facts.not_after, Timestamp::parse("2026-12-01T00:00:00Z").expect("time"));
        assert_eq!(facts.common_name.as_deref(), Some("0199c0de-0000-7000-8000-000000000001"));
        assert_eq!(facts.organization.as_deref(), Some("acme"));
        use rcgen::PublicKeyData as _;
        assert_eq!(facts.public_key, key.subject_public_key_info());
        assert_eq!(facts.renew_at(), Timestamp::parse("2026-11-21T00:00:00Z").expect("time"));
    }

    #[test]
    fn far_dates_are_generalized_time() {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.not_after = date_time_ymd(2060, 2, 3);
        let der = parameters.self_signed(&key).expect("certificate").der().to_vec();
        let facts = Facts::read(&der).expect("readable");
        assert_eq!(facts.not_after, Timestamp::parse("2060-02-03T00:00:00Z").expect("time"));
        assert_eq!(facts.organization, None);
    }

    #[test]
    fn every_cut_is_refused() {
        let (der, _) = certificate();
        for length in 0..der.len() {
            assert!(Facts::read(&der[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn one_pem_certificate_and_no_other() {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let pem = CertificateParams::new(Vec::new()).expect("p").self_signed(&key).expect("c").pem();
        assert!(from_pem(pem.as_bytes()).is_ok());
        assert_eq!(from_pem(format!("{pem}{pem}").as_bytes()), Err(CertificateError::Pem));
        assert_eq!(from_pem(b""), Err(CertificateError::Pem));
        assert_eq!(from_pem(key.serialize_pem().as_bytes()), Err(CertificateError::Pem));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let _random = Facts::read(&bytes);
            let (mut der, _) = certificate();
            let at = at.index(der.len());
            der[at] = value;
            let _changed = Facts::read(&der);
        }
    }
}
