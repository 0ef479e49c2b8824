//! Variable-length integers: 7 bits a byte, low bits first, the high bit set on all but the last (LEB128);
//! signed ones zigzag-folded first, so that small negative numbers stay short.

/// The longest encoding of a `u64`.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed `value`, zigzag-folded.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, zigzag(value));
}

/// A few numbers and bytes, to be appended in one piece.
#[derive(Debug)]
pub(super) struct Short {
    bytes: [u8; SHORT_BYTES],
    length: usize,
}

/// Three numbers and a byte, whatever they are.
const SHORT_BYTES: usize = 4 * VARINT_BYTES_MAX;

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; SHORT_BYTES], length: 0 }
    }
}

impl Short {
    pub fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    pub fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    /// What was put, to be appended; it is empty again.
    pub fn take(&mut self) -> &[u8] {
        let length = std::mem::take(&mut self.length);
        &self.bytes[..length]
    }
}

/// How many bytes [`put`] appends for `value`.
pub fn length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a number off the front of `input`; `None` if it is cut, too long, or not in its shortest form.
#[inline]
pub fn take(input: &mut &[u8]) -> Option<u64> {
    // Nearly all numbers of a record are below 2¹⁴.
    match **input {
        [low, ..] if low < 0x80 => {
            *input = &input[1..];
            Some(u64::from(low))
        }
        [low, high, ..] if (1..0x80).contains(&high) => {
            *input = &input[2..];
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => take_long(input),
    }
}

fn take_long(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, byte) in input.iter().enumerate().take(VARINT_BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return None;
            }
            *input = &input[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Takes a signed number off the front of `input`.
pub fn take_signed(input: &mut &[u8]) -> Option<i64> {
    take(input).map(|folded| (folded >> 1) as i64 ^ -((folded & 1) as i64))
}

/// Folds a signed number so that small magnitudes are small.
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_and_its_length_is_known(value: u64, signed: i64) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), length(value));
            put_signed(&mut out, signed);
            let mut input = out.as_slice();
            prop_assert_eq!(take(&mut input), Some(value));
            prop_assert_eq!(take_signed(&mut input), Some(signed));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn any_bytes_give_a_number_or_none(bytes: Vec<u8>) {
            let mut input = bytes.as_slice();
            if let Some(value) = take(&mut input) {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(&bytes[..again.len()], &again[..], "one number has one form");
            }
        }
    }
}
