//! MD5 (RFC 1321), because that is what dpkg records of every file it unpacks. It proves here that a file is what its
//! package holds; who can make two files of one MD5 must also be the one who built the package. What a file is judged
//! by otherwise is its SHA-256.

/// An MD5 digest.
pub type Md5 = [u8; 16];

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// `floor(2^32 * abs(sin(i + 1)))`, as the RFC defines the table.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// A digest in the making.
pub struct Context {
    state: [u32; 4],
    block: [u8; 64],
    filled: usize,
    bytes: u64,
}

impl Default for Context {
    fn default() -> Self {
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Self { state, block: [0; 64], filled: 0, bytes: 0 }
    }
}

impl Context {
    /// Takes more bytes in.
    pub fn update(&mut self, mut data: &[u8]) {
        self.bytes = self.bytes.wrapping_add(data.len() as u64);
        while !data.is_empty() {
            if self.filled == 0
                && let Some((block, rest)) = data.split_first_chunk::<64>()
            {
                self.compress(block);
                data = rest;
                continue;
            }
            let space = self.block.get_mut(self.filled..).unwrap_or_default();
            let (now, rest) = data.split_at(space.len().min(data.len()));
            for (to, from) in space.iter_mut().zip(now) {
                *to = *from;
            }
            self.filled += now.len();
            data = rest;
            if self.filled == self.block.len() {
                let block = self.block;
                self.compress(&block);
                self.filled = 0;
            }
        }
    }

    /// The digest of all that was taken in.
    pub fn finish(mut self) -> Md5 {
        let bits = self.bytes.wrapping_mul(8);
        self.update(&[0x80]);
        while self.filled != 56 {
            self.update(&[0]);
        }
        self.update(&bits.to_le_bytes());
        let mut digest = [0; 16];
        for (to, from) in digest.chunks_exact_mut(4).zip(self.state) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        digest
    }

    fn compress(&mut self, block: &[u8; 64]) {
        let mut words = [0_u32; 16];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.try_into().map(u32::from_le_bytes).unwrap_or_default();
        }
        let [mut a, mut b, mut c, mut d] = self.state;
        for (step, sine) in SINES.into_iter().enumerate() {
            let (mixed, at) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let word = words.get(at % 16).copied().unwrap_or_default();
            let shift = SHIFTS.get(step / 16).and_then(|round| round.get(step % 4)).copied().unwrap_or(0);
            let sum = a.wrapping_add(mixed).wrapping_add(word).wrapping_add(sine);
            (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(shift)));
        }
        for (kept, new) in self.state.iter_mut().zip([a, b, c, d]) {
            *kept = kept.wrapping_add(new);
        }
    }
}

/// From 32 hexadecimal digits.
pub fn parse(digits: &[u8]) -> Option<Md5> {
    let mut digest = [0; 16];
    if digits.len() != digest.len() * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use picket_protocol::crypto::hex;

    use super::*;

    fn digest(pieces: &[&[u8]]) -> String {
        let mut context = Context::default();
        pieces.iter().for_each(|piece| context.update(piece));
        hex(&context.finish())
    }

    #[test]
    fn the_vectors_of_the_rfc_hold() {
        let vectors: [(&str, &str); 4] = [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ];
        for (text, expected) in vectors {
            assert_eq!(digest(&[text.as_bytes()]), expected);
        }
    }

    #[test]
    fn pieces_of_any_length_give_the_same() {
        let text: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        let whole = digest(&[&text]);
        for cut in [1, 55, 56, 63, 64, 65, 127, 128, 999] {
            let (head, tail) = text.split_at(cut);
            assert_eq!(digest(&[head, tail]), whole, "cut at {cut}");
        }
        assert_eq!(parse(whole.as_bytes()).map(|digest| hex(&digest)), Some(whole));
        assert_eq!(parse(b"12"), None);
        assert_eq!(parse(b"+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1"), None);
    }
}
