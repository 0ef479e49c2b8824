//! A state log: a machine's events in a log of their own, with snapshots, so that there is one storage engine, one
//! recovery, one set of promises. The catalog is one; so is what each partition keeps beside its records.
//!
//! An update decides under a lock, its events are applied at once, and it returns when they are durable. Updates of many
//! threads are in flight together, in the order of their decisions, and share the lane's passes: one sync for all that
//! wait. One update is one batch: its events are stored all or none.
//!
//! Invariants
//! - `apply` is the only door to the state, live and in recovery.
//! - What an update returns, an error of its decision too, rests on durable events only.
//! - A snapshot is never ahead of the log: it is stored only after the update that took it is durable, and with it all
//!   before it.
//! - An update that surely was not stored (a full disk) is undone together with all that were decided after it; each of
//!   those then decides anew. One whose fate is unknown ends all updates until a restart.

pub(crate) mod events;
pub(crate) mod snapshot;
pub(crate) mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Offset, Record};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::LogError;
use crate::lane::{AppendSink, Appended};
use crate::partition::Partition;
use crate::recovery::open::Recovered;

/// Bytes read at once in a replay.
const REPLAY_BYTES: usize = 1 << 20;

/// A pure machine whose durable state is the events applied to it, in order.
pub trait Machine: Default + Send + 'static {
    /// What happened.
    type Event: Send;

    /// Changes the state. Total: never fails, never asks.
    fn apply(&mut self, event: &Self::Event);

    /// The event's bytes, its version first.
    fn encode_event(event: &Self::Event) -> Vec<u8>;

    /// Reads an event back.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decode_event(bytes: &[u8]) -> Result<Self::Event, String>;

    /// The state's bytes, its version first.
    fn encode_snapshot(&self) -> Vec<u8>;

    /// Reads a state back.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String>;
}

/// A machine and its log.
pub struct StateLog<M: Machine> {
    partition: Arc<Partition>,
    inner: Mutex<Inner<M>>,
    /// Fires when an update has its outcome, and when a state has been undone.
    settled: Condvar,
    sink: Arc<Sink>,
    /// Held by who stores a snapshot.
    storing: Mutex<()>,
}

struct Inner<M> {
    machine: M,
    /// Updates applied; and those known durable.
    applied: u64,
    durable: u64,
    /// Updates without an outcome.
    in_flight: usize,
    /// An update was not stored: those in flight fail as well, and then the state is rebuilt. Counted, so that who waits
    /// for durability notices.
    undoing: bool,
    undone: u64,
    bytes_since_snapshot: u64,
    /// Bytes of events after which a snapshot is due.
    snapshot_due: u64,
    failed: Option<LogError>,
}

/// An update between its decision and its outcome.
struct InFlight {
    seq: u64,
    undone: u64,
    events: u64,
    wait: Receiver<Result<Appended, LogError>>,
    snapshot: Option<Vec<u8>>,
}

/// Why an update was not stored.
enum Failed<E> {
    /// It was not written, nor was anything after it; the state is what it was.
    Undone(LogError),
    Other(E),
}

/// How often an update decides again behind others that failed.
const ATTEMPTS_MAX: u32 = 16;

impl<M: Machine> StateLog<M> {
    /// Rebuilds the machine: the newest whole snapshot, then the events since.
    pub(crate) fn open(partition: Arc<Partition>) -> Result<Self, LogError> {
        let (machine, bytes_since_snapshot) = rebuild(&partition)?;
        let inner = Inner {
            machine,
            applied: 0,
            durable: 0,
            in_flight: 0,
            undoing: false,
            undone: 0,
            bytes_since_snapshot,
            snapshot_due: partition.shared().config.snapshot_interval_bytes,
            failed: None,
        };
        Ok(Self {
            partition,
            inner: Mutex::new(inner),
            settled: Condvar::new(),
            sink: Arc::default(),
            storing: Mutex::new(()),
        })
    }

    /// The epoch stamped into its events since it was opened.
    pub fn epoch(&self) -> Epoch {
        self.partition.epoch()
    }

