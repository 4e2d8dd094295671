//! How a replay is told: for people a line each, for programs one JSON object a line.
//!
//! Both forms say the same fields in the same order ([`fields`]); only how a field is written differs. A log has
//! millions of lines, so events are written without a tree of values in between, and the second of a time is
//! spelt once.

use std::io::{self, Write};
use std::net::IpAddr;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text, printable};
use picket_protocol::time::Timestamp;

use crate::cli::output::{Style, Tone, count};
use crate::replay::{Explanation, Outcome, Tally, lines_of};
use crate::sense::logins::LoginEvent;

/// Parsers that an explanation names for a line.
const EXPLANATIONS_MAX: usize = 3;
/// Bytes that gather before they are written.
const GATHERED_BYTES: usize = 64 * 1024;
const NANOS: i64 = 1_000_000_000;

/// Writes what comes of a log.
pub struct Printer<W> {
    out: W,
    buffer: Vec<u8>,
    json: bool,
    style: Style,
    spelt: Spelt,
}

/// A field of an event.
enum Value<'a> {
    Text(&'a str),
    Address(IpAddr),
    Number(u64),
    Yes,
}

/// What is known of an event beyond its line, kind, service and time.
fn fields(event: &LoginEvent) -> impl Iterator<Item = (&'static str, Value<'_>)> {
    fn text(text: Option<&Text>) -> Option<Value<'_>> {
        text.map(|text| Value::Text(&text.text))
    }
    fn number(number: Option<impl Into<u64>>) -> Option<Value<'static>> {
        number.map(|number| Value::Number(number.into()))
    }
    [
        ("user", text(event.user.as_ref())),
        ("address", event.address.map(Value::Address)),
        ("port", number(event.port)),
        ("method", text(event.method.as_ref())),
        ("key", text(event.key.as_ref())),
        ("tty", text(event.tty.as_ref())),
        ("target", text(event.target.as_ref())),
        ("command", text(event.command.as_ref())),
        ("reason", text(event.reason.as_ref())),
        ("request", text(event.request.as_ref())),
        ("status", number(event.status)),
        ("pid", number(event.pid)),
        ("repeats", number(Some(event.repeats).filter(|count| *count != 1))),
        ("ambiguous", event.ambiguous.then_some(Value::Yes)),
        ("raw", text(event.raw.as_ref())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

#[derive(serde::Serialize)]
struct FindingLine<'a> {
    finding: &'a str,
    id: uuid::Uuid,
    severity: Severity,
    title: &'a str,
    entities: &'a [Entity],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<u64>,
    observed: &'a Observed,
    evidence: &'a serde_json::Value,
}

impl<W: Write> Printer<W> {
    /// Writes to `out`, as JSON or for people.
    pub fn new(out: W, json: bool) -> Self {
        let buffer = Vec::with_capacity(GATHERED_BYTES + 4 * 1024);
        Self { out, buffer, json, style: Style::of_stdout(), spelt: Spelt::default() }
    }

    /// Tells an event or a finding.
    pub fn tell(&mut self, outcome: &Outcome<'_>) -> io::Result<()> {
        match outcome {
            Outcome::Event(line, event) => self.event(*line, event),
            Outcome::Finding(finding) => self.finding(finding)?,
        }
        self.end_line()
    }

    /// Tells why a line led to nothing.
    pub fn explain(&mut self, line: u64, explanations: &[Explanation]) -> io::Result<()> {
        let first = explanations.get(..explanations.len().min(EXPLANATIONS_MAX)).unwrap_or_default();
        if self.json {
            let object = serde_json::json!({ "line": line, "explain": first });
            serde_json::to_writer(&mut self.buffer, &object)?;
            return self.end_line();
        }
        write!(self.buffer, "{line:>6}  nothing")?;
        for Explanation { service, rule, bytes, expected } in first {
            let place = if *rule == 0 { service.clone() } else { format!("{service}.toml:{rule}") };
            write!(self.buffer, "\n          {place}: behind {bytes} bytes {}", printable(expected))?;
        }
        self.end_line()
    }

    /// Tells how much it was, and writes what is not written yet.
    pub fn end(&mut self, tally: &Tally) -> io::Result<()> {
        let mut text = format!(
            "{} lines, {} events, {} findings",
            count(tally.lines),
            count(tally.events),
            count(tally.findings)
        );
        if tally.too_long > 0 {
            text.push_str(&format!(", {} lines too long and left out", count(tally.too_long)));
        }
        if tally.untrusted > 0 {
            text.push_str(&format!(", {} entries of somebody else than they claim", count(tally.untrusted)));
        }
        self.close(&text)
    }

    /// Tells a finding that stands in no line, with its time.
    pub fn timed(&mut self, finding: &Finding) -> io::Result<()> {
        if !self.json {
            let second = self.spelt.second(finding.observed.last);
            self.buffer.extend_from_slice(second);
            self.buffer.push(b'Z');
        }
        self.finding(finding)?;
        self.end_line()
    }

    /// Says the last sentence, and writes what is not written yet.
    pub fn close(&mut self, text: &str) -> io::Result<()> {
        if !self.json {
            writeln!(self.buffer, "{text}")?;
        }
        self.flush()?;
        // On its own stream where the output is for programs.
        if self.json {
            eprintln!("{text}");
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.buffer.push(b'\n');
        if self.buffer.len() >= GATHERED_BYTES {
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }

    fn event(&mut self, line: u64, event: &LoginEvent) {
        let out = &mut self.buffer;
        if self.json {
            out.extend_from_slice(b"{\"line\":");
            push_number(out, line);
            out.extend_from_slice(b",\"event\":\"");
            out.extend_from_slice(event.event.as_str().as_bytes());
            out.extend_from_slice(b"\",\"service\":");
            push_json(out, &event.service);
        } else {
            let digits = out.len();
            push_number(out, line);
            let missing = 6usize.saturating_sub(out.len() - digits);
            out.splice(digits..digits, std::iter::repeat_n(b' ', missing));
            out.extend_from_slice(b"  ");
            out.extend_from_slice(self.spelt.second(event.time));
            out.push(b'Z');
            for word in [event.event.as_str(), &event.service] {
                out.extend_from_slice(b"  ");
                out.extend_from_slice(word.as_bytes());
            }
        }
        for (name, value) in fields(event) {
            if self.json {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                value.push_json(out);
            } else {
                out.extend_from_slice(b"  ");
                out.extend_from_slice(name.as_bytes());
                value.push_plain(out);
            }
        }
        if self.json {
            out.extend_from_slice(b",\"time\":\"");
            out.extend_from_slice(self.spelt.second(event.time));
            push_fraction(out, event.time);
            out.extend_from_slice(b"Z\"}");
        }
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        if self.json {
            return Ok(serde_json::to_writer(&mut self.buffer, &finding_line(finding))?);
        }
        let tone = if finding.severity >= Severity::High { Tone::Bad } else { Tone::Warning };
        let lines: Vec<String> = lines_of(finding).iter().map(u64::to_string).collect();
        let head = format!("{} {}", finding.severity.as_str(), finding.rule);
        let title = printable(&finding.title);
        let head = self.style.paint(tone, &head);
        if lines.is_empty() {
            return write!(self.buffer, "  {head}: {title}");
        }
        write!(self.buffer, "        {head}: {title} (lines {})", lines.join(", "))
    }
}

fn finding_line(finding: &Finding) -> FindingLine<'_> {
    FindingLine {
        finding: &finding.rule,
        id: finding.id,
        severity: finding.severity,
        title: &finding.title,
        entities: &finding.entities,
        lines: lines_of(finding),
        observed: &finding.observed,
        evidence: &finding.evidence,
    }
}

impl Value<'_> {
    fn push_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => push_json(out, text),
            Self::Number(number) => push_number(out, *number),
            Self::Yes => out.extend_from_slice(b"true"),
            Self::Address(address) => {
                out.push(b'"');
                push_address(out, *address);
                out.push(b'"');
            }
        }
    }

    fn push_plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::Yes => return,
            _ => out.push(b' '),
        }
        match self {
            Self::Text(text) => out.extend_from_slice(printable(text).as_bytes()),
            Self::Number(number) => push_number(out, *number),
            Self::Address(address) => push_address(out, *address),
            Self::Yes => {}
        }
    }
}

