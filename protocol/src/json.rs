//! JSON from outside, read so that no two readers can differ about what it says.
//!
//! RFC 8259 leaves open what a repeated member means, and how deep values may nest. Here an object is UTF-8,
//! repeats no member anywhere, nests at most [`DEPTH_MAX`] deep, and is an object: `serde` alone would also
//! take an array for a struct, would not look into members that it skips, and would let the last of two equal
//! members win. Unknown members are ignored, so that a peer may be newer; see [`exact`] for what is signed.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of objects and arrays. Findings need some 6; the limit keeps every later reader, such as a
/// database's own JSON functions, within its bounds.
pub const DEPTH_MAX: usize = 48;

/// `serde_json` gives members with this prefix a meaning of its own.
const RESERVED_PREFIX: &str = "$serde_json::private::";

/// Why a text is not such an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not an object, or something around it.
    #[error("not a JSON object")]
    NotAnObject,
    /// Not JSON, a repeated member, nested too deep, or not with the members that were asked for.
    #[error("{0}")]
    Malformed(String),
    /// Reads well, but is not written in the one form that the type has.
    #[error("members that are unknown, out of order or in another form than they are written in")]
    NotExact,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Reads an object; white space around it is allowed.
///
/// # Errors
/// Whatever the module's rules forbid, and what `T` does not take.
pub fn object<'de, T: serde::Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if !(text.starts_with('{') && text.ends_with('}')) {
        return Err(JsonError::NotAnObject);
    }
    check(text)?;
    Ok(serde_json::from_str(text)?)
}

/// Reads an object that somebody signed: beyond [`object`], it must hold exactly what `T` would write, in any
/// order of members, so that nothing a signer saw in it is lost or read differently.
///
/// # Errors
/// As [`object`], and [`JsonError::NotExact`].
pub fn exact<T: DeserializeOwned + serde::Serialize>(bytes: &[u8]) -> Result<T, JsonError> {
    let read: T = object(bytes)?;
    let given: serde_json::Value = serde_json::from_slice(bytes)?;
    if serde_json::to_value(&read)? == given { Ok(read) } else { Err(JsonError::NotExact) }
}

/// Checks nesting and repeated members of one JSON value.
pub(crate) fn check(text: &str) -> Result<(), JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Walk { depth: 0 }.deserialize(&mut deserializer)?;
    Ok(deserializer.end()?)
}

/// Visits every value, keeps none.
#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}

impl Walk {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nested more than {DEPTH_MAX} deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key_seed(Name)? {
            if name.starts_with(RESERVED_PREFIX) {
                return Err(A::Error::custom("a member has a reserved name"));
            }
            members.next_value_seed(inner)?;
            if let Some(twice) = seen.replace(name) {
                return Err(A::Error::custom(format_args!("member {twice:?} twice")));
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed where it holds no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
