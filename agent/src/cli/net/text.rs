//! The health of the line in words: once, and as a screen that is drawn anew.

use std::collections::HashMap;

use picket_protocol::finding::{Severity, printable};

use super::rates::{InterfaceRates, Rates, TalkerRates, is_full};
use crate::cli::output::{Style, Tone, bytes, count};
use crate::detect::listener::Protocol;
use crate::sense::network::line::Listener;
use crate::sense::network::talkers::Heavy;

/// Talkers and listeners that are shown once; all are in the JSON.
const TALKERS_SHOWN: usize = 10;
/// Readings that a curve shows at most.
pub const HISTORY_MAX: usize = 60;
/// Steps of a curve.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line of text in parts, each in its tone.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<(Tone, String)>);

impl Line {
    fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self(vec![(tone, text.into())])
    }

    fn plain(text: impl Into<String>) -> Self {
        Self::of(Tone::Plain, text)
    }

    fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.0.push((tone, text.into()));
        self
    }

    /// At most `width` characters of it, in colour where there is colour.
    pub fn render(&self, width: usize, style: Style) -> String {
        let (mut left, mut out) = (width, String::new());
        for (tone, text) in &self.0 {
            let part: String = text.chars().take(left).collect();
            left -= part.chars().count();
            if !part.is_empty() {
                out.push_str(&style.paint(*tone, &part));
            }
        }
        out
    }
}

/// What was read last and before, for curves.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Bits a second by interface: what came, what went; oldest first.
    ways: HashMap<String, (Vec<u64>, Vec<u64>)>,
    /// Hundredths of a percent that were sent again.
    sent_again: Vec<u64>,
}

impl History {
    /// Takes up a reading; interfaces that are gone are forgotten.
    pub fn push(&mut self, rates: &Rates) {
        let mut before = std::mem::take(&mut self.ways);
        for interface in &rates.interfaces {
            let (mut received, mut sent) = before.remove(&interface.name).unwrap_or_default();
            append(&mut received, interface.received.bits_per_second);
            append(&mut sent, interface.sent.bits_per_second);
            self.ways.insert(interface.name.clone(), (received, sent));
        }
        append(&mut self.sent_again, hundredths(rates.tcp.sent_again_percent.unwrap_or(0.0)));
    }
}

