//! One queue, running: its partitions, its receivers, what waits for the disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crossbeam_channel::Sender;
use millstream_log::{Log, LogError, Partition};
use millstream_protocol::batch::BatchView;
use millstream_protocol::frame::queue::{OnDead, QueueConfig, QueueOrdering};
use millstream_protocol::limits::VISIBILITY_MS_MAX;
use millstream_protocol::{PartitionId, QueueId};

use super::attempts::Attempts;
use super::dead_letters::{DeadLetters, Mover};
use super::event::Adopted;
use super::feed;
use super::floors::Floors;
use super::letters;
use super::machine::Receipt;
use super::part::{Part, Snapshot};
use super::peek;
use super::receivers::Receivers;
use super::rules::Rules;
use super::settings::{Backoff, NACK_DELAY_MS_MAX, Now, Ordering, Settings};
use super::worker::{AdoptReply, Command, Lot, PeekWhat, VerbReply};
use super::{
    Act, Delivered, Delivery, Outlet, ParkedAt, PartState, Peeked, Pulling, QueueState, Receiving, Refusal, Unpark,
    Verb, VerbResult,
};
use crate::catalog::QueueEntry;

/// Batches that a queue looks at before others have their turn.
const BATCHES_AT_ONCE: usize = 64;
/// A FIFO queue reads no further ahead than so many unsettled messages a partition.
const FIFO_BACKLOG_MAX: u64 = 4_000_000;
/// Deliveries made before they are sent and others have their turn.
const DELIVERIES_AT_ONCE: usize = 4_096;

/// Verbs that are answered once what they rest on is durable.
struct Answer {
    results: Vec<VerbResult>,
    /// The partitions and flushes it waits for, and which of the results rest on each.
    rests_on: Vec<(usize, u64, Vec<usize>)>,
    reply: VerbReply,
}

#[derive(Default)]
pub(super) struct Answers(Vec<Answer>);

pub(crate) struct Queue {
    entry: Arc<QueueEntry>,
    rules: Rules,
    parts: Vec<Option<Part>>,
    movers: Vec<Option<Mover>>,
    dead_letters: Option<Arc<DeadLetters>>,
    floors: Arc<Floors>,
    pub receivers: Receivers<Arc<dyn Outlet>>,
    /// Partitions that may have something to look at or to deliver.
    lively: BTreeSet<usize>,
    next_part: usize,
    answers: Answers,
    attempts: Attempts,
    /// The attempts of pulls that are not answered.
    pulls: HashMap<(u32, u64), u128>,
}

/// Where deliveries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    receiver: u32,
    pull: Option<u64>,
    /// Of the partition.
    index: usize,
}

/// A queue's settings as the machine needs them, for one partition.
pub(super) fn machine_settings(entry: &QueueEntry, partition: u32, dead_letter_partitions: Option<u32>) -> Settings {
    let QueueConfig { ordering, max_receives, backoff, disconnect_grace_ms, keeps_expired, .. } = &entry.config;
    Settings {
        ordering: match *ordering {
            QueueOrdering::Unordered => Ordering::Unordered,
            QueueOrdering::Fifo { group_batch, on_dead } => {
                Ordering::Fifo { group_batch, parks: on_dead == OnDead::Park }
            }
        },
        max_receives: *max_receives,
        dead_letter: dead_letter_partitions.map(|count| partition % count.max(1)),
        backoff: Backoff { min_ms: backoff.min_ms, max_ms: backoff.max_ms, factor_percent: backoff.factor_percent },
        disconnect_grace_ms: *disconnect_grace_ms,
        is_delayed: entry.rules.iter().any(|rule| rule.delay_ms > 0),
        keeps_expired: *keeps_expired,
    }
}

