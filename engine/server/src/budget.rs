//! Bytes in hand: what the server holds for its clients at one time, bounded and shared out.
//!
//! ```text
//! memory_in_hand ── 1/2 incoming   frames being read or waiting for a lane; reserved before the body is read
//!                ├─ 1/4 outgoing   chunks read from disk that a consumer has not taken yet
//!                └─ 1/4 windows    what quinn may hold for busy connections above the base every connection has
//! ```
//! Three shares, because they are given back by different parties. Incoming frames go within the body timeout and
//! a pass of a lane; an outgoing chunk stays for as long as its consumer pleases, and must not keep producers
//! waiting meanwhile. A connection also has a bound of its own, so that one cannot take the whole share.
//!
//! Nobody holds one reservation of a share while waiting for another of the same share (but the connection's own,
//! always taken first), so waiting always ends. At the bound: a frame's body stays unread, and QUIC's flow
//! control slows the sender.

use std::sync::Arc;

use millstream_protocol::ByteSize;
use millstream_protocol::limits::BATCH_UNCOMPRESSED_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many batches are decompressed at one time to check their records: each takes up to
/// [`BATCH_UNCOMPRESSED_BYTES_MAX`] beside the budget.
const DECODES_MAX: usize = 2;
const _: () = assert!(DECODES_MAX * BATCH_UNCOMPRESSED_BYTES_MAX <= 32 << 20, "decoding stays beside the budget");

/// The part of what is free that one grant of a window may take, so that the next ones get some too.
const WINDOW_SHARE: usize = 4;
/// The part of what is free that one chunk may take.
const OUTGOING_SHARE: usize = 16;

/// The server's bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    incoming: Share,
    outgoing: Share,
    windows: Share,
    decodes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Share {
    bytes: usize,
    free: Arc<Semaphore>,
}

impl Share {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { bytes, free: Arc::new(Semaphore::new(bytes)) }
    }

    fn used(&self) -> usize {
        self.bytes - self.free.available_permits().min(self.bytes)
    }
}

/// Bytes in hand, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHand {
    pub incoming: usize,
    pub outgoing: usize,
    pub windows: usize,
}

impl Budget {
    pub fn new(memory: ByteSize) -> Arc<Self> {
        let memory = memory.as_usize();
        Arc::new(Self {
            incoming: Share::new(memory / 2),
            outgoing: Share::new(memory / 4),
            windows: Share::new(memory / 4),
            decodes: Arc::new(Semaphore::new(DECODES_MAX)),
        })
    }

    /// A connection's part in it, of at most `bytes` of incoming frames.
    pub fn connection(self: &Arc<Self>, bytes: ByteSize) -> ConnectionBudget {
        ConnectionBudget { own: Arc::new(Semaphore::new(bytes.as_usize())), server: Arc::clone(self) }
    }

    /// Waits for room for an outgoing chunk.
    pub async fn reserve_outgoing(&self, bytes: usize) -> Reservation {
        Reservation { _own: None, server: acquire(&self.outgoing.free, bytes.min(self.outgoing.bytes)).await }
    }

    /// Room for an outgoing chunk, if there is.
    pub fn try_reserve_outgoing(&self, bytes: usize) -> Option<Reservation> {
        let permits = permits(bytes.min(self.outgoing.bytes));
        let server = Arc::clone(&self.outgoing.free).try_acquire_many_owned(permits).ok()?;
        Some(Reservation { _own: None, server })
    }

    /// How much a consumer should read at once, of `wanted`: less and less as slow consumers fill the share, so
    /// that dozens of them leave room for the next.
    pub fn outgoing_size(&self, wanted: usize, least: usize) -> usize {
        (self.outgoing.free.available_permits() / OUTGOING_SHARE).clamp(least.min(wanted), wanted)
    }

    /// Whether consumers wait because others hold their share.
    pub fn outgoing_is_short(&self) -> bool {
        self.outgoing.free.available_permits() < self.outgoing.bytes / 8
    }

    /// Takes up to `wanted` bytes for a connection's window; `None` where too little is free to be of use.
    pub fn grant_window(&self, wanted: usize, least: usize) -> Option<Grant> {
        let bytes = wanted.min(self.windows.free.available_permits() / WINDOW_SHARE);
        if bytes < least {
            return None;
        }
        let permit = Arc::clone(&self.windows.free).try_acquire_many_owned(permits(bytes)).ok()?;
        Some(Grant { bytes, _permit: permit })
    }

