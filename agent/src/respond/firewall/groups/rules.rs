//! Rules of the agent's tables as one BPF program: the lease, the reading of a packet, then rule after rule, of which the first that
//! matches decides. A packet that none matches passes.
//!
//! There is no loop and no jump backward, so that the verifier of any kernel goes through it once. For that all that is known of a packet
//! lies on the stack, where the verifier forgets by which way it came there; bytes that stand for "none" are never zero, and lie where
//! they are not kept as numbers.

use super::super::expression::{Expression, IPV4, IPV6, Load, Rule, Verdict};
use super::super::table::Set;
use crate::instructions::{Code, Label, Operation, Register, Side, Size, When};
use Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};

/// Rules of one program. What the verifier keeps in mind while it goes through them bounds their number.
pub const RULES_MAX: usize = 512;
/// Bytes of a key of the map of networks: number of the set, then the address.
pub const KEY_BYTES: usize = 4 + ADDRESS_BYTES;
const ADDRESS_BYTES: usize = 16;
/// How deep below the root a group is looked for.
const DEPTH_MAX: i32 = 13;

/// Helpers of the kernel, by their numbers in its interface.
const MAP_LOOKUP: i32 = 1;
const SINCE_BOOT_AWAKE: i32 = 5;
const LOAD_BYTES: i32 = 26;
const USER_OF_SOCKET: i32 = 47;
const ANCESTOR_GROUP: i32 = 83;
const SINCE_BOOT: i32 = 125;

/// `ifindex` of `struct __sk_buff`; loopback has the same in every network namespace.
const INTERFACE: i16 = 40;
const LOOPBACK: i32 = 1;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// The answers.
const PASS: i32 = 1;
const DROP: i32 = 0;

/// Places on the stack, from its end: the time, the network header, the beginning of the transport header, one byte each of version,
/// protocol and how much of the transport header there is; a key of the networks; a key of the paces.
const NOW: i16 = -8;
const HEADER: i16 = -48;
const HEADER_BYTES: i32 = 40;
const HEADER_V4_BYTES: i32 = 20;
const TRANSPORT: i16 = -64;
const TRANSPORT_BYTES: i16 = 14;
const PORTS_BYTES: i16 = 4;
const VERSION: i16 = -71;
const PROTOCOL: i16 = -70;
const THERE: i16 = -69;
const KEY: i16 = -96;
const PLACE: i16 = -100;
/// No version, and no protocol (255 is reserved).
const NONE: i32 = 255;
/// Nothing is there of the transport header.
const NOTHING: i32 = 1;

/// Headers that may stand between that of IPv6 and what it carries, and how many are gone past.
const HOP_BY_HOP: i32 = 0;
const ROUTING: i32 = 43;
const FRAGMENT: i32 = 44;
const AUTHENTICATION: i32 = 51;
const OPTIONS: i32 = 60;
const EXTENSIONS_MAX: usize = 8;

/// The clock that a lease runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Since boot.
    Boot,
    /// The same without the time in which the machine slept, for kernels before 5.8.
    Awake,
}

/// What a program is made from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// In their order.
    pub rules: &'a [Rule],
    /// Of their table; a set's place here is its number in the map of networks.
    pub sets: &'a [Set],
    /// Descriptor of the map of networks, where there are sets.
    pub networks: Option<i32>,
    /// Descriptor of the map of paces: when the next packet is due of each rule that has one, counted in their order.
    pub paces: i32,
    /// The clock, and when the lease ends on it, in nanoseconds.
    pub lease: (Clock, u64),
}

/// How many of the rules have a pace.
pub fn paces(rules: &[Rule]) -> usize {
    let has = |rule: &&Rule| rule.iter().any(|one| matches!(one, Expression::AtMost(..)));
    rules.iter().filter(has).count()
}

/// The program.
///
/// # Errors
/// What cannot be said, in words.
pub fn program(source: &Source<'_>, first_pace: usize) -> Result<Vec<u64>, String> {
    if source.rules.len() > RULES_MAX {
        let count = source.rules.len();
        return Err(format!("{count} rules are more than cgroup BPF goes through: {RULES_MAX}"));
    }
    let mut code = Code::default();
    hold_to_lease(&mut code, source);
    read_packet(&mut code);
    let mut pace = first_pace;
    for rule in source.rules {
        let mut words = Words { code, source, next: Label::default(), loaded: None, mask: None, pace };
        rule.iter().try_for_each(|expression| words.take(expression))?;
        pace = words.pace;
        code = words.code;
        if words.next.is_empty() {
            // It matches every packet, and the kernel takes no instruction that is never come to.
            return finished(code);
        }
        code.land(words.next);
    }
    code.answer(PASS);
    finished(code)
}

