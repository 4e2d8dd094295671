//! Who asks: `Authorization: Bearer picket-op.…`, looked up by the token's SHA-256, so that neither the store
//! nor the time of a comparison tells anything of a token. An address whose attempts fail too often has to
//! wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use picket_protocol::crypto::Hash;
use picket_protocol::time::Timestamp;

use super::error::ApiError;
use super::{Api, Peer};
use crate::store::{OPERATOR_TOKEN_PREFIX, Operator, Role, secret_hash};

/// Failed attempts that one address has at once.
const FAILURES_MAX: u32 = 10;
/// One more attempt after each such time.
const REFILL_SECONDS: i64 = 6;
/// Addresses that are remembered; when they are more, those that have waited longest are forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// Length of the base64url of 32 bytes.
const SECRET_CHARACTERS: usize = 43;

/// An operator who may read.
pub struct Viewer(pub Operator, pub Hash);
/// An operator who may also post commands.
pub struct Responder(pub Operator);
/// An operator who may do everything.
pub struct Admin(pub Operator);

impl FromRequestParts<Api> for Viewer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let (operator, token) = authenticate(parts, api).await?;
        at_least(operator, Role::Viewer).map(|operator| Self(operator, token))
    }
}

impl FromRequestParts<Api> for Responder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        at_least(authenticate(parts, api).await?.0, Role::Responder).map(Self)
    }
}

impl FromRequestParts<Api> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        at_least(authenticate(parts, api).await?.0, Role::Admin).map(Self)
    }
}

async fn authenticate(parts: &Parts, api: &Api) -> Result<(Operator, Hash), ApiError> {
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let now = (api.shared.clock)();
    if let Some(address) = peer
        && let Some(seconds) = api.failures.must_wait(address, now)
    {
        return Err(ApiError::too_many("too many failed attempts from this address", seconds));
    }
    let attempt = match bearer(&parts.headers) {
        Ok(token) => known(api, secret_hash(token.as_bytes()), now).await,
        Err(error) => Err(error),
    };
    if let (Err(_), Some(address)) = (&attempt, peer) {
        api.failures.failed(address, now);
    }
    attempt
}

/// The operator whose token has that hash, as long as it has not ended.
pub(super) async fn known(api: &Api, token: Hash, now: Timestamp) -> Result<(Operator, Hash), ApiError> {
    let found = api.store(move |shared| Ok(shared.store.operator_by_token(&token)?)).await?;
    let operator = found.ok_or_else(|| ApiError::unauthenticated("the token is not known here"))?;
    if operator.expires.is_some_and(|expires| expires <= now) {
        return Err(ApiError::unauthenticated("the token has expired: ask an admin for a new one"));
    }
    Ok((operator, token))
}

fn at_least(operator: Operator, role: Role) -> Result<Operator, ApiError> {
    if operator.role >= role {
        return Ok(operator);
    }
    let word = |role| match role {
        Role::Viewer => "viewer",
        Role::Responder => "responder",
        Role::Admin => "admin",
    };
    Err(ApiError::forbidden(format!("this takes the role {}; yours is {}", word(role), word(operator.role))))
}

/// The token in the one `Authorization` header.
pub fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value,
        (None, _) => {
            return Err(ApiError::unauthenticated("an operator's token is needed: Authorization: Bearer …"));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::unauthenticated("there is more than one Authorization header"));
        }
    };
    let text = value.to_str().ok();
    let split = text.and_then(|text| text.split_once(' '));
    let token =
        split.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    token.filter(|token| is_token(token)).ok_or_else(|| {
        ApiError::unauthenticated(format!(
            "the Authorization header is not of the form Bearer {OPERATOR_TOKEN_PREFIX}…"
        ))
    })
}

fn is_token(text: &str) -> bool {
    let secret = text.strip_prefix(OPERATOR_TOKEN_PREFIX);
    secret.is_some_and(|secret| {
        secret.len() == SECRET_CHARACTERS
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// Failed attempts by address: a bucket of [`FAILURES_MAX`] that refills.
#[derive(Debug, Default)]
pub struct Failures {
    /// When the bucket of an address will be full again.
    full_at: Mutex<HashMap<IpAddr, i64>>,
}

impl Failures {
    /// How many seconds `address` has to wait.
    pub fn must_wait(&self, address: IpAddr, now: Timestamp) -> Option<u64> {
        let full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = full_at.get(&address)?.saturating_sub(now.seconds());
        let over = ahead - (i64::from(FAILURES_MAX) - 1) * REFILL_SECONDS;
        u64::try_from(over).ok().filter(|seconds| *seconds > 0)
    }

    /// Counts a failed attempt.
    pub fn failed(&self, address: IpAddr, now: Timestamp) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.seconds();
        if full_at.len() >= ADDRESSES_MAX && !full_at.contains_key(&address) {
            full_at.retain(|_, time| *time > now);
            if full_at.len() >= ADDRESSES_MAX {
                // So many addresses at once guess together: forget them all rather than grow.
                full_at.clear();
            }
        }
        let most = now.saturating_add(i64::from(FAILURES_MAX) * REFILL_SECONDS);
        let time = full_at.entry(address).or_insert(now);
        *time = (*time).max(now).saturating_add(REFILL_SECONDS).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn parse(values: &[&[u8]]) -> Result<String, ApiError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        bearer(&headers).map(str::to_owned)
    }

    #[test]
    fn only_a_whole_token_passes() {
        let token = format!("picket-op.{}", "A".repeat(43));
        assert_eq!(parse(&[format!("Bearer {token}").as_bytes()]), Ok(token.clone()));
        assert_eq!(parse(&[format!("bearer  {token} ").as_bytes()]), Ok(token.clone()));
        let two = format!("Bearer {token}");
        assert!(parse(&[two.as_bytes(), two.as_bytes()]).is_err());
        for bad in ["", "Bearer", "Basic x", "Bearer picket-op.", "Bearer picket-op.short"] {
            assert!(parse(&[bad.as_bytes()]).is_err(), "{bad}");
        }
        assert!(parse(&[format!("Bearer {token}A").as_bytes()]).is_err());
        assert!(parse(&[format!("Bearer {}", token.replace("AA", "A=")).as_bytes()]).is_err());
        assert!(parse(&[b"Bearer \xff\xfe"]).is_err());
        assert!(parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_answered(bytes in proptest::collection::vec(0x20u8..0xff, 0..100)) {
            prop_assume!(HeaderValue::from_bytes(&bytes).is_ok());
            drop(parse(&[&bytes]));
        }
    }

    #[test]
    fn guessing_is_slowed_down_per_address() {
        let failures = Failures::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let at = Timestamp::from_seconds;
        for _ in 0..FAILURES_MAX {
            assert_eq!(failures.must_wait(one, at(1_000)), None);
            failures.failed(one, at(1_000));
        }
        assert_eq!(failures.must_wait(one, at(1_000)), Some(6));
        assert_eq!(failures.must_wait(other, at(1_000)), None);
        assert_eq!(failures.must_wait(one, at(1_006)), None);
        failures.failed(one, at(1_006));
        assert_eq!(failures.must_wait(one, at(1_006)), Some(6));
        assert_eq!(failures.must_wait(one, at(2_000)), None);
    }

    #[test]
    fn memory_of_failures_is_bounded() {
        let failures = Failures::default();
        for n in 0..30_000u32 {
            failures.failed(IpAddr::from(n.to_be_bytes()), Timestamp::from_seconds(5));
        }
        assert!(failures.full_at.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
