//! Kernel modules: those that this host never had before, and those that hide.

use picket_protocol::finding::Severity;

use super::{Area, Judgement, Told, word};

/// A loaded module, or a trace of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Module {
    /// What it taints the kernel with: `O` built elsewhere, `E` not signed, `F` forced, `P` proprietary …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub taints: String,
    /// Whether a file of that name is among the kernel's own modules.
    pub has_file: bool,
    /// Whether the kernel's list leaves it out, although it is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Only the kernel's taint tells of it: no module that is listed explains that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_taint: bool,
}

/// The area, by name. A module that was ever loaded stays known.
#[derive(Debug)]
pub struct Modules;

impl Area for Modules {
    type Item = Module;
    const NAME: &'static str = "modules";

    fn judge(key: &str, before: Option<&Module>, after: Option<&Module>) -> Judgement {
        let Some(after) = after else { return Judgement::Silent };
        let news = match before {
            None => true,
            Some(before) => (after.hidden && !before.hidden) || (is_foreign(after) && !is_foreign(before)),
        };
        if news { Judgement::Worse(loaded(key, after)) } else { Judgement::Silent }
    }

    /// What hides was not there rightfully before either.
    fn at_first(key: &str, item: &Module) -> Judgement {
        if item.hidden { Judgement::Worse(loaded(key, item)) } else { Judgement::Silent }
    }

    fn stays_known(_item: &Module) -> bool {
        true
    }
}

/// Not of this kernel's package: built elsewhere, unsigned, forced, or without a file.
fn is_foreign(module: &Module) -> bool {
    !module.has_file || module.taints.contains(['O', 'E', 'F'])
}

fn loaded(key: &str, module: &Module) -> Told {
    let name = word(key);
    let (severity, title) = if module.only_taint {
        let title =
            format!("The kernel is tainted ({}) by a module that it does not list", word(&module.taints));
        (Severity::Critical, title)
    } else if module.hidden {
        (
            Severity::Critical,
            format!("The kernel module {name} hides: it is loaded and not in the kernel's list"),
        )
    } else if is_foreign(module) {
        let why = match (module.has_file, module.taints.as_str()) {
            (false, _) => "it is not among this kernel's modules".to_owned(),
            (true, taints) => format!("taints {}", word(taints)),
        };
        (Severity::High, format!("Foreign kernel module {name} loaded: {why}"))
    } else {
        (Severity::Info, format!("Kernel module {name} loaded for the first time"))
    };
    let mut told = Told::new("defence.module", severity, title).attack(&["T1547.006", "T1014"]);
    if severity == Severity::Info {
        told.fold = Some("kernel module");
    }
    told
}
