//! What filters ask of texts beyond CEL: wildcards, subjects, networks. Linear in text and pattern, no recursion.

use std::net::IpAddr;

use memchr::memmem;

/// Whether `text` fits `pattern`, in which `*` stands for any characters, also none. There is no escape.
///
/// The part before the first `*` must begin the text, the part after the last must end it; each part between is taken
/// where it is found first, which is right because a later place leaves less for the parts after it.
pub fn like(text: &str, pattern: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(text) = text.strip_prefix(prefix) else { return false };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_suffix(suffix) else { return false };
    let mut rest = text.as_bytes();
    for part in middle.split('*') {
        match memmem::find(rest, part.as_bytes()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Whether `part` lies in `text`.
pub fn contains(text: &str, part: &str) -> bool {
    memmem::find(text.as_bytes(), part.as_bytes()).is_some()
}

/// Whether a subject, tokens with dots between, fits a pattern in which `*` stands for one token and `>`, at the end, for one
/// or more. `None`: that is no pattern.
pub fn subject(text: &str, pattern: &str) -> Option<bool> {
    is_subject_pattern(pattern).then(|| {
        let mut tokens = text.split('.');
        for wanted in pattern.split('.') {
            match (wanted, tokens.next()) {
                (">", Some(token)) => return !token.is_empty() && tokens.all(|token| !token.is_empty()),
                ("*", Some(token)) if !token.is_empty() => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    })
}

/// Tokens are not empty, and `>` is the last.
fn is_subject_pattern(pattern: &str) -> bool {
    let mut tokens = pattern.split('.').rev();
    tokens.next().is_some_and(|last| !last.is_empty()) && tokens.all(|token| !token.is_empty() && token != ">")
}

/// A network: `10.0.0.0/8`, `2001:db8::/32`. Bits behind the prefix do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    /// Reads `address/prefix`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix_bits = prefix.parse().ok().filter(|prefix| digits && *prefix <= bits)?;
        Some(Self { address, prefix_bits })
    }

    /// Whether the address lies in it; an IPv4 address mapped into IPv6 counts as the IPv4 address. `None`: that is no
    /// address.
    pub fn contains(&self, address: &str) -> Option<bool> {
        let address: IpAddr = address.parse().ok()?;
        Some(match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix_bits).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), _) => {
                let IpAddr::V6(address) = address else { return Some(false) };
                let mask = u128::MAX.checked_shl(128 - self.prefix_bits).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// Slow and obviously right: all splits.
    fn like_by_definition(text: &[u8], pattern: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| like_by_definition(&text[at..], rest)),
            Some((byte, rest)) => text.first() == Some(byte) && like_by_definition(&text[1..], rest),
        }
    }

    proptest! {
        #[test]
        fn like_agrees_with_its_definition(text in "[ab]{0,9}", pattern in "[ab*]{0,7}") {
            prop_assert_eq!(like(&text, &pattern), like_by_definition(text.as_bytes(), pattern.as_bytes()));
        }
    }

    #[test]
    fn like_is_linear() {
        let text = "a".repeat(8 << 20);
        let pattern = "*a".repeat(400) + "*b*" + &"a*".repeat(100);
        let began = Instant::now();
        assert!(!like(&text, &pattern));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn prefix_and_suffix_do_not_share_characters() {
        assert!(!like("aba", "ab*ba"));
        assert!(like("abba", "ab*ba"));
        assert!(like("", "*"));
        assert!(!like("ab", ""));
        assert!(like("grün/ö", "gr*n/*"));
    }

    #[test]
    fn subjects_match_by_token() {
        for (text, pattern, expected) in [
            ("orders.eu.new", "orders.*.new", Some(true)),
            ("orders.new", "orders.*.new", Some(false)),
            ("orders.eu.de.new", "orders.*.new", Some(false)),
            ("orders.eu.new", "orders.>", Some(true)),
            ("orders", "orders.>", Some(false)),
            ("orders", ">", Some(true)),
            ("orders.eu", "orders", Some(false)),
            ("orders", "orders.eu", Some(false)),
            ("orders..new", "orders.*.new", Some(false)),
            ("orders..new", "orders.>", Some(false)),
            ("", ">", Some(false)),
            ("orders.eu", "orders.e*", Some(false)),
            ("orders", "", None),
            ("orders", "orders..x", None),
            ("orders", "orders.>.x", None),
            ("orders", ".orders", None),
        ] {
            assert_eq!(subject(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.1.2.3", Some(true)),
            ("10.0.0.0/8", "11.0.0.0", Some(false)),
            ("10.9.9.9/8", "10.1.2.3", Some(true)),
            ("10.0.0.0/8", "::ffff:10.1.2.3", Some(true)),
            ("0.0.0.0/0", "255.1.2.3", Some(true)),
            ("1.2.3.4/32", "1.2.3.4", Some(true)),
            ("1.2.3.4/32", "1.2.3.5", Some(false)),
            ("2001:db8::/32", "2001:db8:1::1", Some(true)),
            ("2001:db8::/32", "2001:db9::1", Some(false)),
            ("::/0", "::1", Some(true)),
            ("::/0", "1.2.3.4", Some(false)),
            ("::1/128", "::1", Some(true)),
            ("10.0.0.0/8", "::1", Some(false)),
            ("10.0.0.0/8", "10.1.2", None),
            ("10.0.0.0/8", "", None),
        ] {
            let network = Network::parse(network).expect("a network");
            assert_eq!(network.contains(address), expected, "{network:?} {address}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "x/8", "10.0.0/8", "::/0128"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
