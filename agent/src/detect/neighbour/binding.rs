//! An address is claimed by another host than the one that has it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::Sighting;
use super::claim::{Claim, Held, Kind};
use super::sign::{Contest, Sign, Verdict};
use super::table::{Neighbour, Place};
use super::{Detector, evidence};
use crate::detect::packets::neighbour::Mac;
use crate::respond::own_acts::{By, Pinned};

/// An owner who spoke within this span before an address moved and speaks again after it is still there.
const FLIP: Duration = Duration::from_secs(600);
/// An address that was silent for so long may be anybody's.
const SILENT: Duration = Duration::from_secs(3_600);
/// Whose address was first heard of within this span has no owner yet: in a flood of invented hosts addresses repeat.
const BARELY_KNOWN: Duration = Duration::from_secs(10);
/// A change is remembered for so long: the second within it is no replaced card.
const CHANGED_BEFORE: Duration = Duration::from_secs(24 * 3_600);
/// How long it is waited for the announcement of a router that takes an address over.
const HOLD: Duration = Duration::from_secs(1);
/// Claims that wait at once; what is beyond is judged at once.
const HELD_MAX: usize = 64;

impl Detector {
    /// Takes a claim up.
    pub(super) fn claim(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        if claim.from_here {
            return self.own_claim(claim);
        }
        if self.own.has(interface, *address) {
            return self.conflict(claim);
        }
        match self.table.seen(&claim.place, claim.mac, claim.time) {
            Some(true) => self.confirmed(claim),
            Some(false) => self.changed(claim, false),
            None => {
                self.admit(&claim.place, claim.mac, claim.time, false);
                self.unasked(claim);
            }
        }
    }

    /// The kernel's table changed.
    pub(super) fn cached(&mut self, place: &Place, mac: Mac, now: Timestamp) {
        if self.table.get(place).is_none() {
            self.admit(place, mac, now, true);
        }
        let Some(entry) = self.table.get(place) else { return };
        if entry.cached == Some(mac) {
            return;
        }
        let (known, suspect) = (entry.mac, entry.contest.as_ref().map(|contest| contest.suspect));
        if let Some(entry) = self.table.change(place) {
            entry.cached = Some(mac);
        }
        if let Some(by) = self.pinned(place, mac) {
            return self.tell_pinned(place, (known, mac), by.to_string(), now);
        }
        let claim = Claim {
            place: place.clone(),
            mac,
            source: mac,
            kind: Kind::Cache,
            from_here: false,
            time: now,
            weight: 1,
        };
        if known != mac {
            self.changed(&claim, false);
        } else if suspect == Some(mac) {
            self.contest(&claim, BTreeSet::from([Sign::CacheChanged]));
        }
    }

    /// Who pinned it there, if the agent did.
    fn pinned(&self, (interface, _, address): &Place, mac: Mac) -> Option<By> {
        let is_it =
            |pin: &&Pinned| *pin.interface == **interface && pin.address == *address && pin.mac.0 == mac.0;
        self.pins.iter().find(is_it).map(|pin| pin.by.clone())
    }

    /// The agent had the kernel believe something else than the wire says. Who has the address is still what the wire says.
    fn tell_pinned(&mut self, place: &Place, (known, mac): (Mac, Mac), by: String, now: Timestamp) {
        if known == mac {
            return;
        }
        self.explained += 1;
        let (interface, _, address) = place;
        let sighting = Sighting {
            rule: "neighbour.binding-changed".to_owned(),
            interface: interface.to_string(),
            subject: format!("{address} pinned {mac}"),
            severity: Severity::Info,
            title: format!(
                "{address} on {interface} was pinned to {mac} by command; on the wire it is at {known}"
            ),
            addresses: vec![*address],
            evidence: evidence([
                ("address", json!(address)),
                ("before", json!(known)),
                ("after", json!(mac)),
            ]),
            explained: Some(by),
        };
        self.see(sighting, now, 1);
    }

    fn admit(&mut self, place: &Place, mac: Mac, now: Timestamp, important: bool) {
        let own = &self.own;
        let spare = |(interface, _, address): &Place| own.is_gateway(interface, *address);
        let important = important || spare(place);
        self.table.admit(place.clone(), mac, now, important, &spare);
    }

