//! The log's checkers: L1 to L9, L11, L13 and L15, partition by partition. What it takes in of queues, `queue` judges.
//!
//! No search is needed, because acknowledgements carry offsets: everything is sorted and compared, O(n log n).
//!
//! | file | checks |
//! | --- | --- |
//! | `offsets` | by offset: L1 lost write, L3 divergence, L9 read then gone |
//! | `values` | by value: L2 phantom, L4 duplicate, L5 reorder |
//! | `time` | by time: L6 real time, L8 watermark |
//! | `position` | as each consumer went: L7 gap or step back |
//! | `group` | as each group went: L11 group, L13 unseen, and L7 within what a member held |
//!
//! A value of a producer that promises so ([`What::Once`]) stands at one offset, however often it was sent. A plain one's
//! is judged by its *first* occurrence: after a lost connection a plain producer sends again all that was in flight, so
//! `A B A B` is legal where both were sent again, and A's acknowledgement may name its second copy.
//! One fault should have one number: where another record stands at an acknowledged offset it is L3 alone, where nothing
//! does it is L1.
//! Not here: stale fetches (L10), retention (L12) and batch atomicity (L14); that the last read reaches every acknowledged
//! value is L1, so L13 is about groups.
//! Proof: `tests/verdicts.rs` has a minimal bad history per number and the tricky good ones; `tests/mutations.rs` makes
//! legal runs and spoils them.

mod group;
mod offsets;
mod position;
mod time;
mod values;

use std::collections::{BTreeMap, HashMap, HashSet};

use millstream_protocol::Code;

use crate::history::{CommitOutcome, Event, InGroup, InQueue, OfGroup, Place, What};
use crate::queue::{Message, Queues};
use crate::value::ValueId;
use crate::verdict::{Check, Findings, Verdict};
use group::InPartition;
use position::Positions;

/// What a run may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostRanges {
    /// Nothing, and the server may not say otherwise.
    #[default]
    Never,
    /// What the server reported lost: the run damages disks.
    AsReported,
}

/// By what a history is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What may be lost.
    pub lost: LostRanges,
    /// How late a queue's receiver may see what is due while receivers wait, in nanoseconds: what the server promises, and
    /// the way to the receiver on a machine that has other things to do.
    pub late_ns: u64,
}

impl Default for Rules {
    /// Nothing may be lost; a second is the promise, and another one is for the way.
    fn default() -> Self {
        Self { lost: LostRanges::Never, late_ns: 2_000_000_000 }
    }
}

/// A history of a log, its groups and its queues, taken in event by event, judged once it is whole.
#[derive(Debug, Default)]
pub struct LogHistory {
    events: u64,
    partitions: HashMap<Place, Partition>,
    known: Known,
    queues: Queues,
}

/// What holds for all partitions.
#[derive(Debug, Default)]
struct Known {
    /// Producers whose values stand once.
    once: HashSet<u32>,
    replaced: Vec<Replaced>,
    /// Which streams a group reads.
    reads: HashSet<(u32, u32)>,
    /// By group and member: when the last commit was sent that was taken. It was a member then.
    last_commit_ns: HashMap<(u32, u64), u64>,
}

/// A producer that is fenced, and the one that took its name.
#[derive(Debug, Clone, Copy)]
struct Replaced {
    producer: u32,
    by: u32,
    at_ns: u64,
}

