//! Large buffers that are used again: for batches and the bodies of frames.
//!
//! An allocator gives memory of this size back to the system when it is freed and asks for it anew a moment later, and the
//! kernel clears each page again at its first touch: on the way of a batch that cost 8 % of a server's processor time,
//! and half as much again where fresh pages were short (`ratios --only produce-1k`). So a freed buffer waits here for the
//! next one of its class; what was in it is never seen, since a buffer is handed out empty.
//!
//! | classes | 80 KiB × 2ⁿ, up to 10 MiB: batches of 64 KiB, 256 KiB, 1 MiB fit with their headers, a frame of the largest does |
//! | --- | --- |
//! | smaller, larger | the allocator's |
//! | kept | 32 MiB of the process at most; above it a buffer is freed |

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What every class is a multiple of, by a power of two.
const CLASS_BYTES: usize = 80 << 10;
const CLASSES: usize = 8;
/// Below this an allocator is as quick.
const SMALL_BYTES: usize = 32 << 10;
/// What waits at most.
const KEPT_BYTES_MAX: usize = 32 << 20;

static FREE: [Mutex<Vec<Vec<u8>>>; CLASSES] = [const { Mutex::new(Vec::new()) }; CLASSES];
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// An empty buffer that takes `capacity` bytes without growing.
pub fn buffer(capacity: usize) -> Vec<u8> {
    let Some(class) = class_for(capacity) else { return Vec::with_capacity(capacity) };
    let kept = FREE[class].lock().expect("nothing panics while it is held").pop();
    match kept {
        Some(buffer) => {
            KEPT.fetch_sub(buffer.capacity(), Ordering::Relaxed);
            buffer
        }
        None => Vec::with_capacity(class_bytes(class)),
    }
}

/// The buffer's contents, to be shared; it comes back when the last part of them is dropped.
pub fn share(buffer: Vec<u8>) -> Bytes {
    match class_of(&buffer) {
        Some(_) => Bytes::from_owner(Lent(buffer)),
        None => Bytes::from(buffer),
    }
}

/// A buffer that comes back.
struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        let (Some(class), bytes) = (class_of(&buffer), buffer.capacity()) else { return };
        if KEPT.fetch_add(bytes, Ordering::Relaxed) + bytes > KEPT_BYTES_MAX {
            KEPT.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        buffer.clear();
        FREE[class].lock().expect("nothing panics while it is held").push(buffer);
    }
}

const fn class_bytes(class: usize) -> usize {
    CLASS_BYTES << class
}

/// The smallest class that holds `capacity`.
fn class_for(capacity: usize) -> Option<usize> {
    (0..CLASSES).find(|class| capacity <= class_bytes(*class)).filter(|_| capacity > SMALL_BYTES)
}

/// The class that a buffer was made for.
fn class_of(buffer: &Vec<u8>) -> Option<usize> {
    (0..CLASSES).find(|class| buffer.capacity() == class_bytes(*class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_BYTES_MAX;

    const _: () = assert!(FRAME_BYTES_MAX <= class_bytes(CLASSES - 1), "the largest frame has a class");

    #[test]
    fn a_buffer_comes_back_empty_once_nobody_holds_a_part_of_it() {
        // A class that no other test of this process uses.
        let wanted = class_bytes(4) - 17;
        let mut first = buffer(wanted);
        assert_eq!((first.len(), first.capacity()), (0, class_bytes(4)));
        first.extend_from_slice(b"somebody's");
        let place = first.as_ptr();
        let shared = share(first);
        let part = shared.slice(3..5);
        drop(shared);
        assert_eq!(part, b"eb"[..]);
        let other = buffer(wanted);
        assert_ne!(other.as_ptr(), place, "a part is still held");
        drop(part);
        let again = buffer(wanted);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }

    #[test]
    fn what_is_small_or_has_grown_is_the_allocators() {
        assert_eq!(buffer(100).capacity(), 100);
        assert!(buffer(class_bytes(CLASSES - 1) + 1).capacity() > class_bytes(CLASSES - 1));
        let mut grown = buffer(SMALL_BYTES + 1);
        grown.resize(class_bytes(0) + 1, 7);
        assert_eq!(share(grown).len(), class_bytes(0) + 1);
    }
}
