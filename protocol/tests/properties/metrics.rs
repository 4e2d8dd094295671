//! Whatever help and labels hold, a text of figures is read back as what was written.

use picket_protocol::metrics::{Family, MetricKind, Sample, to_text};
use proptest::prelude::*;

/// Help as a reader of the format takes it.
fn unescaped(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        value.push(match letter {
            '\\' => match letters.next()? {
                'n' => '\n',
                other => other,
            },
            other => other,
        });
    }
    Some(value)
}

/// A value between quotes, and what is behind the closing one, as a reader of the format takes it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.strip_prefix('"')?.chars();
    loop {
        match letters.next()? {
            '"' => return Some((value, letters.as_str())),
            '\\' => value.push(match letters.next()? {
                'n' => '\n',
                other => other,
            }),
            '\n' => return None,
            other => value.push(other),
        }
    }
}

/// `name{label="value",…} figure`.
fn sample(line: &str, name: &str) -> Option<Sample> {
    let mut rest = line.strip_prefix(name)?;
    let mut labels = Vec::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, behind) = inner.split_once('=')?;
            let (value, behind) = quoted(behind)?;
            labels.push((label.to_owned(), value));
            match behind.strip_prefix(',') {
                Some(more) => inner = more,
                None => {
                    rest = behind.strip_prefix('}')?;
                    break;
                }
            }
        }
    }
    Some(Sample { labels, value: rest.strip_prefix(' ')?.parse().ok()? })
}

fn families() -> impl Strategy<Value = Vec<Family>> {
    let label = ("[a-z_][a-z0-9_]{0,8}", any::<String>());
    let sample = (proptest::collection::vec(label, 0..4), -1e15..1e15f64)
        .prop_map(|(labels, value)| Sample { labels, value });
    let kind = prop_oneof![Just(MetricKind::Counter), Just(MetricKind::Gauge)];
    let family = ("[a-z_]{1,20}", any::<String>(), kind, proptest::collection::vec(sample, 0..4))
        .prop_map(|(name, help, kind, samples)| Family { name, help, kind, samples });
    proptest::collection::vec(family, 0..6)
}

proptest! {
    #[test]
    fn a_text_of_figures_is_read_back_as_written(families in families()) {
        let text = to_text(&families);
        let mut lines = text.split_terminator('\n');
        for family in families.iter().filter(|family| !family.samples.is_empty()) {
            let help = lines.next().and_then(|line| line.strip_prefix(&format!("# HELP {} ", family.name)));
            let help = help.and_then(unescaped);
            prop_assert_eq!(help.as_deref(), Some(family.help.as_str()));
            let kind = if family.kind == MetricKind::Gauge { "gauge" } else { "counter" };
            let expected = format!("# TYPE {} {kind}", family.name);
            prop_assert_eq!(lines.next(), Some(expected.as_str()));
            for written in &family.samples {
                let read = lines.next().and_then(|line| sample(line, &family.name));
                prop_assert_eq!(read.as_ref(), Some(written));
            }
        }
        prop_assert_eq!(lines.next(), None);
    }
}