    /// What this host says: of others only a program that forges, or a bridge, says something.
    fn own_claim(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        let of_ours = self.own.is_mac(claim.mac) && claim.kind != Kind::Question;
        let Some(entry) = self.table.get(&claim.place).filter(|_| of_ours) else { return };
        if entry.mac == claim.mac || self.own.interfaces.values().any(|own| own.addresses.contains(address)) {
            return;
        }
        if !self.own.is_gateway(interface, *address) {
            return;
        }
        let sighting = Sighting {
            rule: "neighbour.spoof".to_owned(),
            interface: interface.to_string(),
            subject: format!("from here {}", claim.mac),
            severity: Severity::High,
            title: format!("This host tells others on {interface} that it is the gateway {address}"),
            addresses: vec![*address],
            evidence: evidence([
                ("direction", json!("out")),
                ("address", json!(address)),
                ("owner", json!(entry.mac)),
                ("claimed_by", json!(claim.mac)),
            ]),
            explained: None,
        };
        self.see(sighting, claim.time, claim.weight);
    }

    /// Who took an address says again and again, unasked, that he has it.
    fn insisted(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        let Some(entry) = self.table.get(&claim.place) else { return };
        let Some(contest) = &entry.contest else { return };
        let unasked = claim.kind == Kind::AnswerToUs && !self.has_asked(interface, *address, claim.time);
        if contest.suspect != claim.mac || !unasked {
            return;
        }
        let verdict = contest.verdict(self.own.is_gateway(interface, *address));
        let known = contest.signs.contains(&Sign::Unasked);
        let (rule, subject) =
            (rule(&verdict), subject(&verdict, *address, entry.established, contest.suspect));
        let weight = u64::from(claim.weight);
        if known && self.alarms.again(rule, interface, &subject, claim.time, weight) {
            if let Some(entry) = self.table.change(&claim.place) {
                entry.contest.iter_mut().for_each(|contest| contest.again(claim));
            }
        } else {
            self.contest(claim, BTreeSet::from([Sign::Unasked]));
        }
    }

    /// It is where it was; but who says so?
    fn confirmed(&mut self, claim: &Claim) {
        self.insisted(claim);
        if !claim.is_mismatched() {
            return;
        }
        let contested = self.table.get(&claim.place).is_some_and(|entry| entry.contest.is_some());
        if contested {
            return self.contest(claim, BTreeSet::from([Sign::HeaderMismatch]));
        }
        let (interface, _, address) = &claim.place;
        if self.alarms.again("neighbour.spoof", interface, &claim.source.to_string(), claim.time, 1) {
            return;
        }
        let sighting = Sighting {
            rule: "neighbour.spoof".to_owned(),
            interface: interface.to_string(),
            subject: claim.source.to_string(),
            severity: Severity::Low,
            title: format!(
                "{} on {interface} speaks for {address}, which is at {}: the Ethernet header names another sender",
                claim.source, claim.mac
            ),
            addresses: vec![*address],
            evidence: evidence([
                ("address", json!(address)),
                ("owner", json!(claim.mac)),
                ("claimed_by", json!(claim.source)),
                ("signs", json!([Sign::HeaderMismatch])),
            ]),
            explained: None,
        };
        self.see(sighting, claim.time, claim.weight);
    }

    /// Somebody else has it now, he says.
    pub(super) fn changed(&mut self, claim: &Claim, waited: bool) {
        let (interface, _, address) = &claim.place;
        let is_gateway = self.own.is_gateway(interface, *address);
        let Some(entry) = self.table.get(&claim.place) else { return };
        if let Some(contest) = entry.contest.as_ref().filter(|contest| contest.is_settled(is_gateway)) {
            let subject = subject(&contest.verdict(is_gateway), *address, entry.established, contest.suspect);
            let (rule, interface) = (rule(&contest.verdict(is_gateway)), interface.to_string());
            let known = self.alarms.again(rule, &interface, &subject, claim.time, u64::from(claim.weight));
            if known {
                if let Some(entry) = self.table.change(&claim.place) {
                    entry.change(claim.mac, claim.time);
                    entry.contest.iter_mut().for_each(|contest| contest.again(claim));
                }
                return;
            }
        }
        let signs = self.signs(claim, entry);
        let honest = !signs.contains(&Sign::Unasked);
        if honest && !waited && self.is_to_wait(claim, entry) {
            if !self.held.iter().any(|held| held.claim.place == claim.place && held.claim.mac == claim.mac) {
                self.held.push(Held { claim: claim.clone(), due: claim.time.plus(HOLD) });
            }
            return;
        }
        let why = honest.then(|| self.harmless(claim, entry, is_gateway, &signs)).flatten();
        let (old, silent_since) = (entry.mac, entry.last_seen);
        if let Some(entry) = self.table.change(&claim.place) {
            entry.change(claim.mac, claim.time);
            if claim.kind == Kind::Cache {
                entry.cached = Some(claim.mac);
            }
        }
        match why {
            Some(why) => self.tell_explained(claim, old, silent_since, why),
            None => self.contest(claim, signs),
        }
    }

