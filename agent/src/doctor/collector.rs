//! The way to the collector, step by step, the certificate that this host shows there, and the clock against the collector's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::{Case, Check, time};
use crate::cli::output::{day, length};
use crate::clock;
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::uplink::certificate::{Facts, PEM_BYTES_MAX, from_pem};
use crate::uplink::dial::Target;
use crate::uplink::ipc::{Examined, Step};
use crate::uplink::pending;
use crate::uplink::renewing;
use crate::uplink::way::{self, Way};

/// The collector's word is good to a second, and the way there and back takes time.
pub(super) const SKEW_FINE: Duration = Duration::from_secs(5);
/// From here on certificates that were just issued are not valid yet, and leases end late.
const SKEW_BAD: Duration = Duration::from_secs(60);
/// A certificate is renewed at two thirds of its life; with less than a sixth left, renewal has failed for long.
const LIFE_LEFT_MIN: u32 = 6;

pub(super) fn look(case: &Case) -> Vec<Check> {
    let mut checks = steps(case);
    if !checks.iter().any(|check| check.check == "clock") {
        checks.push(time::check(case));
    }
    checks
}

fn steps(case: &Case) -> Vec<Check> {
    let enrolment = match &case.enrolment {
        Ok(enrolment) => enrolment,
        Err(error) => return vec![not_enrolled(case, error)],
    };
    let mut checks = vec![
        Check::ok(
            "enrolment",
            format!("{} of {} at {}", enrolment.agent, enrolment.tenant, enrolment.address),
        ),
        certificate("certificate", &case.layout.tls_certificate(), RENEW),
        certificate(
            "CA",
            &case.layout.ca_certificate(),
            "enrol again: sudo agent enroll --force 'picket1.…'",
        ),
    ];
    checks.extend(go(case, enrolment));
    checks
}

fn not_enrolled(case: &Case, error: &EnrolmentError) -> Check {
    let name = "enrolment";
    let join = match case.running() {
        Some(status) => status.join.clone(),
        None => pending::look(&case.layout),
    };
    if let (EnrolmentError::Missing { .. }, Some(join)) = (error, join) {
        let fix = match (join.waits, case.running()) {
            (true, Some(_)) => "let this host reach the collector; the agent tries again by itself",
            (true, None) => "start the agent: it tries again by itself until the collector is reached",
            (false, _) => "sudo agent enroll 'picket1.…', with a new one that `collector token` prints",
        };
        return Check::warning(name, join.sentence(clock::now()), fix);
    }
    match error {
        EnrolmentError::Missing { .. } if renewing::is_lost(&case.layout).unwrap_or(false) => {
            let found = "the enrolment is lost: enrolment.json is missing, and a collector has cosigned records of the ledger that is here";
            let fix = "restore the file, or sudo agent enroll 'picket1.…' with a new join string of the same collector: id and ledger go on";
            Check::fault(name, found, fix)
        }
        EnrolmentError::Missing { .. } => {
            let fix = "sudo agent enroll 'picket1.…', with what `collector token` printed";
            Check::warning(name, "not enrolled: findings stay on this host", fix)
        }
        EnrolmentError::Read { .. } => Check::fault(name, error.to_string(), "run `agent doctor` as root"),
        EnrolmentError::Damaged { .. } => Check::fault(
            name,
            error.to_string(),
            "restore the file, or sudo agent enroll 'picket1.…' with a new join string of the same collector",
        ),
    }
}

/// What gives a host a certificate again, with all else as it is.
pub(super) const RENEW: &str =
    "sudo agent enroll --renew 'picket1.…', with what `collector token` prints now";

/// What the certificate at `path` says, or why it says nothing.
pub(super) fn certificate_facts(path: &Path) -> Result<Facts, String> {
    let limit = u64::try_from(PEM_BYTES_MAX).unwrap_or(u64::MAX);
    crate::layout::read_file(path, limit)
        .map_err(|error| error.to_string())
        .and_then(|pem| from_pem(&pem).map_err(|error| error.to_string()))
        .and_then(|der| Facts::read(&der).map_err(|error| error.to_string()))
}

/// `again` is what to do where it is of no use.
fn certificate(name: &str, path: &Path, again: &str) -> Check {
    match certificate_facts(path) {
        Ok(facts) => judge_certificate(name, (facts.not_before, facts.not_after), clock::now(), again),
        Err(error) => {
            Check::fault(name, format!("{}: {error}", path.display()), format!("restore it, or {again}"))
        }
    }
}

