//! Numbers for people.

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes a second as `12.3 Mbit/s`.
pub fn bits(bytes: u64) -> String {
    let bits = bytes.saturating_mul(8);
    let (unit, name) = match bits {
        1_000_000_000.. => (1_000_000_000, "Gbit/s"),
        1_000_000.. => (1_000_000, "Mbit/s"),
        1_000.. => (1_000, "kbit/s"),
        _ => return format!("{bits} bit/s"),
    };
    format!("{}.{} {name}", bits / unit, bits % unit * 10 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [1, 125, 1_543_210, 125_000_000].map(bits),
            ["8 bit/s", "1.0 kbit/s", "12.3 Mbit/s", "1.0 Gbit/s"]
        );
    }
}