    /// A router that takes an address over may announce itself a moment later.
    fn is_to_wait(&self, claim: &Claim, entry: &Neighbour) -> bool {
        let (interface, _, address) = &claim.place;
        let explained = &self.explanations;
        self.held.len() < HELD_MAX
            && matches!(claim.kind, Kind::Announcement | Kind::Cache)
            && !explained.is_member(interface, claim.mac, claim.time)
            && explained.may_move(interface, *address, entry.mac, claim.time)
    }

    pub(super) fn release_held(&mut self, now: Timestamp) {
        let (due, waiting) = std::mem::take(&mut self.held).into_iter().partition(|held| held.due <= now);
        self.held = waiting;
        let due: Vec<Held> = due;
        for held in due {
            let (interface, _, address) = &held.claim.place;
            if self.own.has(interface, *address) {
                self.conflict_stands(&held.claim);
            } else if self.table.get(&held.claim.place).is_some_and(|entry| entry.mac != held.claim.mac) {
                self.changed(&held.claim, true);
            }
        }
    }

    fn signs(&self, claim: &Claim, entry: &Neighbour) -> BTreeSet<Sign> {
        let (interface, _, address) = &claim.place;
        let asked = self.has_asked(interface, *address, claim.time);
        let lately = |until: Timestamp| claim.time.since(until) < FLIP;
        let returned = entry.had_until(claim.mac).is_some_and(lately);
        // Both answered after the same question.
        let question = self.asked.get(&(std::sync::Arc::clone(interface), *address), claim.time);
        let two = question.is_some_and(|(time, ())| entry.last_seen >= time && entry.since < time);
        let answers = matches!(claim.kind, Kind::AnswerToUs | Kind::Answer);
        let before = entry.changes > 0 && claim.time.since(entry.since) < CHANGED_BEFORE;
        let pairs = [
            (Sign::Unasked, claim.kind == Kind::AnswerToUs && !asked),
            (Sign::HeaderMismatch, claim.is_mismatched()),
            (Sign::HoldsAnother, self.holds_another(claim, entry.mac)),
            // The kernel's table follows frames: it goes back only when the owner spoke.
            (Sign::OwnerStillAnswers, returned),
            (Sign::AnsweredByTwo, answers && asked && two),
            (Sign::TakesMany, self.conflicts.taken_by(claim, entry.mac) >= self.thresholds.taken),
            (Sign::ChangedBefore, before),
            (Sign::CacheChanged, claim.kind == Kind::Cache),
            (Sign::Announced, claim.kind == Kind::Announcement),
            (Sign::SiblingCard, claim.mac.is_sibling_of(entry.mac)),
        ];
        pairs.into_iter().filter(|(_, is_so)| *is_so).map(|(sign, _)| sign).collect()
    }

    /// Whether the one who takes it has another address of the kind already, and not from the same former owner:
    /// a router that got a new card brings all its addresses along.
    fn holds_another(&self, claim: &Claim, owner: Mac) -> bool {
        let (interface, vlan, address) = &claim.place;
        self.table.iter().any(|((on, tag, other), entry)| {
            entry.mac == claim.mac
                && other != address
                && (on, tag) == (interface, vlan)
                && scope(*other) == scope(*address)
                && entry.had_until(owner).is_none()
        })
    }

