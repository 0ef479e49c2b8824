//! One queue on one partition, running: the machine, its events on their way to the disk, and what waits for them.
//!
//! Events that were surely not stored (a full disk) are undone: the machine is rebuilt from the log, as after a crash, and
//! all leases end. Events whose fate is unknown end the queue's work on this partition until a restart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use crossbeam_channel::Sender;
use millstream_log::{AppendSink, Appended, EventLog, Log, LogError, Partition, SnapshotStore, Watch};
use millstream_protocol::{Offset, QueueId};

use super::event::Pass;
use super::feed::{self, Feed};
use super::floors::Floors;
use super::ledger::Ledger;
use super::letters::Letters;
use super::machine::PartitionQueue;
use super::rules::Rules;
use super::settings::{Now, Settings};
use super::worker::Command;
use crate::catalog::QueueEntry;
use crate::stream::Stream;

/// How long a partition that could not be worked on is left alone, in milliseconds.
const PAUSE_MS: u64 = 500;
/// Events in one stored record at most.
const PASS_EVENTS: usize = 4_096;

/// Flushes on their way at once: one is being stored while the next one gathers. More of them would each be smaller, and each
/// costs the lane as much as a large one.
const FLUSHES_MAX: usize = 2;

/// A flush on its way.
struct Flush {
    number: u64,
    /// The events in each of its batches that are not stored yet.
    batches: VecDeque<u64>,
    /// The state with this flush and all before it.
    snapshot: Option<Vec<u8>>,
    /// The queue epoch and the ack floor then.
    floor: (u32, u64),
}

/// What is to be stored on another thread.
pub(super) struct Snapshot {
    pub store: SnapshotStore,
    pub offset: Offset,
    pub state: Vec<u8>,
}

pub(super) struct Part {
    pub partition: Arc<Partition>,
    pub machine: PartitionQueue,
    pub feed: Feed,
    /// Of messages that were redriven.
    pub letters: Letters,
    events: EventLog<Ledger>,
    sink: Arc<Stored>,
    in_flight: VecDeque<Flush>,
    /// Flushes up to it are durable.
    pub durable: u64,
    /// Flushes up to it, and above what was durable then, were not stored, and why.
    lost: Option<(u64, LogError)>,
    /// An append failed: which error, until all in flight have come back.
    failed: Option<LogError>,
    /// It does nothing until a restart.
    pub ended: Option<LogError>,
    /// Records on which the filter failed since the start.
    pub filter_errors: u64,
    /// Nothing is tried before, by the monotonic clock.
    pub rests_until_ms: u64,
    floors: Arc<Floors>,
    changed: Arc<Changed>,
}

impl Part {
    pub fn open(
        log: &Log,
        queue: &QueueEntry,
        settings: Settings,
        partition: &Arc<Partition>,
        dead: Option<Arc<Stream>>,
        (commands, floors): (&Sender<Command>, &Arc<Floors>),
        now: Now,
    ) -> Result<Self, LogError> {
        let (events, ledger) = log.open_queue::<Ledger>(partition, queue.id())?;
        let stored = (ledger.epoch == queue.epoch).then(|| ledger.floor());
        let letters = Letters::new(queue.id(), partition.id().0, dead, &ledger);
        let machine = PartitionQueue::recover(ledger, settings, events.epoch().0, partition.high_watermark().0, now);
        let (queue_id, index) = (queue.id(), partition.id().0);
        let is_told = AtomicBool::new(false);
        let changed = Arc::new(Changed { queue: queue_id, index, is_told, commands: commands.clone() });
        let watch: Arc<dyn Watch> = changed.clone();
        partition.watch(&watch);
        let sink =
            Arc::new(Stored { queue: queue_id, index, is_barred: AtomicBool::new(false), commands: commands.clone() });
        let mut part = Self {
            partition: partition.clone(),
            machine,
            feed: Feed::default(),
            letters,
            events,
            sink,
            in_flight: VecDeque::new(),
            durable: 0,
            lost: None,
            failed: None,
            ended: None,
            filter_errors: 0,
            rests_until_ms: 0,
            floors: floors.clone(),
            changed,
        };
        part.catch_up(queue, now);
        // What is stored is durable, and so is where the catalog lets the queue begin; what catching up adds is not, yet.
        let floor = stored.unwrap_or_else(|| queue.floor(index)).min(partition.high_watermark().0);
        floors.set(index, queue.epoch, floor);
        Ok(part)
    }

