//! How many findings there may be: whoever opens ports under ever other names must neither flood people nor hide in the flood.

use std::time::Duration;

use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

/// New findings at once: a host that gets a whole stack of services in one go.
pub const BURST: u32 = 32;
/// And one more after each of these.
const REFILL: Duration = Duration::from_secs(10);
/// What was not told by itself is told together after this.
const TOGETHER: Duration = Duration::from_secs(60);
/// Titles of those that it names.
const NAMED_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u32,
    filled: Timestamp,
    rest: Option<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    first: Timestamp,
    last: Timestamp,
    count: u64,
    severity: Severity,
    titles: Vec<String>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: BURST, filled: Timestamp::default(), rest: None }
    }
}

impl Budget {
    /// Whether the finding may be told by itself; if not it is counted.
    pub fn spend(&mut self, finding: &Finding, now: Timestamp) -> bool {
        let passed = now.since(self.filled).as_secs() / REFILL.as_secs();
        if passed > 0 || now < self.filled {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)).min(BURST);
            self.filled = now;
        }
        if self.left > 0 {
            self.left -= 1;
            return true;
        }
        let rest = self.rest.get_or_insert_with(|| Rest {
            first: now,
            last: now,
            count: 0,
            severity: Severity::Info,
            titles: Vec::new(),
        });
        rest.last = now;
        rest.count = rest.count.saturating_add(1);
        // The gravest are named.
        if finding.severity > rest.severity {
            rest.titles.clear();
            rest.severity = finding.severity;
        }
        if finding.severity == rest.severity && rest.titles.len() < NAMED_MAX {
            rest.titles.push(finding.title.clone());
        }
        false
    }

    /// What was counted, when it is time to tell.
    pub fn rest(&mut self, now: Timestamp, ids: &mut dyn FnMut() -> Uuid) -> Option<Finding> {
        let rest = self.rest.take_if(|rest| now.since(rest.first) >= TOGETHER || now < rest.first)?;
        let what = if rest.count == 1 { "listening port" } else { "listening ports" };
        Some(Finding {
            id: ids(),
            rule: "net.listener".to_owned(),
            severity: rest.severity,
            observed: Observed { first: rest.first, last: rest.last, count: rest.count },
            title: format!("{} more new {what} within a minute, too many to be told one by one", rest.count),
            entities: Vec::new(),
            evidence: json!({ "folded": rest.count, "gravest": rest.titles }),
            attack: Vec::new(),
            explained_by: None,
            drill: false,
        })
    }
}
