//! What link-layer addresses tell of who has them, and how they are read.

use std::str::FromStr;

use super::super::Mac;

impl Mac {
    /// Whether it is one host's, and not that of a group or of nobody.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }

    /// Whether routers share it: VRRP and CARP (RFC 5798, 7.3), HSRP 1 and 2, GLBP.
    pub fn is_shared_by_routers(self) -> bool {
        matches!(
            self.0,
            [0x00, 0x00, 0x5e, 0x00, 0x01 | 0x02, _]
                | [0x00, 0x00, 0x0c, 0x07, 0xac, _]
                | [0x00, 0x00, 0x0c, 0x9f, 0xf0..=0xff, _]
                | [0x00, 0x05, 0x73, 0xa0, 0x00..=0x0f, _]
                | [0x00, 0x07, 0xb4, 0x00, _, _]
        )
    }

    /// Whether it is that of a cluster that balances load (Microsoft NLB): its frames carry other source addresses by design.
    pub fn is_of_balanced_cluster(self) -> bool {
        matches!(self.0, [0x02 | 0x03, 0xbf, ..] | [0x01, 0x00, 0x5e, 0x7f, ..])
    }

    /// Whether both are ports of one card, as far as numbers tell: same vendor, at most 16 apart.
    pub fn is_sibling_of(self, other: Self) -> bool {
        let parts = |mac: Self| {
            let [a, b, c, d, e, f] = mac.0;
            ([a, b, c], u32::from_be_bytes([0, d, e, f]))
        };
        let ((vendor, number), (other_vendor, other_number)) = (parts(self), parts(other));
        // Addresses that software made up tell nothing of a card.
        let [first, ..] = self.0;
        first & 2 == 0 && vendor == other_vendor && self != other && number.abs_diff(other_number) <= 16
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a link-layer address such as 02:42:0a:00:00:01";
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong)?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(wrong) }
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
