//! The queues' checkers: Q1 to Q6 and Q8 to Q12, queue by queue and partition by partition.
//!
//! | file | checks |
//! | --- | --- |
//! | `settled` | what becomes of each message: Q1 lost message, Q2 ghost delivery, Q8 filter |
//! | `lease` | Q3 double lease; how long a lease can have lasted |
//! | `receipts` | Q4 stale receipt |
//! | `counts` | Q5 receive counts; `deliveries`: Q5 fencing numbers |
//! | `letters` | Q5b dead letters; and what should be one and is not, Q5 |
//! | `groups` | Q6 order in a group |
//! | `due` | Q9 not when due, Q10 starvation |
//! | `credit` | Q11 credit |
//! | `floor` | Q12 floor |
//!
//! No search: the fencing numbers say in which order the deliveries of a partition were made. What happened *when* is known
//! from outside only, an ack for example between its send and its answer; each file says which end it takes and why. The
//! rule: what accuses is a bound in the accused one's favour, and what nobody knows (an answer that was lost, a receiver that
//! was killed, an outage) excuses all that it can explain. So a legal server is never accused, whatever the timing.
//! One fault should have one number; the files say which where two would do.
//! Cost: everything is sorted and gone through once, O(n log n), but the square of the purges and seeks, of which there are
//! few; about 80 bytes for each delivery, 50 for each use of a receipt and its answer, 32 for each message.
//! Not here: blocked groups that delay others (Q7) are a figure. Messages with a time to live, `on_dead = park`, and queues at
//! their limit of leases are not understood: histories must not have them.
//! Proof: `tests/queues.rs` has a small bad history per number, and the tricky good ones.

mod counts;
mod credit;
mod deliveries;
mod due;
mod floor;
mod groups;
mod intake;
mod lease;
mod letters;
mod promises;
mod receipts;
mod settled;
mod timeline;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::deliveries::{Delivery, Fences};
use self::due::{Late, Waiting};
use self::intake::Intake;
use self::letters::Letter;
use self::receipts::{Kind, Op};
use self::settled::Fate;
use self::timeline::{Outages, Reset, Spans};
use crate::history::{InQueue, Life, OfQueue, Place};
use crate::value::ValueId;
use crate::verdict::{Check, Findings, Verdict};

/// A record of the log, as far as it matters to queues.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub offset: u64,
    pub value: ValueId,
    /// When it was sent first; 0: nobody has sent it.
    pub invoked_ns: u64,
    /// When it was acknowledged there; `u64::MAX`: it was not.
    pub acked_ns: u64,
}

/// The queues of a history, taken in event by event.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    of: BTreeMap<u32, Intake>,
    lives: Vec<(u64, Life)>,
    /// Values with a delay of their own, in nanoseconds.
    delays: HashMap<ValueId, u64>,
    /// When a log was known to begin where.
    log_starts: HashMap<Place, Vec<(u64, u64)>>,
}

impl Queues {
    pub fn push(&mut self, at_ns: u64, OfQueue { queue, receiver, what }: OfQueue) {
        match what {
            // Each to the queue that it says it comes from.
            InQueue::DeadLetters { records } => {
                for record in records {
                    let whose = record.origin.map_or(queue, |origin| origin.queue);
                    self.of.entry(whose).or_default().letters.take(at_ns, &record);
                }
            }
            what => self.of.entry(queue).or_default().push(receiver, at_ns, what),
        }
    }

    pub fn server(&mut self, at_ns: u64, life: Life) {
        self.lives.push((at_ns, life));
    }

    pub fn delayed(&mut self, values: &[ValueId], delay_ms: u64) {
        self.delays.extend(values.iter().map(|value| (*value, promises::ms(delay_ms))));
    }

    pub fn log_start(&mut self, at: Place, at_ns: u64, start: u64) {
        let starts = self.log_starts.entry(at).or_default();
        if starts.last().is_none_or(|(_, before)| *before != start) {
            starts.push((at_ns, start));
        }
    }

