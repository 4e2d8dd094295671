//! What a short text says, as far as it matters when the same text turns up in many places: a fingerprint of its
//! words that small differences hardly change, and whether it speaks as those do who take files hostage.
//!
//! **Normalised text**: decoded as UTF-8 (what is none is a space), in lower case, without markup between `<` and
//! `>`; words are runs of letters and digits; words that hold a digit or are longer than 24 letters are left out:
//! keys, addresses, dates and victims' numbers differ from host to host.
//!
//! **Fingerprint**: a SimHash of 64 bits over all runs of three words (joined by one space; fewer words are one run),
//! each hashed by 64-bit FNV-1a and the finaliser of SplitMix64. Texts that are one but for a few words differ in
//! some bits; unrelated ones in about 32. It is part of findings, and compared across hosts: it never changes.

/// Longer files are not looked at as notes.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;
/// Texts of fewer words say too little to be told from another.
const WORDS_MIN: usize = 6;
/// Words looked at.
const WORDS_MAX: usize = 1_024;
const WORD_LETTERS_MAX: usize = 24;
/// Words in a run.
const RUN: usize = 3;
/// Fingerprints of texts that are one differ in no more bits than this.
const ALIKE_BITS_MAX: u32 = 7;

// Parts of words, in the languages that such notes are written in most.
const ENCRYPTED: &[&str] = &[
    "encrypted",
    "files are locked",
    "locked your files",
    "verschlüsselt",
    "chiffrés",
    "cifrados",
    "cifrati",
    "criptografados",
    "зашифрован",
    "加密",
    "暗号化",
    "stolen",
    "exfiltrated",
];
const RECOVERY: &[&str] = &[
    "decrypt",
    "recover your",
    "restore your",
    "get your files back",
    "private key",
    "unlock",
    "recover all",
    "entschlüssel",
    "déchiffr",
    "descifrar",
    "расшифров",
    "解密",
    "restore them",
];
const PAYMENT: &[&str] = &[
    "bitcoin",
    "btc",
    "monero",
    "xmr",
    "ransom",
    "payment",
    "pay us",
    "to pay",
    "wallet",
    "lösegeld",
    "rançon",
    "rescate",
    "выкуп",
    "赎金",
    "ethereum",
];
const CONTACT: &[&str] = &[
    ".onion",
    "tor browser",
    "torproject",
    "proton.me",
    "protonmail",
    "tutanota",
    "onionmail",
    "telegram",
    "qtox",
    "tox id",
    "session id",
    "jabber",
    "contact us",
];
const THREAT: &[&str] = &[
    "will be published",
    "will be leaked",
    "publish your data",
    "leak your",
    "permanently lost",
    "do not rename",
    "do not try",
    "don't try",
    "will be destroyed",
    "will be deleted",
    "will be sold",
    "police",
    "hours left",
];
const BOAST: &[&str] =
    &["hacked by", "h4cked", "owned by", "pwned by", "defaced", "was here", "you have been hacked"];

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// SimHash of the normalised text.
    pub fingerprint: u64,
    /// Words of the normalised text, at most 1,024.
    pub words: u16,
    /// What it speaks of, a bit for each of [`Sign::ALL`].
    signs: u16,
}

/// What a text speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// Files that were encrypted.
    Encrypted,
    /// Getting them back.
    Recovery,
    /// Money.
    Payment,
    /// A hidden or anonymous way to answer.
    Contact,
    /// What happens otherwise.
    Threat,
    /// Who did it, with pride.
    Boast,
}

impl Sign {
    const ALL: [Self; 6] =
        [Self::Encrypted, Self::Recovery, Self::Payment, Self::Contact, Self::Threat, Self::Boast];

    fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Encrypted => ENCRYPTED,
            Self::Recovery => RECOVERY,
            Self::Payment => PAYMENT,
            Self::Contact => CONTACT,
            Self::Threat => THREAT,
            Self::Boast => BOAST,
        }
    }
}

impl Note {
    /// Of a file's whole content; none when it is too long, too short, or no text.
    pub fn of(content: &[u8]) -> Option<Self> {
        if content.len() > NOTE_BYTES_MAX || content.contains(&0) {
            return None;
        }
        let text = without_markup(&String::from_utf8_lossy(content).to_lowercase());
        let words: Vec<&str> = text
            .split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty() && !word.contains(|letter: char| letter.is_numeric()))
            .filter(|word| word.chars().count() <= WORD_LETTERS_MAX)
            .take(WORDS_MAX)
            .collect();
        let spoken = Sign::ALL
            .iter()
            .enumerate()
            .filter(|(_, sign)| sign.phrases().iter().any(|phrase| text.contains(phrase)));
        let signs = spoken.fold(0, |signs, (at, _)| signs | 1 << at);
        if words.len() < WORDS_MIN && signs == 0 {
            return None;
        }
        Some(Self {
            fingerprint: sim_hash(&words),
            words: u16::try_from(words.len()).unwrap_or(u16::MAX),
            signs,
        })
    }

    /// Whether both are one text but for details.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.fingerprint ^ other.fingerprint).count_ones() <= ALIKE_BITS_MAX
            && self.words.abs_diff(other.words) <= self.words.max(other.words) / 4 + 1
    }

    /// What it speaks of.
    pub fn signs(&self) -> Vec<Sign> {
        let spoken = Sign::ALL.iter().enumerate().filter(|(at, _)| self.signs & 1 << at != 0);
        spoken.map(|(_, sign)| *sign).collect()
    }

    /// Whether it speaks as a demand or a boast does: of two such things at least, or of who did it.
    pub fn is_demand(&self) -> bool {
        let boast = self.signs().contains(&Sign::Boast);
        boast || self.signs.count_ones() >= 2
    }
}

