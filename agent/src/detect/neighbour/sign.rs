//! Signs that an address was taken and not given, and what they mean together.

use std::collections::BTreeSet;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;

use crate::detect::packets::neighbour::Mac;

/// One sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// An answer to this host for which it had not asked.
    Unasked,
    /// The message names another sender than the Ethernet header.
    HeaderMismatch,
    /// The one who takes it has another address of the segment already.
    HoldsAnother,
    /// The owner still speaks for it.
    OwnerStillAnswers,
    /// Two answered one question.
    AnsweredByTwo,
    /// The one who takes it took others as well.
    TakesMany,
    /// It changed hands before, a short time ago.
    ChangedBefore,
    /// This host's kernel now sends there.
    CacheChanged,
    /// It was announced to all, as a fail-over or a new card does.
    Announced,
    /// Another one's frames may look like that: cards with neighbouring numbers, as in a bond.
    SiblingCard,
}

/// Signs by which a change is no honest one, whatever else there is.
const STRONG: [Sign; 4] = [Sign::Unasked, Sign::OwnerStillAnswers, Sign::AnsweredByTwo, Sign::TakesMany];

/// A dispute about an address.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Contest {
    /// Since when.
    pub since: Timestamp,
    /// The last claim.
    pub last: Timestamp,
    /// How many claims.
    pub claims: u64,
    /// Who claims it beside its owner.
    pub suspect: Mac,
    /// What was seen.
    pub signs: BTreeSet<Sign>,
}

/// Which kind of finding a dispute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `neighbour.gateway-changed`.
    Gateway(Severity),
    /// `neighbour.spoof`.
    Spoof(Severity),
    /// `neighbour.flip-flop`.
    FlipFlop(Severity),
    /// `neighbour.binding-changed`.
    Binding(Severity),
}

impl Contest {
    /// What the signs say together.
    pub fn verdict(&self, is_gateway: bool) -> Verdict {
        let has = |sign: Sign| self.signs.contains(&sign);
        let strong = STRONG.into_iter().any(has);
        if is_gateway {
            return Verdict::Gateway(self.of_gateway(strong));
        }
        if has(Sign::Unasked) || has(Sign::TakesMany) {
            return Verdict::Spoof(Severity::High);
        }
        if has(Sign::HeaderMismatch) {
            return Verdict::Spoof(Severity::Medium);
        }
        if strong || has(Sign::ChangedBefore) {
            let sibling = has(Sign::SiblingCard);
            return Verdict::FlipFlop(if sibling { Severity::Low } else { Severity::Medium });
        }
        Verdict::Binding(Severity::Low)
    }

    fn of_gateway(&self, strong: bool) -> Severity {
        let has = |sign: Sign| self.signs.contains(&sign);
        if has(Sign::SiblingCard) && !has(Sign::TakesMany) && !has(Sign::HoldsAnother) {
            return if strong { Severity::Medium } else { Severity::Low };
        }
        match (strong || has(Sign::HeaderMismatch), has(Sign::CacheChanged)) {
            (true, true) => Severity::Critical,
            (true, false) => Severity::High,
            // As a fail-over without a protocol that could be seen does.
            (false, _) if has(Sign::HoldsAnother) && has(Sign::Announced) => Severity::Medium,
            (false, _) if has(Sign::HoldsAnother) => Severity::High,
            (false, _) if has(Sign::ChangedBefore) => Severity::Medium,
            // A replaced card looks just like that.
            (false, _) => Severity::Low,
        }
    }

    /// Whether more signs would change nothing.
    pub fn is_settled(&self, is_gateway: bool) -> bool {
        let all = self.signs.contains(&Sign::CacheChanged) && self.signs.contains(&Sign::OwnerStillAnswers);
        match self.verdict(is_gateway) {
            Verdict::Gateway(severity) => severity == Severity::Critical && all,
            Verdict::Spoof(severity) => severity == Severity::High && self.claims > 16,
            Verdict::FlipFlop(_) => self.claims > 64,
            Verdict::Binding(_) => false,
        }
    }
}
