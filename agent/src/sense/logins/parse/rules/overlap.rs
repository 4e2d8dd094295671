//! Whether some message could match two variants. Both are seen as sequences of byte sets, some of which repeat; the
//! two sequences have a common message exactly when their product has a way from its beginning to its end.

use super::bytes::ByteSet;
use super::pattern::{Shape, Token, Variant};
use super::stamp::Form;

/// Most states of a product: two patterns of the longest kind.
const STATES_MAX: usize = 4 * 1024 * 1024;

enum Step {
    One(ByteSet),
    /// Any number, also none.
    Many(ByteSet),
}

/// A variant as a sequence of byte sets.
pub struct Steps {
    all: Vec<Step>,
    /// The bytes that every message of it begins with, and those that it ends with.
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Steps {
    /// Those of `variant`.
    pub fn of(variant: &Variant) -> Self {
        let all = steps(variant);
        let head = fixed(all.iter());
        let mut tail = fixed(all.iter().rev());
        tail.reverse();
        Self { all, head, tail }
    }
}

/// The bytes of the steps before the first one that is not a certain byte.
fn fixed<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<u8> {
    steps
        .map_while(|step| match step {
            Step::One(set) => set.only(),
            Step::Many(_) => None,
        })
        .collect()
}

/// Calls `meet` with every two of `all`, the earlier first, whose fixed beginnings and ends let them have a message in
/// common. Sorted by their beginnings, those that begin with what another consists of follow it at once, so that most of a
/// large file's pairs are never looked at.
pub fn rivals(all: &[Steps], mut meet: impl FnMut(usize, usize)) {
    let mut sorted: Vec<(usize, &Steps)> = all.iter().enumerate().collect();
    sorted.sort_by(|(_, a), (_, b)| a.head.cmp(&b.head));
    for (at, (index, one)) in sorted.iter().enumerate() {
        let others = sorted.get(at + 1..).unwrap_or_default();
        for (other_index, other) in others.iter().take_while(|(_, other)| other.head.starts_with(&one.head)) {
            if one.tail.ends_with(&other.tail) || other.tail.ends_with(&one.tail) {
                meet(*index.min(other_index), *index.max(other_index));
            }
        }
    }
}

/// Whether a message could match both. True also when that would take too long to know.
pub fn overlap(a: &Steps, b: &Steps) -> bool {
    let (a, b) = (&a.all, &b.all);
    // Many pairs differ in what they begin or end with, which costs nothing to see.
    if differ(a.iter().zip(b)) || differ(a.iter().rev().zip(b.iter().rev())) {
        return false;
    }
    let width = b.len() + 1;
    let states = (a.len() + 1) * width;
    if states > STATES_MAX {
        return true;
    }
    let mut seen = vec![false; states];
    let mut open = vec![(0, 0)];
    while let Some((i, j)) = open.pop() {
        match seen.get_mut(i * width + j) {
            Some(seen) if !*seen => *seen = true,
            _ => continue,
        }
        match (a.get(i), b.get(j)) {
            (None, None) => return true,
            (Some(Step::One(x)), Some(Step::One(y))) => open.extend(x.meets(y).then_some((i + 1, j + 1))),
            (Some(Step::Many(x)), Some(Step::One(y))) => {
                open.push((i + 1, j));
                open.extend(x.meets(y).then_some((i, j + 1)));
            }
            (Some(Step::One(x)), Some(Step::Many(y))) => {
                open.push((i, j + 1));
                open.extend(x.meets(y).then_some((i + 1, j)));
            }
            (Some(Step::Many(_)), Some(Step::Many(_))) => open.extend([(i + 1, j), (i, j + 1)]),
            (Some(Step::Many(_)), None) => open.push((i + 1, j)),
            (None, Some(Step::Many(_))) => open.push((i, j + 1)),
            (Some(Step::One(_)), None) | (None, Some(Step::One(_))) => {}
        }
    }
    false
}

/// Whether two sequences differ before the first part whose length is not known.
fn differ<'a>(pairs: impl Iterator<Item = (&'a Step, &'a Step)>) -> bool {
    for pair in pairs {
        match pair {
            (Step::One(x), Step::One(y)) if !x.meets(y) => return true,
            (Step::One(_), Step::One(_)) => {}
            _ => return false,
        }
    }
    false
}

fn steps(variant: &Variant) -> Vec<Step> {
    let mut steps = Vec::new();
    for token in &variant.tokens {
        match token {
            Token::Literal(bytes) | Token::Choice(_, bytes) => {
                steps.extend(bytes.iter().map(|byte| Step::One(ByteSet::default().with(*byte))));
            }
            Token::Field { shape: Shape::Time(form), .. } => steps.extend(time_steps(*form)),
            Token::Field { bytes, optional, .. } => {
                if !token.is_text() && !optional {
                    steps.push(Step::One(*bytes));
                }
                steps.push(Step::Many(*bytes));
            }
        }
    }
    steps
}