    /// What opening it had to do.
    pub fn recovered(&self) -> &Recovered {
        self.partition.recovered()
    }

    /// What ended its updates, if anything has.
    pub fn failure(&self) -> Option<LogError> {
        self.inner.lock().failed.clone()
    }

    /// Looks at the state. It may be ahead of the disk: what leaves the process must rest on
    /// [`read_durable`](Self::read_durable) or an [`update`](Self::update).
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.inner.lock().machine)
    }

    /// Looks at the state, and returns what it saw once all that it rests on is durable; `None` if it never will be: the
    /// log has failed. Blocks for as long as a commit takes, if updates are in flight.
    pub fn read_durable<R>(&self, look: impl Fn(&M) -> R) -> Option<R> {
        let mut inner = self.inner.lock();
        loop {
            let (seen, seq, undone) = (look(&inner.machine), inner.applied, inner.undone);
            if self.wait_durable(&mut inner, seq, undone) {
                return Some(seen);
            }
            if inner.failed.is_some() {
                return None;
            }
        }
    }

    /// Looks at the state if all of it is durable now; `None` if updates are in flight. Never waits for the disk.
    pub fn read_if_durable<R>(&self, look: impl FnOnce(&M) -> R) -> Option<R> {
        let inner = self.inner.lock();
        (inner.durable == inner.applied && inner.failed.is_none()).then(|| look(&inner.machine))
    }

    /// Waits until the update of that number is durable; `false` if it was undone or never will be.
    fn wait_durable(&self, inner: &mut MutexGuard<'_, Inner<M>>, seq: u64, undone: u64) -> bool {
        while inner.durable < seq && inner.undone == undone && inner.failed.is_none() {
            self.settled.wait(inner);
        }
        inner.durable >= seq && inner.undone == undone
    }

    /// Lets `decide` propose events, applies them, and returns when they are durable. Blocks; many threads may be here at
    /// once. `decide` is asked again if what it was decided on was undone.
    ///
    /// # Errors
    /// `decide`'s own; the log's. After [`LogError::DurabilityUnknown`] every later update fails until a restart.
    pub fn update<E: From<LogError>>(&self, decide: impl Fn(&M) -> Result<Vec<M::Event>, E>) -> Result<(), E> {
        let mut attempts = 0;
        let mut has_released = false;
        loop {
            attempts += 1;
            let error = match self.update_once(&decide) {
                Ok(()) => return Ok(()),
                Err(Failed::Other(error)) => return Err(error),
                Err(Failed::Undone(error)) => error,
            };
            // State keeps working on a full disk: it is what frees it. Who comes here behind others tries again, as does
            // who finds that another has just given the reserve up.
            let again = match error {
                LogError::Behind => attempts < ATTEMPTS_MAX,
                LogError::DiskFull => {
                    let is_first = !std::mem::replace(&mut has_released, true);
                    self.partition.shared().space.release() || is_first
                }
                _ => false,
            };
            if !again {
                let error = if matches!(error, LogError::Behind) { LogError::DiskFull } else { error };
                return Err(error.into());
            }
        }
    }

    fn update_once<E: From<LogError>>(
        &self,
        decide: &impl Fn(&M) -> Result<Vec<M::Event>, E>,
    ) -> Result<(), Failed<E>> {
        let in_flight = {
            let mut inner = self.inner.lock();
            while inner.undoing {
                self.settled.wait(&mut inner);
            }
            if let Some(error) = &inner.failed {
                return Err(Failed::Other(error.clone().into()));
            }
            let decided = decide(&inner.machine);
            let events = match decided {
                Ok(events) if !events.is_empty() => events,
                // Nothing changes, but the answer may rest on what is in flight.
                answer => {
                    let (seq, undone) = (inner.applied, inner.undone);
                    if !self.wait_durable(&mut inner, seq, undone) {
                        return match &inner.failed {
                            Some(error) => Err(Failed::Other(error.clone().into())),
                            None => Err(Failed::Undone(LogError::Behind)),
                        };
                    }
                    return answer.map(drop).map_err(Failed::Other);
                }
            };
            self.hand_over(&mut inner, &events).map_err(|error| Failed::Other(error.into()))?
        };
        self.partition.before_wait();
        let InFlight { seq, undone, events, wait, snapshot } = in_flight;
        let outcome = wait.recv().unwrap_or(Err(LogError::Closed));
        self.settle(seq, undone, &outcome);
        match outcome {
            Ok(appended) => {
                if let Some(state) = snapshot {
                    self.store(Offset(appended.base_offset.0 + events), &state);
                }
                Ok(())
            }
            Err(error) if is_undone(&error) => Err(Failed::Undone(error)),
            Err(error) => Err(Failed::Other(error.into())),
        }
    }

    /// Hands the events to the lane and applies them, under the lock: the log's order is the decisions'.
    fn hand_over(&self, inner: &mut Inner<M>, events: &[M::Event]) -> Result<InFlight, LogError> {
        let batch = encode(events.iter().map(M::encode_event))?;
        let length = batch.bytes().len() as u64;
        let seq = inner.applied + 1;
        let wait = self.sink.expect(seq);
        let sink: Arc<dyn AppendSink> = self.sink.clone();
        if let Err(error) = self.partition.append(batch, seq, &sink) {
            self.sink.forget(seq);
            return Err(error);
        }
        events.iter().for_each(|event| inner.machine.apply(event));
        inner.applied = seq;
        inner.in_flight += 1;
        inner.bytes_since_snapshot += length;
        let is_due = inner.bytes_since_snapshot >= inner.snapshot_due;
        let snapshot = is_due.then(|| {
            let state = inner.machine.encode_snapshot();
            inner.bytes_since_snapshot = 0;
            inner.snapshot_due = next_snapshot(&self.partition, state.len());
            state
        });
        Ok(InFlight { seq, undone: inner.undone, events: events.len() as u64, wait, snapshot })
    }

    /// Notes an update's outcome; the last one in flight rebuilds the state if one of them was not stored.
    fn settle(&self, seq: u64, undone: u64, outcome: &Result<Appended, LogError>) {
        let mut inner = self.inner.lock();
        inner.in_flight -= 1;
        match outcome {
            Ok(_) => {
                debug_assert_eq!(inner.undone, undone, "a state is rebuilt only when nothing is in flight");
                inner.durable = inner.durable.max(seq);
            }
            Err(error) if is_undone(error) => inner.undoing = true,
            Err(error) => {
                inner.failed.get_or_insert_with(|| error.clone());
            }
        }
        if inner.undoing && inner.in_flight == 0 {
            if inner.failed.is_none() {
                match rebuild(&self.partition) {
                    Ok((machine, bytes)) => {
                        inner.machine = machine;
                        inner.bytes_since_snapshot = bytes;
                        inner.applied = inner.durable;
                        inner.undone += 1;
                    }
                    Err(error) => inner.failed = Some(error),
                }
            }
            inner.undoing = false;
            self.sink.admit_again();
        }
        drop(inner);
        self.settled.notify_all();
    }

    /// Snapshots the state if any event has come since the last one: the next start replays nothing.
    pub fn close(&self) {
        let taken = {
            let mut inner = self.inner.lock();
            while inner.in_flight > 0 {
                self.settled.wait(&mut inner);
            }
            let is_due = inner.bytes_since_snapshot > 0 && inner.failed.is_none();
            inner.bytes_since_snapshot = 0;
            is_due.then(|| (self.partition.high_watermark(), inner.machine.encode_snapshot()))
        };
        if let Some((offset, state)) = taken {
            self.store(offset, &state);
        }
    }

    /// Stores the state as of an offset below which all is durable.
    fn store(&self, offset: Offset, state: &[u8]) {
        let _one = self.storing.lock();
        if let Err(error) = snapshot::store(&self.partition, offset, state) {
            // The events are all there; only the next start takes longer.
            tracing::warn!(%error, "a snapshot was not written");
        }
    }
}

