//! Who is who: agents and tenants, as checked names.

use std::fmt;

/// Prefix of an agent's checkpoint origin and key name (C2SP tlog-checkpoint).
pub const ORIGIN_PREFIX: &str = "picket/";
/// Longest tenant name in bytes: it must fit in a certificate's subject and in file names.
pub const TENANT_BYTES_MAX: usize = 64;

/// An agent's id: the UUID (version 7) that it was enrolled under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct AgentId(pub uuid::Uuid);

impl AgentId {
    /// Parses the hyphenated lower-case form and no other: an agent has one name in origins and certificates.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::try_parse(text).ok()?;
        let mut plain = uuid::Uuid::encode_buffer();
        (id.hyphenated().encode_lower(&mut plain) == text).then_some(Self(id))
    }

    /// The origin line of this agent's checkpoints, which is also the name of its key: `picket/<agent id>`.
    pub fn origin(&self) -> String {
        format!("{ORIGIN_PREFIX}{}", self.0)
    }

    /// The agent that an origin line names.
    pub fn from_origin(origin: &str) -> Option<Self> {
        Self::parse(origin.strip_prefix(ORIGIN_PREFIX)?)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> serde::Deserialize<'de> for AgentId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a hyphenated lower-case UUID"))
    }
}

/// A customer: 1 to 64 characters of `a-z`, `0-9`, `-`, not beginning with `-` (it would look like an option).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

impl Tenant {
    /// Checks a name.
    pub fn parse(name: &str) -> Option<Self> {
        let fits = (1..=TENANT_BYTES_MAX).contains(&name.len());
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (fits && plain && !name.starts_with('-')).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.0
    }
}

impl TryFrom<String> for Tenant {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
            .ok_or("a tenant is 1 to 64 characters of a-z, 0-9 and -, and does not begin with -")
    }
}