    /// Follows what the catalog says, and what became of the log meanwhile.
    pub fn catch_up(&mut self, queue: &QueueEntry, now: Now) {
        let end = self.partition.high_watermark().0;
        self.machine.cut(end, now);
        self.machine.reset(queue.epoch, queue.floor(self.partition.id().0).min(end), queue.is_purge, now);
        self.machine.deleted_below(self.partition.log_start().0, now);
    }

    /// It is about to look at its partition: what changes from now on is told again.
    pub fn looks(&self) {
        self.changed.is_told.store(false, Atomic::Release);
    }

    /// Whether it can be worked on.
    pub fn works(&self, now: Now) -> bool {
        self.ended.is_none() && self.failed.is_none() && self.rests_until_ms <= now.mono_ms
    }

    /// Why it cannot be worked on.
    pub fn trouble(&self) -> Option<&LogError> {
        self.ended.as_ref().or(self.failed.as_ref())
    }

    /// Why a flush was not stored, if it is known that it was not, or never will be known.
    pub fn lost(&self, flush: u64) -> Option<&LogError> {
        let lost = self.lost.as_ref().filter(|(until, _)| flush <= *until).map(|(_, error)| error);
        self.ended.as_ref().or(lost)
    }

    /// Looks at the next batch of the log; whether there was one.
    pub fn judge_next(&mut self, queue: &QueueEntry, rules: &Rules, now: Now) -> bool {
        let start = self.partition.log_start().0;
        if start > self.machine.ledger().floor() {
            self.machine.deleted_below(start, now);
        }
        let from = self.machine.scan_from();
        let judged = match self.feed.batch(&self.partition, from) {
            Ok(None) => return false,
            Ok(Some(batch)) => {
                feed::judge(&mut self.machine, rules, &self.partition, &batch, now).map_err(LogError::from)
            }
            Err(error) => Err(error),
        };
        match judged {
            Ok(failures) => {
                self.filter_errors += failures;
                true
            }
            Err(LogError::OffsetOutOfRange { .. }) if self.partition.log_start().0 > start => true,
            Err(error) => {
                // Damage: an operator must look. A disk that does not answer may answer again.
                tracing::warn!(queue = queue.name, partition = %self.partition.id(), from, %error, "a queue cannot read on");
                self.rest(now);
                false
            }
        }
    }

    /// Looks at the log up to a message, where its ack could not be judged else.
    pub fn look_up_to(&mut self, offset: u64, queue: &QueueEntry, rules: &Rules, now: Now) {
        while self.machine.must_look_up_to(offset) && self.works(now) && self.judge_next(queue, rules, now) {}
    }

    pub fn rest(&mut self, now: Now) {
        self.feed.clear();
        self.letters.forget();
        self.rests_until_ms = now.mono_ms + PAUSE_MS;
    }

    /// Hands over what was decided since the last flush; later, if enough is on its way: its coming back is a reason to look
    /// again.
    pub fn flush(&mut self, now: Now) {
        if self.trouble().is_some() || self.in_flight.len() >= FLUSHES_MAX {
            return;
        }
        let Some((number, passes)) = self.machine.flush() else { return };
        let passes: Vec<Pass> = passes.into_iter().flat_map(split).collect();
        let sink: Arc<dyn AppendSink> = self.sink.clone();
        match self.events.append(&passes, number, &sink) {
            Ok(batches) => {
                let snapshot = self.events.snapshot_if_due(self.machine.ledger());
                let floor = (self.machine.ledger().epoch, self.machine.ledger().floor());
                self.in_flight.push_back(Flush { number, batches: batches.into(), snapshot, floor });
            }
            Err(error) => self.fail(error, now),
        }
    }

