//! The networks of a block as operators give them: on the command line, and in files with one a line. What is signed has
//! them in order and none twice.
//!
//! ```text
//! # command and control, case C-7
//! 192.0.2.7
//! 198.51.100.0/24     # the whole range
//! 2001:db8::/32
//! ```

use picket_protocol::command::Network;
use picket_protocol::finding::printable;

/// Longest part of a wrong entry that an error repeats, in characters.
const SHOWN_MAX: usize = 60;

/// The networks of `entries` and of the text of a file, in order and none twice.
///
/// # Errors
/// Names the entry, and of a file the line.
pub fn collect(entries: &[String], file: Option<(&str, &str)>) -> Result<Vec<Network>, String> {
    let mut networks = Vec::new();
    for entry in entries {
        networks.push(parse(entry.trim()).map_err(|why| format!("--network: {why}"))?);
    }
    if let Some((name, text)) = file {
        networks.extend(parse_file(text).map_err(|why| format!("{}: {why}", printable(name)))?);
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

/// One network a line; what follows `#` and empty lines are skipped.
fn parse_file(text: &str) -> Result<Vec<Network>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut networks = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            networks.push(parse(entry).map_err(|why| format!("line {}: {why}", at + 1))?);
        }
    }
    Ok(networks)
}

fn parse(entry: &str) -> Result<Network, String> {
    entry.parse().map_err(|_| {
        let cut: String = entry.chars().take(SHOWN_MAX).collect();
        let hint = widened(entry).map_or_else(String::new, |network| format!("; {network} is"));
        format!(
            "{:?} is no network: write 192.0.2.7, 198.51.100.0/24 or 2001:db8::/32{hint}",
            printable(&cut)
        )
    })
}

/// The network that was probably meant by an address with a length and bits beyond it.
fn widened(entry: &str) -> Option<Network> {
    let (address, length) = entry.split_once('/')?;
    Network::new(address.parse().ok()?, length.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn of_file(text: &str) -> Result<Vec<String>, String> {
        collect(&[], Some(("list", text))).map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn comments_blanks_and_repetitions_are_no_trouble() {
        let text = "\u{feff}# case C-7\r\n\r\n  198.51.100.0/24 # range\n192.0.2.7\n#192.0.2.8\n192.0.2.7/32\n2001:db8::/32";
        assert_eq!(
            of_file(text),
            Ok(vec!["192.0.2.7".into(), "198.51.100.0/24".into(), "2001:db8::/32".into()])
        );
        let both = collect(&["10.0.0.2".into(), " 10.0.0.1".into()], Some(("list", "10.0.0.2\n9.0.0.0/8")));
        assert_eq!(
            both.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            Ok("9.0.0.0/8 10.0.0.1 10.0.0.2".into())
        );
        assert_eq!(
            of_file("# nothing\n"),
            Ok(Vec::new()),
            "whether none is enough is the command's own check"
        );
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_what_was_probably_meant() {
        for (text, parts) in [
            ("10.0.0.0/8\n\n10.0.0.1/8 # x", &["list: line 3", "\"10.0.0.1/8\"", "10.0.0.0/8 is"][..]),
            ("10.0.0.0/33", &["line 1", "10.0.0.0/33"]),
            ("10.0.0.1 10.0.0.2", &["line 1", "10.0.0.1 10.0.0.2"]),
            ("evil.example", &["line 1", "evil.example"]),
        ] {
            let error = of_file(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let error = collect(&["x\u{1b}[31m".to_owned()], None).unwrap_err();
        assert!(error.contains("--network") && !error.contains('\u{1b}'), "{error}");
    }

    fn network() -> impl Strategy<Value = Network> {
        let v4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| (IpAddr::V4(bits.into()), length));
        let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, length)| (IpAddr::V6(bits.into()), length));
        prop_oneof![v4, v6].prop_filter_map("lengths are in range", |(ip, length)| Network::new(ip, length))
    }

    proptest! {
        /// However they are written and in whatever order: the same networks, sorted, each once.
        #[test]
        fn what_is_written_is_read(
            lines in proptest::collection::vec((network(), "[ \t]{0,2}", "( ?#[^\r\n]{0,9})?", "(\r?\n){1,3}"), 0..40),
            again in any::<proptest::sample::Index>(),
        ) {
            let write = |(network, blank, comment, end): &(Network, String, String, String)| {
                format!("{blank}{network}{blank}{comment}{end}")
            };
            let mut text: String = lines.iter().map(write).collect();
            if !lines.is_empty() {
                text.push_str(&write(again.get(&lines)));
            }
            let read = collect(&[], Some(("list", &text))).unwrap();
            let expected: std::collections::BTreeSet<_> = lines.iter().map(|(network, ..)| *network).collect();
            prop_assert_eq!(read, expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_answered_and_its_errors_are_printable(text in any::<String>()) {
            if let Err(error) = collect(&[], Some(("list", &text))) {
                prop_assert!(error.starts_with("list: line ") && printable(&error) == error, "{:?}", error);
            }
        }
    }
}
