//! What content looks like, judged from samples of the first block that is read to hash a file anyway: how even its
//! bytes are, and what format its first bytes claim. No copy of the content is kept.
//!
//! Evenness is the index of coincidence (how likely two bytes of a sample are equal), which needs no logarithm and
//! judges well from a hundred bytes on; `entropy` is its logarithm, the collision entropy: 8 bits a byte for what is
//! encrypted, a little less for what is compressed, 3.5 to 4.5 for text.

/// Bytes of each sample.
const SAMPLE_BYTES: usize = 2_048;
/// From so many bytes on a second sample is taken from the middle: some formats of encrypted files begin with text.
const SECOND_SAMPLE_FROM: usize = 4 * SAMPLE_BYTES;
/// Shorter content is not judged by its evenness.
const JUDGED_BYTES_MIN: usize = 64;

/// What content is, as far as samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Format {
    /// Not looked at, or nothing to tell.
    #[default]
    Unknown,
    /// No bytes at all.
    Empty,
    /// One byte all over: overwritten to be gone.
    Blank,
    /// Text.
    Text,
    /// Text that begins with `#!`.
    Script,
    /// Base64 of bytes that are even.
    Armoured,
    /// Bytes as even as chance, in no format that is known to be so.
    Opaque,
    /// A format that holds encrypted data (OpenSSL, age, PGP messages, LUKS).
    Encrypted,
    /// A program or library.
    Executable,
    /// Compressed, or an archive.
    Compressed,
    /// Picture, sound, film or font.
    Media,
    /// Document of an office or for print.
    Document,
    /// A database.
    Database,
    /// A certificate or key in PEM.
    Pem,
    /// Anything else.
    Binary,
}

impl Format {
    const ALL: [Self; 15] = [
        Self::Unknown,
        Self::Empty,
        Self::Blank,
        Self::Text,
        Self::Script,
        Self::Armoured,
        Self::Opaque,
        Self::Encrypted,
        Self::Executable,
        Self::Compressed,
        Self::Media,
        Self::Document,
        Self::Database,
        Self::Pem,
        Self::Binary,
    ];