    /// The streams that are read by queues.
    pub fn streams(&self) -> BTreeSet<u32> {
        self.of.values().map(|intake| intake.stream).collect()
    }

    /// `messages`: of each partition of those streams, by offset.
    pub fn judge(mut self, messages: &HashMap<Place, Vec<Message>>, late_ns: u64, verdict: &mut Verdict) {
        let outages = Outages::of(std::mem::take(&mut self.lives));
        for (number, mut intake) in std::mem::take(&mut self.of) {
            verdict.counts_mut().queues += 1;
            let at = Place { stream: intake.stream, partition: 0 };
            if intake.created_ns.is_none() {
                let mut findings = Findings { verdict, at };
                findings.add(Check::Filter, None, None, || format!("queue {number}: nobody has made it"));
                continue;
            }
            intake.matching.sort_unstable();
            intake.other.sort_unstable();
            intake.letters.sort();
            let context = Context { number, late_ns, outages: &outages, delays: &self.delays, intake };
            context.judge(&self.log_starts, messages, verdict);
        }
    }
}

/// What holds for a whole queue.
struct Context<'a> {
    number: u32,
    late_ns: u64,
    outages: &'a Outages,
    delays: &'a HashMap<ValueId, u64>,
    intake: Intake,
}

impl Context<'_> {
    fn judge(
        mut self,
        log_starts: &HashMap<Place, Vec<(u64, u64)>>,
        messages: &HashMap<Place, Vec<Message>>,
        verdict: &mut Verdict,
    ) {
        let mut taken = std::mem::take(&mut self.intake.partitions);
        let at = |partition| Place { stream: self.intake.stream, partition };
        for known in messages.keys().filter(|known| known.stream == self.intake.stream) {
            taken.entry(known.partition).or_default();
        }
        let none = Vec::new();
        let mut partitions = Vec::with_capacity(taken.len());
        for (partition, taken) in taken {
            let findings = &mut Findings { verdict, at: at(partition) };
            let messages = messages.get(&at(partition)).unwrap_or(&none);
            let mut of = InPartition::of(&self, partition, messages, taken.deliveries, taken.ops, findings);
            of.log_start = log_starts.get(&at(partition)).and_then(|s| s.last()).map_or(0, |last| last.1);
            partitions.push(of);
        }
        let unseen = self.unseen(&partitions);
        let mut late = Vec::new();
        let mut owed = Vec::new();
        for of in &partitions {
            let findings = &mut Findings { verdict, at: at(of.partition) };
            let fates = of.judge(&unseen, &mut late, findings);
            let starts = log_starts.get(&at(of.partition)).map_or(&[][..], Vec::as_slice);
            floor::check(of, &fates, starts, findings);
            owed.extend(fates.iter().filter(|fate| fate.is_owed).map(|fate| (of.partition, *fate)));
        }
        settled::all(&self, &partitions, &owed, verdict);
        letters::all(&self, verdict);
        credit::check(&self, &partitions, verdict);
        due::late(&self, &Waiting::of(&self, &partitions), &late, verdict);
    }

    /// When deliveries may have been made that nobody saw: to calls without an answer, and to receivers that left, which may
    /// have missed what was made after the last that they saw.
    fn unseen(&self, partitions: &[InPartition<'_>]) -> Spans {
        let mut last: Vec<u64> = self.intake.receiver.iter().map(|receiver| receiver.last_invoked_ns).collect();
        for delivery in partitions.iter().flat_map(|of| &of.deliveries) {
            let last = &mut last[delivery.receiver as usize];
            *last = (*last).max(delivery.made_lb);
        }
        let left = self.intake.receiver.iter().zip(last).filter_map(|(receiver, last)| {
            let (since_ns, at_ns) = receiver.gone?;
            Some((last.min(since_ns), at_ns))
        });
        Spans::of(left.chain(self.intake.unanswered.iter().copied()).collect())
    }

    fn resets(&self) -> &[Reset] {
        &self.intake.resets
    }
}