fn append(curve: &mut Vec<u64>, value: u64) {
    if curve.len() >= HISTORY_MAX {
        curve.remove(0);
    }
    curve.push(value);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
fn hundredths(percent: f64) -> u64 {
    (percent * 100.0).round() as u64
}

/// A curve of `width` characters, scaled to its own highest value; nothing at all is its lowest step.
pub fn sparkline(values: &[u64], width: usize) -> String {
    let shown = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let highest = shown.iter().copied().max().unwrap_or(0).max(1);
    let step = |value: u64| {
        let place = (u128::from(value) * 7).div_ceil(u128::from(highest));
        usize::try_from(place).ok().and_then(|place| STEPS.get(place)).copied().unwrap_or('█')
    };
    let curve: String = shown.iter().copied().map(step).collect();
    format!("{}{curve}", " ".repeat(width - shown.len()))
}

/// All of it, as lines. With `history` interfaces have curves, as wide as `width` allows.
pub fn lines(rates: &Rates, history: Option<&History>, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let (word, tone) = match rates.trouble.as_slice() {
        [] => ("well", Tone::Good),
        _ => ("trouble", Tone::Warning),
    };
    lines.push(Line::of(Tone::Strong, "line        ").with(tone, word));
    lines.extend(
        rates.trouble.iter().map(|trouble| Line::of(tone, format!("            - {}", printable(trouble)))),
    );
    for missing in &rates.missing {
        lines.push(Line::of(Tone::Warning, format!("            not told: {}", printable(missing))));
    }
    let curve = width.saturating_sub(80).clamp(12, HISTORY_MAX);
    let heading = if history.is_some() { "" } else { "  since it came to be" };
    lines.push(Line::of(
        Tone::Faint,
        format!("{:<15}      {:>14} {:>14}{heading}", "interface", "rate", "packets/s"),
    ));
    for interface in rates.interfaces.iter().filter(|interface| interface.up || is_used(interface)) {
        lines.extend(interface_lines(interface, history, curve));
    }
    lines.push(tcp_line(rates));
    if let Some(history) = history {
        let percent = sparkline(&history.sent_again, curve);
        lines.push(Line::plain("            sent again ").with(Tone::Warning, percent));
    }
    if let Some(trips) = rates.tcp.round_trips {
        lines.push(Line::plain(format!(
            "            round trip {} at least, {} median, {} at 99 %, over {} connections with other hosts",
            micros(trips.min_micros),
            micros(trips.median_micros),
            micros(trips.p99_micros),
            count(trips.connections),
        )));
    }
    let heavy = rates.heavy.as_deref().unwrap_or_default();
    if !heavy.is_empty() {
        let heading = format!("{:<40} {:>12} {:>14} {:>14}", "sends most", "way", "rate", "packets/s");
        lines.push(Line::of(Tone::Faint, heading));
        lines.extend(heavy.iter().take(TALKERS_SHOWN).map(heavy_line));
    } else if !rates.talkers.is_empty() {
        let heading = format!("{:<40} {:>12} {:>14} {:>14}", "talks with", "connections", "received", "sent");
        lines.push(Line::of(Tone::Faint, heading));
        lines.extend(rates.talkers.iter().take(TALKERS_SHOWN).map(talker_line));
    }
    if !rates.listeners.is_empty() {
        let heading = format!("{:<5} {:<28} {:>11}  {}", "port", "listens on", "queue", "program");
        lines.push(Line::of(Tone::Faint, heading));
        lines.extend(rates.listeners.iter().map(listener_line));
    }
    lines
}

/// One that is down and over which nothing ever went is left out.
fn is_used(interface: &InterfaceRates) -> bool {
    interface.received.total.packets + interface.sent.total.packets > 0
}

fn interface_lines(interface: &InterfaceRates, history: Option<&History>, curve: usize) -> Vec<Line> {
    let curves = history.and_then(|history| history.ways.get(&interface.name));
    let ways = [
        ("in", interface.received, curves.map(|(received, _)| received)),
        ("out", interface.sent, curves.map(|(_, sent)| sent)),
    ];
    let mut lines = Vec::new();
    for (place, (word, way, curve_of)) in ways.into_iter().enumerate() {
        let name = match (place, interface.up) {
            (0, _) => printable(&interface.name).into_owned(),
            (_, false) => "  down".to_owned(),
            _ => String::new(),
        };
        let rate = bits(way.bits_per_second);
        let head = format!("{name:<15}  {word:<3} {rate:>14} {:>14}", count(way.packets_per_second));
        let mut line = Line::plain(head);
        match curve_of {
            Some(values) => line = line.with(Tone::Good, format!("  {}", sparkline(values, curve))),
            None => line = line.with(Tone::Plain, format!("  {}", bytes(way.total.bytes))),
        }
        if way.total.errors + way.total.drops > 0 {
            let tone = if way.new_errors + way.new_drops > 0 { Tone::Bad } else { Tone::Faint };
            let lost = format!("  {} errors, {} dropped", count(way.total.errors), count(way.total.drops));
            line = line.with(tone, lost);
        }
        lines.push(line);
    }
    lines
}

fn tcp_line(rates: &Rates) -> Line {
    let tcp = &rates.tcp;
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{share:.2} %"));
    Line::of(Tone::Strong, "TCP         ").with(
        Tone::Plain,
        format!(
            "{} connections, {} segments/s sent; sent again {} now, {} since boot",
            count(tcp.established),
            count(tcp.segments_per_second),
            percent(tcp.sent_again_percent),
            percent(tcp.sent_again_percent_since_boot),
        ),
    )
}

/// What was counted in a second is a rate.
fn heavy_line(heavy: &Heavy) -> Line {
    let (address, way) = (heavy.address.to_string(), heavy.direction.as_str());
    let (rate, packets) = (bits(heavy.bytes.saturating_mul(8)), count(heavy.packets));
    Line::plain(format!("{address:<40} {way:>12} {rate:>14} {packets:>14}"))
}

fn talker_line(talker: &TalkerRates) -> Line {
    let rates = [talker.received_bits_per_second, talker.sent_bits_per_second].map(bits);
    let [received, sent] = rates;
    let all = talker.received_bytes.saturating_add(talker.sent_bytes);
    let address = talker.address.to_string();
    Line::plain(format!(
        "{address:<40} {:>12} {received:>14} {sent:>14}  {} in all",
        talker.connections,
        bytes(all)
    ))
}

fn listener_line(listener: &Listener) -> Line {
    let protocol = match listener.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let address = if listener.address.is_unspecified() {
        "all addresses".to_owned()
    } else {
        listener.address.to_string()
    };
    let place = format!("{protocol} {address}");
    let queue = listener.queue_max.map_or(String::new(), |most| format!("{}/{}", listener.queue, most));
    let tone = if is_full(listener) { Tone::Bad } else { Tone::Plain };
    let line = Line::plain(format!("{:<5} {place:<28} ", listener.port)).with(tone, format!("{queue:>11}  "));
    let Some(holder) = &listener.holder else { return line.with(Tone::Faint, "not known yet") };
    let mut who = printable(&holder.program).into_owned();
    let number = holder.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
    let user = holder.user.as_ref().map(|user| format!(" of {}", printable(&user.text))).unwrap_or_default();
    who.push_str(&format!("{number}{user}"));
    let rest = [&holder.unit, &holder.package, &holder.container];
    for text in rest.into_iter().flatten() {
        who.push_str(&format!(", {}", printable(text)));
    }
    let line = line.with(Tone::Plain, who);
    if holder.severity > Severity::Info {
        return line.with(Tone::Warning, format!(": {}", printable(&holder.reasons.join("; "))));
    }
    line
}

/// Bits a second.
fn bits(rate: u64) -> String {
    let units = [("Gbit/s", 1_000_000_000u64), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)];
    match units.iter().find(|(_, unit)| rate >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", rate / unit, rate % unit * 10 / unit),
        None => format!("{rate} bit/s"),
    }
}