    fn harmless(
        &self,
        claim: &Claim,
        entry: &Neighbour,
        is_gateway: bool,
        signs: &BTreeSet<Sign>,
    ) -> Option<&'static str> {
        let (interface, _, address) = &claim.place;
        let explained = &self.explanations;
        let member = explained.is_member(interface, claim.mac, claim.time);
        if member && explained.may_move(interface, *address, entry.mac, claim.time) {
            return Some("fail-over");
        }
        let barely = entry.cached.is_none() && claim.time.since(entry.first_seen) < BARELY_KNOWN;
        if barely && !is_gateway {
            return Some("hardly known");
        }
        let strong = [Sign::OwnerStillAnswers, Sign::AnsweredByTwo, Sign::TakesMany, Sign::HeaderMismatch];
        if is_gateway || strong.iter().any(|sign| signs.contains(sign)) {
            return None;
        }
        if explained.is_leased(interface, claim.mac, *address, claim.time) {
            Some("dhcp")
        } else if self.own.is_virtual_segment(interface) {
            Some("virtual segment of this host")
        } else if claim.time.since(entry.last_seen) >= SILENT {
            Some("the former owner was silent for long")
        } else {
            None
        }
    }

    fn tell_explained(&mut self, claim: &Claim, old: Mac, silent_since: Timestamp, why: &'static str) {
        self.explained += 1;
        // What happens all day is in the table, not in the ledger.
        if why != "fail-over" {
            return;
        }
        let (interface, _, address) = &claim.place;
        let is_gateway = self.own.is_gateway(interface, *address);
        let (rule, what) = if is_gateway {
            ("neighbour.gateway-changed", "The gateway")
        } else {
            ("neighbour.binding-changed", "The address")
        };
        let sighting = Sighting {
            rule: rule.to_owned(),
            interface: interface.to_string(),
            subject: format!("{address} fail-over"),
            severity: Severity::Info,
            title: format!("{what} {address} on {interface} moved from {old} to {} by fail-over", claim.mac),
            addresses: vec![*address],
            evidence: evidence([
                ("address", json!(address)),
                ("before", json!(old)),
                ("after", json!(claim.mac)),
                ("before_last_seen", json!(silent_since)),
            ]),
            explained: Some(why.to_owned()),
        };
        self.see(sighting, claim.time, claim.weight);
    }

    /// Adds to the dispute about an address, and tells of it.
    fn contest(&mut self, claim: &Claim, signs: BTreeSet<Sign>) {
        let (interface, _, address) = &claim.place;
        let is_gateway = self.own.is_gateway(interface, *address);
        let Some(entry) = self.table.change(&claim.place) else { return };
        let established = entry.established;
        // Who restores what he took still is who took it.
        let other = entry.former.iter().map(|former| former.mac).find(|mac| *mac != established);
        let suspect = if claim.mac != established {
            claim.mac
        } else if claim.source != established {
            claim.source
        } else {
            other.unwrap_or(claim.mac)
        };
        let fresh =
            Contest { since: claim.time, last: claim.time, claims: 0, suspect, signs: BTreeSet::new() };
        let contest = entry.contest.get_or_insert(fresh);
        contest.suspect = suspect;
        contest.again(claim);
        contest.signs.extend(signs);
        if entry.cached.is_some_and(|cached| cached == suspect) {
            contest.signs.insert(Sign::CacheChanged);
        }
        let (contest, entry) = (contest.clone(), entry.clone());
        self.contested.insert(claim.place.clone());
        let took = suspect == claim.mac && claim.mac != established;
        let taken = if took { self.conflicts.took(claim, established) } else { Vec::new() };
        let verdict = contest.verdict(is_gateway);
        let sighting = describe(&claim.place, &entry, &contest, &verdict, &taken);
        self.see(sighting, claim.time, claim.weight);
    }

    pub(super) fn end_contests(&mut self, now: Timestamp) {
        let quiet = self.thresholds.quiet;
        let contested = std::mem::take(&mut self.contested).into_iter();
        self.contested = contested
            .filter(|place| {
                let last = self.table.get(place).and_then(|entry| Some(entry.contest.as_ref()?.last));
                let over = last.is_none_or(|last| now.since(last) >= quiet);
                if over && let Some(entry) = self.table.change(place) {
                    entry.contest = None;
                    entry.established = entry.mac;
                }
                !over
            })
            .collect();
    }

    /// Answers that nobody asked for, about addresses that were not known.
    fn unasked(&mut self, claim: &Claim) {
        let (interface, _, address) = &claim.place;
        if claim.kind != Kind::AnswerToUs || self.has_asked(interface, *address, claim.time) {
            return;
        }
        let count = self.conflicts.unasked(claim);
        if count < self.thresholds.unasked {
            return;
        }
        let sighting = Sighting {
            rule: "neighbour.spoof".to_owned(),
            interface: interface.to_string(),
            subject: claim.source.to_string(),
            severity: Severity::Medium,
            title: format!(
                "{} on {interface} tells this host again and again who has which address, without being asked",
                claim.source
            ),
            addresses: vec![*address],
            evidence: evidence([
                ("claimed_by", json!(claim.source)),
                ("signs", json!([Sign::Unasked])),
                ("answers", json!(count)),
            ]),
            explained: None,
        };
        self.see(sighting, claim.time, claim.weight);
    }
}