fn judge_certificate(name: &str, (from, to): (Timestamp, Timestamp), now: Timestamp, again: &str) -> Check {
    if now < from {
        let found = format!("not valid before {from}, and this host's clock says {now}");
        return Check::fault(name, found, "set this host's clock right (see the check of the clock)");
    }
    if now >= to {
        let found = format!("expired on {} ({} ago)", day(to), length(now.since(to)));
        return Check::fault(name, found, format!("if this host's clock is right: {again}"));
    }
    let (left, life) = (to.since(now), to.since(from));
    let found = format!("valid until {} (for {})", day(to), length(left));
    if left < life / LIFE_LEFT_MIN {
        let fix = format!(
            "it renews itself while the collector is reached: mend the way there; when it has expired: {again}"
        );
        return Check::warning(name, found, fix);
    }
    Check::ok(name, found)
}

fn go(case: &Case, enrolment: &Enrolment) -> Vec<Check> {
    let uplink = &case.loaded.config.uplink;
    let target = match Target::parse(&enrolment.address, uplink.proxy.as_deref()) {
        Ok(target) => target,
        Err(error) => {
            return vec![Check::fault("connection", error.to_string(), "mend uplink.proxy in agent.toml")];
        }
    };
    let way = way::go(&case.layout, uplink, &enrolment.address, &case.program);
    Report { way: &way, target: &target }.checks()
}

/// The way, told.
struct Report<'a> {
    way: &'a Way,
    target: &'a Target,
}

impl Report<'_> {
    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        checks.extend(self.step(Step::Keys).map(|told| self.keys(told)));
        if let Some(told) = self.step(Step::Name) {
            checks.push(self.name(told));
            checks.extend(route(&told.addresses));
        }
        checks.extend(self.step(Step::Connection).map(|told| self.connection(told)));
        checks.extend(self.step(Step::Proxy).map(proxy));
        checks.extend(self.step(Step::Tls).map(tls));
        if let Some(told) = self.step(Step::Answer) {
            checks.push(self.answer(told));
            checks.extend(told.date.as_deref().map(|date| clock_check(date, clock::now())));
        }
        if let Some(why) = &self.way.broken {
            let fix = "look at the name servers (/etc/resolv.conf), the firewall and the proxy; then run it once more";
            checks.push(Check::fault("collector", why, fix));
        }
        checks
    }

    fn step(&self, step: Step) -> Option<&Examined> {
        self.way.step(step)
    }

    /// The host that is connected to, in words.
    fn next(&self) -> String {
        let (host, port) = self.target.next();
        if self.target.has_proxy() {
            format!("the proxy {host} port {port}")
        } else {
            format!("{host} port {port}")
        }
    }

    fn keys(&self, told: &Examined) -> Check {
        match &told.failure {
            None => Check::ok("keys", "the uplink opens its key, its certificate and the CA"),
            Some(why) => {
                let fix = format!(
                    "mend what the checks of files and certificates name; a certificate: {RENEW}; a key: sudo agent enroll --force 'picket1.…'"
                );
                Check::fault("keys", why, fix)
            }
        }
    }

    fn name(&self, told: &Examined) -> Check {
        let host = self.target.next().0;
        match &told.failure {
            None => {
                let addresses: Vec<String> =
                    told.addresses.iter().map(|address| address.ip().to_string()).collect();
                Check::ok("name", format!("{host} is {} ({} ms)", addresses.join(", "), told.milliseconds))
            }
            Some(why) => {
                let fix = format!(
                    "`getent hosts {host}` must answer: look at /etc/resolv.conf, or name it in /etc/hosts"
                );
                Check::fault("name", why, fix)
            }
        }
    }

    fn connection(&self, told: &Examined) -> Check {
        match &told.failure {
            None => Check::ok("connection", format!("TCP to {} in {} ms", self.next(), told.milliseconds)),
            Some(why) => {
                let fix = if self.target.has_proxy() {
                    "the proxy of uplink.proxy must run and accept this host: ask who keeps it, or change agent.toml".to_owned()
                } else {
                    format!(
                        "let this host reach {} by TCP (firewall, routing); is the collector running?",
                        self.next()
                    )
                };
                Check::fault("connection", why, fix)
            }
        }
    }

    fn answer(&self, told: &Examined) -> Check {
        match &told.failure {
            None => {
                let all: u64 = self.way.steps.iter().map(|step| step.milliseconds).sum();
                Check::ok("collector", format!("it answers, {all} ms after the first step"))
            }
            Some(why) => {
                let fix = format!(
                    "ask the vendor whether this host was revoked; when its certificate has expired: {RENEW}"
                );
                Check::fault("collector", why, fix)
            }
        }
    }
}

fn proxy(told: &Examined) -> Check {
    match &told.failure {
        None => Check::ok("proxy", format!("it opens the tunnel in {} ms", told.milliseconds)),
        Some(why) => {
            let fix = "the proxy must allow CONNECT to the collector; user and password are in uplink.proxy of agent.toml";
            Check::fault("proxy", why, fix)
        }
    }
}

