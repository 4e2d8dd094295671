//! Bech32 (BIP 173), as age writes its keys: without the bound of 90 characters, of which age's are fewer anyway.

/// Longest text that is read.
const TEXT_BYTES_MAX: usize = 128;
const CHECKSUM_CHARACTERS: usize = 6;
const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];

/// The text of `bytes` under a prefix of lower case.
pub(super) fn encode(prefix: &str, bytes: &[u8]) -> String {
    let data = regroup(bytes, 8, 5, true).unwrap_or_default();
    let sum = polymod(prefix, data.iter().copied().chain([0; CHECKSUM_CHARACTERS])) ^ 1;
    let sum = (0..6_u32).map(|place| u8::try_from(sum >> (5 * (5 - place)) & 31).unwrap_or(0));
    let characters = data.iter().copied().chain(sum);
    let character = |value: u8| ALPHABET.get(usize::from(value)).copied().map_or('q', char::from);
    prefix.chars().chain(['1']).chain(characters.map(character)).collect()
}

/// The bytes of a text under that prefix; `None` when it is not exactly one. All in upper case is the same text.
pub(super) fn decode(prefix: &str, text: &str) -> Option<Vec<u8>> {
    let mixed = text.bytes().any(|byte| byte.is_ascii_lowercase())
        && text.bytes().any(|byte| byte.is_ascii_uppercase());
    if text.len() > TEXT_BYTES_MAX || mixed {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let (found, rest) = text.rsplit_once('1')?;
    let value =
        |byte: u8| ALPHABET.iter().position(|known| *known == byte).and_then(|at| u8::try_from(at).ok());
    let values: Vec<u8> = rest.bytes().map(value).collect::<Option<_>>()?;
    let data = values.len().checked_sub(CHECKSUM_CHARACTERS).and_then(|length| values.get(..length))?;
    if found != prefix || polymod(prefix, values.iter().copied()) != 1 {
        return None;
    }
    regroup(data, 5, 8, false)
}

fn polymod(prefix: &str, values: impl Iterator<Item = u8>) -> u32 {
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low).chain(values).fold(1, |sum, value| {
        let top = sum >> 25;
        let sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
        let terms = GENERATOR.iter().enumerate().filter(|(bit, _)| top >> bit & 1 == 1);
        terms.fold(sum, |sum, (_, term)| sum ^ term)
    })
}

/// Regroups bits; the rest is padded with zeros, or must be fewer bits than a group, all zero.
fn regroup(values: &[u8], from: u32, to: u32, pad: bool) -> Option<Vec<u8>> {
    let (mut sum, mut bits, mut out) = (0_u32, 0, Vec::new());
    let mask = (1 << to) - 1;
    for value in values {
        sum = (sum << from | u32::from(*value)) & 0xffff;
        bits += from;
        while bits >= to {
            bits -= to;
            out.push(u8::try_from(sum >> bits & mask).ok()?);
        }
    }
    let rest = sum << (to - bits) & mask;
    match pad {
        true if bits > 0 => out.push(u8::try_from(rest).ok()?),
        false if bits >= from || rest != 0 => return None,
        _ => {}
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_vectors_of_bip_173_hold() {
        assert_eq!(decode("a", "A12UEL5L"), Some(Vec::new()));
        assert!(decode("abcdef", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw").is_some());
        for text in ["a12uel5m", "A12uEL5L", "10a06t8", "1qzzfhee", "a1", "", "abc"] {
            assert_eq!(decode("a", text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = encode("age", &bytes);
            prop_assert_eq!(decode("age", &text), Some(bytes.clone()));
            prop_assert_eq!(decode("age", &text.to_ascii_uppercase()), Some(bytes));
            prop_assert_eq!(decode("agf", &text), None);
        }

        #[test]
        fn no_character_can_be_changed(bytes in prop::collection::vec(any::<u8>(), 1..64), at in any::<prop::sample::Index>(), to in 0..32_usize) {
            let mut text = encode("age", &bytes).into_bytes();
            let place = 4 + at.index(text.len() - 4);
            prop_assume!(text[place] != ALPHABET[to]);
            text[place] = ALPHABET[to];
            prop_assert_eq!(decode("age", std::str::from_utf8(&text).unwrap_or_default()), None);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,140}") {
            let _any = decode("age", &text);
        }
    }
}
