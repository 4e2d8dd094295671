//! Messages that are made of keys and values: JSON and logfmt. The program quotes what a peer chose, so a key cannot be forged; a
//! key that comes twice is not believed.

use serde_json::Value;

use super::service::Format;

/// Most keys that are looked at.
const KEYS_MAX: usize = 128;

/// Where unescaped values are kept while they are read.
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<(String, Vec<u8>)>,
}

/// The strings, numbers and truths at the top of a JSON object, and one level below as `key.key`.
pub fn json<'a>(message: &[u8], scratch: &'a mut Scratch) -> Option<&'a [(String, Vec<u8>)]> {
    scratch.values.clear();
    let Pairs(pairs) = serde_json::from_slice(message).ok()?;
    for (key, value) in pairs {
        match value {
            Value::Object(inner) => {
                for (inner_key, value) in inner {
                    scratch.add(format!("{key}.{inner_key}"), &value);
                }
            }
            value => scratch.add(key, &value),
        }
    }
    Some(&scratch.values)
}

impl Scratch {
    /// Takes a message of a structured format apart; none when it has another form.
    pub fn read(&mut self, format: Format, message: &[u8]) -> Option<&[(String, Vec<u8>)]> {
        match format {
            Format::Text => None,
            Format::Json => json(message, self),
            Format::Logfmt => logfmt(message, self),
        }
    }

    fn add(&mut self, key: String, value: &Value) {
        let text = match value {
            Value::String(text) => text.clone().into_bytes(),
            Value::Number(number) => number.to_string().into_bytes(),
            Value::Bool(truth) => truth.to_string().into_bytes(),
            Value::Null => Vec::new(),
            Value::Array(_) | Value::Object(_) => return,
        };
        if self.values.len() < KEYS_MAX {
            self.values.push((key, text));
        }
    }
}

/// An object's pairs in their order, doubles included.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// `key=value key="quoted \"value\""`. None when the message is not wholly of that form.
pub fn logfmt<'a>(message: &[u8], scratch: &'a mut Scratch) -> Option<&'a [(String, Vec<u8>)]> {
    scratch.values.clear();
    let mut rest = message.trim_ascii_end();
    while !rest.is_empty() {
        let end = memchr::memchr(b'=', rest)?;
        let key = std::str::from_utf8(rest.get(..end)?).ok()?;
        if key.is_empty() || key.contains([' ', '"']) || scratch.values.len() >= KEYS_MAX {
            return None;
        }
        let (value, tail) = logfmt_value(rest.get(end + 1..)?)?;
        scratch.values.push((key.to_owned(), value));
        rest = match tail {
            [] => tail,
            [b' ', tail @ ..] => tail,
            _ => return None,
        };
    }
    Some(&scratch.values)
}

fn logfmt_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = memchr::memchr(b' ', text).unwrap_or(text.len());
        return Some((text.get(..end)?.to_vec(), text.get(end..)?));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, quoted.get(index + 1..)?)),
            b'\\' => match bytes.next()?.1 {
                b'n' => value.push(b'\n'),
                b't' => value.push(b'\t'),
                b'r' => value.push(b'\r'),
                other => value.push(*other),
            },
            byte => value.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(values: &'a [(String, Vec<u8>)], key: &str) -> Option<&'a [u8]> {
        values.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    #[test]
    fn logfmt_is_taken_apart_and_what_is_no_logfmt_is_not() {
        let mut scratch = Scratch::default();
        let line =
            br#"t=2026 level=error msg="a \"b\" c=d" user="x remote_addr=10.0.0.1" remote_addr=192.0.2.7"#;
        let values = logfmt(line, &mut scratch).expect("logfmt");
        assert_eq!(value(values, "msg"), Some(&b"a \"b\" c=d"[..]));
        assert_eq!(value(values, "user"), Some(&b"x remote_addr=10.0.0.1"[..]));
        assert_eq!(value(values, "remote_addr"), Some(&b"192.0.2.7"[..]));
        for line in [&b"a sentence"[..], b"=x", b"a=\"open", b"a=\"x\"y=z", b"a b=c"] {
            assert_eq!(logfmt(line, &mut scratch), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn json_is_taken_apart_with_its_doubles() {
        let mut scratch = Scratch::default();
        let values =
            json(br#"{"a":"x\n","n":5,"a":"y","o":{"k":true},"l":[1]}"#, &mut scratch).expect("JSON");
        assert_eq!(values.iter().filter(|(key, _)| key == "a").count(), 2);
        assert_eq!((value(values, "n"), value(values, "o.k")), (Some(&b"5"[..]), Some(&b"true"[..])));
        assert_eq!(json(b"[]", &mut scratch), None);
        assert_eq!(json(b"{", &mut scratch), None);
    }
}
