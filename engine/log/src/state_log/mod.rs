//! A state log: a machine's events in a log of their own, with snapshots, so that there is one storage engine, one
//! recovery, one set of promises. The catalog is one; so is what each partition keeps beside its records.
//!
//! One update at a time: it decides, its events are applied at once, and it returns when they are durable. One update is
//! one batch: its events are stored all or none. A machine that needs many updates in flight brings its own shell.
//!
//! Invariants
//! - `apply` is the only door to the state, live and in recovery.
//! - A snapshot is never ahead of the log: it is taken only while all that was applied is durable.
//! - An update that surely was not stored (a full disk) is undone; one whose fate is unknown ends all updates until a
//!   restart.

pub(crate) mod snapshot;
pub(crate) mod table;

use std::sync::Arc;

use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Offset, Record};
use parking_lot::Mutex;

use crate::error::LogError;
use crate::partition::{Partition, WaitSink};
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
    /// Held by the one update in hand.
    updating: Mutex<()>,
    inner: Mutex<Inner<M>>,
}

/// Why an update was not stored.
enum Failed<E> {
    /// There was no room; it was undone.
    Full(LogError),
    Other(E),
}

struct Inner<M> {
    machine: M,
    bytes_since_snapshot: u64,
    failed: Option<LogError>,
}

impl<M: Machine> StateLog<M> {
    /// Rebuilds the machine: the newest whole snapshot, then the events since.
    pub(crate) fn open(partition: Arc<Partition>) -> Result<Self, LogError> {
        let inner = rebuild(&partition)?;
        Ok(Self { partition, updating: Mutex::new(()), inner: Mutex::new(inner) })
    }

    /// The epoch stamped into its events since it was opened.
    pub fn epoch(&self) -> Epoch {
        self.partition.epoch()
    }

    /// What opening it had to do.
    pub fn recovered(&self) -> &Recovered {
        self.partition.recovered()
    }

    /// Looks at the state. It may be ahead of the disk: what leaves the process must wait for an `update`.
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.inner.lock().machine)
    }

    /// Lets `decide` propose events, applies them, and returns when they are durable. Blocks.
    ///
    /// # Errors
    /// `decide`'s own; the log's. After [`LogError::DurabilityUnknown`] every later update fails until a restart.
    pub fn update<E: From<LogError>>(&self, decide: impl Fn(&M) -> Result<Vec<M::Event>, E>) -> Result<(), E> {
        let _one = self.updating.lock();
        match self.update_once(&decide) {
            // State keeps working on a full disk: it is what frees it.
            Err(Failed::Full(_)) if self.partition.shared().space.release() => self.update_once(&decide),
            other => other,
        }
        .map_err(|failed| match failed {
            Failed::Full(error) => error.into(),
            Failed::Other(error) => error,
        })
    }

    /// Called by the one update in hand.
    fn update_once<E: From<LogError>>(
        &self,
        decide: &impl Fn(&M) -> Result<Vec<M::Event>, E>,
    ) -> Result<(), Failed<E>> {
        let other = |error: LogError| Failed::Other(error.into());
        let wait = {
            let mut inner = self.inner.lock();
            if let Some(error) = &inner.failed {
                return Err(other(error.clone()));
            }
            let events = decide(&inner.machine).map_err(Failed::Other)?;
            if events.is_empty() {
                return Ok(());
            }
            let batch = encode(events.iter().map(M::encode_event)).map_err(|error| other(error.into()))?;
            let length = batch.bytes().len() as u64;
            let (sink, wait) = WaitSink::pair();
            self.partition.append(batch, 0, &sink).map_err(other)?;
            events.iter().for_each(|event| inner.machine.apply(event));
            inner.bytes_since_snapshot += length;
            wait
        };
        self.partition.before_wait();
        match wait.recv().unwrap_or(Err(LogError::Closed)) {
            Ok(_) => {
                self.snapshot_if_due(self.partition.shared().config.snapshot_interval_bytes);
                Ok(())
            }
            Err(error) => {
                let undone = match error {
                    LogError::DiskFull => rebuild(&self.partition).ok(),
                    _ => None,
                };
                let mut inner = self.inner.lock();
                match undone {
                    Some(rebuilt) => *inner = rebuilt,
                    None => inner.failed = Some(error.clone()),
                }
                Err(if matches!(error, LogError::DiskFull) { Failed::Full(error) } else { other(error) })
            }
        }
    }

    /// Snapshots the state if any event has come since the last one: the next start replays nothing.
    pub fn close(&self) {
        let _one = self.updating.lock();
        self.snapshot_if_due(1);
    }

    /// Called with no update in flight: all that was applied is durable.
    fn snapshot_if_due(&self, interval_bytes: u64) {
        let (bytes, offset) = {
            let mut inner = self.inner.lock();
            if inner.bytes_since_snapshot < interval_bytes || inner.failed.is_some() {
                return;
            }
            inner.bytes_since_snapshot = 0;
            (inner.machine.encode_snapshot(), self.partition.high_watermark())
        };
        if let Err(error) = snapshot::store(&self.partition, offset, &bytes) {
            // The events are all there; only the next start takes longer.
            tracing::warn!(%error, "a snapshot was not written");
        }
    }
}

fn rebuild<M: Machine>(partition: &Arc<Partition>) -> Result<Inner<M>, LogError> {
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
    Ok(Inner { machine, bytes_since_snapshot, failed: None })
}

fn encode(events: impl Iterator<Item = Vec<u8>>) -> Result<BatchView, millstream_protocol::batch::BatchError> {
    let mut builder = BatchBuilder::new(Codec::None);
    for event in events {
        builder.push(&Record::new(event))?;
    }
    BatchView::parse(&builder.finish()?)
}
