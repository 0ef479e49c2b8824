//! What a lane does with one heap of commands: stamp, hand over, learn, publish, answer.
//!
//! Invariants
//! - A high watermark moves only after the journal has said `Durable`, and before the waiters are answered: who has an
//!   ack can read the record.
//! - Every append that was taken is answered exactly once, by its own partition's result.
//! - Behind a failed append nothing of the same source and partition is written in the same step; in later steps the
//!   source itself decides ([`AppendSink::admits`]).
//! - A partition that failed is poisoned: nothing is written to it, nothing retried, for this process's life.
//! - One group per partition and pass: a segment rolls between passes only.
//! - An answer that is known at once (stored before, refused) waits behind the group that its partition has staged.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use millstream_protocol::batch::header::FLAG_CONTROL_HEADERS;
use millstream_protocol::batch::{HEADER_BYTES, Stamp, stamp};
use millstream_protocol::frame::produce::Duplicate;
use millstream_protocol::{Offset, Timestamp};

use super::admission::{Admission, Overlay, admit, fenced};
use super::journal::{Group, GroupSeq, Journal, Outcome};
use super::{Append, AppendSink, Appended, Command};
use crate::error::LogError;
use crate::new_batch::NewBatch;
use crate::partition::{Partition, Tail};
use crate::recent::Copies;
use crate::segment::{BatchPlace, StampedBatch};

/// A lane without its thread.
pub(crate) struct Lane {
    journal: Box<dyn Journal>,
    next_seq: u64,
    /// Groups of the pass in hand, by partition.
    staged: Vec<Staged>,
    by_partition: HashMap<usize, usize>,
    /// Groups that the journal has.
    out: Vec<(GroupSeq, InJournal)>,
    answers: Answers,
    /// Partition and source of each append that failed in this step.
    failed: HashSet<(usize, usize)>,
}

/// A group being put together.
struct Staged {
    group: Group,
    places: Vec<BatchPlace>,
    overlay: Overlay,
    waiters: Vec<Waiter>,
    before: Before,
}

/// What the lane remembers of a group while the journal has it.
struct InJournal {
    partition: Arc<Partition>,
    places: Vec<BatchPlace>,
    overlay: Overlay,
    waiters: Vec<Waiter>,
    before: Before,
    recent: Option<Copies>,
}

/// The tail as it was before the group: what a group without room goes back to.
#[derive(Clone, Copy)]
struct Before {
    next_offset: Offset,
    position: u64,
}

struct Waiter {
    token: u64,
    sink: Arc<dyn AppendSink>,
    answer: Answer,
}

/// What a waiter gets.
enum Answer {
    /// Its batch lies there, once the group is durable.
    Stored(Appended),
    /// Its records do.
    Known(Arc<[Duplicate]>),
    /// Said already, whatever becomes of the group: stored before.
    Success(Result<Appended, LogError>),
    /// Refused; if that rests on what was staged and failed it is behind that.
    Refused(LogError),
}

impl Answer {
    /// The result if its partition has no group in hand, or one that is durable.
    fn settled(self) -> Result<Appended, LogError> {
        match self {
            Answer::Stored(appended) => Ok(appended),
            Answer::Known(duplicates) => Err(LogError::Duplicates(duplicates)),
            Answer::Success(result) => result,
            Answer::Refused(error) => Err(error),
        }
    }

    /// The result if the group failed; and whether what follows it is to be held back.
    fn failed(self, error: &LogError) -> (Result<Appended, LogError>, bool) {
        match self {
            Answer::Stored(_) | Answer::Known(_) => (Err(error.clone()), true),
            Answer::Success(result) => (result, false),
            Answer::Refused(
                LogError::OutOfOrderSequence { .. }
                | LogError::UnknownProducer { .. }
                | LogError::Duplicates(_)
                | LogError::DedupWindowFull,
            ) => (Err(LogError::Behind), true),
            Answer::Refused(error) => (Err(error), true),
        }
    }
}

impl Lane {
    pub(crate) fn new(journal: Box<dyn Journal>) -> Self {
        Self {
            journal,
            next_seq: 0,
            staged: Vec::new(),
            by_partition: HashMap::new(),
            out: Vec::new(),
            answers: Answers::default(),
            failed: HashSet::new(),
        }
    }