impl Queue {
    /// Opens a queue on the partitions of its stream that are open.
    pub fn open(
        log: &Log,
        entry: Arc<QueueEntry>,
        partitions: &[Result<Arc<Partition>, LogError>],
        dead_letters: Option<Arc<DeadLetters>>,
        (commands, floors): (&Sender<Command>, Arc<Floors>),
        now: Now,
    ) -> Self {
        let mut parts = Vec::with_capacity(partitions.len());
        let mut movers = Vec::with_capacity(partitions.len());
        for (index, partition) in partitions.iter().enumerate() {
            let opened = partition.as_ref().map_err(Clone::clone).and_then(|partition| {
                let count = dead_letters.as_ref().map(|dead| dead.partitions());
                let settings = machine_settings(&entry, index as u32, count);
                let dead = dead_letters.as_ref().map(|dead| dead.stream.clone());
                Part::open(log, &entry, settings, partition, dead, (commands, &floors), now)
            });
            if let Err(error) = &opened {
                tracing::error!(queue = entry.name, partition = index, %error, "the queue stands still on this partition");
            }
            movers.push(opened.is_ok().then(|| Mover::new(entry.id(), index as u32, commands.clone())));
            parts.push(opened.ok());
        }
        let receivers = Receivers::new(entry.config.in_flight_max, entry.config.receiver_in_flight_max);
        let lively = (0..parts.len()).collect();
        let rules = Rules::of(&entry);
        Self {
            entry,
            rules,
            parts,
            movers,
            dead_letters,
            floors,
            receivers,
            lively,
            next_part: 0,
            answers: Answers::default(),
            attempts: Attempts::default(),
            pulls: HashMap::new(),
        }
    }

    pub fn id(&self) -> QueueId {
        self.entry.id()
    }

    fn parts(&mut self) -> impl Iterator<Item = (usize, &mut Part)> {
        self.parts.iter_mut().enumerate().filter_map(|(index, part)| Some((index, part.as_mut()?)))
    }

    fn part(&mut self, index: u32) -> Option<&mut Part> {
        self.parts.get_mut(index as usize)?.as_mut()
    }

    /// Other settings, or another place to begin.
    pub fn update(&mut self, entry: Arc<QueueEntry>, now: Now) {
        let count = self.dead_letters.as_ref().map(|dead| dead.partitions());
        for (index, part) in self.parts() {
            part.machine.set_settings(machine_settings(&entry, index as u32, count));
            part.catch_up(&entry, now);
        }
        self.receivers.set_limits(entry.config.in_flight_max, entry.config.receiver_in_flight_max);
        self.rules = Rules::of(&entry);
        self.entry = entry;
        self.note_ends();
        self.lively = (0..self.parts.len()).collect();
    }

    pub fn attach(&mut self, receiving: Receiving, visibility_ms: u64, now: Now) -> u32 {
        let Receiving { key, outlet, window, held, .. } = receiving;
        let (receiver, is_back) = self.receivers.attach(key, outlet, window, visibility_ms);
        if is_back {
            for (index, part) in self.parts() {
                part.machine.receiver_back(receiver);
                if let Some(held) = &held {
                    let here = held.iter().filter(|(partition, _)| *partition as usize == index);
                    part.machine.keep_only(receiver, &here.map(|(_, fence)| *fence).collect(), now);
                }
            }
            self.note_ends();
        }
        self.lively.extend(0..self.parts.len());
        receiver
    }

    /// A receiver asks for messages; for the second time, if it never heard the answer: then what is still out comes again.
    pub fn pull(&mut self, receiver: u32, pulling: Pulling, now: Now) {
        let Pulling { number, most, visibility_ms, attempt } = pulling;
        let mut again: HashMap<Way, Vec<Delivery>> = HashMap::new();
        for (index, delivery) in self.attempts.of(attempt) {
            let Some(part) = self.parts[*index].as_mut() else { continue };
            if let Some(had_it) = part.machine.hand_over(delivery.receipt, receiver) {
                self.receivers.gave_back(&[had_it]);
                self.receivers.took(receiver, 1, None);
                let way = Way { receiver, pull: Some(number), index: *index };
                again.entry(way).or_default().push(*delivery);
            }
        }
        let visibility_ms = visibility_ms.unwrap_or_else(|| self.receivers.visibility_ms(receiver));
        self.receivers.pull(receiver, number, most, visibility_ms);
        self.lively.extend(0..self.parts.len());
        if again.is_empty() {
            self.attempts.forget(attempt);
            self.pulls.insert((receiver, number), attempt);
        } else {
            self.send(again, now);
            self.answer_pulls();
        }
    }

    /// Pulls that have got something are answered.
    fn answer_pulls(&mut self) {
        for (receiver, outlet, pull) in self.receivers.take_answered() {
            self.pulls.remove(&(receiver, pull.number));
            outlet.pulled(pull.number, pull.sent, false);
        }
    }

    pub fn detach(&mut self, receiver: u32, now: Now) {
        self.receivers.detach(receiver);
        self.pulls.retain(|(of, _), _| *of != receiver);
        self.parts().for_each(|(_, part)| part.machine.receiver_lost(receiver, now));
        self.lively.extend(0..self.parts.len());
    }

