//! Points in time as Picket writes them: RFC 3339, UTC, always nine digits of fraction, so that equal
//! lengths sort as text.

use std::fmt;
use std::time::Duration;

/// Nanoseconds since the Unix epoch, UTC. Nothing in this crate reads a clock: callers pass one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the epoch (years 1677 to 2262).
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From whole seconds since the epoch; saturates at the ends of the range.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Parses the one form that [`Display`](fmt::Display) writes: UTC, nine digits of fraction, no leap second.
    /// What is hashed or signed takes no other.
    pub fn parse_exact(text: &str) -> Option<Self> {
        const SHAPE: &[u8; 30] = b"0000-00-00T00:00:00.000000000Z";
        let fits = |(byte, shape): (u8, &u8)| byte == *shape || (*shape == b'0' && byte.is_ascii_digit());
        let shaped = text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits);
        if shaped && text.get(17..19) != Some("60") { Self::parse(text) } else { None }
    }

    /// Parses RFC 3339 with any offset and fraction: for what people and log files write.
    pub fn parse(text: &str) -> Option<Self> {
        let parsed: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(parsed.as_nanosecond()).ok().map(Self)
    }

    /// This time plus `duration`, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        u64::try_from(self.0.saturating_sub(earlier.0)).map(Duration::from_nanos).unwrap_or_default()
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let nanos = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        Self(nanos)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9}", jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_exact(&text)
            .ok_or_else(|| serde::de::Error::custom("not a time of the form 2026-01-02T03:04:05.000000006Z"))
    }
}