/// One partition of a queue, its deliveries in the order in which they were made.
struct InPartition<'a> {
    context: &'a Context<'a>,
    partition: u32,
    messages: &'a [Message],
    /// Where the log began when it was last asked.
    log_start: u64,
    deliveries: Vec<Delivery>,
    fences: Fences,
    /// By fencing number.
    ops: Vec<Op>,
    /// Of each delivery.
    ops_of: Vec<(u32, u32)>,
    /// Deliveries by offset, those of one in the order in which they were made.
    by_offset: Vec<u32>,
    /// Of a FIFO queue.
    runs: groups::Runs,
    /// The earliest that each delivery's lease can have ended.
    end_lb: Vec<u64>,
}

impl<'a> InPartition<'a> {
    fn of(
        context: &'a Context<'a>,
        partition: u32,
        messages: &'a [Message],
        mut deliveries: Vec<Delivery>,
        ops: Vec<Op>,
        findings: &mut Findings<'_>,
    ) -> Self {
        let fences = deliveries::in_order(context.number, &mut deliveries, messages, findings);
        let ops = receipts::paired(ops, context.outages);
        let mut end = 0;
        let ops_of: Vec<(u32, u32)> = deliveries
            .iter()
            .map(|delivery| {
                let key = (delivery.fence, delivery.offset);
                let begin = end + ops[end..].iter().take_while(|op| (op.fence, op.offset) < key).count();
                end = begin + ops[begin..].iter().take_while(|op| (op.fence, op.offset) == key).count();
                (begin as u32, end as u32)
            })
            .collect();
        let mut by_offset: Vec<u32> = (0..deliveries.len() as u32).collect();
        by_offset.sort_by_key(|index| deliveries[*index as usize].offset);
        let runs = groups::Runs::default();
        let end_lb = Vec::new();
        let mut of = Self {
            context,
            partition,
            messages,
            log_start: 0,
            deliveries,
            fences,
            ops,
            ops_of,
            by_offset,
            runs,
            end_lb,
        };
        of.runs = groups::Runs::of(&of);
        of.bound_by_leases();
        of
    }

    /// A delivery was not made before the lease of the one before it can have ended.
    fn bound_by_leases(&mut self) {
        let mut bounds = Vec::new();
        let mut end_lb = vec![0; self.deliveries.len()];
        for of_one in self.by_offset.chunk_by(|a, b| self.delivery(*a).offset == self.delivery(*b).offset) {
            for (place, index) in of_one.iter().copied().enumerate() {
                let next = of_one.get(place + 1).copied();
                let next_ns = next.map_or(u64::MAX, |next| self.delivery(next).made_ub);
                let end = self.lease_end_lb(index, next_ns);
                end_lb[index as usize] = end;
                // Else it is a double lease.
                bounds.extend(next.filter(|_| end <= next_ns).map(|next| (next, end)));
            }
        }
        self.end_lb = end_lb;
        for (index, end) in bounds {
            let made_lb = &mut self.deliveries[index as usize].made_lb;
            *made_lb = (*made_lb).max(end);
        }
        if self.fences == Fences::Sound {
            deliveries::spread(&mut self.deliveries);
        }
    }

    fn judge(&self, unseen: &Spans, late: &mut Vec<Late>, findings: &mut Findings<'_>) -> Vec<Fate> {
        receipts::unknown(self, findings);
        self.count(findings);
        let mut fates = Vec::with_capacity(self.messages.len());
        let mut rest = self.by_offset.as_slice();
        for message in self.messages {
            let offset = message.offset;
            rest = &rest[rest.iter().take_while(|index| self.delivery(**index).offset < offset).count()..];
            let (deliveries, behind) =
                rest.split_at(rest.iter().take_while(|index| self.delivery(**index).offset == offset).count());
            rest = behind;
            let letters = self.context.intake.letters.of(self.partition, offset);
            let of = OfMessage { of: self, unseen, message, offset, deliveries, letters };
            settled::check(&of, findings);
            lease::check(&of, findings);
            receipts::check(&of, findings);
            counts::check(&of, findings);
            letters::check(&of, findings);
            let fate = of.fate();
            due::check(&of, fate.is_owed, late, findings);
            fates.push(fate);
        }
        groups::check(self, &fates, late, findings);
        fates
    }