/// Whether an append with that outcome has left nothing behind.
fn is_undone(error: &LogError) -> bool {
    matches!(error, LogError::DiskFull | LogError::Behind | LogError::OutOfDescriptors)
}

/// Where the outcomes of a state log's appends go. One for all, so that behind one that was not stored the lane writes
/// nothing more of this log until the state is what is on the disk.
#[derive(Default)]
struct Sink {
    waiting: Mutex<HashMap<u64, Sender<Result<Appended, LogError>>>>,
    is_barred: AtomicBool,
}

impl Sink {
    fn expect(&self, seq: u64) -> Receiver<Result<Appended, LogError>> {
        let (send, receive) = bounded(1);
        self.waiting.lock().insert(seq, send);
        receive
    }

    fn forget(&self, seq: u64) {
        self.waiting.lock().remove(&seq);
    }

    fn admit_again(&self) {
        self.is_barred.store(false, Ordering::Release);
    }
}

impl AppendSink for Sink {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        if results.iter().any(|(_, result)| result.is_err()) {
            self.is_barred.store(true, Ordering::Release);
        }
        let mut waiting = self.waiting.lock();
        for (seq, result) in results {
            if let Some(waiter) = waiting.remove(&seq) {
                // Whoever waited is waiting still: it blocks.
                let _ = waiter.try_send(result);
            }
        }
    }

    fn admits(&self, _: u64) -> bool {
        !self.is_barred.load(Ordering::Acquire)
    }
}

