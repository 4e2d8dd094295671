//! Who is who: agents and tenants, as checked names.

use std::fmt;

/// Prefix of an agent's checkpoint origin and key name (C2SP tlog-checkpoint).
pub const ORIGIN_PREFIX: &str = "picket/";
/// Longest tenant name in bytes: it must fit in a certificate's subject and in file names.
pub const TENANT_BYTES_MAX: usize = 64;

/// An agent's id: the UUID (version 7) that it was enrolled under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct AgentId(pub uuid::Uuid);

impl AgentId {
    /// Parses the usual hyphenated form.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
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

/// A customer: 1 to 64 characters of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

impl Tenant {
    /// Checks a name.
    pub fn parse(name: &str) -> Option<Self> {
        let fits = (1..=TENANT_BYTES_MAX).contains(&name.len());
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (fits && plain).then(|| Self(name.to_owned()))
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
        Self::parse(&name).ok_or("a tenant is 1 to 64 characters of a-z, 0-9 and -")
    }
}
