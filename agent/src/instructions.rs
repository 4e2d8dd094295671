//! Instructions of BPF (RFC 9669) as the kernel takes them, on machines whose bytes go from low to high: as many of them as the
//! firewall's rules and the guard need.

/// A register: `R0` answers, `R1` to `R5` are arguments and lost in calls, `R6` to `R9` stay, `R10` is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// See [`Register`].
    R0 = 0,
    /// See [`Register`].
    R1,
    /// See [`Register`].
    R2,
    /// See [`Register`].
    R3,
    /// See [`Register`].
    R4,
    /// See [`Register`].
    R6 = 6,
    /// See [`Register`].
    R7,
    /// See [`Register`].
    R8,
    /// See [`Register`].
    R9,
    /// See [`Register`].
    R10,
}

/// How much is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One byte.
    Byte = 0x10,
    /// Two.
    Half = 0x08,
    /// Four.
    Word = 0x00,
    /// Eight.
    Long = 0x18,
}

/// What is done to a register, of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Adds.
    Add = 0x00,
    /// Takes away.
    Subtract = 0x10,
    /// Joins bits.
    Or = 0x40,
    /// Keeps bits.
    And = 0x50,
    /// Shifts up.
    Up = 0x60,
    /// Shifts down.
    Down = 0x70,
    /// Takes over.
    Set = 0xb0,
}

/// When a jump is made, without signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Equal.
    Is = 0x10,
    /// Greater.
    More = 0x20,
    /// Greater or equal.
    AtLeast = 0x30,
    /// Not equal.
    IsNot = 0x50,
    /// Less.
    Less = 0xa0,
}

/// The other side of an operation or comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A register.
    Of(Register),
    /// A number, extended with its sign.
    Number(i32),
}

/// Places that jump to where is not known yet.
#[derive(Debug, Default)]
pub struct Label(Vec<usize>);