fn finished(code: Code) -> Result<Vec<u64>, String> {
    code.finish().ok_or_else(|| "a rule is longer than a program of BPF can jump".to_owned())
}

/// After the lease everything passes.
fn hold_to_lease(code: &mut Code, source: &Source<'_>) {
    let (clock, ends) = source.lease;
    code.copy(R6, R1);
    // Not read here: it makes the map one of the program's, which its name is looked for in.
    code.set_map(R1, source.paces);
    code.call(if clock == Clock::Boot { SINCE_BOOT } else { SINCE_BOOT_AWAKE });
    code.set_long(R1, ends);
    let mut holds = Label::default();
    code.jump_if(When::Less, R0, Side::Of(R1), &mut holds);
    code.answer(PASS);
    code.land(holds);
    code.store(R10, NOW, R0, Size::Long);
}

/// Calls the helper that copies `bytes` of the packet, from `at` on, to the stack. Its answer is 0 when they were there.
fn copy_packet(code: &mut Code, at: Side, to: i16, bytes: i32) {
    code.copy(R1, R6);
    code.alter(Operation::Set, R2, at);
    code.copy(R3, R10);
    code.alter(Operation::Add, R3, Side::Number(to.into()));
    code.set(R4, bytes);
    code.call(LOAD_BYTES);
}

fn read_packet(code: &mut Code) {
    let [mut is_read, mut has_protocol, mut transport, mut v4] = [(); 4].map(|()| Label::default());
    // Both places are written to on any way, whether there is as much or not.
    copy_packet(code, Side::Number(0), TRANSPORT, i32::from(NOW - TRANSPORT));
    for (place, number) in [(VERSION, NONE), (PROTOCOL, NONE), (THERE, NOTHING)] {
        code.store_number(R10, place, number, Size::Byte);
    }
    copy_packet(code, Side::Number(0), HEADER, HEADER_BYTES);
    code.copy(R7, R0);
    let mut begins = Label::default();
    code.jump_if(When::Is, R7, Side::Number(0), &mut begins);
    copy_packet(code, Side::Number(0), HEADER, HEADER_V4_BYTES);
    code.jump_if(When::IsNot, R0, Side::Number(0), &mut is_read);
    code.land(begins);
    code.load(R1, R10, HEADER, Size::Byte);
    code.alter(Operation::Down, R1, Side::Number(4));
    code.jump_if(When::Is, R1, Side::Number(4), &mut v4);
    code.jump_if(When::IsNot, R1, Side::Number(6), &mut is_read);
    code.jump_if(When::IsNot, R7, Side::Number(0), &mut is_read);
    code.store_number(R10, VERSION, 6, Size::Byte);
    code.load(R8, R10, HEADER + 6, Size::Byte);
    code.set(R9, HEADER_BYTES);
    for _ in 0..EXTENSIONS_MAX {
        pass_extension(code, &mut transport, &mut has_protocol);
    }
    // More of them than anybody sends: what comes behind is not known.
    code.set(R8, NONE);
    code.jump(&mut has_protocol);
    code.land(v4);
    code.store_number(R10, VERSION, 4, Size::Byte);
    code.load(R8, R10, HEADER + 9, Size::Byte);
    code.load(R9, R10, HEADER, Size::Byte);
    code.alter(Operation::And, R9, Side::Number(15));
    code.alter(Operation::Up, R9, Side::Number(2));
    // A later part of a packet: its ports were in the first.
    code.load(R1, R10, HEADER + 6, Size::Byte);
    code.alter(Operation::And, R1, Side::Number(0x1f));
    code.load(R2, R10, HEADER + 7, Size::Byte);
    code.alter(Operation::Or, R1, Side::Of(R2));
    code.jump_if(When::IsNot, R1, Side::Number(0), &mut has_protocol);
    code.land(transport);
    for bytes in [TRANSPORT_BYTES, PORTS_BYTES] {
        let mut fewer = Label::default();
        copy_packet(code, Side::Of(R9), TRANSPORT, bytes.into());
        code.jump_if(When::IsNot, R0, Side::Number(0), &mut fewer);
        code.store_number(R10, THERE, bytes.into(), Size::Byte);
        code.jump(&mut has_protocol);
        code.land(fewer);
    }
    code.land(has_protocol);
    code.store(R10, PROTOCOL, R8, Size::Byte);
    code.land(is_read);
}

