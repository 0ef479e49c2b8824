//! What the bare machine does with bytes in memory: the ceiling of everything that touches each byte once.

use std::hint::black_box;

/// Copies `from` over `to`.
///
/// # Panics
/// If their lengths differ.
pub fn copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(black_box(from));
    black_box(to);
}

/// CRC-32 of `bytes`, as batches use it.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(black_box(bytes))
}

/// `length` bytes that do not compress, from a fixed seed.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}
