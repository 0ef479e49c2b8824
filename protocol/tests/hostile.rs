//! Every decoder against bytes that a peer or a disk may come up with: cuts, flips, lying lengths and counts, noise.
//!
//! Each time: an error, or a different value that does no harm; never a panic, never an allocation above the stated
//! bound (the allocator of this binary counts). Checksums stop honest damage only, so most of these inputs have
//! right ones: a hostile client computes them as well. Batches are sealed here by hand, from the byte table in
//! `batch::header`, not by the code under test.
//! More noise: `PROPTEST_CASES=100000`.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "hostile/batches.rs"]
mod batches;
#[path = "hostile/damage.rs"]
mod damage;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/seal.rs"]
mod seal;
mod support;
#[path = "hostile/varints.rs"]
mod varints;

use allocations::Counting;
use millstream_protocol::batch::Codec;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

/// Shows the input that a decoder panicked on.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: the input was {:02x?}", self.0, self.1);
        }
    }
}
