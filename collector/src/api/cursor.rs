//! Cursors: a place in a list as opaque text, so that pages stay stable while rows arrive.
//!
//! `<letter of the list>` and base64url (no padding) of the 8-byte big-endian row number and the first two bytes of
//! SHA-256 over letter and number: a cursor of another list, or a mistyped one, is told from a place.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use picket_protocol::crypto::sha256;

use super::error::ApiError;

/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 32;

/// Lists that have cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Hosts.
    Hosts,
    /// Findings, pages and stream alike.
    Findings,
    /// Commands.
    Commands,
    /// Receipts.
    Receipts,
    /// The audit trail.
    Audit,
}

impl List {
    fn letter(self) -> char {
        match self {
            Self::Hosts => 'h',
            Self::Findings => 'f',
            Self::Commands => 'c',
            Self::Receipts => 'r',
            Self::Audit => 'a',
        }
    }
}

/// The text for row `no` of `list`.
pub fn to_text(list: List, no: u64) -> String {
    let mut bytes = no.to_be_bytes().to_vec();
    bytes.extend(check(list, no));
    format!("{}{}", list.letter(), URL_SAFE_NO_PAD.encode(bytes))
}

/// The row of `list` that `text` stands for.
pub fn parse(list: List, text: &str) -> Result<u64, ApiError> {
    let no = || {
        let data = text.strip_prefix(list.letter()).filter(|_| text.len() <= TEXT_BYTES_MAX)?;
        let bytes = URL_SAFE_NO_PAD.decode(data).ok()?;
        let (no, rest) = bytes.split_first_chunk::<8>()?;
        let no = u64::from_be_bytes(*no);
        (rest == check(list, no) && i64::try_from(no).is_ok()).then_some(no)
    };
    no().ok_or_else(|| ApiError::bad_request("the cursor is not one that this list gave"))
}

/// As [`parse`], of an optional parameter.
pub fn parse_optional(list: List, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    text.map(|text| parse(list, text)).transpose()
}

fn check(list: List, no: u64) -> [u8; 2] {
    let [a, b, ..] = sha256(&[&[u8::try_from(list.letter()).unwrap_or(0)], &no.to_be_bytes()]);
    [a, b]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_comes_back(no in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse(List::Findings, &to_text(List::Findings, no)), Ok(no));
            prop_assert!(parse(List::Hosts, &to_text(List::Findings, no)).is_err());
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            drop(parse(List::Findings, &text));
            let lettered = ["f", &text].concat();
            prop_assert!(parse(List::Findings, &lettered).is_err() || text.len() == 14);
        }

        #[test]
        fn a_changed_letter_is_noticed(no in 0..=i64::MAX as u64, at in 0usize..15) {
            let text = to_text(List::Receipts, no);
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // Two check bytes: one in 65,536 slips through, and must then at least be a place.
            prop_assert!(parse(List::Receipts, &changed) != Ok(no));
        }
    }

    #[test]
    fn numbers_beyond_the_store_are_refused() {
        assert!(parse(List::Findings, &to_text(List::Findings, u64::MAX)).is_err());
    }
}