    /// Waits for a turn to decompress one batch.
    pub async fn decode_turn(&self) -> OwnedSemaphorePermit {
        acquire(&self.decodes, 1).await
    }

    pub fn in_hand(&self) -> InHand {
        InHand { incoming: self.incoming.used(), outgoing: self.outgoing.used(), windows: self.windows.used() }
    }
}

/// One connection's part of the budget.
#[derive(Debug)]
pub(crate) struct ConnectionBudget {
    own: Arc<Semaphore>,
    server: Arc<Budget>,
}

impl ConnectionBudget {
    /// Waits for room for an incoming frame of `bytes`, which `FrameHeader::decode` has bounded.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let own = acquire(&self.own, bytes).await;
        Reservation { _own: Some(own), server: acquire(&self.server.incoming.free, bytes).await }
    }

    /// The server's budget.
    pub fn server(&self) -> &Budget {
        &self.server
    }
}

/// Bytes in hand; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Reservation {
    _own: Option<OwnedSemaphorePermit>,
    server: OwnedSemaphorePermit,
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.server.num_permits()
    }

    /// Gives back what is above `bytes` of an outgoing reservation.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        drop(self.server.split(surplus));
    }
}

/// Bytes of window, until dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    pub bytes: usize,
    _permit: OwnedSemaphorePermit,
}

async fn acquire(semaphore: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_many_owned(permits(bytes)).await.expect("the budget's semaphores are never closed")
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("frames, chunks and windows are far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn budget() -> Arc<Budget> {
        Budget::new(ByteSize::mib(40))
    }

    #[test]
    fn a_frame_waits_until_the_connection_and_the_server_have_room() {
        let budget = budget();
        let (one, two) = (budget.connection(ByteSize::mib(16)), budget.connection(ByteSize::mib(16)));
        let first = one.reserve(16 << 20).now_or_never().expect("there is room");
        assert!(one.reserve(1).now_or_never().is_none(), "the connection is at its bound");
        let second = two.reserve(4 << 20).now_or_never().expect("the server has room for another connection");
        assert!(two.reserve(1).now_or_never().is_none(), "the server is at its bound");
        assert_eq!(budget.in_hand().incoming, 20 << 20);
        drop(first);
        assert!(two.reserve(1 << 20).now_or_never().is_some(), "what was given back can be taken");
        drop(second);
        assert_eq!(budget.in_hand(), InHand { incoming: 0, outgoing: 0, windows: 0 });
    }

    #[test]
    fn slow_consumers_do_not_keep_producers_waiting() {
        let budget = budget();
        let slow = budget.reserve_outgoing(10 << 20).now_or_never().expect("all of the share");
        assert!(budget.reserve_outgoing(1).now_or_never().is_none());
        assert!(budget.connection(ByteSize::mib(16)).reserve(1 << 20).now_or_never().is_some());
        drop(slow);
    }

    #[test]
    fn a_reservation_shrinks_to_what_was_read() {
        let budget = budget();
        let mut chunk = budget.reserve_outgoing(1 << 20).now_or_never().expect("there is room");
        chunk.shrink_to(1_000);
        assert_eq!((chunk.bytes(), budget.in_hand().outgoing), (1_000, 1_000));
        chunk.shrink_to(2_000);
        assert_eq!(chunk.bytes(), 1_000);
    }

    #[test]
    fn stalled_readers_leave_room_for_dozens_more() {
        let budget = budget();
        let mut stalled = Vec::new();
        while let Some(chunk) = budget.reserve_outgoing(budget.outgoing_size(1 << 20, 64 << 10)).now_or_never() {
            stalled.push(chunk);
        }
        assert!(stalled.len() > 40, "{}", stalled.len());
        assert!(budget.outgoing_is_short());
    }

    #[test]
    fn windows_are_granted_by_quarters_and_never_starve_frames() {
        let budget = budget();
        let grants: Vec<Grant> = std::iter::from_fn(|| budget.grant_window(4 << 20, 256 << 10)).collect();
        assert!(grants.len() > 5, "{}", grants.len());
        assert!(grants.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
        assert!(budget.grant_window(4 << 20, 256 << 10).is_none());
        assert!(budget.connection(ByteSize::mib(16)).reserve(8 << 20).now_or_never().is_some());
        drop(grants);
        assert_eq!(budget.in_hand().windows, 0);
    }
}