impl Contest {
    fn again(&mut self, claim: &Claim) {
        self.last = self.last.max(claim.time);
        self.claims = self.claims.saturating_add(u64::from(claim.weight));
    }
}

/// Addresses of one kind: IPv4, link-local IPv6, other IPv6.
fn scope(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(address) => 1 + u8::from(address.is_unicast_link_local()),
    }
}

fn rule(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Gateway(_) => "neighbour.gateway-changed",
        Verdict::Spoof(_) => "neighbour.spoof",
        Verdict::FlipFlop(_) => "neighbour.flip-flop",
        Verdict::Binding(_) => "neighbour.binding-changed",
    }
}

fn subject(verdict: &Verdict, address: IpAddr, owner: Mac, suspect: Mac) -> String {
    match verdict {
        // A router has several addresses, and all of them move together.
        Verdict::Gateway(_) => owner.to_string(),
        Verdict::Spoof(_) => suspect.to_string(),
        _ => address.to_string(),
    }
}

fn describe(
    (interface, _, address): &Place,
    entry: &Neighbour,
    contest: &Contest,
    verdict: &Verdict,
    taken: &[IpAddr],
) -> Sighting {
    let (suspect, owner) = (contest.suspect, entry.established);
    let poisoned = contest.signs.contains(&Sign::CacheChanged);
    let believed = if poisoned { ", and this host now sends there" } else { "" };
    let (severity, title) = match verdict {
        Verdict::Gateway(severity) if *severity == Severity::Low => (
            *severity,
            format!(
                "The gateway {address} on {interface} is at {suspect} instead of {owner}, as after a change of its network card"
            ),
        ),
        Verdict::Gateway(severity) => {
            let how = words(contest);
            (
                *severity,
                format!(
                    "The gateway {address} on {interface} is claimed by {suspect}, its owner is {owner}: {how}{believed}"
                ),
            )
        }
        Verdict::Spoof(severity) => {
            let how = words(contest);
            (
                *severity,
                format!("{suspect} on {interface} claims {address}, which is {owner}'s: {how}{believed}"),
            )
        }
        Verdict::FlipFlop(severity) => (
            *severity,
            format!("{address} on {interface} goes to and fro between {owner} and {suspect}{believed}"),
        ),
        Verdict::Binding(severity) => {
            (*severity, format!("{address} on {interface} moved from {owner} to {suspect}"))
        }
    };
    let addresses = if taken.contains(address) { taken.to_vec() } else { [&[*address], taken].concat() };
    Sighting {
        rule: rule(verdict).to_owned(),
        interface: interface.to_string(),
        subject: subject(verdict, *address, owner, suspect),
        severity,
        title,
        evidence: evidence([
            ("address", json!(address)),
            ("owner", json!(owner)),
            ("claimed_by", json!(suspect)),
            ("at", json!(entry.mac)),
            ("signs", json!(contest.signs)),
            ("claims", json!(contest.claims)),
            ("since", json!(contest.since)),
            ("poisoned", json!(poisoned)),
            ("changes", json!(entry.changes)),
            ("former", json!(entry.former)),
            ("taken", json!(taken)),
        ]),
        addresses,
        explained: None,
    }
}

fn words(contest: &Contest) -> String {
    let of = |sign: &Sign| match sign {
        Sign::Unasked => Some("it answers without being asked"),
        Sign::HeaderMismatch => Some("the Ethernet header names another sender"),
        Sign::HoldsAnother => Some("it has an address of its own"),
        Sign::OwnerStillAnswers => Some("the owner still answers"),
        Sign::AnsweredByTwo => Some("two answer one question"),
        Sign::TakesMany => Some("it takes other addresses as well"),
        Sign::ChangedBefore => Some("it moved before, a short time ago"),
        Sign::SiblingCard => Some("their numbers are neighbours, as of one card's ports"),
        Sign::CacheChanged | Sign::Announced => None,
    };
    let words: Vec<&str> = contest.signs.iter().filter_map(of).collect();
    if words.is_empty() { "it says so".to_owned() } else { words.join(", ") }
}