    fn count(&self, findings: &mut Findings<'_>) {
        let counts = findings.verdict.counts_mut();
        counts.received += self.deliveries.len() as u64;
        let messages = self.by_offset.chunk_by(|a, b| self.delivery(*a).offset == self.delivery(*b).offset).count();
        counts.received_again += (self.deliveries.len() - messages) as u64;
        counts.redriven += self.deliveries.iter().filter(|delivery| delivery.redriven > 0).count() as u64;
        for index in 0..self.deliveries.len() as u32 {
            let acks = self.ops(index).iter().filter(|op| op.kind == Kind::Ack && op.is_ok());
            if let Some(first_ns) = acks.map(|op| op.invoked_ns).min() {
                counts.settled += 1;
                counts.settled_late += u64::from(first_ns > self.deadline_ub(index, first_ns));
            }
        }
    }

    /// Whether a seek may have brought that message back, at any time.
    fn may_be_revived(&self, offset: u64) -> bool {
        self.context.resets().iter().any(|reset| reset.revives(self.partition, offset))
    }

    fn delivery(&self, index: u32) -> &Delivery {
        &self.deliveries[index as usize]
    }

    /// How its receipt was used.
    fn ops(&self, index: u32) -> &[Op] {
        let (begin, end) = self.ops_of[index as usize];
        &self.ops[begin as usize..end as usize]
    }

    fn by_fence(&self, fence: u64, offset: u64) -> Option<u32> {
        let found =
            self.deliveries.binary_search_by_key(&(fence, offset), |delivery| (delivery.fence, delivery.offset));
        found.ok().map(|index| index as u32)
    }
}

/// One message, and all that is known of it.
struct OfMessage<'a> {
    of: &'a InPartition<'a>,
    unseen: &'a Spans,
    message: &'a Message,
    offset: u64,
    /// In the order in which they were made.
    deliveries: &'a [u32],
    /// In the order in which they were found.
    letters: &'a [Letter],
}

impl OfMessage<'_> {
    fn value(&self) -> Option<ValueId> {
        Some(self.message.value)
    }

    /// Each delivery with the next one.
    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.deliveries.windows(2).map(|pair| (pair[0], pair[1]))
    }

    /// All uses of its receipts.
    fn all_ops(&self) -> impl Iterator<Item = (u32, &Op)> {
        self.deliveries.iter().flat_map(|index| self.of.ops(*index).iter().map(move |op| (*index, op)))
    }

    /// Whether a seek may have brought it back, at any time.
    fn may_be_revived(&self) -> bool {
        self.of.may_be_revived(self.offset)
    }

    /// Whether a seek may have brought it back between.
    fn may_be_revived_between(&self, from_ns: u64, to_ns: u64) -> bool {
        let mut revives = self.of.context.resets().iter().filter(|reset| reset.revives(self.of.partition, self.offset));
        revives.any(|reset| reset.may_be_between(from_ns, to_ns))
    }

    /// Whether the queue's state may have begun anew between: all receipts and counts of before are void.
    fn may_be_reset_between(&self, from_ns: u64, to_ns: u64) -> bool {
        self.of.context.resets().iter().any(|reset| reset.may_be_between(from_ns, to_ns))
    }

    /// Whether something nobody saw may have happened to it between: a delivery that was lost, or a crash.
    fn may_have_unseen(&self, from_ns: u64, to_ns: u64) -> bool {
        self.unseen.touch(from_ns, to_ns) || self.of.context.outages.may_be_between(from_ns, to_ns)
    }
}