    /// Carries out all commands, in order per partition, and answers them.
    pub(crate) fn step(&mut self, commands: &mut VecDeque<Command>) {
        let mut barriers = Vec::new();
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Append(append) => self.stage(append),
                Command::Roll(partition) => {
                    self.pass(None);
                    let mut tail = partition.tail.lock();
                    if tail.poison.is_none() && tail.next_offset > tail.segment.base() {
                        self.roll(&partition, &mut tail);
                    }
                }
                Command::Barrier(done) => barriers.push(done),
                Command::Stop => {}
            }
        }
        self.pass(None);
        self.answers.send();
        self.failed.clear();
        for done in barriers {
            // Who asked may have given up waiting.
            let _ = done.send(());
        }
    }

    /// Answers everything in hand after a panic: what the lane knew can't be trusted any more.
    pub(crate) fn abandon(&mut self, reason: &Arc<str>) {
        let staged = self.staged.drain(..).map(|staged| (staged.group.partition, staged.waiters));
        let out = self.out.drain(..).map(|(_, group)| (group.partition, group.waiters));
        for (partition, waiters) in staged.chain(out) {
            partition.poison(reason.clone());
            for waiter in waiters {
                let (result, _) = waiter.answer.failed(&LogError::DurabilityUnknown { reason: reason.clone() });
                self.answers.push(&waiter.sink, waiter.token, result);
            }
        }
        self.answers.send();
    }

    /// Stamps a batch and adds it to its partition's group, if it is to be stored.
    fn stage(&mut self, append: Append) {
        let Append { partition, batch, token, sink } = append;
        let mut tail = partition.tail.lock();
        if tail.poison.is_none() && self.must_roll(&partition, &tail, &batch.view) {
            self.pass(Some((&partition, &mut tail)));
            self.roll(&partition, &mut tail);
        }
        if let Some(reason) = &tail.poison {
            let error = partition.read_only_error(reason.clone());
            self.answers.push(&sink, token, Err(error));
            return;
        }
        let staged = self.by_partition.get(&key(&partition)).copied();
        if self.failed.contains(&source(&partition, &sink)) || !sink.admits(token) {
            self.answer(&partition, staged, Waiter { token, sink, answer: Answer::Refused(LogError::Behind) });
            return;
        }
        let header = batch.view.header();
        let spanned = u64::from(header.last_offset_delta) + 1;
        let offset = tail.next_offset;
        let Some(end) = offset.checked_plus(spanned) else {
            self.answer(
                &partition,
                staged,
                Waiter { token, sink, answer: Answer::Refused(LogError::OffsetsExhausted) },
            );
            return;
        };
        let append_time = partition.shared().clock.append_time().max(tail.last_append_time);
        if header.producer_id.0 != 0 || batch.dedup.is_some() {
            // What stands in the way of storing it.
            if let Some(answer) = self.judge(&partition, staged, &batch, append_time) {
                self.answer(&partition, staged, Waiter { token, sink, answer });
                return;
            }
        }
        let synced_end = partition.synced_end();
        let stamped = Stamp { base_offset: offset, append_time, epoch: tail.epoch, synced_end };
        let bytes = batch.view.bytes().clone();
        let mut stamped_header: [u8; HEADER_BYTES] = *bytes.first_chunk().expect("a parsed batch has a header");
        stamp(&mut stamped_header, &stamped, partition.incarnation());
        let length = bytes.len() as u64;
        let place = BatchPlace {
            offset,
            end,
            position: tail.position,
            length,
            append_time,
            epoch: tail.epoch,
            synced_end,
            producer: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            is_flagged: header.flags & FLAG_CONTROL_HEADERS != 0,
        };

        let staged = match staged {
            Some(index) => &mut self.staged[index],
            None => self.begin_group(&partition, &tail),
        };
        staged.overlay.stage(&place, batch.dedup);
        staged.places.push(place);
        staged.group.batches.push(StampedBatch { header: stamped_header, batch: bytes });
        staged.group.end = end;
        let answer = Answer::Stored(Appended { base_offset: offset, append_time });
        staged.waiters.push(Waiter { token, sink, answer });
        tail.next_offset = end;
        tail.position += length;
        tail.last_append_time = append_time;
    }

    /// What is answered to a batch that is not to be stored; `None` if it is.
    fn judge(
        &mut self,
        partition: &Arc<Partition>,
        staged: Option<usize>,
        batch: &NewBatch,
        now: Timestamp,
    ) -> Option<Answer> {
        let header = batch.view.header();
        if header.producer_id.0 != 0 && partition.shared().fences.is_fenced(header.producer_id, header.producer_epoch) {
            return Some(Answer::Refused(fenced(header)));
        }
        let mut tables = partition.tables.lock();
        if batch.dedup.is_some() {
            tables.dedup.expire(now, partition.config().dedup_window_ms);
        }
        let before = staged.map(|index| (&self.staged[index].overlay, &self.staged[index].places[..]));
        match admit(batch, &tables, before) {
            Admission::Store => None,
            Admission::Stored(appended) => Some(Answer::Success(Ok(appended))),
            Admission::Staged(appended) => Some(Answer::Stored(appended)),
            Admission::Refused(error) => Some(Answer::Refused(error)),
            Admission::Known { duplicates, staged: rests_on_staged, passed } => {
                match (passed, staged) {
                    (Some(passed), Some(index)) => self.staged[index].overlay.pass_over(passed, &tables),
                    (Some(passed), None) => tables.pass_over(&passed),
                    (None, _) => {}
                }
                Some(match rests_on_staged {
                    true => Answer::Known(duplicates),
                    false => Answer::Success(Err(LogError::Duplicates(duplicates))),
                })
            }
        }
    }

    /// Answers at once or, if its partition has a group staged, behind that.
    fn answer(&mut self, partition: &Arc<Partition>, staged: Option<usize>, waiter: Waiter) {
        if matches!(waiter.answer, Answer::Refused(_)) {
            self.failed.insert(source(partition, &waiter.sink));
        }
        match staged {
            Some(index) => self.staged[index].waiters.push(waiter),
            None => self.answers.push(&waiter.sink, waiter.token, waiter.answer.settled()),
        }
    }

    fn must_roll(&self, partition: &Partition, tail: &Tail, batch: &millstream_protocol::batch::BatchView) -> bool {
        let grown = tail.position + batch.bytes().len() as u64 > partition.config().segment_bytes;
        grown && tail.next_offset > tail.segment.base()
    }

    fn begin_group(&mut self, partition: &Arc<Partition>, tail: &Tail) -> &mut Staged {
        let seq = GroupSeq(self.next_seq);
        self.next_seq += 1;
        let group = Group {
            seq,
            partition: partition.clone(),
            segment: tail.segment.clone(),
            position: tail.position,
            batches: Vec::new(),
            end: tail.next_offset,
            sync: partition.is_synced(),
        };
        let before = Before { next_offset: tail.next_offset, position: tail.position };
        self.by_partition.insert(key(partition), self.staged.len());
        let (places, waiters) = (Vec::new(), Vec::new());
        self.staged.push(Staged { group, places, overlay: Overlay::default(), waiters, before });
        self.staged.last_mut().expect("just pushed")
    }

    /// Ends the pass in hand: everything staged is handed over, and settled as the journal answers. `held` is a tail
    /// that the caller has locked.
    fn pass(&mut self, mut held: Option<(&Arc<Partition>, &mut Tail)>) {
        self.hand_over();
        let mut outcomes = Vec::new();
        while !self.out.is_empty() {
            self.journal.poll(&mut outcomes);
            for (seq, outcome) in outcomes.drain(..) {
                let group = self.take_out(seq);
                match &mut held {
                    Some((partition, tail)) if Arc::ptr_eq(&group.partition, partition) => {
                        self.settle(group, outcome, tail);
                    }
                    _ => {
                        let owner = group.partition.clone();
                        self.settle(group, outcome, &mut owner.tail.lock());
                    }
                }
            }
        }
    }

    fn hand_over(&mut self) {
        self.by_partition.clear();
        let mut groups = Vec::with_capacity(self.staged.len());
        for staged in self.staged.drain(..) {
            let Staged { group, places, overlay, waiters, before } = staged;
            let partition = group.partition.clone();
            let recent = partition.recent.copies(&group.batches);
            self.out.push((group.seq, InJournal { partition, places, overlay, waiters, before, recent }));
            groups.push(group);
        }
        if !groups.is_empty() {
            self.journal.submit(groups);
        }
    }

    fn take_out(&mut self, seq: GroupSeq) -> InJournal {
        let index = self.out.iter().position(|(out, _)| *out == seq).expect("the journal answers what it was given");
        self.out.remove(index).1
    }

    /// Publishes a group that is durable, or undoes or poisons, and answers its waiters.
    fn settle(&mut self, group: InJournal, outcome: Outcome, tail: &mut Tail) {
        let InJournal { partition, places, overlay, waiters, before, recent } = group;
        let error = match outcome {
            Outcome::Durable(end) => {
                if partition.is_synced() {
                    partition.note_synced(end);
                }
                partition.note_durable(&tail.segment, &places, &overlay, end);
                let bytes: u64 = places.iter().map(|place| place.length).sum();
                // Before the watermark: who sees that finds them.
                partition.recent.keep(recent, &places, &tail.segment);
                partition.publish(end, bytes, tail.epoch, places[0].offset);
                for waiter in waiters {
                    self.answers.push(&waiter.sink, waiter.token, waiter.answer.settled());
                }
                return;
            }
            Outcome::NoRoom | Outcome::NotNow => {
                tail.next_offset = before.next_offset;
                tail.position = before.position;
                if matches!(outcome, Outcome::NoRoom) { LogError::DiskFull } else { LogError::OutOfDescriptors }
            }
            Outcome::Failed(reason) => {
                let reason: Arc<str> = reason.into();
                tail.poison = Some(reason.clone());
                partition.poison(reason.clone());
                LogError::DurabilityUnknown { reason }
            }
            Outcome::Fenced(epoch) => {
                let reason: Arc<str> = format!("the partition was taken over by epoch {epoch}").into();
                tail.poison = Some(reason.clone());
                partition.poison(reason.clone());
                LogError::DurabilityUnknown { reason }
            }
        };
        if overlay.has_passed() {
            overlay.drop_staged(&mut partition.tables.lock());
        }
        for waiter in waiters {
            let (result, holds_back) = waiter.answer.failed(&error);
            if holds_back {
                self.failed.insert(source(&partition, &waiter.sink));
            }
            self.answers.push(&waiter.sink, waiter.token, result);
        }
    }

    /// Seals the active segment and begins the next. The old one is synced first, whatever the stream's durability: a
    /// file is closed only after its sync, and recovery trusts a sealed segment.
    fn roll(&mut self, partition: &Arc<Partition>, tail: &mut Tail) {
        if tail.poison.is_some() {
            return;
        }
        if let Err(error) = partition.roll(tail) {
            let reason: Arc<str> = error.to_string().into();
            match error {
                // Nothing of the new segment is there to be served; the old one goes on until there is room.
                LogError::OutOfDescriptors => tracing::warn!(%reason, "no new segment yet"),
                LogError::Io { act, ref source, .. }
                    if source.kind() == std::io::ErrorKind::StorageFull && act != "sync" =>
                {
                    tracing::warn!(%reason, "no room for a new segment");
                }
                _ => {
                    tail.poison = Some(reason.clone());
                    partition.poison(reason);
                }
            }
        }
    }
}