/// Goes past one header of IPv6: `R8` is what comes at `R9`. At `transport` when that is none of them, at `broken` when nothing
/// can be said of what it carries.
fn pass_extension(code: &mut Code, transport: &mut Label, broken: &mut Label) {
    let [mut extension, mut part, mut authentication, mut passed] = [(); 4].map(|()| Label::default());
    for header in [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS] {
        code.jump_if(When::Is, R8, Side::Number(header), &mut extension);
    }
    code.jump(transport);
    code.land(extension);
    copy_packet(code, Side::Of(R9), TRANSPORT, 4);
    code.jump_if(When::IsNot, R0, Side::Number(0), broken);
    code.load(R1, R10, TRANSPORT + 1, Size::Byte);
    code.copy(R2, R8);
    code.load(R8, R10, TRANSPORT, Size::Byte);
    code.jump_if(When::Is, R2, Side::Number(FRAGMENT), &mut part);
    code.jump_if(When::Is, R2, Side::Number(AUTHENTICATION), &mut authentication);
    for (label, more, shift) in [(None, 1, 3), (Some(authentication), 2, 2)] {
        if let Some(label) = label {
            code.land(label);
        }
        code.alter(Operation::Add, R1, Side::Number(more));
        code.alter(Operation::Up, R1, Side::Number(shift));
        code.alter(Operation::Add, R9, Side::Of(R1));
        code.jump(&mut passed);
    }
    code.land(part);
    code.alter(Operation::Add, R9, Side::Number(8));
    code.load(R1, R10, TRANSPORT + 3, Size::Byte);
    code.alter(Operation::And, R1, Side::Number(0xf8));
    code.load(R2, R10, TRANSPORT + 2, Size::Byte);
    code.alter(Operation::Or, R1, Side::Of(R2));
    code.jump_if(When::IsNot, R1, Side::Number(0), broken);
    code.land(passed);
}

/// A rule that is being written: what is loaded waits for what it is compared with.
struct Words<'a> {
    code: Code,
    source: &'a Source<'a>,
    /// Where the next rule begins.
    next: Label,
    loaded: Option<Load>,
    mask: Option<&'a [u8]>,
    pace: usize,
}

impl<'a> Words<'a> {
    fn take(&mut self, expression: &'a Expression) -> Result<(), String> {
        match expression {
            Expression::Load(load) => (self.loaded, self.mask) = (Some(*load), None),
            Expression::Mask(mask) => self.mask = Some(mask),
            Expression::Is(value) => self.is(value)?,
            Expression::IsNot(value) => self.is_not(value)?,
            Expression::Between(low, high) => self.between(low, high)?,
            Expression::InNamed(set) => self.in_set(set)?,
            Expression::AtMost(rate, burst) => self.at_most(*rate, *burst),
            Expression::In(_) | Expression::MoreThan(..) => {
                return Err("a rate for each address is not held by cgroup BPF here".to_owned());
            }
            Expression::Reject | Expression::Verdict(Verdict::Drop) => self.code.answer(DROP),
            Expression::Verdict(Verdict::Accept | Verdict::Return) => self.code.answer(PASS),
            Expression::Verdict(Verdict::Jump(_)) => {
                return Err("a rule of the agent jumps, which none should".to_owned());
            }
        }
        Ok(())
    }

    fn is(&mut self, value: &[u8]) -> Result<(), String> {
        let byte = value.first().copied().unwrap_or(0);
        match self.loaded {
            Some(Load::Family) => {
                let version = match byte {
                    IPV4 => 4,
                    IPV6 => 6,
                    _ => return Err("a rule of the agent looks for no family".to_owned()),
                };
                self.is_byte(VERSION, version);
            }
            Some(Load::Protocol) => self.is_byte(PROTOCOL, byte.into()),
            Some(Load::InterfaceIn | Load::InterfaceOut) => {
                self.code.load(R1, R6, INTERFACE, Size::Word);
                self.code.jump_if(When::IsNot, R1, Side::Number(LOOPBACK), &mut self.next);
            }
            Some(Load::User) => {
                self.code.copy(R1, R6);
                self.code.call(USER_OF_SOCKET);
                self.code.set_word(R2, four(value)?);
                self.code.jump_if(When::IsNot, R0, Side::Of(R2), &mut self.next);
            }
            // What comes to a socket of this host was for this host.
            Some(Load::KindOfDestination) if four(value)? == LOCAL => {}
            Some(Load::Cgroup(_)) => self.in_group(value)?,
            Some(Load::Network(..) | Load::Transport(..)) => {
                let at = self.field(value.len())?;
                self.is_bytes(at, value);
            }
            _ => return Err("a rule of the agent looks at what cgroup BPF does not see".to_owned()),
        }
        Ok(())
    }

