//! What a server hands to the thread that writes: the pieces as quinn gives them, or pieces put together.
//!
//! What each costs the thread is measured by the bench `ceilings`.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// What a batch is put together in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gather {
    /// Nothing: the pieces are written as they came.
    Pieces,
    /// New memory for each.
    Fresh,
    /// Memory that an earlier one has had.
    UsedAgain,
}

/// Puts pieces together.
#[derive(Debug, Clone)]
pub struct Gatherer {
    gather: Gather,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Gatherer {
    /// One for all streams of a server.
    pub fn new(gather: Gather) -> Self {
        Self { gather, free: Arc::default() }
    }

    /// What is to be written of pieces that came together.
    pub fn gather(&self, pieces: Vec<Bytes>) -> Vec<Bytes> {
        if self.gather == Gather::Pieces || pieces.len() < 2 {
            return pieces;
        }
        let used = (self.gather == Gather::UsedAgain).then(|| self.free.lock().pop()).flatten();
        let mut memory = used.unwrap_or_default();
        memory.reserve(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| memory.extend_from_slice(piece));
        vec![match self.gather {
            Gather::UsedAgain => Bytes::from_owner(Borrowed { memory, free: Arc::clone(&self.free) }),
            _ => Bytes::from(memory),
        }]
    }
}

/// Memory that goes back when it is dropped.
#[derive(Debug)]
struct Borrowed {
    memory: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.memory.clear();
        self.free.lock().push(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let bytes: Vec<u8> = (0..=255).collect();
        for gather in [Gather::Pieces, Gather::Fresh, Gather::UsedAgain] {
            let gatherer = Gatherer::new(gather);
            for _ in 0..2 {
                let out = gatherer.gather(bytes.chunks(30).map(Bytes::copy_from_slice).collect());
                assert_eq!((out.concat(), out.len() == 1), (bytes.clone(), gather != Gather::Pieces));
            }
            assert_eq!(gatherer.free.lock().len(), usize::from(gather == Gather::UsedAgain));
        }
    }
}
