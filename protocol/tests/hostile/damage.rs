//! Ways to damage bytes.

use proptest::prelude::*;

/// Values that lengths, counts and offsets lie with.
pub const LIES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

pub fn for_each_flip(bytes: &[u8], mut visit: impl FnMut(usize, &[u8])) {
    let mut bytes = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        visit(bit, &bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Each lie, in each width, at each place.
pub fn for_each_lie(bytes: &[u8], mut visit: impl FnMut(&[u8])) {
    for at in 0..bytes.len() {
        for width in [1, 2, 4, 8].into_iter().filter(|width| at + width <= bytes.len()) {
            let near = bytes.len() as u64;
            for lie in LIES.into_iter().chain([near - 1, near, near + 1]) {
                let mut bytes = bytes.to_vec();
                bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
                visit(&bytes);
            }
        }
    }
}

/// A few bytes anywhere set to anything, the whole then cut or continued.
pub fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, prop::sample::Index, Vec<u8>)> {
    let writes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
    (writes, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..12))
}

pub fn damaged(bytes: &[u8], damage: &(Vec<(prop::sample::Index, u8)>, prop::sample::Index, Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in &damage.0 {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    // One in four is cut.
    let cut = damage.1.index(bytes.len() * 4);
    bytes.truncate(cut.max(1));
    bytes.extend_from_slice(&damage.2);
    bytes
}
