//! One queue on one partition: which message is next, who has it, when it comes back. Pure: no clock, no I/O.
//!
//! The durable half is the [`Ledger`]; every change of it is an event, applied at once and handed out by
//! [`flush`](PartitionQueue::flush), one pass for all that was decided since the last. What leaves the process on the
//! strength of an event (the answer to an ack) waits until its pass is durable. A delivery does not wait: the *next* one of
//! that message waits until it is durable, so a receive count never falls below one that a receiver saw twice. After a crash a receiver may have one delivery that no event tells of:
//! its ack is as good as any other.
//!
//! The other half dies with the process: leases, and who waits for what. Recovery is [`PartitionQueue::recover`]: a ledger
//! in, and every message that was out is available again, its attempt counted.
//!
//! Invariants
//! - A message has at most one lease; every lease has exactly one timer that stands for it.
//! - A message is in one place: settled, leased, ready, waiting for a time or for durability, dying, parked, or not looked
//!   at. What is in a list of the ready ones is asked again before it is delivered.
//! - Fences rise with every delivery of the queue and partition: the partition epoch above, a counter below.

mod deliver;
mod durable;
mod ends;
mod judge;
mod operate;
mod peek;
mod redrive;
mod time;
mod verbs;

pub use peek::{Glance, Standing};
pub use redrive::Adoption;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::event::{Adopted, Dying, Event, How, Mark, Pass, Reason};
use super::fresh::Fresh;
use super::groups::Groups;
use super::leases::{Lease, Leases, ReceiverId};
use super::ledger::{Known, Ledger, MayAdopt};
use super::pending::Pending;
use super::recent::Recent;
use millstream_protocol::limits::VISIBILITY_MS_MAX;

use super::settings::{NACK_DELAY_MS_MAX, Now, Ordering, RELEASES_MAX, Settings};
use super::timers::{TICK_MS, Timers, tick_after, tick_at};

/// The longest text of a failure that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 256;
/// Bits of a fence below the partition epoch.
const FENCE_COUNTER_BITS: u32 = 40;
/// One in so many deliveries is a new message, whatever else is ready: a storm of retries does not starve them.
const NEW_EVERY: u32 = 4;

/// Names one delivery of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt {
    /// The queue epoch: purge and seek raise it.
    pub epoch: u32,
    /// The message's offset.
    pub offset: u64,
    /// How often the message was redriven.
    pub redriven: u16,
    /// The delivery.
    pub fence: u64,
}

/// A message on its way to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Names it.
    pub receipt: Receipt,
    /// Its deliveries with this one, less those released.
    pub receives: u16,
    /// Its first delivery, Unix ms.
    pub first_ms: u64,
}

/// Why a verb was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The delivery is over: another has begun, or it was nacked, released, rejected, dead-lettered, purged.
    ReceiptExpired,
    /// The message is settled, by whom is not known any more.
    AlreadySettled,
    /// An earlier message of its FIFO group is not settled.
    OutOfGroupOrder,
    /// Above 12 hours, or the delivery would last longer than that in all.
    VisibilityOutOfRange,
    /// The queue has no dead-letter stream.
    NoDeadLetter,
}

/// What a filter, and the record itself, say about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is for this queue.
    Matches {
        /// Not before, Unix ms; 0: at once.
        due_ms: u64,
        /// The record itself says so, not the queue for all.
        is_own_delay: bool,
        /// The hash of its key; unused where messages are unordered.
        group: u64,
    },
    /// It is not.
    Filtered,
    /// It cannot be delivered: to the dead letters.
    Dead(Reason),
}

/// How many messages are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// May be delivered now.
    pub available: u64,
    /// Delivered, neither settled nor back.
    pub in_flight: u64,
    /// Held back until a time.
    pub delayed: u64,
    /// On their way to the dead letters.
    pub dying: u64,
    /// Standing still with their group.
    pub parked: u64,
}

/// How a delivery ended without an ack.
#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Nack {
        due_ms: u64,
        error: &'a str,
    },
    Release,
    /// Its deadline passed, or its receiver was lost for too long.
    Over,
    Reject {
        error: &'a str,
    },
    /// One before it in its run failed.
    Follows,
}

/// The machine.
#[derive(Debug)]
pub struct PartitionQueue {
    settings: Settings,
    ledger: Ledger,
    pending: Pending,
    /// Flushed passes, each with the newest fence in it; those below `durable_fence` are durable.
    flushed: VecDeque<(u64, u64)>,
    flushes: u64,
    next_fence: u64,
    durable_fence: u64,