fn tls(told: &Examined) -> Check {
    match &told.failure {
        None => Check::ok(
            "TLS",
            format!("the collector's certificate is from the CA that was pinned ({} ms)", told.milliseconds),
        ),
        Some(why) => {
            let fix = "let TLS to the collector pass unopened, and set the clock right; if the vendor has another CA now: sudo agent enroll --force 'picket1.…'";
            Check::fault("TLS", why, fix)
        }
    }
}

/// Whether the kernel has a way to the first address, and by which of ours. A UDP socket that is connected sends nothing.
fn route(addresses: &[SocketAddr]) -> Option<Check> {
    let first = addresses.first()?;
    let any: IpAddr =
        if first.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let looked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(first)?;
        socket.local_addr()
    });
    let to = first.ip();
    Some(match looked {
        Ok(own) => Check::ok("route", format!("to {to} from {}", own.ip())),
        Err(error) => {
            let fix =
                format!("`ip route get {to}` must name a way: look at interfaces and the default route");
            Check::fault("route", format!("none to {to}: {error}"), fix)
        }
    })
}

/// Compares this host's clock with the `Date` of the collector's answer (RFC 9110, 5.6.7).
fn clock_check(date: &str, now: Timestamp) -> Check {
    let name = "clock";
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date);
    let Ok(theirs) = parsed else {
        return Check::warning(
            name,
            "the collector's answer has no date to compare with",
            "compare by hand: timedatectl",
        );
    };
    let skew = now.seconds().saturating_sub(theirs.as_second());
    let size = Duration::from_secs(skew.unsigned_abs());
    let side = if skew > 0 { "ahead of" } else { "behind" };
    let fix = "let the host keep time (timedatectl set-ntp true, or chrony), and correct it now";
    match size {
        size if size <= SKEW_FINE => Check::ok(name, "as the collector's, to a few seconds"),
        size if size <= SKEW_BAD => {
            Check::warning(name, format!("{} {side} the collector's", length(size)), fix)
        }
        size => Check::fault(name, format!("{} {side} the collector's", length(size)), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a time")
    }

    #[test]
    fn the_clock_is_judged_by_the_collectors_date() {
        let judge = |text: &str| clock_check("Sun, 29 Nov 2026 21:10:00 GMT", at(text));
        assert_eq!(judge("2026-11-29T21:10:03Z").grade, Grade::Ok);
        let ahead = judge("2026-11-29T22:10:00Z");
        assert!(ahead.grade == Grade::Fault && ahead.found.starts_with("1h 0m ahead of"), "{ahead:?}");
        let behind = judge("2026-11-29T21:09:30Z");
        assert!(behind.grade == Grade::Warning && behind.found.starts_with("30s behind"), "{behind:?}");
        assert_eq!(clock_check("x", at("2026-11-29T21:09:30Z")).grade, Grade::Warning);
    }

    #[test]
    fn certificates_are_judged_by_what_is_left_of_their_life() {
        let (from, to) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
        let judge = |now: &str| judge_certificate("certificate", (from, to), at(now), RENEW);
        assert_eq!(judge("2026-11-10T00:00:00Z").grade, Grade::Ok);
        assert_eq!(judge("2026-11-28T00:00:00Z").grade, Grade::Warning);
        let expired = judge("2026-12-03T00:00:00Z");
        assert!(expired.found.contains("expired on 2026-12-01"), "{expired:?}");
        assert!(expired.fix.is_some_and(|fix| fix.contains("agent enroll --renew")));
        assert_eq!(judge("2026-10-31T00:00:00Z").grade, Grade::Fault);
    }

    #[test]
    fn what_fails_on_the_way_is_told_where_it_ends() {
        let told = |step, failure: Option<&str>| Examined {
            step,
            failure: failure.map(str::to_owned),
            milliseconds: 3,
            addresses: Vec::new(),
            date: None,
        };
        let target = Target::parse("collector.example:8443", Some("http://u:secret@proxy.example:3128"))
            .expect("target");
        let steps =
            vec![told(Step::Keys, None), told(Step::Name, None), told(Step::Connection, Some("refused"))];
        let way = Way { steps, broken: None };
        let checks = Report { way: &way, target: &target }.checks();
        let last = checks.last().expect("a check");
        assert!(last.check == "connection" && last.grade == Grade::Fault, "{last:?}");
        assert!(last.fix.as_deref().is_some_and(|fix| fix.contains("uplink.proxy")));
        assert!(!format!("{checks:?}").contains("secret"));
    }
}
