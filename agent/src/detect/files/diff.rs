//! Unified diffs of text that changed, without the secrets in it, and bounded.

use similar::{Algorithm, DiffTag, capture_diff_slices, group_diff_ops};

use super::redact::{self, Grammar};
use super::subject::Subject;
use picket_protocol::finding::printable;

/// Lines around a change.
const CONTEXT_LINES: usize = 2;
/// Texts with more lines than this are compared from both ends only: what lies between counts as replaced.
const LINES_MAX: usize = 4_096;
/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 400;

/// A unified diff.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Diff {
    /// The lines, each with its sign, under `@@` headers; secrets are left out, control characters escaped.
    pub text: String,
    /// Lines that were added.
    pub added: u64,
    /// Lines that were removed.
    pub removed: u64,
    /// The diff is longer than what is shown of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// A text as lines: as they are, and as they may be shown.
pub struct Lines<'a> {
    /// As they are.
    pub raw: Vec<&'a str>,
    /// As they may be shown.
    pub shown: Vec<String>,
}

impl<'a> Lines<'a> {
    /// The lines of `text`, which is of such a file.
    pub fn new(subject: Subject, text: &'a str) -> Self {
        let raw: Vec<&str> = text.lines().collect();
        let shown = redact::lines(grammar(subject), &raw);
        Self { raw, shown }
    }

    /// Line number `at` as it may be shown; empty beyond the end.
    pub fn show(&self, at: usize) -> &str {
        self.shown.get(at).map_or("", String::as_str)
    }
}

/// How such a file's lines are to be read.
fn grammar(subject: Subject) -> Grammar {
    match subject {
        Subject::Shadow | Subject::Gshadow => Grammar::Hashes,
        Subject::Passwd | Subject::Group => Grammar::Accounts,
        Subject::NameSwitch => Grammar::NameSwitch,
        _ => Grammar::Plain,
    }
}

/// A line that is in one text only, by its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In the text as it was.
    Removed(usize),
    /// In the text as it is.
    Added(usize),
}

/// What differs, in order.
pub fn edits(before: &Lines<'_>, after: &Lines<'_>) -> Vec<Edit> {
    let mut found = Vec::new();
    for op in ops(&before.raw, &after.raw) {
        if op.tag() != DiffTag::Equal {
            found.extend(op.old_range().map(Edit::Removed));
            found.extend(op.new_range().map(Edit::Added));
        }
    }
    found
}

/// The diff, of at most `bytes_max` bytes.
pub fn unified(before: &Lines<'_>, after: &Lines<'_>, bytes_max: usize) -> Diff {
    let mut diff = Diff { text: String::new(), added: 0, removed: 0, cut: false };
    for group in group_diff_ops(ops(&before.raw, &after.raw), CONTEXT_LINES) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (old, new) =
            (first.old_range().start..last.old_range().end, first.new_range().start..last.new_range().end);
        let header = format!("@@ -{},{} +{},{} @@", old.start + 1, old.len(), new.start + 1, new.len());
        diff.push("", &header, bytes_max);
        for op in &group {
            if op.tag() == DiffTag::Equal {
                op.new_range().for_each(|at| diff.push(" ", after.show(at), bytes_max));
                continue;
            }
            diff.removed += u64::try_from(op.old_range().len()).unwrap_or(u64::MAX);
            diff.added += u64::try_from(op.new_range().len()).unwrap_or(u64::MAX);
            op.old_range().for_each(|at| diff.push("-", before.show(at), bytes_max));
            op.new_range().for_each(|at| diff.push("+", after.show(at), bytes_max));
        }
    }
    diff
}

impl Diff {
    fn push(&mut self, sign: &str, line: &str, bytes_max: usize) {
        let mut shown: String = line.chars().take(LINE_CHARS_MAX).collect();
        if shown.len() < line.len() {
            shown.push('…');
        }
        let shown = printable(&shown).replace("\\t", "\t");
        if self.cut || self.text.len() + sign.len() + shown.len() + 1 > bytes_max {
            self.cut = true;
            return;
        }
        self.text.push_str(sign);
        self.text.push_str(&shown);
        self.text.push('\n');
    }
}