fn without_markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('<') {
        out.push_str(before);
        let markup = behind.starts_with(|next: char| next.is_alphabetic() || next == '/' || next == '!');
        match behind.split_once('>') {
            Some((_, after)) if markup => {
                out.push(' ');
                rest = after;
            }
            _ => {
                out.push('<');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

fn sim_hash(words: &[&str]) -> u64 {
    let mut weights = [0i32; 64];
    for run in words.windows(RUN.min(words.len().max(1))) {
        let hash = hash(run);
        for (bit, weight) in weights.iter_mut().enumerate() {
            *weight += if hash >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    weights
        .iter()
        .enumerate()
        .fold(0, |print, (bit, weight)| if *weight > 0 { print | 1 << bit } else { print })
}

fn hash(run: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (at, word) in run.iter().enumerate() {
        let space: &[u8] = if at == 0 { b"" } else { b" " };
        for byte in space.iter().chain(word.as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(key: &str, days: &str) -> String {
        format!(
            "ALL YOUR FILES HAVE BEEN ENCRYPTED!\n\nYour documents, photos and databases were encrypted with a key that\n\
             only we hold. To get the decryption tool send 0.5 BTC to {key} within {days} days and write to us by\n\
             Tor browser at http://{key}.onion. Do not rename the files, do not try to repair them yourself.\n\
             Your personal id: {key}\n"
        )
    }

    fn note(text: &str) -> Note {
        Note::of(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_same_demand_with_another_key_has_the_same_fingerprint() {
        let (one, other) = (note(&demand("1A2b3C4d5E", "3")), note(&demand("9zY8x7W6v", "7")));
        assert_eq!(one.fingerprint, other.fingerprint);
        assert!(one.is_demand());
        assert!(one.signs().contains(&Sign::Payment) && one.signs().contains(&Sign::Contact));
    }

    #[test]
    fn a_few_other_words_are_alike_and_another_text_is_not() {
        let one = note(&demand("k1", "3"));
        let edited = note(&demand("k2", "3").replace("photos", "pictures"));
        assert!(one.is_like(&edited), "{} bits", (one.fingerprint ^ edited.fingerprint).count_ones());
        let licence = note(
            "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and \
             associated documentation files, to deal in the software without restriction",
        );
        assert!(!one.is_like(&licence));
        assert!(!licence.is_demand());
    }

    #[test]
    fn markup_and_case_do_not_matter() {
        let plain = note("You have been hacked by the grey cats, see you soon on the other side");
        let page = note(
            "<html><body bgcolor=\"red\"><h1>YOU have been HACKED by</h1> the grey cats, see you soon on <b>the</b> other side</body>",
        );
        assert_eq!(plain.fingerprint, page.fingerprint);
        assert!(page.is_demand());
    }

    #[test]
    fn ordinary_texts_are_no_demand() {
        for text in [
            "This directory holds the encrypted backups of the office, made every night by the script in bin.",
            "<?php // Silence is golden. Nothing to see in this folder at all, please go on",
            "Deny from all. Options without indexes for this and every folder that lies beneath it",
        ] {
            assert!(!note(text).is_demand(), "{text}");
        }
        assert_eq!(Note::of(b"too short"), None);
        assert_eq!(Note::of(&[b'a'; NOTE_BYTES_MAX + 1]), None);
        assert_eq!(Note::of(b"words with a nul byte \0 in them are no text at all"), None);
    }

    /// Findings of different versions are compared: the algorithm is part of the format.
    #[test]
    fn the_fingerprint_stays_what_it_was() {
        assert_eq!(note("one two three four five six seven eight").fingerprint, FIXED);
    }

    /// Worked out by a program of its own, in another language.
    const FIXED: u64 = 14_988_052_187_895_337_496;

    proptest! {
        #[test]
        fn no_content_makes_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            if let Some(note) = Note::of(&bytes) {
                prop_assert!(note.is_like(&note));
            }
        }

        #[test]
        fn digits_never_matter(number: u64, other: u64) {
            prop_assert_eq!(note(&demand(&number.to_string(), "1")), note(&demand(&other.to_string(), "9")));
        }
    }
}