/// The text of the newest time up to its second, by which thousands of lines begin.
#[derive(Default)]
struct Spelt {
    second: i64,
    text: String,
}

impl Spelt {
    /// `2026-11-21T23:14:37`.
    fn second(&mut self, time: Timestamp) -> &[u8] {
        let second = time.seconds();
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = time.to_string();
            self.text.truncate(self.text.find('.').unwrap_or(self.text.len()));
        }
        self.text.as_bytes()
    }
}

/// `.123456789`.
fn push_fraction(out: &mut Vec<u8>, time: Timestamp) {
    out.push(b'.');
    let mut rest = time.nanos().rem_euclid(NANOS);
    let mut unit = NANOS / 10;
    while unit > 0 {
        out.push(b'0' + u8::try_from(rest / unit).unwrap_or(0));
        rest %= unit;
        unit /= 10;
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut rest, mut length) = (number, 0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - length..).unwrap_or_default());
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                push_number(out, u64::from(octet));
            }
        }
        IpAddr::V6(address) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// A JSON string; most need no escape.
fn push_json(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // A string has a JSON form, and memory takes it.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sense::logins::{LoginKind, Place, Reporter, Source};

    fn printed(json: bool, event: &LoginEvent) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, json);
        printer.tell(&Outcome::Event(7, event)).expect("written");
        printer.flush().expect("written");
        String::from_utf8(out).expect("text")
    }

    fn event(time: i64) -> LoginEvent {
        LoginEvent::bare(
            LoginKind::Failure,
            "sshd".into(),
            Reporter::Service,
            Source::Log,
            Timestamp::from_nanos(time),
            Place::Line { line: 7 },
        )
    }

    #[test]
    fn both_forms_say_the_same() {
        let mut event = event(1_480_000_000_000_000_007);
        event.user = Some(Text::from_bytes(b"a \"b\"\x1b"));
        event.address = Some("192.0.2.7".parse().expect("an address"));
        (event.port, event.repeats, event.ambiguous) = (Some(22), 5, true);
        assert_eq!(
            printed(true, &event),
            "{\"line\":7,\"event\":\"login.failure\",\"service\":\"sshd\",\"user\":\"a \\\"b\\\"\\u001b\",\"address\":\"192.0.2.7\",\
             \"port\":22,\"repeats\":5,\"ambiguous\":true,\"time\":\"2016-11-24T15:06:40.000000007Z\"}\n"
        );
        let plain = printed(false, &event);
        assert!(
            plain.starts_with("     7  2016-11-24T15:06:40Z  login.failure  sshd  user a \"b\""),
            "{plain}"
        );
        assert!(plain.ends_with("  address 192.0.2.7  port 22  repeats 5  ambiguous\n"), "{plain}");
        assert!(!plain.contains('\x1b'), "nothing unescaped");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            user in ".{0,20}", command in proptest::option::of(any::<Vec<u8>>()), address in any::<Option<IpAddr>>(),
            port in any::<Option<u16>>(), pid in any::<Option<u32>>(), line in any::<u64>(), time in any::<i64>(),
        ) {
            let mut event = event(time);
            event.user = Some(Text::from_bytes(user.as_bytes()));
            event.command = command.as_deref().map(Text::from_bytes);
            (event.address, event.port, event.pid) = (address, port, pid);
            let mut out = Vec::new();
            let mut printer = Printer::new(&mut out, true);
            printer.tell(&Outcome::Event(line, &event)).expect("written");
            printer.flush().expect("written");
            let object: serde_json::Value = serde_json::from_slice(&out).expect("a JSON object");
            let mut wanted = serde_json::json!({
                "line": line, "event": "login.failure", "service": "sshd", "user": user, "address": address,
                "port": port, "command": event.command.map(|command| command.text), "pid": pid, "time": event.time,
            });
            wanted.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
            prop_assert_eq!(object, wanted);
        }
    }
}