    /// Whether nobody can read it without a key, as far as one can see from outside.
    pub fn is_scrambled(self) -> bool {
        matches!(self, Self::Armoured | Self::Opaque | Self::Encrypted)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Traits {
    /// What it is.
    pub format: Format,
    /// Collision entropy of the most even sample, in sixteenths of a bit for each byte.
    pub entropy: Option<u8>,
}

impl Traits {
    /// Of a file whose first block (as much as one read gives) is `block`.
    pub fn of(block: &[u8]) -> Self {
        if block.is_empty() {
            return Self { format: Format::Empty, entropy: None };
        }
        let head = Sample::of(block.get(..SAMPLE_BYTES).unwrap_or(block));
        let middle = (block.len() >= SECOND_SAMPLE_FROM).then(|| {
            let from = block.len() / 2;
            Sample::of(block.get(from..from + SAMPLE_BYTES).unwrap_or_default())
        });
        let even = middle.as_ref().filter(|middle| middle.evenness() < head.evenness()).unwrap_or(&head);
        let entropy = even.entropy();
        let format = match claimed(block) {
            Some(format) => format,
            None if head.is_blank() && middle.as_ref().is_none_or(Sample::is_blank) => Format::Blank,
            None if even.is_opaque() => Format::Opaque,
            None if head.is_armour() => Format::Armoured,
            None if head.text => Format::Text,
            None => Format::Binary,
        };
        Self { format, entropy }
    }

    /// Bits of entropy in each byte.
    pub fn bits(self) -> Option<f32> {
        self.entropy.map(|sixteenths| f32::from(sixteenths) / 16.0)
    }

    /// The number in the baseline: 12 bits, 0 for nothing known.
    pub fn code(self) -> u16 {
        u16::from(self.format as u8)
            | self.entropy.map_or(0, |entropy| (u16::from(entropy.min(128)) + 1) << 4)
    }

    /// From the number in the baseline.
    pub fn from_code(code: u16) -> Self {
        let format = Format::ALL.get(usize::from(code & 0xf)).copied().unwrap_or_default();
        let entropy = (code >> 4).checked_sub(1).and_then(|entropy| u8::try_from(entropy.min(128)).ok());
        Self { format, entropy }
    }
}

/// How the bytes of a sample are spread.
struct Sample {
    length: usize,
    /// Ordered pairs of equal bytes.
    equal_pairs: u64,
    text: bool,
    base64: bool,
}

impl Sample {
    fn of(bytes: &[u8]) -> Self {
        let mut counts = [0u32; 256];
        for byte in bytes {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
        }
        let equal_pairs =
            counts.iter().map(|&count| u64::from(count) * u64::from(count.saturating_sub(1))).sum();
        let of = |wanted: fn(u8) -> bool| {
            let wanted = (0u8..=255).zip(counts).filter(|(byte, _)| wanted(*byte));
            wanted.map(|(_, count)| usize::try_from(count).unwrap_or(0)).sum::<usize>()
        };
        let binary = of(|byte| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b));
        let base64 =
            of(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n'));
        Self {
            length: bytes.len(),
            equal_pairs,
            text: binary == 0 && is_text(bytes),
            base64: base64 == bytes.len(),
        }
    }

    /// 100 for bytes as even as chance gives, 25,600 for one byte all over.
    fn evenness(&self) -> u64 {
        let pairs = u64::try_from(self.length * self.length.saturating_sub(1)).unwrap_or(0);
        (self.equal_pairs * 25_600).checked_div(pairs).unwrap_or(25_600)
    }

    fn is_blank(&self) -> bool {
        self.length >= JUDGED_BYTES_MIN && self.evenness() == 25_600
    }

    /// Within four standard deviations of chance, and a quarter more for what does it badly.
    fn is_opaque(&self) -> bool {
        let slack = 9_000usize.checked_div(self.length).unwrap_or(0);
        self.length >= JUDGED_BYTES_MIN && self.evenness() <= u64::try_from(125 + slack).unwrap_or(125)
    }

    /// The same for an alphabet of 64.
    fn is_armour(&self) -> bool {
        let slack = 4_500usize.checked_div(self.length).unwrap_or(0);
        let limit = u64::try_from((125 + slack) * 4).unwrap_or(500);
        self.base64 && self.length >= 2 * JUDGED_BYTES_MIN && self.evenness() <= limit
    }

    fn entropy(&self) -> Option<u8> {
        if self.length < JUDGED_BYTES_MIN {
            return None;
        }
        // The whole bits, then the square again and again for the rest: log2(25,600 / evenness) by integers.
        let mut ratio = (25_600u64 << 16) / self.evenness().clamp(100, 25_600);
        let mut sixteenths = 0u8;
        while ratio >= 2 << 16 {
            ratio >>= 1;
            sixteenths += 16;
        }
        for bit in [8, 4, 2, 1] {
            ratio = (ratio * ratio) >> 16;
            if ratio >= 2 << 16 {
                ratio >>= 1;
                sixteenths += bit;
            }
        }
        Some(sixteenths)
    }
}

/// UTF-8, but for a character that the end of the sample cuts; or one of the older alphabets of one byte a letter.
fn is_text(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) if error.error_len().is_none() => true,
        Err(_) => {
            let high = bytes.iter().filter(|byte| **byte >= 0x80).count();
            high * 4 <= bytes.len() && !bytes.iter().any(|byte| (0x7f..0x9f).contains(byte))
        }
    }
}

/// First bytes that say what follows, where each must stand.
const CLAIMS: &[(usize, &[u8], Format)] = &[
    (0, b"Salted__", Format::Encrypted),
    (0, b"age-encryption.org/", Format::Encrypted),
    (0, b"-----BEGIN AGE ENCRYPTED", Format::Encrypted),
    (0, b"-----BEGIN PGP MESSAGE", Format::Encrypted),
    (0, b"LUKS\xba\xbe", Format::Encrypted),
    (0, b"-----BEGIN ", Format::Pem),
    (0, b"#!", Format::Script),
    (0, b"\x7fELF", Format::Executable),
    (0, b"\x1f\x8b", Format::Compressed),
    (0, b"\x1f\x9d", Format::Compressed),
    (0, b"BZh", Format::Compressed),
    (0, b"\xfd7zXZ\0", Format::Compressed),
    (0, b"\x28\xb5\x2f\xfd", Format::Compressed),
    (0, b"\x04\x22\x4d\x18", Format::Compressed),
    (0, b"PK\x03\x04", Format::Compressed),
    (0, b"PK\x05\x06", Format::Compressed),
    (0, b"7z\xbc\xaf\x27\x1c", Format::Compressed),
    (0, b"Rar!\x1a\x07", Format::Compressed),
    (0, b"\x78\x01", Format::Compressed),
    (0, b"\x78\x5e", Format::Compressed),
    (0, b"\x78\x9c", Format::Compressed),
    (0, b"\x78\xda", Format::Compressed),
    (0, b"PACK\0\0\0", Format::Compressed),
    (0, b"hsqs", Format::Compressed),
    (0, b"!<arch>\n", Format::Compressed),
    (257, b"ustar", Format::Compressed),
    (0, b"\x89PNG\r\n\x1a\n", Format::Media),
    (0, b"\xff\xd8\xff", Format::Media),
    (0, b"GIF8", Format::Media),
    (0, b"RIFF", Format::Media),
    (0, b"OggS", Format::Media),
    (0, b"fLaC", Format::Media),
    (0, b"ID3", Format::Media),
    (0, b"\xff\xfb", Format::Media),
    (4, b"ftyp", Format::Media),
    (0, b"\x1a\x45\xdf\xa3", Format::Media),
    (0, b"wOFF", Format::Media),
    (0, b"wOF2", Format::Media),
    (0, b"%PDF-", Format::Document),
    (0, b"%!PS", Format::Document),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format::Document),
    (0, b"SQLite format 3\0", Format::Database),
    (0, b"\0asm", Format::Executable),
    (0, b"\xca\xfe\xba\xbe", Format::Executable),
];

