//! Sets of bytes.

/// Which of the 256 bytes are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// Every byte.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// The bytes that `wanted` accepts.
    pub fn of(wanted: impl Fn(u8) -> bool) -> Self {
        (0..=u8::MAX).filter(|byte| wanted(*byte)).fold(Self::default(), Self::with)
    }

    /// With `byte`.
    #[must_use]
    pub fn with(mut self, byte: u8) -> Self {
        if let Some(word) = self.0.get_mut(usize::from(byte >> 6)) {
            *word |= 1 << (byte & 63);
        }
        self
    }

    /// Without `byte`.
    #[must_use]
    pub fn without(mut self, byte: u8) -> Self {
        if let Some(word) = self.0.get_mut(usize::from(byte >> 6)) {
            *word &= !(1 << (byte & 63));
        }
        self
    }

    /// Whether `byte` is in it.
    pub fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }

    /// The byte, where there is only one.
    pub fn only(&self) -> Option<u8> {
        let count: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        let (high, word) = (0u8..4).zip(self.0).find(|(_, word)| *word != 0).filter(|_| count == 1)?;
        u8::try_from(word.trailing_zeros()).ok().map(|low| (high << 6) | low)
    }

    /// Whether some byte is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }
}