    pub fn changed(&mut self, partition: PartitionId) {
        if let Some(part) = self.part(partition.0) {
            part.looks();
            self.lively.insert(partition.0 as usize);
        }
    }

    /// What receivers say. Each verb for itself; answered together, once all of it is durable.
    pub fn verbs(&mut self, verbs: Vec<Verb>, reply: VerbReply, now: Now) {
        let id = self.entry.id();
        let mut results = Vec::with_capacity(verbs.len());
        let mut touched: Vec<(usize, Vec<usize>)> = Vec::new();
        for verb in verbs {
            let index = verb.partition as usize;
            let result = match self.parts.get_mut(index).and_then(Option::as_mut) {
                _ if verb.queue != id => VerbResult::Foreign,
                None => VerbResult::Refused(Refusal::ReceiptExpired),
                Some(part) => match part.trouble() {
                    Some(error) => VerbResult::Failed(error.clone()),
                    None => {
                        if matches!(verb.act, Act::Ack) {
                            part.look_up_to(verb.receipt.offset, &self.entry, &self.rules, now);
                        }
                        act(part, verb.receipt, &verb.act, now)
                    }
                },
            };
            if matches!(result, VerbResult::Done) {
                match touched.iter_mut().find(|(at, _)| *at == index) {
                    Some((_, rest)) => rest.push(results.len()),
                    None => touched.push((index, vec![results.len()])),
                }
                self.lively.insert(index);
            }
            results.push(result);
        }
        self.answer_once_durable(results, touched, reply);
    }

    /// Answers once what was decided on those partitions until now is durable; each with the results that rest on it.
    fn answer_once_durable(&mut self, results: Vec<VerbResult>, on: Vec<(usize, Vec<usize>)>, reply: VerbReply) {
        let rests_on = on.into_iter().filter_map(|(index, rest)| {
            let part = self.parts[index].as_ref()?;
            Some((index, part.machine.next_flush(), rest))
        });
        let rests_on = rests_on.collect();
        self.answers.0.push(Answer { results, rests_on, reply });
        self.note_ends();
    }

    /// Brings dead messages of a partition back; answers what became of each once it is durable.
    pub fn adopt(&mut self, partition: u32, letters: &[(u64, Adopted)], reply: AdoptReply, now: Now) {
        let Some(part) = self.part(partition) else { return reply(Err(LogError::Closed)) };
        if let Some(error) = part.trouble() {
            return reply(Err(error.clone()));
        }
        let mut adoptions = Vec::with_capacity(letters.len());
        for (offset, letter) in letters {
            // From before it is needed on.
            match part.letters.hold(*letter) {
                Ok(()) => adoptions.push(part.machine.adopt(*offset, *letter, now)),
                Err(error) => return reply(Err(error)),
            }
        }
        self.lively.insert(partition as usize);
        let reply: VerbReply = Box::new(move |mut results| match results.pop() {
            Some(VerbResult::Failed(error)) => reply(Err(error)),
            Some(VerbResult::Done) => reply(Ok(adoptions)),
            // Gone with its queue: who waits sees that nothing comes.
            _ => {}
        });
        // One that was adopted before may not be durably so yet: it is answered then, too.
        self.answer_once_durable(vec![VerbResult::Done], vec![(partition as usize, vec![0])], reply);
    }

    /// Lets parked messages go on, or away; one result for each that was parked.
    pub fn unpark(&mut self, partition: u32, which: &ParkedAt, how: Unpark, reply: VerbReply, now: Now) {
        let index = partition as usize;
        let Some(part) = self.part(partition) else { return reply(Vec::new()) };
        if let Some(error) = part.trouble() {
            return reply(vec![VerbResult::Failed(error.clone())]);
        }
        if how == Unpark::Skip && part.machine.settings().dead_letter.is_none() {
            return reply(vec![VerbResult::Refused(Refusal::NoDeadLetter)]);
        }
        let offsets = match which {
            ParkedAt::Offset(offset) => vec![*offset],
            ParkedAt::Group(key) => part.machine.parked_of(feed::hash(key)),
        };
        let unparked = offsets.into_iter().filter(|offset| part.machine.unpark(*offset, how == Unpark::Retry, now));
        let results = vec![VerbResult::Done; unparked.count()];
        self.lively.insert(index);
        let on = vec![(index, (0..results.len()).collect())];
        self.answer_once_durable(results, on, reply);
    }