    /// Deliveries of the life before this start that no event tells of: their receivers may have them still. An older one
    /// may have been followed by one that no event tells of either. They are of messages below `untold_below`.
    untold: Range<u64>,
    untold_below: u64,
    /// Records below it were looked at by this process.
    scanned: u64,
    /// Adopted messages below it are in their groups, FIFO only: they take their places where the log is read past them.
    filed_below: u64,
    /// Never delivered, unordered only.
    fresh: Fresh,
    /// Delivered before or held back before, unordered only: by when they became due.
    ready: BTreeSet<(u64, u64)>,
    groups: Groups,
    leases: Leases,
    deadlines: Timers,
    waits: Timers,
    /// Available as soon as the delivery with that fence is durable.
    unsynced: VecDeque<(u64, u64)>,
    /// Dying, but not yet durably.
    condemned: VecDeque<(u64, (u32, u64))>,
    moves: VecDeque<(u32, u64)>,
    /// Receivers that are gone, by when their grace ends (ticks).
    gone: BTreeMap<ReceiverId, u64>,
    recent: Recent,
    turn: u32,
}

impl PartitionQueue {
    /// Goes on where a ledger stands. `epoch` is the partition's, above that of every fence in it; `end` is where its log ends.
    pub fn recover(ledger: Ledger, settings: Settings, epoch: u32, end: u64, now: Now) -> Self {
        let first_of = |epoch: u32| (u64::from(epoch) << FENCE_COUNTER_BITS) + 1;
        let last_life = first_of(epoch.saturating_sub(1));
        Self { untold_below: end, ..Self::from(ledger, settings, last_life, first_of(epoch), 0, now) }
    }

    /// Goes on where the log stands, after events that were not stored: all leases end, fences and flushes count on.
    pub fn restart(&mut self, ledger: Ledger, now: Now) {
        self.leases.clear();
        let ended = self.leases.take_ended();
        let this_life = self.next_fence >> FENCE_COUNTER_BITS << FENCE_COUNTER_BITS;
        *self = Self::from(ledger, self.settings, this_life, self.next_fence, self.flushes, now);
        self.leases.note_ended(ended);
    }

    /// `last_life`: the first fence of whoever gave out fences before.
    fn from(ledger: Ledger, settings: Settings, last_life: u64, first_fence: u64, flushes: u64, now: Now) -> Self {
        let next_fence = first_fence.max(ledger.fence + 1);
        let mut machine = Self {
            settings,
            pending: Pending::default(),
            flushed: VecDeque::new(),
            flushes,
            next_fence,
            durable_fence: next_fence - 1,
            untold: last_life.max(ledger.fence + 1)..next_fence,
            untold_below: u64::MAX,
            scanned: ledger.judged,
            filed_below: 0,
            fresh: Fresh::default(),
            ready: BTreeSet::new(),
            groups: Groups::default(),
            leases: Leases::starting(next_fence),
            deadlines: Timers::default(),
            waits: Timers::default(),
            unsynced: VecDeque::new(),
            condemned: VecDeque::new(),
            moves: VecDeque::new(),
            gone: BTreeMap::new(),
            recent: Recent::default(),
            turn: 0,
            ledger,
        };
        machine.resume(now);
        machine
    }

    /// Sorts what the ledger knows into what is to be done.
    fn resume(&mut self, now: Now) {
        self.moves.extend(self.ledger.dying.keys());
        if self.is_fifo() {
            // Whose group a message is, only its record says: the log is read again from the floor on.
            self.scanned = self.ledger.floor();
            self.file_adopted(now);
            return;
        }
        if self.settings.is_delayed {
            // When they are due, only their batches say: the log is read again from the first that was never delivered.
            let fresh = self.ledger.unsettled().find(|offset| self.ledger.known(*offset) == Known::Fresh);
            self.scanned = fresh.unwrap_or(self.scanned);
        }
        let unsettled: Vec<u64> = self.ledger.unsettled().filter(|at| !self.ledger.is_dying(*at)).collect();
        for offset in unsettled {
            match self.ledger.known(offset) {
                Known::Fresh if self.settings.is_delayed => {}
                Known::Fresh => self.fresh.push(offset..offset + 1, 0),
                known => self.back(offset, known.mark(), now),
            }
        }
    }

    /// A message whose delivery a restart ended, or that waited before it.
    fn back(&mut self, offset: u64, mark: Mark, now: Now) {
        match self.settings.limit() {
            Some(max) if mark.receives >= max && !mark.is_parked => self.die(offset, Reason::MaxReceives, ""),
            _ => self.make_available(offset, mark, mark.due_ms, now),
        }
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other settings: nothing that was decided is decided anew.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    fn is_fifo(&self) -> bool {
        matches!(self.settings.ordering, Ordering::Fifo { .. })
    }

    fn propose(&mut self, event: Event) {
        self.ledger.apply(&event);
        self.pending.push(event);
    }
}

/// The minute of the machine's clock, of which 65,536 are told apart.
fn minute(now: Now) -> u16 {
    (now.mono_ms / 60_000) as u16
}

fn cut_text(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
