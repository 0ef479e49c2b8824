//! Redrives: letters come back to their queue, by reference, or go to a stream, as copies.
//!
//! A task reads the dead-letter stream from where the catalog says that it stands up to where that ended when it began, on a
//! thread of its own. Of what it reads it takes the queue's own letters that match, some at a time; waits until they are
//! adopted, or appended, durably; then writes down how far it has come; then takes the next. A crash in between repeats the
//! last few to no effect: a letter is adopted once, ever, and a copy's sequence is its number among those of its partition.
//! Retention keeps what the task has not read yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use millstream_filter::{Candidate, Filter};
use millstream_log::{LogError, NewBatch, Partition, Stopwatch};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, DEDUP_ID};
use millstream_protocol::{Offset, PartitionId, QueueId};
use parking_lot::Mutex;

use super::event::Adopted;
use super::feed::{self, Feed};
use super::letters::{self, Letter};
use super::machine::Adoption;
use super::shell::{QueueHandle, QueueShell};
use super::types::{RedriveOptions, RedriveState, RedriveStatus, RedriveTo};
use super::worker::Command;
use crate::broker::Broker;
use crate::catalog::{QueueInput, RedriveCounts, RedriveEntry, RedriveInput};
use crate::error::BrokerError;
use crate::stream::Stream;

/// Letters adopted in one step.
const ADOPTED_AT_ONCE: u64 = 256;
/// Letters copied in one step: as many as the stream surely remembers of a producer.
const COPIED_AT_ONCE: u64 = 8;
/// Records looked at in one step.
const LOOKED_AT_AT_ONCE: u64 = 4_096;
/// How long a step that failed is left alone.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a letter is left alone whose queue does not know yet that it lies there.
const SHORT_PAUSE: Duration = Duration::from_millis(20);
/// Steps a second of a task that has a rate.
const STEPS_PER_S: u64 = 10;

/// A task's thread.
pub(crate) struct Running {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    error: Arc<Mutex<Option<String>>>,
}

/// A letter of the queue that the filter matches, and where it lies.
struct Taken {
    at: u64,
    /// Records that were passed with it, itself included, and what they were.
    passed: RedriveCounts,
    letter: Letter,
}

/// The letters of one partition: their numbers among those taken, and what is adopted at which offset.
type Share = (Vec<usize>, Vec<(u64, Adopted)>);

/// Whether it goes on, and after which wait.
enum Next {
    Go(Duration),
    Done,
    /// The queue, or the broker, is no more.
    Gone,
}

struct Task {
    broker: Weak<Broker>,
    queue: QueueHandle,
    dead: Arc<Stream>,
    /// Where copies go.
    target: Option<Arc<Stream>>,
    filter: Option<Filter>,
    entry: RedriveEntry,
    /// An earlier process may have got further than was written down.
    is_resumed: bool,
    /// Letters beyond the position that this process has brought back already.
    ahead: BTreeSet<(usize, u64)>,
    feeds: BTreeMap<usize, Feed>,
    pace: Pace,
    stop: Receiver<()>,
    error: Arc<Mutex<Option<String>>>,
}

/// Holds a task to its rate, evenly.
struct Pace {
    rate: Option<u64>,
    since: Stopwatch,
    spent: u64,
}

impl Pace {
    fn new(rate_per_s: Option<u32>) -> Self {
        Self { rate: rate_per_s.map(|rate| u64::from(rate.max(1))), since: Stopwatch::start(), spent: 0 }
    }

    /// How many may go now, of those that one step takes; or how long to wait for that.
    fn room(&mut self, at_once: u64) -> Result<u64, Duration> {
        let Some(rate) = self.rate else { return Ok(at_once) };
        let step = (rate / STEPS_PER_S).clamp(1, at_once);
        let due = u64::try_from(self.since.elapsed().as_millis() * u128::from(rate) / 1_000).unwrap_or(u64::MAX);
        let room = due.saturating_sub(self.spent);
        if room > rate.max(at_once) {
            // What it could not use it has lost: no burst follows a halt.
            self.spent = due - step;
            return Ok(step);
        }
        if room >= step {
            return Ok(room.min(at_once));
        }
        Err(Duration::from_millis(((step - room) * 1_000).div_ceil(rate)))
    }
}