fn claimed(block: &[u8]) -> Option<Format> {
    let stands = |&&(at, bytes, _): &&(usize, &[u8], Format)| {
        block.get(at..).is_some_and(|rest| rest.starts_with(bytes))
    };
    CLAIMS.iter().find(stands).map(|(_, _, format)| *format)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SecureRandom as _;

    use super::*;

    fn random(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ring::rand::SystemRandom::new().fill(&mut bytes).unwrap();
        bytes
    }

    fn format(bytes: &[u8]) -> Format {
        Traits::of(bytes).format
    }

    const PROSE: &str =
        "Personal income tax for the second quarter, by region and by source, as filed in July. ";

    #[test]
    fn what_is_encrypted_looks_so_from_a_hundred_bytes_on_and_prose_never() {
        for length in [100, 200, 700, 4_096, 100_000] {
            // One in some ten thousand of chance falls beyond four standard deviations: two of three are enough.
            let opaque = (0..3).filter(|_| format(&random(length)) == Format::Opaque).count();
            assert!(opaque >= 2, "{length}");
            assert_eq!(format(PROSE.repeat(length / 80 + 1).as_bytes()), Format::Text, "{length}");
        }
        assert!(Traits::of(&random(4_096)).bits().unwrap() > 7.7);
        assert!(Traits::of(PROSE.repeat(50).as_bytes()).bits().unwrap() < 4.8);
    }

    #[test]
    fn a_text_in_front_does_not_hide_what_follows() {
        let mut bytes = PROSE.repeat(30).into_bytes();
        bytes.extend(random(30_000));
        assert_eq!(format(&bytes), Format::Opaque);
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let with = |head: &[u8]| format(&[head, &random(5_000)].concat());
        assert_eq!(with(b"\x1f\x8b\x08"), Format::Compressed);
        assert_eq!(with(b"\x89PNG\r\n\x1a\n"), Format::Media);
        assert_eq!(with(b"Salted__"), Format::Encrypted);
        assert_eq!(with(b"%PDF-1.7\n"), Format::Document);
        assert_eq!(format(b"#!/bin/sh\n"), Format::Script);
        assert_eq!(format(b""), Format::Empty);
        assert_eq!(format(&[0; 4_096]), Format::Blank);
        assert_eq!(format(&[b"\0\x01\x02table", [0; 90].as_slice()].concat()), Format::Binary);
        assert_eq!(format("Prüfung der Straße\n".as_bytes()), Format::Text);
        assert_eq!(format(b"Pr\xfcfung der Stra\xdfe, noch einmal\n"), Format::Text);
    }

    #[test]
    fn base64_of_what_is_encrypted_is_told_from_words_and_digests() {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD.encode(random(3_000));
        let lines: Vec<&str> =
            base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert_eq!(format(lines.join("\n").as_bytes()), Format::Armoured);
        let digests: String = random(3_000).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format(digests.as_bytes()), Format::Text);
        assert_eq!(format("wordswithoutspaces\n".repeat(60).as_bytes()), Format::Text);
    }

    proptest! {
        #[test]
        fn no_content_makes_it_fail_and_the_code_gives_it_back(bytes in proptest::collection::vec(any::<u8>(), 0..9_000)) {
            let traits = Traits::of(&bytes);
            prop_assert_eq!(Traits::from_code(traits.code()), traits);
            prop_assert!(traits.entropy.is_none_or(|entropy| entropy <= 128));
        }

        #[test]
        fn any_number_in_the_baseline_is_read(code: u16) {
            let _traits = Traits::from_code(code);
        }
    }
}
