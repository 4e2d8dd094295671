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

/// Whether a message could match both. True also when that would take too long to know.
pub fn overlap(a: &Variant, b: &Variant) -> bool {
    let (a, b) = (steps(a), steps(b));
    // Most pairs differ in the words that they begin or end with, which costs nothing to see.
    if differ(a.iter().zip(&b)) || differ(a.iter().rev().zip(b.iter().rev())) {
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
        Form::Short => "999999 99:99:99",
        Form::Traditional => "aaa 99 99:99:99",
        Form::Unknown => "?",
    };
    let of = |wanted: &[u8]| ByteSet::of(|byte| wanted.contains(&byte));
    let layout = layout.bytes().map(|byte| match byte {
        b'9' => Step::One(of(b"0123456789 ")),
        b'a' => Step::One(ByteSet::of(|byte| byte.is_ascii_alphabetic())),
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
    use super::super::pattern::compile;
    use super::*;

    fn check(a: &str, b: &str, expected: bool) {
        let (a, b) = (compile(a).expect("a pattern"), compile(b).expect("a pattern"));
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
}
