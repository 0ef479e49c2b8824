//! What is sent: text that differs from record to record, made once and sliced, so that making it costs the run nothing.

use bytes::Bytes;

/// How much text is made: far more than a batch, so that no two records of a batch are alike.
const POOL_BYTES: usize = 4 << 20;

/// An endless supply of values of one size.
#[derive(Debug)]
pub struct Payload {
    pool: Bytes,
    size: usize,
    at: usize,
}

impl Payload {
    /// Values of `size` bytes. Always the same ones.
    pub fn new(size: usize) -> Self {
        // xorshift64 (Marsaglia 2003), taken down to sixteen letters: 4 bits in a byte.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut letter = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'a' + (state >> 60) as u8
        };
        let pool: Vec<u8> = std::iter::repeat_with(&mut letter).take(POOL_BYTES + size).collect();
        Self { pool: pool.into(), size, at: 0 }
    }

    /// The next value.
    pub fn next(&mut self) -> Bytes {
        let value = self.pool.slice(self.at..self.at + self.size);
        // A step that shares no factor with the pool's size visits every place before it repeats.
        self.at = (self.at + self.size.max(1) + 1) % POOL_BYTES;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_neighbours_differ() {
        for size in [0, 1, 1_024, 1 << 20] {
            let mut payload = Payload::new(size);
            let values: Vec<Bytes> = (0..100).map(|_| payload.next()).collect();
            assert!(values.iter().all(|value| value.len() == size));
            assert!(size < 16 || values.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