fn ops(before: &[&str], after: &[&str]) -> Vec<similar::DiffOp> {
    if before.len().max(after.len()) <= LINES_MAX {
        return capture_diff_slices(Algorithm::Myers, before, after);
    }
    let head = before.iter().zip(after).take_while(|(old, new)| old == new).count();
    let least = before.len().min(after.len()) - head;
    let tail =
        before.iter().rev().zip(after.iter().rev()).take(least).take_while(|(old, new)| old == new).count();
    let (old_len, new_len) = (before.len() - head - tail, after.len() - head - tail);
    vec![
        similar::DiffOp::Equal { old_index: 0, new_index: 0, len: head },
        similar::DiffOp::Replace { old_index: head, old_len, new_index: head, new_len },
        similar::DiffOp::Equal { old_index: head + old_len, new_index: head + new_len, len: tail },
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn diff(before: &str, after: &str, bytes_max: usize) -> Diff {
        unified(&Lines::new(Subject::Other, before), &Lines::new(Subject::Other, after), bytes_max)
    }

    #[test]
    fn a_changed_line_is_shown_with_its_neighbours() {
        let found = diff("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nD\ne\nf\n", 1_000);
        assert_eq!(found.text, "@@ -2,5 +2,5 @@\n b\n c\n-d\n+D\n e\n f\n");
        assert_eq!((found.added, found.removed, found.cut), (1, 1, false));
    }

    #[test]
    fn a_secret_that_changed_is_seen_to_have_changed() {
        let found = diff("password = old\n", "password = new\n", 1_000);
        assert_eq!(found.text, "@@ -1,1 +1,1 @@\n-password = [redacted]\n+password = [redacted]\n");
    }

    #[test]
    fn a_long_diff_is_cut_and_says_so() {
        let long: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
        let found = diff("", &long, 200);
        assert!(found.cut && found.text.len() <= 200);
        assert_eq!(found.added, 1_000);
    }

    #[test]
    fn texts_of_very_many_lines_are_compared_in_bounded_time() {
        let old: String = (0..30_000).map(|n| format!("{n}\n")).collect();
        let new: String = (0..30_000).map(|n| format!("{}\n", n * 7 % 30_000)).collect();
        let found = diff(&old, &new, 1_000);
        assert!(found.cut);
        let one = diff(&old, &old.replace("\n15000\n", "\nx\n"), 1_000);
        assert_eq!((one.added, one.removed), (1, 1));
    }

    proptest! {
        /// Every line of both texts is accounted for, and nothing but whole lines comes out.
        #[test]
        fn edits_turn_one_text_into_the_other(
            old in proptest::collection::vec("[abc]", 0..30),
            new in proptest::collection::vec("[abc]", 0..30),
        ) {
            let (before, after) = (old.join("\n"), new.join("\n"));
            let (before, after) = (Lines::new(Subject::Other, &before), Lines::new(Subject::Other, &after));
            let found = edits(&before, &after);
            let removed: Vec<usize> = found.iter().filter_map(|edit| match edit {
                Edit::Removed(at) => Some(*at),
                Edit::Added(_) => None,
            }).collect();
            let added: Vec<usize> = found.iter().filter_map(|edit| match edit {
                Edit::Added(at) => Some(*at),
                Edit::Removed(_) => None,
            }).collect();
            let kept = |lines: &Lines<'_>, gone: &[usize]| -> Vec<String> {
                lines.raw.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, l)| (*l).to_owned()).collect()
            };
            prop_assert_eq!(kept(&before, &removed), kept(&after, &added));
            let diff = unified(&before, &after, 100_000);
            prop_assert_eq!(usize::try_from(diff.added), Ok(added.len()));
            prop_assert_eq!(diff.text.lines().filter(|line| line.starts_with('+')).count(), added.len());
        }
    }
}