/// A short length of time.
fn micros(micros: u32) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_as_wide_as_asked_and_scaled_to_its_highest() {
        assert_eq!(sparkline(&[], 4), "    ");
        assert_eq!(sparkline(&[0, 0], 4), "  ▁▁");
        assert_eq!(sparkline(&[9, 0, 1, 350, 700], 4), "▁▂▅█");
        assert_eq!(sparkline(&[u64::MAX, 1], 2), "█▂");
        let mut curve = Vec::new();
        (0..200).for_each(|value| append(&mut curve, value));
        assert_eq!((curve.len(), curve.first(), curve.last()), (HISTORY_MAX, Some(&140), Some(&199)));
    }

    #[test]
    fn a_line_is_cut_by_what_is_seen_not_by_its_colours() {
        let line = Line::of(Tone::Plain, "abc").with(Tone::Good, "▁▂▃").with(Tone::Bad, "x");
        assert_eq!(line.render(5, Style::plain()), "abc▁▂");
        assert_eq!(line.render(80, Style::plain()), "abc▁▂▃x");
        assert_eq!(line.render(0, Style::plain()), "");
    }

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!(
            [0, 999, 1_500, 12_340_000, 9_000_000_000].map(bits),
            ["0 bit/s", "999 bit/s", "1.5 kbit/s", "12.3 Mbit/s", "9.0 Gbit/s"]
        );
        assert_eq!([7, 1_250, 2_500_000].map(micros), ["7 us", "1.2 ms", "2.5 s"]);
    }
}