/// After how many bytes of events the next snapshot is due: as many as the last one had, so that a large state is not written
/// again and again, and a start never reads more than about twice as much as there is state.
fn next_snapshot(partition: &Partition, last: usize) -> u64 {
    partition.shared().config.snapshot_interval_bytes.max(last as u64)
}

/// The machine as the log has it, and the bytes of events since its newest snapshot.
fn rebuild<M: Machine>(partition: &Arc<Partition>) -> Result<(M, u64), LogError> {
    let damaged = |reason: String| LogError::StateDamaged { path: partition.dir().to_owned(), reason };
    let (mut machine, mut next) = (M::default(), Offset::ZERO);
    for (offset, bytes) in snapshot::load(&*partition.shared().storage, partition.dir(), partition.incarnation())? {
        match M::decode_snapshot(&bytes) {
            Ok(state) => {
                (machine, next) = (state, offset);
                break;
            }
            Err(reason) => {
                tracing::error!(%offset, reason, "a snapshot does not decode: the one before is used");
            }
        }
    }
    let (start, end) = (partition.log_start(), partition.high_watermark());
    if next < start || next > end {
        return Err(damaged(format!("its events {start}..{end} do not join its newest whole snapshot at {next}")));
    }
    let mut bytes_since_snapshot = 0;
    while next < end {
        // Damage in the events is an error here, never a skip: a state with a gap is a wrong state.
        let mut chunk = partition.read(next, REPLAY_BYTES)?;
        bytes_since_snapshot += chunk.bytes.len() as u64;
        while !chunk.bytes.is_empty() {
            let batch = BatchView::split_stored(&mut chunk.bytes, partition.incarnation())?;
            let mut records = batch.records()?;
            while let Some(record) = records.next_with_offset() {
                let (offset, record) = record?;
                if offset >= next {
                    let event = M::decode_event(record.value.as_deref().unwrap_or_default())
                        .map_err(|reason| damaged(format!("event {offset}: {reason}")))?;
                    machine.apply(&event);
                }
            }
        }
        next = chunk.next;
    }
    Ok((machine, bytes_since_snapshot))
}

fn encode(events: impl Iterator<Item = Vec<u8>>) -> Result<BatchView, millstream_protocol::batch::BatchError> {
    let mut builder = BatchBuilder::new(Codec::None);
    for event in events {
        builder.push(&Record::new(event))?;
    }
    BatchView::parse(&builder.finish()?)
}
