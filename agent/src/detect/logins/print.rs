//! Fingerprints: 64 bits that stand for a name, an address, or several things together.
//!
//! They are made once an event and serve all tables. They are kept in rows, so they must be the same in every process
//! of one host; and whoever logs in chooses what is hashed, so they depend on a secret of the host: who does not know
//! it finds no two names that are taken for one, and none that crowd a table.
//!
//! The hash multiplies 64 by 64 bits and folds the product (as wyhash and its like do): a few nanoseconds for a name. It is
//! no cryptography and need not be: its values are not shown to anybody.

use std::net::IpAddr;

use picket_protocol::finding::Text;

use crate::sense::logins::{LoginEvent, LoginKind};

/// What fingerprints depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret {
    seed: u64,
    keys: [u64; 3],
}

/// What one event is about. 0 stands for what it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prints {
    pub user: u64,
    pub address: u64,
    pub service: u64,
}

/// Folds a product of 128 bits.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let (high, low) = halves(product);
    high ^ low
}

fn halves(whole: u128) -> (u64, u64) {
    let low = u64::try_from(whole & u128::from(u64::MAX)).unwrap_or(0);
    (u64::try_from(whole >> 64).unwrap_or(0), low)
}

impl Secret {
    /// Any number will do; it should be drawn at random where strangers choose what is hashed.
    pub fn new(seed: u64) -> Self {
        // Splitmix64 (Steele, Lea, Flood 2014) makes several good numbers of one.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { seed, keys: [next(), next(), next()] }
    }

    /// The number that it was made of.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Of any bytes.
    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let [a, b, c] = self.keys;
        let mut state = c ^ u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        for chunk in bytes.chunks(16) {
            let mut block = [0; 16];
            if let Some(filled) = block.get_mut(..chunk.len()) {
                filled.copy_from_slice(chunk);
            }
            let (high, low) = halves(u128::from_le_bytes(block));
            state = fold(low ^ a, high ^ state);
        }
        fold(state ^ b, a)
    }

    /// Of a text.
    pub fn text(&self, text: &Text) -> u64 {
        let shown = self.bytes(text.text.as_bytes());
        text.bytes.as_ref().map_or(shown, |exact| self.both(shown, self.bytes(exact.as_bytes())))
    }

    /// Of an address.
    pub fn address(&self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(address) => self.both(4, u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let (high, low) = halves(address.to_bits());
                self.both(self.both(6, high), low)
            }
        }
    }

    /// Of two things together, in this order.
    pub fn both(&self, one: u64, other: u64) -> u64 {
        let [a, b, c] = self.keys;
        // Once more at the end: of one multiplication alone, numbers in a row look like numbers in a row.
        fold(fold(fold(one ^ a, b) ^ other ^ c, a) ^ b, c)
    }

    /// Of what `event` is about.
    pub fn prints(&self, event: &LoginEvent) -> Prints {
        Prints {
            user: event.user.as_ref().map_or(0, |user| self.text(user)),
            address: event.address.map_or(0, |address| self.address(address)),
            service: self.bytes(event.service.as_bytes()),
        }
    }

    /// What events are like one another: those of one kind, service, user and address, for successes also of one key or
    /// command.
    pub fn likeness(&self, event: &LoginEvent, prints: &Prints) -> u64 {
        let some = |text: &Option<Text>| text.as_ref().map_or(0, |text| self.text(text));
        let who = self.both(prints.user, prints.address);
        let like = self.both(self.kind(event.event, prints.service), who);
        match event.event {
            LoginKind::Success => self.both(like, self.both(some(&event.method), some(&event.key))),
            LoginKind::PrivilegeSuccess => {
                self.both(like, self.both(some(&event.target), some(&event.command)))
            }
            LoginKind::PrivilegeFailure => self.both(like, some(&event.target)),
            LoginKind::AccountChanged | LoginKind::AccountLocked => self.both(like, some(&event.reason)),
            _ => like,
        }
    }

    /// Of a kind of event by the service with this fingerprint.
    pub fn kind(&self, kind: LoginKind, service: u64) -> u64 {
        self.both(kind as u64, service)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_things_have_different_prints_and_the_same_thing_one_for_each_secret() {
        let (one, other) = (Secret::new(0), Secret::new(1));
        let mut seen = HashSet::new();
        for n in 0..20_000u32 {
            let name = format!("user{n}");
            assert_eq!(one.bytes(name.as_bytes()), Secret::new(0).bytes(name.as_bytes()));
            assert_ne!(one.bytes(name.as_bytes()), other.bytes(name.as_bytes()));
            assert!(seen.insert(one.bytes(name.as_bytes())));
            assert!(seen.insert(one.address(IpAddr::V4(n.into()))));
            assert!(seen.insert(one.address(IpAddr::V6(u128::from(n).into()))));
            assert!(seen.insert(one.both(u64::from(n) + 100, 7)));
            assert!(seen.insert(one.both(7_000_000, u64::from(n))));
        }
        for length in 0..64 {
            assert!(seen.insert(one.bytes(&vec![0; length])), "zeros count");
        }
    }

    #[test]
    fn every_bit_of_the_print_depends_on_what_is_hashed() {
        let secret = Secret::new(3);
        for bit in 0..64 {
            let ones =
                (0..4_096u32).filter(|n| secret.address(IpAddr::V4((*n).into())) >> bit & 1 == 1).count();
            assert!((1_800..2_300).contains(&ones), "bit {bit}: {ones} of 4096");
        }
    }
}