    /// Shows unsettled messages, and changes nothing.
    pub fn peek(&mut self, what: &PeekWhat, now: Now) -> Result<Vec<Peeked>, LogError> {
        let mut peeked = Vec::new();
        for (index, part) in self.parts.iter_mut().enumerate() {
            let Some(part) = part.as_mut().filter(|_| what.partition.is_none_or(|wanted| wanted as usize == index))
            else {
                continue;
            };
            let max = what.max - peeked.len();
            peeked.extend(peek::peek(part, &self.rules, what, max, now)?);
        }
        Ok(peeked)
    }

    /// The log's answers to flushes. Gives snapshots that may be stored now.
    pub fn stored(&mut self, partition: PartitionId, results: Lot, now: Now) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        if let Some(part) = self.part(partition.0) {
            snapshots.extend(results.into_iter().filter_map(|(number, result)| part.stored(number, result, now)));
            self.lively.insert(partition.0 as usize);
        }
        self.note_ends();
        self.answer(now);
        snapshots
    }

    /// The dead-letter stream's answers.
    pub fn moved(&mut self, partition: PartitionId, results: Lot, now: Now) {
        let index = partition.0 as usize;
        let (Some(Some(part)), Some(Some(mover))) = (self.parts.get_mut(index), self.movers.get_mut(index)) else {
            return;
        };
        for (sequence, result) in results {
            if let Some(dying) = mover.moved(sequence, result, now) {
                part.machine.moved(&dying, now);
            }
        }
        self.lively.insert(index);
    }

    /// Answers what rests on nothing any more that is on its way.
    pub fn answer(&mut self, _: Now) {
        let parts = &self.parts;
        let mut ready = Vec::new();
        for mut answer in std::mem::take(&mut self.answers.0) {
            answer.rests_on.retain(|(index, flush, rest)| {
                let Some(part) = &parts[*index] else { return false };
                if part.durable >= *flush {
                    return false;
                }
                // The flush failed if what was decided with it is neither durable nor on its way.
                let Some(error) = part.lost(*flush) else { return true };
                rest.iter().for_each(|at| answer.results[*at] = VerbResult::Failed(error.clone()));
                false
            });
            match answer.rests_on.is_empty() {
                true => ready.push(answer),
                false => self.answers.0.push(answer),
            }
        }
        ready.into_iter().for_each(|answer| (answer.reply)(answer.results));
    }

    /// Leases that ended make room.
    fn note_ends(&mut self) {
        let mut ended = Vec::new();
        self.parts().for_each(|(_, part)| ended.extend(part.machine.take_ended()));
        self.receivers.gave_back(&ended);
    }

    /// Does what there is to do; whether there is more.
    pub fn pump(&mut self, now: Now) -> bool {
        for (index, part) in self.parts.iter_mut().enumerate() {
            let Some(part) = part else { continue };
            if part.machine.wake_in_ms(now) == Some(0) {
                part.machine.tick(now);
            }
            if part.machine.has_available(now) {
                self.lively.insert(index);
            }
        }
        self.note_ends();
        let (outbox, mut has_more) = self.deliver(now);
        has_more |= self.move_dead(now);
        self.flush(now);
        self.send(outbox, now);
        self.answer_pulls();
        // What could not be sent after all was decided behind the flush.
        self.flush(now);
        self.answer(now);
        has_more
    }

    pub fn flush(&mut self, now: Now) {
        self.parts().for_each(|(_, part)| {
            part.flush(now);
            part.letters.let_go(part.machine.ledger(), part.machine.next_flush(), part.durable, now);
        });
    }

    /// Gives messages to receivers, one small run after the other.
    fn deliver(&mut self, now: Now) -> (HashMap<Way, Vec<Delivery>>, bool) {
        let mut outbox: HashMap<Way, Vec<Delivery>> = HashMap::new();
        let (mut batches, mut delivered) = (0, 0);
        while !self.lively.is_empty() && !self.entry.is_paused {
            if batches >= BATCHES_AT_ONCE || delivered >= DELIVERIES_AT_ONCE {
                return (outbox, true);
            }
            let Some(turn) = self.receivers.next_turn(|outlet| outlet.has_room()) else { break };
            let at = self.lively.range(self.next_part..).next().or(self.lively.first()).copied();
            let Some(index) = at else { break };
            let Some(part) = self.parts[index].as_mut().filter(|part| part.works(now)) else {
                self.lively.remove(&index);
                continue;
            };
            while !part.machine.has_available(now)
                && part.machine.backlog() < FIFO_BACKLOG_MAX
                && batches < BATCHES_AT_ONCE
            {
                batches += 1;
                if !part.judge_next(&self.entry, &self.rules, now) {
                    break;
                }
            }
            let room = turn.room as usize;
            let taken = part
                .machine
                .receive(turn.receiver, room, whole(turn.visibility_ms, VISIBILITY_MS_MAX), now)
                .unwrap_or_default();
            if taken.is_empty() {
                if batches < BATCHES_AT_ONCE {
                    self.lively.remove(&index);
                }
                continue;
            }
            self.next_part = index + 1;
            delivered += taken.len();
            self.receivers.took(turn.receiver, taken.len() as u32, turn.pull);
            let way = Way { receiver: turn.receiver, pull: turn.pull, index };
            outbox.entry(way).or_default().extend(taken);
        }
        (outbox, false)
    }

    /// Sends what was delivered, with the batches that hold it. What has expired meanwhile, or cannot be read, is not sent.
    fn send(&mut self, outbox: HashMap<Way, Vec<Delivery>>, now: Now) {
        let ttl_ms = self.entry.config.ttl_ms;
        for (way, mut deliveries) in outbox {
            let Way { receiver, pull, index } = way;
            let Some(part) = self.parts[index].as_mut() else { continue };
            let taken = deliveries.len() as u32;
            deliveries.sort_unstable_by_key(|delivery| delivery.receipt.fence);
            // What was redriven goes by itself: its batches would lie across those of the log.
            let mut lots: Vec<(bool, Vec<Delivery>, Vec<BatchView>)> = Vec::new();
            for delivery in deliveries {
                let is_adopted = part.machine.ledger().adopted(delivery.receipt.offset).is_some();
                if lots.last().is_none_or(|(was_adopted, ..)| *was_adopted != is_adopted) {
                    lots.push((is_adopted, Vec::new(), Vec::new()));
                }
                let Some((_, deliveries, batches)) = lots.last_mut() else { continue };
                let offset = delivery.receipt.offset;
                match find(part, offset, batches, ttl_ms, now) {
                    Ok(Found::Held) => deliveries.push(delivery),
                    Ok(Found::In(batch)) => {
                        batches.push(batch);
                        deliveries.push(delivery);
                    }
                    Ok(Found::Expired) => part.machine.expired(delivery.receipt, now),
                    // Compaction has removed it since it was judged.
                    Ok(Found::Gone) => part.machine.removed(delivery.receipt, now),
                    Err(error) => {
                        tracing::warn!(queue = self.entry.name, partition = index, offset, %error, "a message cannot be read");
                        let _ = part.machine.release(delivery.receipt, now);
                        part.rest(now);
                    }
                }
            }
            let outlet = self.receivers.outlet(receiver);
            let (partition, incarnation) = (part.partition.id(), part.partition.incarnation());
            if let Some(number) = pull {
                let sent = lots.iter().map(|(_, deliveries, _)| deliveries.len() as u32).sum::<u32>();
                let sent = if outlet.is_some() { sent } else { 0 };
                self.receivers.sent(receiver, number, sent, taken);
                if let Some(attempt) = self.pulls.get(&(receiver, number)) {
                    lots.iter().for_each(|(_, deliveries, _)| self.attempts.got(*attempt, index, deliveries));
                }
            }
            let queue = self.entry.id();
            for (_, deliveries, batches) in lots.into_iter().filter(|(_, deliveries, _)| !deliveries.is_empty()) {
                match &outlet {
                    Some(outlet) => {
                        outlet.deliver(Delivered { queue, partition, incarnation, pull, deliveries, batches });
                    }
                    None => {
                        for delivery in &deliveries {
                            let _ = part.machine.release(delivery.receipt, now);
                        }
                    }
                }
            }
            self.lively.insert(index);
        }
        self.note_ends();
    }

    /// Appends what died to the dead-letter stream. Whether some has to be tried again.
    fn move_dead(&mut self, now: Now) -> bool {
        let Some(dead_letters) = &self.dead_letters else { return false };
        for (part, mover) in self.parts.iter_mut().zip(&mut self.movers) {
            if let (Some(part), Some(mover)) = (part, mover) {
                mover.go_on(&self.entry, part, dead_letters, now);
            }
        }
        false
    }

    /// When it next wants to be looked at.
    pub fn wake_in_ms(&self, now: Now) -> Option<u64> {
        let parts = self.parts.iter().flatten();
        let machines = parts.clone().filter_map(|part| part.machine.wake_in_ms(now));
        let rests =
            parts.filter(|part| part.rests_until_ms > now.mono_ms).map(|part| part.rests_until_ms - now.mono_ms);
        let movers = self.movers.iter().flatten().filter_map(|mover| mover.wake_in_ms(now));
        let letters = self.parts.iter().flatten().filter_map(|part| part.letters.wake_in_ms(now));
        machines.chain(rests).chain(movers).chain(letters).min()
    }

    pub fn is_busy(&self) -> bool {
        self.parts.iter().flatten().any(Part::is_busy)
    }

    pub fn last_snapshots(&mut self) -> Vec<Snapshot> {
        self.parts().filter_map(|(_, part)| part.last_snapshot()).collect()
    }

    /// Its receivers hear that it is gone, and so does who waits for an answer.
    pub fn end(mut self) {
        self.parts().for_each(|(_, part)| part.letters.end());
        self.receivers.outlets().for_each(|outlet| outlet.ended());
        for answer in self.answers.0 {
            (answer.reply)(vec![VerbResult::QueueDeleted; answer.results.len()]);
        }
    }

    pub fn describe(&mut self, now: Now) -> QueueState {
        let receivers = self.receivers.connected() as u32;
        let parts = self.parts.iter_mut().enumerate().map(|(index, part)| match part {
            None => PartState {
                partition: index as u32,
                error: Some("the partition is offline".to_owned()),
                ..PartState::default()
            },
            Some(part) => {
                let end = part.partition.high_watermark().0;
                let oldest = part.feed.batch(&part.partition, part.machine.ledger().floor()).ok().flatten();
                let ledger = part.machine.ledger();
                PartState {
                    partition: index as u32,
                    counts: part.machine.counts(now),
                    not_looked_at: end.saturating_sub(ledger.judged().max(ledger.floor())),
                    tally: ledger.tally(),
                    // What a crash cannot take back; the ledger's own runs ahead of the disk.
                    floor: self.floors.of(&self.entry, index as u32).unwrap_or_default(),
                    end,
                    oldest_ms: oldest.map(|batch| batch.header().append_time.0),
                    entries: ledger.entries() as u64,
                    filter_errors: part.filter_errors,
                    error: part.trouble().map(ToString::to_string),
                }
            }
        });
        QueueState { receivers, partitions: parts.collect() }
    }
}

