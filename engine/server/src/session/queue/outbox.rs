//! What waits to be written on a queue stream. The queue's thread puts it in and never waits; the session takes it out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use millstream_broker::queue::{Delivered, Outlet};
use millstream_protocol::Code;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::budget::{Budget, Reservation};

/// Bytes of records that wait to be written before the receiver gets no more; a run of a few messages may come above it.
const BYTES_MAX: usize = 1 << 20;

/// One thing to be written.
pub(super) enum Out {
    Delivered { delivered: Delivered, bytes: usize, _room: Option<Reservation> },
    Results { correlation: u64, codes: Vec<Option<Code>> },
    Pulled { number: u64, at_limit: bool },
    Ended,
}

/// What a receive may still get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulled {
    pub bytes_left: usize,
    pub messages: u32,
}

pub(super) struct Outbox {
    out: UnboundedSender<Out>,
    budget: Arc<Budget>,
    /// Of records that wait.
    bytes: AtomicUsize,
    /// It has said that it has no room.
    is_stalled: AtomicBool,
    pulls: Mutex<HashMap<u64, Pulled>>,
}

impl Outbox {
    pub fn new(budget: Arc<Budget>) -> (Arc<Self>, UnboundedReceiver<Out>) {
        let (out, outgoing) = unbounded_channel();
        let outbox = Self {
            out,
            budget,
            bytes: AtomicUsize::new(0),
            is_stalled: AtomicBool::new(false),
            pulls: Mutex::default(),
        };
        (Arc::new(outbox), outgoing)
    }

    /// Whether nobody takes it out any more does not matter: the session's end gives back what it held.
    pub fn put(&self, out: Out) {
        let _ = self.out.send(out);
    }

    /// Notes a receive; false if its number is in use.
    pub fn expect_pull(&self, number: u64, bytes_max: u32) -> bool {
        let pulled = Pulled { bytes_left: bytes_max as usize, messages: 0 };
        self.pulls.lock().insert(number, pulled).is_none()
    }

    pub fn pull(&self, number: u64) -> Option<Pulled> {
        self.pulls.lock().get(&number).copied()
    }

    pub fn note_pull(&self, number: u64, pulled: Pulled) {
        self.pulls.lock().insert(number, pulled);
    }

    pub fn end_pull(&self, number: u64) -> Option<Pulled> {
        self.pulls.lock().remove(&number)
    }

    /// Records were written. True if the queue was told that there is no room, and there is again.
    pub fn written(&self, bytes: usize) -> bool {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.is_stalled.load(Ordering::SeqCst) && self.is_below() && self.is_stalled.swap(false, Ordering::SeqCst)
    }

    fn is_below(&self) -> bool {
        let bytes = self.bytes.load(Ordering::SeqCst);
        bytes == 0 || bytes < BYTES_MAX && !self.budget.outgoing_is_short()
    }
}

impl Outlet for Outbox {
    fn deliver(&self, delivered: Delivered) {
        let bytes = size(&delivered);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        // Above the budget it holds a turn's messages and no more: `has_room`.
        let room = self.budget.try_reserve_outgoing(bytes);
        self.put(Out::Delivered { delivered, bytes, _room: room });
    }

    fn pulled(&self, number: u64, _: u32, at_limit: bool) {
        self.put(Out::Pulled { number, at_limit });
    }

    fn has_room(&self) -> bool {
        if self.is_below() {
            return true;
        }
        self.is_stalled.store(true, Ordering::SeqCst);
        // Between the two all may have been written, and nobody would say so any more.
        self.is_below()
    }

    fn ended(&self) {
        self.put(Out::Ended);
    }
}

/// About how many bytes the delivered records have: a batch's are taken to be alike.
fn size(delivered: &Delivered) -> usize {
    let held = |offset: u64| {
        delivered
            .batches
            .iter()
            .map(|batch| batch.header())
            .find(|header| (header.base_offset.0..header.end_offset().0).contains(&offset))
    };
    let bytes = delivered.deliveries.iter().filter_map(|delivery| held(delivery.receipt.offset));
    bytes.map(|header| 1 + header.uncompressed_len as usize / header.record_count.max(1) as usize).sum()
}