    fn is_byte(&mut self, place: i16, value: i32) {
        self.code.load(R1, R10, place, Size::Byte);
        self.code.jump_if(When::IsNot, R1, Side::Number(value), &mut self.next);
    }

    /// Goes on with the next rule unless the bytes at `at`, of which a mask may leave some out, are these.
    fn is_bytes(&mut self, at: i16, value: &[u8]) {
        let mask = self.mask;
        for (place, size, bytes) in pieces(at, value) {
            let kept = mask.map(|mask| part(mask, place.abs_diff(at), bytes.len()));
            if kept == Some(0) {
                continue;
            }
            self.code.load(R1, R10, place, size);
            if let Some(kept) = kept {
                self.code.keep(R1, kept);
            }
            self.code.set_word(R2, part(bytes, 0, bytes.len()));
            self.code.jump_if(When::IsNot, R1, Side::Of(R2), &mut self.next);
        }
    }

    fn is_not(&mut self, value: &[u8]) -> Result<(), String> {
        let &[unwanted] = value else {
            return Err("a rule of the agent compares more than a byte for being different".to_owned());
        };
        if self.loaded == Some(Load::Protocol) {
            self.code.load(R1, R10, PROTOCOL, Size::Byte);
            self.code.jump_if(When::Is, R1, Side::Number(unwanted.into()), &mut self.next);
            self.code.jump_if(When::Is, R1, Side::Number(NONE), &mut self.next);
            return Ok(());
        }
        let at = self.field(1)?;
        self.code.load(R1, R10, at, Size::Byte);
        self.code.keep(R1, self.mask.map_or(u32::from(u8::MAX), |mask| part(mask, 0, 1)));
        self.code.jump_if(When::Is, R1, Side::Number(unwanted.into()), &mut self.next);
        Ok(())
    }

    fn between(&mut self, low: &[u8], high: &[u8]) -> Result<(), String> {
        let at = self.field(low.len())?;
        let bounds = match (low, high) {
            (&[low], &[high]) => (i32::from(low), i32::from(high)),
            (&[a, b], &[c, d]) => (u16::from_be_bytes([a, b]).into(), u16::from_be_bytes([c, d]).into()),
            _ => return Err("a rule of the agent compares what is no number".to_owned()),
        };
        self.code.load(R1, R10, at, if low.len() == 1 { Size::Byte } else { Size::Half });
        if low.len() == 2 {
            self.code.read_network_order(R1);
        }
        self.code.jump_if(When::Less, R1, Side::Number(bounds.0), &mut self.next);
        self.code.jump_if(When::More, R1, Side::Number(bounds.1), &mut self.next);
        Ok(())
    }

    fn in_set(&mut self, name: &str) -> Result<(), String> {
        let number = self.source.sets.iter().position(|set| set.name == name);
        let number = number.and_then(|number| i32::try_from(number).ok());
        let (Some(number), Some(networks)) = (number, self.source.networks) else {
            return Err("a rule of the agent names a set that its table has not".to_owned());
        };
        let bytes = if matches!(self.loaded, Some(Load::Network(_, 4))) { 4 } else { ADDRESS_BYTES };
        let (at, mask) = (self.field(bytes)?, self.mask);
        self.code.store_number(R10, KEY, number, Size::Word);
        for ((from, to), offset) in
            (at..).step_by(4).zip((KEY + 4..).step_by(4)).zip((0..ADDRESS_BYTES).step_by(4))
        {
            if offset >= bytes {
                self.code.store_number(R10, to, 0, Size::Word);
                continue;
            }
            self.code.load(R1, R10, from, Size::Word);
            if let Some(mask) = mask {
                self.code.keep(R1, part(mask, u16::try_from(offset).unwrap_or(0), 4));
            }
            self.code.store(R10, to, R1, Size::Word);
        }
        self.look_up(networks, KEY);
        Ok(())
    }

    /// Goes on with the next rule when the map has nothing under the key at `key`; else `R0` is where that lies.
    fn look_up(&mut self, map: i32, key: i16) {
        self.code.set_map(R1, map);
        self.code.copy(R2, R10);
        self.code.alter(Operation::Add, R2, Side::Number(key.into()));
        self.code.call(MAP_LOOKUP);
        self.code.jump_if(When::Is, R0, Side::Number(0), &mut self.next);
    }