/// Where a message's record is.
enum Found {
    /// In a batch that is sent along already.
    Held,
    In(BatchView),
    Gone,
    Expired,
}

fn find(part: &mut Part, offset: u64, batches: &[BatchView], ttl_ms: Option<u64>, now: Now) -> Result<Found, LogError> {
    if let Some(letter) = part.machine.ledger().adopted(offset) {
        // Its clock does not go on: whoever brings it back wants it delivered.
        return match part.letters.read(letter)? {
            Some(letter) => Ok(Found::In(letters::batch_at(&letter, offset, &part.partition)?)),
            None => Ok(Found::Gone),
        };
    }
    let holds = |batch: &&BatchView| (batch.header().base_offset.0..batch.header().end_offset().0).contains(&offset);
    let held = batches.iter().find(holds).cloned();
    let is_held = held.is_some();
    let found = match held {
        Some(batch) => Some(batch),
        None => part.feed.batch(&part.partition, offset)?,
    };
    Ok(match found {
        Some(batch) if !feed::has_record(&batch, offset) => Found::Gone,
        Some(batch) if feed::is_expired(&batch, offset, ttl_ms, now).unwrap_or(false) => Found::Expired,
        Some(_) if is_held => Found::Held,
        Some(batch) => Found::In(batch),
        None => Found::Gone,
    })
}

/// A time that is not over early; what is above its limit stays so.
fn whole(ms: u64, limit: u64) -> u64 {
    if ms > limit { ms } else { feed::surely_passed(ms).min(limit) }
}

fn act(part: &mut Part, receipt: Receipt, act: &Act, now: Now) -> VerbResult {
    let machine = &mut part.machine;
    let done = match act {
        Act::Ack => machine.ack(receipt, now),
        Act::Nack { delay_ms, error } => {
            let delay_ms = delay_ms.map(|ms| whole(ms, NACK_DELAY_MS_MAX));
            machine.nack(receipt, delay_ms, error, now)
        }
        Act::Release => machine.release(receipt, now),
        Act::Extend { visibility_ms } => machine.extend(receipt, whole(*visibility_ms, VISIBILITY_MS_MAX), now),
        Act::Reject { error } => machine.reject(receipt, error, now),
    };
    done.map_or_else(VerbResult::Refused, |()| VerbResult::Done)
}
