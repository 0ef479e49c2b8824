//! A machine's events in a log of their own, for who runs the machine itself: it applies what it decides at once, hands the
//! events over without waiting, and hears later what is durable. A [`StateLog`](super::StateLog) is for who can wait.

use std::marker::PhantomData;
use std::sync::Arc;

use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Offset, Record};

use super::{Machine, next_snapshot, rebuild, snapshot};
use crate::error::LogError;
use crate::lane::AppendSink;
use crate::partition::Partition;

/// A batch of events is about this long, in bytes; one event may be longer.
const BATCH_BYTES: usize = 1 << 20;

/// The log of one machine's events.
pub struct EventLog<M: Machine> {
    partition: Arc<Partition>,
    bytes_since_snapshot: u64,
    snapshot_due: u64,
    machine: PhantomData<fn(M)>,
}

impl<M: Machine> EventLog<M> {
    pub(crate) fn open(partition: Arc<Partition>) -> Result<(Self, M), LogError> {
        let snapshot_due = partition.shared().config.snapshot_interval_bytes;
        let mut log = Self { partition, bytes_since_snapshot: 0, snapshot_due, machine: PhantomData };
        let machine = log.reload()?;
        Ok((log, machine))
    }

    /// The machine as the log has it: after an append that failed and is known not to have been stored, once none is in
    /// flight any more.
    ///
    /// # Errors
    /// [`LogError::StateDamaged`], [`LogError::Io`].
    pub fn reload(&mut self) -> Result<M, LogError> {
        let (machine, bytes) = rebuild(&self.partition)?;
        self.bytes_since_snapshot = bytes;
        Ok(machine)
    }

    /// The epoch stamped into its events.
    pub fn epoch(&self) -> Epoch {
        self.partition.epoch()
    }

    /// Hands events over, in as many batches as it takes; answers how many events are in each. `sink` hears of each batch under `token`. All
    /// of a batch is stored, or nothing; a sink that says [`admits`](AppendSink::admits) `false` behind a failure keeps what
    /// is stored a prefix of what was decided.
    ///
    /// # Errors
    /// At once, of the first batch or a later one, and `sink` is not called for that one and those behind it:
    /// [`LogError::ReadOnly`], [`LogError::Throttled`], [`LogError::Closed`]; an event above 8 MiB.
    pub fn append(
        &mut self,
        events: &[M::Event],
        token: u64,
        sink: &Arc<dyn AppendSink>,
    ) -> Result<Vec<u64>, LogError> {
        let mut batches = Vec::new();
        let (mut builder, mut bytes, mut counts) = (BatchBuilder::new(Codec::None), 0, vec![0]);
        for event in events {
            let event = M::encode_event(event);
            if bytes > 0 && bytes + event.len() > BATCH_BYTES {
                batches.push(std::mem::replace(&mut builder, BatchBuilder::new(Codec::None)).finish()?);
                bytes = 0;
                counts.push(0);
            }
            bytes += event.len();
            builder.push(&Record::new(event))?;
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
        }
        if bytes > 0 {
            batches.push(builder.finish()?);
        }
        for batch in &batches {
            self.partition.append(BatchView::parse(batch)?, token, sink)?;
            self.bytes_since_snapshot += batch.len() as u64;
        }
        self.partition.before_wait();
        counts.truncate(batches.len());
        Ok(counts)
    }

    /// Gives up the reserve that is kept for state on a full disk; whether there was any to give. Then an append may find room.
    pub fn make_room(&self) -> bool {
        self.partition.shared().space.release()
    }

    /// The state's bytes, if a snapshot is due: to be [stored](Self::store) once all that it rests on is durable.
    pub fn snapshot_if_due(&mut self, machine: &M) -> Option<Vec<u8>> {
        if self.bytes_since_snapshot < self.snapshot_due {
            return None;
        }
        let state = machine.encode_snapshot();
        self.bytes_since_snapshot = 0;
        self.snapshot_due = next_snapshot(&self.partition, state.len());
        Some(state)
    }

    /// What stores its snapshots, on any thread.
    pub fn snapshots(&self) -> SnapshotStore {
        SnapshotStore { partition: self.partition.clone() }
    }

    /// Whether events have come since the last snapshot.
    pub fn is_snapshot_behind(&self) -> bool {
        self.bytes_since_snapshot > 0
    }

    /// The offset behind all events that are durable.
    pub fn durable_end(&self) -> Offset {
        self.partition.high_watermark()
    }
}

/// Stores the snapshots of one log of events: one at a time, in order.
pub struct SnapshotStore {
    partition: Arc<Partition>,
}

impl SnapshotStore {
    /// Stores the state as of `offset`: that behind the last event it rests on, which is durable. Blocks. If it fails, the
    /// events are all there still, and only the next start takes longer.
    pub fn store(&self, offset: Offset, state: &[u8]) {
        if let Err(error) = snapshot::store(&self.partition, offset, state) {
            tracing::warn!(%error, "a snapshot was not written");
        }
    }
}