/// The layout of a time: `9` is a digit or space, `a` a letter, `?` what follows the seconds, all else itself.
fn time_steps(form: Form) -> Vec<Step> {
    let layout = match form {
        Form::Rfc3339 => "9999-99-99T99:99:99?",
        Form::Zoned => "9999-99-99T99:99:99? ?",
        Form::Clf => "99/aaa/9999:99:99:99 z9999",
        Form::Asctime => "aaa aaa 99 99:99:99? 9999",
        Form::Slashed => "9999/99/99 99:99:99",
        Form::DayFirst => "99saaas9999 99:99:99?",
        Form::Long => "aaa? 99, 9999 99:99",
        Form::Short => "999999 99:99:99",
        Form::Traditional => "aaa 99 99:99:99",
        Form::Unknown => "?",
    };
    let of = |wanted: &[u8]| wanted.iter().copied().fold(ByteSet::default(), ByteSet::with);
    let (digits, letters) = (of(b"0123456789 "), ByteSet::of(|byte| byte.is_ascii_alphabetic()));
    let layout = layout.bytes().map(|byte| match byte {
        b'9' => Step::One(digits),
        b'a' => Step::One(letters),
        b'T' => Step::One(of(b"T ")),
        b's' => Step::One(of(b" -/")),
        b'z' => Step::One(of(b"+-")),
        b'?' => Step::Many(ByteSet::of(|byte| byte.is_ascii_alphanumeric() || b".,+-:".contains(&byte))),
        byte => Step::One(ByteSet::default().with(byte)),
    });
    layout.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pattern::compile;
    use super::*;

    fn steps_of(pattern: &str) -> Vec<Steps> {
        compile(pattern).expect("a pattern").iter().map(Steps::of).collect()
    }

    fn check(a: &str, b: &str, expected: bool) {
        let (a, b) = (steps_of(a), steps_of(b));
        let found = a.iter().any(|a| b.iter().any(|b| overlap(a, b)));
        assert_eq!(found, expected);
    }

    #[test]
    fn patterns_that_share_a_message_are_known() {
        check("login of {user} failed", "login of {user} done", false);
        check("login of {user} failed", "login of {text} failed for {user} failed", true);
        check("login of {user}", "logout of {user}", false);
        check("{user} came from {address}", "{user} came from {number}", true);
        check("{user} came from {number}.", "{user} came from {number}:", false);
        check("for invalid user {user} from {host}", "for {account} from {host}", false);
        check("for invalid user {user} from {host}", "for {user} from {host}", true);
    }

    /// A pattern that compiles: pieces that are often the same as, or a part of, another's.
    fn pattern() -> impl Strategy<Value = String> {
        let word = prop_oneof![Just("in"), Just("int"), Just("out"), Just("from")];
        let field = prop_oneof![Just("{user}"), Just("{number}"), Just("{word}"), Just("{text}")];
        let part = (word.clone(), field).prop_map(|(word, field)| format!("{word} {field} "));
        let first = prop_oneof![Just(""), Just("{?log}"), Just("{user} "), Just("log")];
        (first, proptest::collection::vec(part, 0..3), word)
            .prop_map(|(first, parts, last)| format!("{first}{}{last}.", parts.concat()))
    }

    proptest! {
        #[test]
        fn no_two_that_share_a_message_are_kept_apart(
            patterns in proptest::collection::vec(pattern(), 2..12),
        ) {
            let compiled = patterns.iter().filter_map(|pattern| compile(pattern).ok());
            let all: Vec<Steps> = compiled.flatten().map(|variant| Steps::of(&variant)).collect();
            let mut met = std::collections::BTreeSet::new();
            rivals(&all, |a, b| assert!(a < b && met.insert((a, b)), "each pair once"));
            for (index, a) in all.iter().enumerate() {
                for (other_index, b) in all.iter().enumerate().skip(index + 1) {
                    prop_assert!(!overlap(a, b) || met.contains(&(index, other_index)));
                }
            }
        }
    }

    #[test]
    fn patterns_with_other_beginnings_are_not_compared() {
        let all: Vec<Steps> = (100..300).flat_map(|n| steps_of(&format!("{n} of {{user}} failed"))).collect();
        let mut compared = 0;
        rivals(&all, |_, _| compared += 1);
        assert_eq!((all.len(), compared), (200, 0));
    }
}
