//! Flags that forbid even root to change a file: who takes them off wants to change it.

use picket_protocol::finding::Severity;

use super::{Area, Judgement, Told, file, word};

/// The flags of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flags {
    /// `chattr +i`: nothing may be changed.
    pub immutable: bool,
    /// `chattr +a`: it may only grow.
    pub append_only: bool,
}

/// The area, by path.
#[derive(Debug)]
pub struct Protected;

impl Area for Protected {
    type Item = Flags;
    const NAME: &'static str = "immutable";

    fn judge(key: &str, before: Option<&Flags>, after: Option<&Flags>) -> Judgement {
        let Some(before) = before else { return Judgement::Silent };
        let after = after.copied().unwrap_or_default();
        let lost: Vec<&str> = [
            (before.immutable && !after.immutable, "immutable"),
            (before.append_only && !after.append_only, "append-only"),
        ]
        .into_iter()
        .filter_map(|(lost, name)| lost.then_some(name))
        .collect();
        let told = |severity, title| {
            let told = Told::new("defence.immutable", severity, title).attack(&["T1222.002"]);
            told.about(file(key))
        };
        if lost.is_empty() {
            return Judgement::Better(told(Severity::Info, format!("{} is protected again", word(key))));
        }
        Judgement::Worse(told(Severity::Medium, format!("{} is no longer {}", word(key), lost.join(" and "))))
    }
}