impl Label {
    /// Whether nothing jumps there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A program that is being written.
#[derive(Clone, Debug, Default)]
pub struct Code {
    words: Vec<u64>,
    /// A jump was too far.
    torn: bool,
}

/// Classes, and what marks a register as the other side.
const LOAD_LONG: u8 = 0x18;
const LOAD: u8 = 0x61;
const STORE_NUMBER: u8 = 0x62;
const STORE: u8 = 0x63;
const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
const OF_REGISTER: u8 = 0x08;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_END | BPF_TO_BE`.
const TO_NETWORK: u8 = 0xdc;
/// `BPF_PSEUDO_MAP_FD`.
const OF_MAP: u8 = 1;

impl Code {
    /// The whole; none when a jump is farther than an instruction can say.
    pub fn finish(self) -> Option<Vec<u64>> {
        (!self.torn).then_some(self.words)
    }

    /// `register` is changed by the other side.
    pub fn alter(&mut self, operation: Operation, register: Register, by: Side) {
        match by {
            Side::Of(other) => self.word(ALU64 | OF_REGISTER | operation as u8, register, other as u8, 0, 0),
            Side::Number(number) => self.word(ALU64 | operation as u8, register, 0, 0, number),
        }
    }

    /// Takes over another register.
    pub fn copy(&mut self, to: Register, from: Register) {
        self.alter(Operation::Set, to, Side::Of(from));
    }

    /// Takes over a number.
    pub fn set(&mut self, to: Register, number: i32) {
        self.alter(Operation::Set, to, Side::Number(number));
    }

    /// Takes over 32 bits; those above are none.
    pub fn set_word(&mut self, to: Register, number: u32) {
        self.word(ALU32 | Operation::Set as u8, to, 0, 0, number.cast_signed());
    }

    /// Keeps those of the lower 32 bits.
    pub fn keep(&mut self, register: Register, mask: u32) {
        self.word(ALU32 | Operation::And as u8, register, 0, 0, mask.cast_signed());
    }

    /// Takes over 64 bits.
    pub fn set_long(&mut self, to: Register, number: u64) {
        self.long(to, 0, number);
    }

    /// Takes over a map, by its descriptor.
    pub fn set_map(&mut self, to: Register, map: i32) {
        self.long(to, OF_MAP, u64::from(map.cast_unsigned()));
    }

    /// The lower 16 bits, from the network's order to this machine's.
    pub fn read_network_order(&mut self, register: Register) {
        self.word(TO_NETWORK, register, 0, 0, 16);
    }

    /// Reads from `at` behind a register.
    pub fn load(&mut self, to: Register, from: Register, at: i16, size: Size) {
        self.word(LOAD | size as u8, to, from as u8, at, 0);
    }

    /// Writes to `at` behind a register.
    pub fn store(&mut self, to: Register, at: i16, from: Register, size: Size) {
        self.word(STORE | size as u8, to, from as u8, at, 0);
    }

    /// Writes a number.
    pub fn store_number(&mut self, to: Register, at: i16, number: i32, size: Size) {
        self.word(STORE_NUMBER | size as u8, to, 0, at, number);
    }

    /// Calls a helper of the kernel, by its number.
    pub fn call(&mut self, helper: i32) {
        self.word(CALL, Register::R0, 0, 0, helper);
    }

    /// Ends with an answer.
    pub fn answer(&mut self, number: i32) {
        self.set(Register::R0, number);
        self.word(EXIT, Register::R0, 0, 0, 0);
    }

    /// Goes on at a label when it is so.
    pub fn jump_if(&mut self, when: When, register: Register, side: Side, to: &mut Label) {
        to.0.push(self.words.len());
        match side {
            Side::Of(other) => self.word(JUMP | OF_REGISTER | when as u8, register, other as u8, 0, 0),
            Side::Number(number) => self.word(JUMP | when as u8, register, 0, 0, number),
        }
    }

    /// Goes on at a label.
    pub fn jump(&mut self, to: &mut Label) {
        to.0.push(self.words.len());
        self.word(JUMP, Register::R0, 0, 0, 0);
    }

    /// A label is here.
    pub fn land(&mut self, label: Label) {
        for from in label.0 {
            let distance = i16::try_from(self.words.len().saturating_sub(from).saturating_sub(1));
            self.torn |= distance.is_err();
            if let (Some(word), Ok(distance)) = (self.words.get_mut(from), distance) {
                let [code, registers, _, _, rest @ ..] = word.to_ne_bytes();
                let [low, high] = distance.to_ne_bytes();
                let [a, b, c, d] = rest;
                *word = u64::from_ne_bytes([code, registers, low, high, a, b, c, d]);
            }
        }
    }

    fn long(&mut self, to: Register, source: u8, number: u64) {
        let [a, b, c, d, high @ ..] = number.to_ne_bytes();
        self.word(LOAD_LONG, to, source, 0, i32::from_ne_bytes([a, b, c, d]));
        self.word(0, Register::R0, 0, 0, i32::from_ne_bytes(high));
    }

    fn word(&mut self, code: u8, to: Register, source: u8, offset: i16, number: i32) {
        let ([low, high], [a, b, c, d]) = (offset.to_ne_bytes(), number.to_ne_bytes());
        self.words.push(u64::from_ne_bytes([code, to as u8 | source << 4, low, high, a, b, c, d]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_as_the_kernel_writes_them() {
        let mut code = Code::default();
        let mut end = Label::default();
        code.load(Register::R1, Register::R10, -48, Size::Word);
        code.jump_if(When::IsNot, Register::R1, Side::Number(4), &mut end);
        code.set_long(Register::R2, 0x0102_0304_0506_0708);
        code.land(end);
        code.answer(1);
        let bytes = code.finish().expect("no jump is far").into_iter().flat_map(u64::to_ne_bytes);
        let wanted: [[u8; 8]; 6] = [
            [0x61, 0xa1, 0xd0, 0xff, 0, 0, 0, 0],
            [0x55, 0x01, 2, 0, 4, 0, 0, 0],
            [0x18, 0x02, 0, 0, 8, 7, 6, 5],
            [0, 0, 0, 0, 4, 3, 2, 1],
            [0xb7, 0, 0, 0, 1, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes.collect::<Vec<u8>>(), wanted.concat());
    }

    #[test]
    fn a_jump_that_is_too_far_is_seen() {
        let mut code = Code::default();
        let mut end = Label::default();
        code.jump(&mut end);
        for _ in 0..40_000 {
            code.set(Register::R0, 0);
        }
        code.land(end);
        assert_eq!(code.finish(), None);
    }
}