    /// When the next one is due lies in the map. Two processors at once may let one more pass.
    fn at_most(&mut self, rate: u64, burst: u32) {
        let apart = 1_000_000_000 / rate.max(1);
        let early = apart.saturating_mul(u64::from(burst));
        self.code.store_number(R10, PLACE, i32::try_from(self.pace).unwrap_or(0), Size::Word);
        self.pace += 1;
        self.look_up(self.source.paces, PLACE);
        let mut is_later = Label::default();
        self.code.load(R1, R10, NOW, Size::Long);
        self.code.load(R2, R0, 0, Size::Long);
        self.code.jump_if(When::AtLeast, R2, Side::Of(R1), &mut is_later);
        self.code.copy(R2, R1);
        self.code.land(is_later);
        self.code.copy(R3, R2);
        self.code.alter(Operation::Subtract, R3, Side::Of(R1));
        self.code.set_long(R4, early);
        self.code.jump_if(When::AtLeast, R3, Side::Of(R4), &mut self.next);
        self.code.set_long(R4, apart);
        self.code.alter(Operation::Add, R2, Side::Of(R4));
        self.code.store(R0, 0, R2, Size::Long);
    }

    /// In the group of that number or below it, wherever that lies: depths are not the same in every namespace.
    fn in_group(&mut self, value: &[u8]) -> Result<(), String> {
        let number = value.try_into().map(u64::from_ne_bytes);
        let number = number.map_err(|_| "a control group has a number of eight bytes".to_owned())?;
        let mut found = Label::default();
        for level in 0..DEPTH_MAX {
            self.code.copy(R1, R6);
            self.code.set(R2, level);
            self.code.call(ANCESTOR_GROUP);
            self.code.set_long(R1, number);
            self.code.jump_if(When::Is, R0, Side::Of(R1), &mut found);
        }
        self.code.jump(&mut self.next);
        self.code.land(found);
        Ok(())
    }

    /// Where on the stack what is loaded lies, of `bytes`. Goes on with the next rule when a packet has not as much.
    fn field(&mut self, bytes: usize) -> Result<i16, String> {
        let refused = || "a rule of the agent looks at what cgroup BPF does not read".to_owned();
        let (base, room, offset, length) = match self.loaded {
            Some(Load::Network(offset, length)) => (HEADER, HEADER_BYTES.unsigned_abs(), offset, length),
            Some(Load::Transport(offset, length)) => {
                (TRANSPORT, TRANSPORT_BYTES.unsigned_abs().into(), offset, length)
            }
            _ => return Err(refused()),
        };
        let end = offset.saturating_add(length);
        if usize::try_from(length) != Ok(bytes) || end > room {
            return Err(refused());
        }
        if base == TRANSPORT {
            self.code.load(R1, R10, THERE, Size::Byte);
            let end = i32::try_from(end).map_err(|_| refused())?;
            self.code.jump_if(When::Less, R1, Side::Number(end), &mut self.next);
        }
        Ok(base + i16::try_from(offset).map_err(|_| refused())?)
    }
}

/// The pieces in which bytes at a place of the stack are read: as large as they may be where they lie.
fn pieces(at: i16, bytes: &[u8]) -> Vec<(i16, Size, &[u8])> {
    let (mut pieces, mut place, mut rest) = (Vec::new(), at, bytes);
    while !rest.is_empty() {
        let (size, length) = match rest.len() {
            4.. if place % 4 == 0 => (Size::Word, 4),
            2.. if place % 2 == 0 => (Size::Half, 2),
            _ => (Size::Byte, 1),
        };
        let (piece, others) = rest.split_at(length);
        pieces.push((place, size, piece));
        place += i16::try_from(length).unwrap_or(0);
        rest = others;
    }
    pieces
}

/// Up to four bytes from an offset on, as this machine reads them.
fn part(bytes: &[u8], offset: u16, length: usize) -> u32 {
    let mut four = [0; 4];
    let from = bytes.iter().skip(offset.into());
    four.iter_mut().zip(from.take(length)).for_each(|(to, from)| *to = *from);
    u32::from_ne_bytes(four)
}

fn four(value: &[u8]) -> Result<u32, String> {
    value.try_into().map(u32::from_ne_bytes).map_err(|_| "a rule of the agent compares no number".to_owned())
}