impl Task {
    fn run(mut self) {
        loop {
            let wait = match self.step() {
                Ok(Next::Go(wait)) => {
                    *self.error.lock() = None;
                    wait
                }
                Ok(Next::Done) => return self.end(),
                Ok(Next::Gone) => return,
                Err(error) => {
                    tracing::warn!(queue = self.queue.entry.name, %error, "a redrive cannot go on: it tries again");
                    *self.error.lock() = Some(error.to_string());
                    self.feeds.clear();
                    PAUSE
                }
            };
            if !matches!(self.stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }

    fn end(&self) {
        let Some(broker) = self.broker.upgrade() else { return };
        let input = RedriveInput::End { queue: self.queue.entry.name.clone(), status: RedriveStatus::Done };
        match broker.change_queue(&QueueInput::Redrive(input)) {
            Ok(()) => let_go(self.entry.queue, &self.dead),
            // The next start finds nothing to do, and ends it.
            Err(error) => *self.error.lock() = Some(error.to_string()),
        }
    }

    fn step(&mut self) -> Result<Next, BrokerError> {
        let RedriveEntry { limit, counts, .. } = self.entry;
        let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(counts.redriven));
        let open = self.entry.positions.iter().zip(&self.entry.ends).position(|(position, end)| position < end);
        let Some(index) = open.filter(|_| left > 0) else { return Ok(Next::Done) };
        let at_once = if self.target.is_some() { COPIED_AT_ONCE } else { ADOPTED_AT_ONCE };
        let room = match self.pace.room(at_once) {
            Ok(room) => room.min(left),
            Err(wait) => return Ok(Next::Go(wait)),
        };
        let partition = self.dead.partition(PartitionId(index as u32))?.clone();
        let (taken, rest, end) = self.look(index, &partition, room)?;
        let (done, is_whole) = match self.target.clone() {
            Some(target) => {
                self.copy(&target, &taken)?;
                self.pace.spent += taken.len() as u64;
                (vec![true; taken.len()], true)
            }
            None => match self.adopt(index, &partition, &taken)? {
                Some(done) => done,
                None => return Ok(Next::Gone),
            },
        };
        let counts = &mut self.entry.counts;
        let mut position = self.entry.positions[index];
        for (taken, is_redriven) in taken.iter().zip(&done) {
            add(counts, &taken.passed);
            *(if *is_redriven { &mut counts.redriven } else { &mut counts.skipped }) += 1;
            position = taken.at + 1;
        }
        if is_whole {
            add(counts, &rest);
            position = end;
        }
        self.entry.positions[index] = position;
        self.is_resumed = false;
        let Some(broker) = self.broker.upgrade() else { return Ok(Next::Gone) };
        broker.change_queue(&QueueInput::Redrive(RedriveInput::Went { entry: self.entry.clone() }))?;
        partition.set_hold(&owner(self.entry.queue), Some(Offset(position)));
        Ok(Next::Go(if is_whole { Duration::ZERO } else { SHORT_PAUSE }))
    }

    /// The next letters that are to come back, at most `room`; what was passed behind the last of them; and up to where.
    fn look(
        &mut self,
        index: usize,
        partition: &Partition,
        room: u64,
    ) -> Result<(Vec<Taken>, RedriveCounts, u64), BrokerError> {
        let (mut at, end) = (self.entry.positions[index], self.entry.ends[index]);
        let feed = self.feeds.entry(index).or_default();
        let (mut taken, mut passed, mut looked_at) = (Vec::new(), RedriveCounts::default(), 0);
        while at < end && looked_at < LOOKED_AT_AT_ONCE {
            let batch = match feed.batch(partition, at) {
                Ok(Some(batch)) => batch,
                // The log lost its tail.
                Ok(None) => return Ok((taken, passed, end)),
                Err(LogError::OffsetOutOfRange { log_start, .. }) if log_start.0 > at => {
                    at = log_start.0.min(end);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let is_ours = letters::is_of(batch.header(), QueueId(self.entry.queue));
            let (mut records, mut owned) =
                (batch.records().map_err(LogError::from)?, batch.records().map_err(LogError::from)?);
            while let (Some(record), Some(whole)) = (records.next_ref(), owned.next_with_offset()) {
                let record = record.map_err(LogError::from)?;
                let (offset, whole) = whole.map_err(LogError::from)?;
                if offset.0 < at || offset.0 >= end {
                    continue;
                }
                looked_at += 1;
                passed.looked_at += 1;
                at = offset.0 + 1;
                let is_match = match &self.filter {
                    _ if !is_ours => Ok(false),
                    None => Ok(true),
                    Some(filter) => filter.matches(&Candidate::new(&record)),
                };
                match (is_match, is_match.as_ref().is_ok_and(|is_match| *is_match).then(|| letters::open(whole))) {
                    (_, Some(Ok(letter))) => {
                        taken.push(Taken { at: offset.0, passed: std::mem::take(&mut passed), letter });
                        if taken.len() as u64 == room {
                            return Ok((taken, passed, at));
                        }
                    }
                    (Err(_), _) | (_, Some(Err(_))) => passed.failed += 1,
                    (Ok(_), None) => passed.skipped += 1,
                }
            }
            at = at.max(batch.header().end_offset().0.min(end));
        }
        Ok((taken, passed, at))
    }

    /// Lets the queue adopt them. Answers which have come back by this task, up to the first that the queue does not know yet,
    /// and whether that is all; nothing if the queue is gone.
    fn adopt(
        &mut self,
        index: usize,
        partition: &Partition,
        taken: &[Taken],
    ) -> Result<Option<(Vec<bool>, bool)>, BrokerError> {
        let mut by_partition: BTreeMap<u32, Share> = BTreeMap::new();
        for (number, Taken { at, letter, .. }) in taken.iter().enumerate() {
            let adopted = Adopted {
                redriven: letter.redriven.saturating_add(1),
                incarnation: partition.incarnation().0,
                at: *at,
                group: letter.record.key.as_deref().map_or(0, feed::hash),
            };
            let (numbers, letters) = by_partition.entry(letter.partition).or_default();
            numbers.push(number);
            letters.push((letter.offset, adopted));
        }
        let mut adoptions = vec![Adoption::Later; taken.len()];
        for (of, (numbers, letters)) in by_partition {
            let (send, answer) = bounded(1);
            let reply = Box::new(move |adoptions| drop(send.send(adoptions)));
            let command = Command::Adopt { queue: self.queue.id(), partition: of, letters, reply };
            if self.queue.commands.send(command).is_err() {
                return Ok(None);
            }
            let Ok(answers) = answer.recv() else { return Ok(None) };
            let answers = answers?;
            for (number, adoption) in numbers.into_iter().zip(answers) {
                adoptions[number] = adoption;
                if adoption == Adoption::Done {
                    self.ahead.insert((index, taken[number].at));
                    self.pace.spent += 1;
                }
            }
        }
        let known = adoptions.iter().position(|adoption| *adoption == Adoption::Later).unwrap_or(taken.len());
        let done = taken.iter().zip(&adoptions).take(known).map(|(taken, adoption)| match adoption {
            Adoption::Done | Adoption::Repeated => {
                // By the process before, if it was not written down.
                self.ahead.remove(&(index, taken.at)) || (self.is_resumed && *adoption == Adoption::Repeated)
            }
            Adoption::Open | Adoption::Later => false,
        });
        Ok(Some((done.collect(), known == taken.len())))
    }

    /// Appends copies, each once.
    fn copy(&mut self, target: &Stream, taken: &[Taken]) -> Result<(), BrokerError> {
        let mut copied = self.entry.copied.clone();
        for Taken { letter, .. } in taken {
            let of = letter.partition as usize;
            if copied.len() <= of {
                copied.resize(of + 1, 0);
            }
            // Letters of one partition go to one: those of a key stay in order.
            let to = target.partition(PartitionId(letter.partition % target.partitions().len() as u32))?;
            let mut record = letter.record.clone();
            // Another stream's ids mean nothing there: the origin decides.
            record.headers.retain(|header| header.name != DEDUP_ID);
            let mut builder = BatchBuilder::new(Codec::None);
            builder.producer(letters::producer(self.entry.id, letter.partition), 0, copied[of]);
            let batch = builder.push_own(&record).and_then(|()| builder.finish());
            let batch = batch.and_then(|bytes| BatchView::parse(&bytes)).map_err(LogError::from)?;
            // It may be there, whether from before a crash or from before an error.
            to.append_wait(NewBatch::from(batch).resent())?;
            copied[of] += 1;
        }
        self.entry.copied = copied;
        Ok(())
    }
}

fn add(counts: &mut RedriveCounts, more: &RedriveCounts) {
    counts.looked_at += more.looked_at;
    counts.redriven += more.redriven;
    counts.skipped += more.skipped;
    counts.failed += more.failed;
}

/// Who keeps what a redrive has not read yet.
fn owner(queue: u64) -> String {
    format!("redrive of queue {queue}")
}

fn let_go(queue: u64, dead: &Stream) {
    for partition in dead.partitions().iter().flatten() {
        partition.set_hold(&owner(queue), None);
    }
}

impl QueueShell {
    /// Ends a task's thread; the task stays as it stands.
    pub(super) fn end_redrive(&self, queue: u64) {
        let running = self.redrives.lock().remove(&queue);
        if let Some(Running { stop, thread, .. }) = running {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!(queue, "a redrive panicked");
            }
        }
    }

    pub(super) fn end_redrives(&self) {
        let queues: Vec<u64> = self.redrives.lock().keys().copied().collect();
        queues.into_iter().for_each(|queue| self.end_redrive(queue));
    }
}

impl Broker {
    /// Brings the dead messages of a queue back to it, or copies them to a stream: those that lie in the dead-letter stream
    /// now. The task is durable when this returns, and goes on by itself, over restarts. Blocks.
    ///
    /// Back in the queue a message is delivered under its own offset with a fresh receive count; no other queue, group or lake
    /// sees anything. A letter brings its message back once, ever. A copy has no dedup id, and none of the headers that a
    /// letter adds.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`], [`BrokerError::UnknownStream`], [`BrokerError::NoDeadLetter`],
    /// [`BrokerError::FilterInvalid`], [`BrokerError::IllegalSetting`] (the limit, the rate, the dead-letter stream as target, a
    /// redrive of this queue that still runs); that of a partition of the dead letters that is not open; the log's.
    pub fn redrive(&self, queue: &str, options: RedriveOptions) -> Result<RedriveState, BrokerError> {
        let _one = self.change();
        if !options.filter.is_empty() {
            Filter::compile(&options.filter)?;
        }
        let handle = self.queue(queue)?;
        let dead = self.dead_letters_of(&handle)?;
        let number = handle.id().0;
        let RedriveOptions { filter, limit, rate_per_s, to } = options;
        let mut entry = RedriveEntry {
            id: 0,
            queue: number,
            filter,
            limit,
            rate_per_s,
            to,
            positions: Vec::new(),
            ends: Vec::new(),
            copied: Vec::new(),
            counts: RedriveCounts::default(),
            status: RedriveStatus::Running,
            began_ms: self.log().now().0,
        };
        let begin = |entry: &RedriveEntry| {
            QueueInput::Redrive(RedriveInput::Begin { queue: queue.to_owned(), entry: entry.clone() })
        };
        // Before anything of another task is touched.
        self.catalog().read(|catalog| catalog.step(crate::catalog::Input::Queue(begin(&entry))))?;
        self.queues().end_redrive(number);
        let kept = dead.keep_all();
        for partition in dead.partitions() {
            let partition = partition.as_ref().map_err(Clone::clone)?;
            partition.set_hold(&owner(number), Some(partition.log_start()));
            entry.positions.push(partition.log_start().0);
            entry.ends.push(partition.high_watermark().0);
        }
        drop(kept);
        if let Err(error) = self.change_queue(&begin(&entry)) {
            let_go(number, &dead);
            return Err(error);
        }
        if let Some(entry) = self.catalog().read(|catalog| catalog.redrive(number).cloned()) {
            self.start_redrive(&handle, dead, entry, false)?;
        }
        self.redrive_state(queue)?.ok_or_else(|| BrokerError::UnknownQueue(queue.to_owned()))
    }

    /// The newest redrive of a queue, done or not; `None` if there was none.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`].
    pub fn redrive_state(&self, queue: &str) -> Result<Option<RedriveState>, BrokerError> {
        let number = self.queue(queue)?.id().0;
        let Some(entry) = self.catalog().read(|catalog| catalog.redrive(number).cloned()) else { return Ok(None) };
        let error = self.queues().redrives.lock().get(&number).and_then(|running| running.error.lock().clone());
        let left = entry.positions.iter().zip(&entry.ends).map(|(position, end)| end.saturating_sub(*position)).sum();
        let RedriveEntry { id, filter, limit, rate_per_s, to, counts, status, began_ms, .. } = entry;
        let options = RedriveOptions { filter, limit, rate_per_s, to };
        Ok(Some(RedriveState { id, options, began_ms, status, counts, left, error }))
    }

    /// Ends a queue's redrive where it stands; what it has brought back stays. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`]; the log's.
    pub fn cancel_redrive(&self, queue: &str) -> Result<Option<RedriveState>, BrokerError> {
        let _one = self.change();
        let handle = self.queue(queue)?;
        self.queues().end_redrive(handle.id().0);
        let input = RedriveInput::End { queue: queue.to_owned(), status: RedriveStatus::Cancelled };
        self.change_queue(&QueueInput::Redrive(input))?;
        self.let_letters_go(handle.id().0);
        self.redrive_state(queue)
    }

    /// What a redrive has kept of the dead letters is not kept any more.
    pub(super) fn let_letters_go(&self, queue: u64) {
        let name = self.catalog().read(|catalog| {
            catalog.queues().find(|entry| entry.id == queue).and_then(|entry| entry.config.dead_letter.clone())
        });
        if let Some(dead) = name.and_then(|name| self.stream(&name).ok()) {
            let_go(queue, &dead);
        }
    }

    /// At the start: the tasks that were not at their end go on.
    pub(super) fn go_on_redriving(&self) {
        let entries: Vec<(String, RedriveEntry)> = self.catalog().read(|catalog| {
            let name = |queue: u64| catalog.queues().find(|entry| entry.id == queue).map(|entry| entry.name.clone());
            let running = catalog.redrives().filter(|entry| entry.status == RedriveStatus::Running);
            running.filter_map(|entry| Some((name(entry.queue)?, entry.clone()))).collect()
        });
        for (name, entry) in entries {
            let started = self.queue(&name).and_then(|handle| {
                let dead = self.dead_letters_of(&handle)?;
                for (partition, position) in dead.partitions().iter().zip(&entry.positions) {
                    if let Ok(partition) = partition {
                        partition.set_hold(&owner(entry.queue), Some(Offset(*position)));
                    }
                }
                self.start_redrive(&handle, dead, entry, true)
            });
            if let Err(error) = started {
                tracing::error!(queue = name, %error, "a redrive does not go on");
            }
        }
    }

    fn dead_letters_of(&self, queue: &QueueHandle) -> Result<Arc<Stream>, BrokerError> {
        let name = queue.entry.config.dead_letter.as_deref();
        self.stream(name.ok_or(BrokerError::NoDeadLetter("a redrive"))?)
    }

    fn start_redrive(
        &self,
        queue: &QueueHandle,
        dead: Arc<Stream>,
        entry: RedriveEntry,
        is_resumed: bool,
    ) -> Result<(), BrokerError> {
        let target = match &entry.to {
            RedriveTo::Source => None,
            RedriveTo::Stream(name) => Some(self.stream(name)?),
        };
        let filter = match entry.filter.as_str() {
            "" => None,
            text => Some(Filter::compile(text)?),
        };
        let (stop, stopped) = bounded(0);
        let error = Arc::new(Mutex::new(None));
        let number = entry.queue;
        let task = Task {
            broker: self.queues().broker.get().cloned().unwrap_or_default(),
            queue: queue.clone(),
            dead,
            target,
            filter,
            pace: Pace::new(entry.rate_per_s),
            entry,
            is_resumed,
            ahead: BTreeSet::new(),
            feeds: BTreeMap::new(),
            stop: stopped,
            error: error.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("redrive-{number}")).spawn(move || task.run());
        let thread = thread.expect("the system gives threads");
        self.queues().redrives.lock().insert(number, Running { stop, thread, error });
        Ok(())
    }
}