fn key(partition: &Arc<Partition>) -> usize {
    Arc::as_ptr(partition) as usize
}

/// Names who appends to which partition, within one step.
fn source(partition: &Arc<Partition>, sink: &Arc<dyn AppendSink>) -> (usize, usize) {
    (key(partition), Arc::as_ptr(sink) as *const () as usize)
}

/// Results by sink, so that one call (and one frame) carries all that a pass made durable.
#[derive(Default)]
struct Answers {
    sinks: Vec<SinkAnswers>,
    by_sink: HashMap<usize, usize>,
}

struct SinkAnswers {
    sink: Arc<dyn AppendSink>,
    results: Vec<(u64, Result<Appended, LogError>)>,
}

impl Answers {
    fn push(&mut self, sink: &Arc<dyn AppendSink>, token: u64, result: Result<Appended, LogError>) {
        let key = Arc::as_ptr(sink) as *const () as usize;
        let index = *self.by_sink.entry(key).or_insert_with(|| {
            self.sinks.push(SinkAnswers { sink: sink.clone(), results: Vec::new() });
            self.sinks.len() - 1
        });
        self.sinks[index].results.push((token, result));
    }

    fn send(&mut self) {
        self.by_sink.clear();
        for SinkAnswers { sink, results } in self.sinks.drain(..) {
            sink.complete(results);
        }
    }
}