    /// The log's answer to a batch of a flush. Gives a snapshot that may be stored now.
    pub fn stored(&mut self, number: u64, result: Result<Appended, LogError>, now: Now) -> Option<Snapshot> {
        let flush = self.in_flight.iter_mut().find(|flush| flush.number == number)?;
        let events = flush.batches.pop_front().unwrap_or(0);
        let is_done = flush.batches.is_empty();
        match result {
            Err(error) => {
                if is_done {
                    self.in_flight.retain(|flush| flush.number != number);
                }
                self.fail(error, now);
                None
            }
            Ok(_) if !is_done => None,
            Ok(appended) => {
                let at = self.in_flight.iter().position(|flush| flush.number == number)?;
                let flush = self.in_flight.remove(at)?;
                if self.failed.is_some() {
                    // Whatever was stored behind the failure is read back with the rest.
                    self.begin_again_if_quiet(now);
                    return None;
                }
                self.durable = number;
                self.floors.set(self.partition.id().0, flush.floor.0, flush.floor.1);
                self.machine.durable(number, now);
                let offset = Offset(appended.base_offset.0 + events);
                flush.snapshot.map(|state| Snapshot { store: self.events.snapshots(), offset, state })
            }
        }
    }

    fn fail(&mut self, error: LogError, now: Now) {
        self.failed.get_or_insert(error);
        self.begin_again_if_quiet(now);
    }

    /// Once nothing is in flight: from what the log holds, as after a crash.
    fn begin_again_if_quiet(&mut self, now: Now) {
        if !self.in_flight.is_empty() {
            return;
        }
        let Some(error) = self.failed.take() else { return };
        let is_undone = matches!(
            error,
            LogError::DiskFull | LogError::Behind | LogError::OutOfDescriptors | LogError::Throttled { .. }
        );
        if !is_undone {
            tracing::error!(partition = %self.partition.id(), %error, "a queue's events cannot be stored: it stands still here");
            self.ended = Some(error);
            return;
        }
        self.lost = Some((self.machine.last_flush(), error));
        let has_room = self.events.make_room();
        match self.events.reload() {
            Ok(ledger) => {
                // Fences go on above those that were given out.
                self.machine.restart(ledger, now);
                self.letters.restart();
                self.sink.is_barred.store(false, Atomic::Release);
                if !has_room {
                    self.rest(now);
                }
            }
            Err(error) => self.ended = Some(error),
        }
    }

    /// The state, for the next start; if all of it is durable.
    pub fn last_snapshot(&mut self) -> Option<Snapshot> {
        if !self.in_flight.is_empty() || self.trouble().is_some() || self.machine.has_pending() {
            return None;
        }
        let is_due = self.events.is_snapshot_behind();
        is_due.then(|| Snapshot {
            store: self.events.snapshots(),
            offset: self.events.durable_end(),
            state: millstream_log::Machine::encode_snapshot(self.machine.ledger()),
        })
    }

    /// Whether events are on their way.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }
}

/// Large passes in several records: a prefix of what was decided is as right as the whole.
fn split(pass: Pass) -> Vec<Pass> {
    if pass.events.len() <= PASS_EVENTS {
        return vec![pass];
    }
    let epoch = pass.epoch;
    let mut events = pass.events.into_iter().peekable();
    let mut passes = Vec::new();
    while events.peek().is_some() {
        passes.push(Pass { epoch, events: events.by_ref().take(PASS_EVENTS).collect() });
    }
    passes
}

/// Tells the queue's worker of its partition, once until it has looked.
struct Changed {
    queue: QueueId,
    index: u32,
    is_told: AtomicBool,
    commands: Sender<Command>,
}

impl Watch for Changed {
    fn changed(&self) {
        if !self.is_told.swap(true, Atomic::AcqRel) {
            // The worker is gone when the broker closes.
            let _ = self.commands.send(Command::Changed { queue: self.queue, partition: self.index });
        }
    }
}

/// Where the outcomes of its appends go.
struct Stored {
    queue: QueueId,
    index: u32,
    is_barred: AtomicBool,
    commands: Sender<Command>,
}

impl AppendSink for Stored {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        if results.iter().any(|(_, result)| result.is_err()) {
            self.is_barred.store(true, Atomic::Release);
        }
        let _ = self.commands.send(Command::Stored { queue: self.queue, partition: self.index, results });
    }

    fn admits(&self, _: u64) -> bool {
        !self.is_barred.load(Atomic::Acquire)
    }
}