/// What is known of one partition.
#[derive(Debug, Default)]
struct Partition {
    invoked: Vec<Invoked>,
    completed: Vec<Completed>,
    sightings: Vec<Sighting>,
    watermarks: Vec<Watermark>,
    tails: Vec<Tail>,
    gaps: Vec<Gap>,
    positions: Positions,
    groups: BTreeMap<u32, InPartition>,
    /// Log start and high watermark at the end.
    last: Option<(u64, u64)>,
    /// What is wrong by itself, found while it was taken in.
    broken: Vec<(Check, u64, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Invoked {
    value: ValueId,
    at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Completed {
    value: ValueId,
    at_ns: u64,
    outcome: Outcome,
    resends: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok { offset: u64 },
    Fail { code: u16 },
    Info,
}

/// Somebody learned that a value stands at an offset.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    offset: u64,
    value: ValueId,
    process: u32,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Ack,
    Fetch,
    Final,
}

/// A high watermark was seen.
#[derive(Debug, Clone, Copy)]
struct Watermark {
    at_ns: u64,
    end: u64,
    process: u32,
}

/// An answer to a question that was asked at a known time.
#[derive(Debug, Clone, Copy)]
struct Tail {
    invoked_ns: u64,
    end: u64,
    process: u32,
}

/// The server said that records are missing.
#[derive(Debug, Clone, Copy)]
struct Gap {
    from: u64,
    resume: u64,
    code: u16,
    process: u32,
}

/// All sends of one value, together.
#[derive(Debug, Clone, Copy)]
struct Write {
    value: ValueId,
    invoked_ns: u64,
    /// Repeats of sends in doubt, by the client or by whoever uses it.
    repeats: u32,
    /// Further copies that may be there: none where values stand once, else as many as there were repeats.
    copies: u32,
    /// It may be stored: not every send surely failed.
    possible: bool,
    acked: bool,
    /// Why it surely failed.
    code: u16,
    /// Its first occurrence; `u64::MAX`: none is known.
    first: u64,
}

/// Ranges of offsets, sorted.
#[derive(Debug, Default)]
struct Ranges(Vec<(u64, u64)>);

impl LogHistory {
    /// Takes in one event.
    pub fn push(&mut self, event: Event) {
        self.events += 1;
        let Event { at_ns, process, what } = event;
        match what {
            What::Invoke { at, values } => {
                let of = values.into_iter().map(|value| Invoked { value, at_ns });
                self.at(at).invoked.extend(of);
            }
            What::Ok { at, base_offset, values, resends } => {
                self.at(at).acked(process, at_ns, base_offset, &values, resends)
            }
            What::Fail { at, values, code } => self.at(at).completed(at_ns, &values, Outcome::Fail { code }, 0),
            What::Info { at, values, resends, .. } => self.at(at).completed(at_ns, &values, Outcome::Info, resends),
            What::Open { at, next } => self.at(at).positions.open(process, next),
            What::Fetch { at, records, high_watermark } => {
                self.at(at).fetched(process, at_ns, &records, high_watermark)
            }
            What::Gap { at, from, resume, code } => {
                let partition = self.at(at);
                partition.positions.skip(process, resume);
                partition.gaps.push(Gap { from, resume, code, process });
            }
            What::Tail { at, invoked_ns, start, high_watermark } => {
                self.queues.log_start(at, at_ns, start);
                let partition = self.at(at);
                partition.tails.push(Tail { invoked_ns, end: high_watermark, process });
                partition.watermarks.push(Watermark { at_ns, end: high_watermark, process });
            }
            What::Once { producer } => {
                self.known.once.insert(producer);
            }
            What::Replaced { producer, by } => self.known.replaced.push(Replaced { producer, by, at_ns }),
            What::Group(of) => self.in_group(process, at_ns, of),
            What::Server(life) => self.queues.server(at_ns, life),
            What::Delayed { values, delay_ms } => self.queues.delayed(&values, delay_ms),
            What::Queue(of) => {
                if let InQueue::Received { stream, deliveries, .. } = &of.what {
                    for delivery in deliveries {
                        let at = Place { stream: *stream, partition: delivery.partition };
                        self.at(at).saw(process, Source::Fetch, &[(delivery.offset, delivery.value)]);
                    }
                }
                self.queues.push(at_ns, of);
            }
            What::Final { at, records } => self.at(at).saw(process, Source::Final, &records),
            What::FinalEnd { at, start, end } => {
                self.queues.log_start(at, at_ns, start);
                self.at(at).last = Some((start, end));
            }
        }
    }

    /// Judges it.
    pub fn judge(mut self, rules: Rules) -> Verdict {
        let mut verdict = Verdict::default();
        let queues = std::mem::take(&mut self.queues);
        let streams = queues.streams();
        let of_queues = self.partitions.iter().filter(|(at, _)| streams.contains(&at.stream));
        let messages = of_queues.map(|(at, partition)| (*at, partition.messages())).collect();
        queues.judge(&messages, rules.late_ns, &mut verdict);
        verdict.counts_mut().events = self.events;
        verdict.counts_mut().partitions = self.partitions.len() as u64;
        let in_order: BTreeMap<Place, Partition> = self.partitions.into_iter().collect();
        for (at, mut partition) in in_order {
            for (group, stream) in &self.known.reads {
                if *stream == at.stream {
                    partition.groups.entry(*group).or_default();
                }
            }
            partition.judge(rules, &self.known, &mut Findings { verdict: &mut verdict, at });
        }
        verdict
    }

    fn in_group(&mut self, process: u32, at_ns: u64, OfGroup { group, member, what }: OfGroup) {
        match &what {
            InGroup::Joined { streams } => self.known.reads.extend(streams.iter().map(|stream| (group, *stream))),
            InGroup::CommitDone { invoked_ns, outcome: CommitOutcome::Ok, .. } => {
                let last = self.known.last_commit_ns.entry((group, member)).or_default();
                *last = (*last).max(*invoked_ns);
            }
            _ => {}
        }
        let Some(at) = what.at() else { return };
        let partition = self.at(at);
        if let InGroup::Delivered { records, .. } = &what {
            partition.saw(process, Source::Fetch, records);
        }
        partition.groups.entry(group).or_default().push(member, at_ns, what);
    }

    fn at(&mut self, at: Place) -> &mut Partition {
        self.partitions.entry(at).or_default()
    }
}

impl Partition {
    fn acked(&mut self, process: u32, at_ns: u64, base: u64, values: &[ValueId], resends: u16) {
        for (offset, value) in (base..).zip(values.iter().copied()) {
            self.completed.push(Completed { value, at_ns, outcome: Outcome::Ok { offset }, resends });
            self.sightings.push(Sighting { offset, value, process, source: Source::Ack });
        }
        // Acknowledged is below the high watermark.
        self.watermarks.push(Watermark { at_ns, end: base.saturating_add(values.len() as u64), process });
    }

    fn completed(&mut self, at_ns: u64, values: &[ValueId], outcome: Outcome, resends: u16) {
        self.completed.extend(values.iter().map(|&value| Completed { value, at_ns, outcome, resends }));
    }

    fn fetched(&mut self, process: u32, at_ns: u64, records: &[(u64, Option<ValueId>)], end: u64) {
        if let Some((offset, _)) = records.iter().find(|(offset, _)| *offset >= end) {
            let text = format!("process {process} got it in an answer whose high watermark is {end}");
            self.broken.push((Check::Watermark, *offset, text));
        }
        for (offset, _) in records {
            self.positions.take(process, *offset);
        }
        let before = self.positions.watermark(process, end);
        if let Some(before) = before.filter(|before| *before > end) {
            let text = format!("process {process} got a high watermark of {end}, after one of {before}");
            self.broken.push((Check::Watermark, end, text));
        }
        if before.is_none_or(|before| before < end) {
            self.watermarks.push(Watermark { at_ns, end, process });
        }
        self.saw(process, Source::Fetch, records);
    }

    fn saw(&mut self, process: u32, source: Source, records: &[(u64, Option<ValueId>)]) {
        self.sightings.extend(records.iter().map(|&(offset, value)| {
            let value = value.unwrap_or(ValueId::BROKEN);
            Sighting { offset, value, process, source }
        }));
    }

    /// What a queue can know of it: each offset that anybody saw, once, in order.
    fn messages(&self) -> Vec<Message> {
        let mut invoked: Vec<_> = self.invoked.iter().map(|invoked| (invoked.value, invoked.at_ns)).collect();
        invoked.sort_unstable();
        let mut acked: Vec<(u64, ValueId, u64)> = Vec::new();
        for completed in &self.completed {
            if let Outcome::Ok { offset } = completed.outcome {
                acked.push((offset, completed.value, completed.at_ns));
            }
        }
        acked.sort_unstable();
        let mut seen: Vec<_> = self.sightings.iter().map(|seen| (seen.offset, seen.value)).collect();
        seen.sort_unstable();
        // A broken payload sorts behind the whole ones.
        seen.dedup_by_key(|seen| seen.0);
        let message = |(offset, value)| {
            let sent = invoked.get(invoked.partition_point(|invoked| invoked.0 < value)).filter(|sent| sent.0 == value);
            let ack = acked.get(acked.partition_point(|acked| acked.0 < offset)).filter(|acked| acked.0 == offset);
            let (invoked_ns, acked_ns) = (sent.map_or(0, |sent| sent.1), ack.map_or(u64::MAX, |acked| acked.2));
            Message { offset, value, invoked_ns, acked_ns }
        };
        seen.into_iter().map(message).collect()
    }

    fn judge(mut self, rules: Rules, known: &Known, findings: &mut Findings<'_>) {
        for (check, offset, text) in std::mem::take(&mut self.broken) {
            findings.add(check, Some(offset), None, || text);
        }
        let start = self.last.map_or(0, |(start, _)| start);
        let lost = self.lost_ranges(rules, start, findings);
        let mut writes = self.writes(known);
        count(&writes, &self.sightings, findings);
        offsets::check(&mut self.sightings, start, &lost, findings);
        position::check(&self.positions, &self.sightings, &lost, findings);
        for (group, in_partition) in &mut self.groups {
            group::check(*group, in_partition, known, &self.sightings, &lost, findings);
        }
        values::check(&mut self.sightings, &mut writes, start, findings);
        values::fenced(&writes, &known.replaced, findings);
        time::check(&self, &mut writes, start, findings);
    }

    /// What was reported lost, where that is allowed; deleted records are no loss.
    fn lost_ranges(&self, rules: Rules, start: u64, findings: &mut Findings<'_>) -> Ranges {
        let mut ranges = Vec::new();
        for Gap { from, resume, code, process } in self.gaps.iter().copied() {
            if resume <= start {
                continue;
            }
            if rules.lost == LostRanges::AsReported {
                ranges.push((from, resume));
                continue;
            }
            findings.add(Check::Position, Some(from), None, || {
                let code = Code::from_number(code);
                format!("process {process} was told that {from}..{resume} is missing ({code}), and nothing may be")
            });
        }
        ranges.sort_unstable();
        Ranges(ranges)
    }

    /// All sends, by value.
    fn writes(&mut self, known: &Known) -> Vec<Write> {
        self.invoked.sort_unstable_by_key(|invoked| (invoked.value, invoked.at_ns));
        self.completed.sort_unstable_by_key(|completed| (completed.value, completed.at_ns));
        let mut completed = self.completed.iter().peekable();
        let mut writes = Vec::with_capacity(self.invoked.len());
        for sends in self.invoked.chunk_by(|a, b| a.value == b.value) {
            let Invoked { value, at_ns: invoked_ns } = sends[0];
            let (mut resends, mut failed, mut acked, mut code) = (0, 0, 0, 0);
            // Completions of values that nobody sent are looked at as sightings.
            while completed.next_if(|completed| completed.value < value).is_some() {}
            while let Some(one) = completed.next_if(|completed| completed.value == value) {
                resends += u32::from(one.resends);
                match one.outcome {
                    Outcome::Ok { .. } => acked += 1,
                    Outcome::Fail { code: why } => (failed, code) = (failed + 1, why),
                    Outcome::Info => {}
                }
            }
            // Any one copy is no repeat: the acknowledged one, or else one of those in doubt.
            let in_doubt = sends.len().saturating_sub(acked + failed);
            let repeats = in_doubt.saturating_sub(usize::from(acked == 0));
            let possible = failed < sends.len();
            let repeats = resends.saturating_add(u32::try_from(repeats).unwrap_or(u32::MAX));
            let copies = if known.once.contains(&value.producer()) { 0 } else { repeats };
            writes.push(Write {
                value,
                invoked_ns,
                repeats,
                copies,
                possible,
                acked: acked > 0,
                code,
                first: u64::MAX,
            });
        }
        self.invoked = Vec::new();
        writes
    }
}

impl Ranges {
    fn contain(&self, offset: u64) -> bool {
        self.0.iter().take_while(|(from, _)| *from <= offset).any(|(_, resume)| offset < *resume)
    }
}

impl Sighting {
    /// As the one who knows it would say it.
    fn told(&self) -> String {
        let Self { offset, value, process, source } = self;
        match source {
            Source::Ack => format!("process {process} had {value} acknowledged at {offset}"),
            Source::Fetch => format!("process {process} got {value} at {offset}"),
            Source::Final => format!("the last read has {value} at {offset}"),
        }
    }
}

fn count(writes: &[Write], sightings: &[Sighting], findings: &mut Findings<'_>) {
    let counts = findings.verdict.counts_mut();
    let number = |test: &dyn Fn(&Write) -> bool| writes.iter().filter(|write| test(write)).count() as u64;
    counts.sent += writes.len() as u64;
    counts.acked += number(&|write| write.acked);
    counts.failed += number(&|write| !write.possible);
    counts.unknown += number(&|write| write.possible && !write.acked);
    counts.resent += number(&|write| write.repeats > 0);
    for sighting in sightings {
        match sighting.source {
            Source::Ack => {}
            Source::Fetch => counts.fetched += 1,
            Source::Final => counts.last_read += 1,
        }
    }
}
