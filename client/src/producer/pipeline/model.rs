//! The pipeline against a model of the server that does its worst: it stores and loses the answer, refuses, fails with
//! the outcome unknown, crashes, forgets producers; sessions of lost streams go on with the copies they have, until a raise
//! of the epoch fences them; a raise is answered, lost, or carried out late.
//!
//! After each run, whatever happened: every record has an outcome; none is stored twice; each partition's log holds its
//! records in the order of their enqueue; an acknowledged record is stored at its offset, a duplicate's offset is that of a
//! record of its id; a record with a definite failure is in no log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures::FutureExt;
use millstream_protocol::batch::{BatchView, Codec};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::produce::{Duplicate, Stored};
use millstream_protocol::{Offset, Record, Timestamp};
use proptest::prelude::*;

use super::tests::{batch_of, lost};
use super::*;
use crate::producer::delivery::{Delivery, Receipt};

const PARTITIONS: usize = 2;
const DEPTH: u32 = 6;
/// Fewer than are in flight at most, so that a batch can be too old to be remembered.
const REMEMBERED: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    /// So many records, those with an id have it.
    Push {
        partition: usize,
        ids: Vec<Option<u8>>,
        flaw: Flaw,
    },
    Send,
    Store,
    Refuse(Code),
    /// The disk fails under so many at once: the answer does not say whether they are stored.
    Fail {
        stored: bool,
        batches: usize,
    },
    /// Some of what arrived is stored, nobody hears of it, and the rest stays in the lost stream's session.
    Lose {
        stored: usize,
    },
    /// A session of a lost stream stores its next batch.
    Late,
    /// A raise of the epoch that was lost is carried out.
    LateBump,
    LoseBump,
    Crash,
    Forget(usize),
    /// The ids in the log have left the window.
    ForgetIds(usize),
    Expire(u32),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let flaw = prop_oneof![15 => Just(Flaw::None), 3 => Just(Flaw::StaleNumbers), 1 => Just(Flaw::Corrupt)];
    let ids = prop::collection::vec(prop::option::weighted(0.3, 0..12_u8), 1..4);
    prop_oneof![
        8 => (0..PARTITIONS, ids, flaw).prop_map(|(partition, ids, flaw)| Step::Push { partition, ids, flaw }),
        10 => Just(Step::Send),
        9 => Just(Step::Store),
        1 => Just(Step::Refuse(Code::DiskFull)),
        1 => Just(Step::Refuse(Code::NotAllowed)),
        1 => (any::<bool>(), 1..3_usize).prop_map(|(stored, batches)| Step::Fail { stored, batches }),
        1 => (0..4_usize).prop_map(|stored| Step::Lose { stored }),
        3 => Just(Step::Late),
        1 => Just(Step::LateBump),
        1 => Just(Step::LoseBump),
        1 => Just(Step::Crash),
        1 => (0..PARTITIONS).prop_map(Step::Forget),
        1 => (0..PARTITIONS).prop_map(Step::ForgetIds),
        1 => (1..4_u32).prop_map(Step::Expire),
        2 => Just(Step::Wait),
    ]
}

/// What is unusual about a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// It was encoded before something changed its number.
    StaleNumbers,
    /// The server refuses every copy of it.
    Corrupt,
}

/// A record in a log.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kept {
    number: u64,
    id: Option<u8>,
}

/// What a partition remembers of the one producer.
#[derive(Debug, Default)]
struct Standing {
    epoch: u32,
    next: u64,
    /// Sequences, and where they begin in the log.
    batches: VecDeque<(std::ops::Range<u64>, u64)>,
}

#[derive(Debug, Default)]
struct Partition {
    log: Vec<Kept>,
    standing: Option<Standing>,
    /// The sequence behind batches of which all was known: in memory only.
    passed: Option<u64>,
    has_forgotten: bool,
    /// Ids of records before it are not known any more.
    window_from: usize,
}

/// One produce stream's other end.
#[derive(Debug, Default)]
struct Session {
    arrived: VecDeque<Outgoing>,
    gated: [bool; PARTITIONS],
    /// What closed the gate was the disk.
    failing: [bool; PARTITIONS],
}

#[derive(Debug, Default)]
struct Server {
    partitions: [Partition; PARTITIONS],
    fenced_below: u32,
    current: Session,
    /// Of lost streams, with copies in hand.
    old: VecDeque<Session>,
    /// Raises that were asked for and not carried out: the epoch given.
    late_bumps: Vec<u32>,
    /// The first records of corrupt batches.
    corrupt: HashSet<u64>,
}

enum Verdict {
    Stored(u64),
    Duplicates(Vec<Duplicate>),
    Refused(Code),
}

impl Partition {
    fn verdict(&mut self, fenced_below: u32, out: &Outgoing) -> Verdict {
        let view = BatchView::parse(&out.bytes).expect("a whole batch");
        let header = view.header();
        let (epoch, base) = (header.producer_epoch, header.base_sequence);
        let end = base + u64::from(header.record_count);
        let records: Vec<Kept> = records(&out.bytes).collect();
        let of = |(index, record): (u32, &Kept)| self.known(index, *record);
        let duplicates: Vec<Duplicate> = (0..).zip(&records).filter_map(of).collect();
        let is_passed = self.passed == Some(base);
        let misfit = match &self.standing {
            _ if epoch < fenced_below => return Verdict::Refused(Code::Fenced),
            Some(standing) if epoch < standing.epoch => return Verdict::Refused(Code::Fenced),
            Some(standing) if base == standing.next || is_passed => None,
            Some(standing) if base > standing.next => Some(Code::OutOfOrderSequence),
            Some(standing) => {
                let found = standing.batches.iter().find(|(range, _)| range.start <= base && end <= range.end);
                if let Some((range, offset)) = found {
                    return Verdict::Stored(offset + base - range.start);
                }
                Some(Code::UnknownProducer)
            }
            None if is_passed || base == 0 && !(out.resend && self.has_forgotten) => None,
            None => Some(Code::UnknownProducer),
        };
        if duplicates.len() == records.len() {
            self.passed = if misfit.is_none() { Some(end) } else { self.passed };
            return Verdict::Duplicates(duplicates);
        }
        if let Some(code) = misfit {
            return Verdict::Refused(code);
        }
        if !duplicates.is_empty() {
            return Verdict::Duplicates(duplicates);
        }
        let offset = self.log.len() as u64;
        self.log.extend(records);
        let standing = self.standing.get_or_insert_default();
        (standing.epoch, standing.next, self.passed) = (epoch, end, None);
        standing.batches.push_back((base..end, offset));
        if standing.batches.len() > REMEMBERED {
            standing.batches.pop_front();
        }
        Verdict::Stored(offset)
    }

    fn next(&self) -> Option<u64> {
        match &self.standing {
            Some(standing) => Some(standing.next),
            None => (!self.has_forgotten).then_some(0),
        }
    }

    fn known(&self, index: u32, record: Kept) -> Option<Duplicate> {
        let window = &self.log[self.window_from..];
        let first = window.iter().position(|kept| record.id.is_some() && kept.id == record.id)?;
        Some(Duplicate { index, offset: Offset((self.window_from + first) as u64), append_time: Timestamp(0) })
    }
}

fn records(bytes: &Bytes) -> impl Iterator<Item = Kept> {
    let records = BatchView::parse(bytes).expect("a whole batch").records().expect("not damaged");
    records.map(|record| kept(&record.expect("whole")))
}

fn kept(record: &Record) -> Kept {
    let number = String::from_utf8_lossy(record.value.as_deref().expect("a value")).parse().expect("a number");
    let id = record.headers.first().map(|header| header.value.as_deref().expect("an id")[0]);
    Kept { number, id }
}

/// How a batch is treated.
#[derive(Clone, Copy)]
enum Treatment {
    Verdict,
    Refuse(Code),
    Fail { stored: bool },
}

impl Server {
    /// A session takes its next batch.
    fn work(
        &mut self,
        session: impl Fn(&mut Self) -> Option<&mut Session>,
        treatment: Treatment,
    ) -> Option<(Outgoing, Verdict)> {
        let out = session(self)?.arrived.pop_front()?;
        let at = out.partition.0 as usize;
        let gated = {
            let session = session(self)?;
            session.gated[at] &= !out.resume;
            let shares_its_fate = session.failing[at] && matches!(treatment, Treatment::Fail { .. });
            session.failing[at] &= session.gated[at];
            session.gated[at] && !shares_its_fate
        };
        let verdict = match treatment {
            _ if gated => Verdict::Refused(Code::Throttled),
            _ if records(&out.bytes).any(|record| self.corrupt.contains(&record.number)) => {
                Verdict::Refused(Code::CorruptBatch)
            }
            Treatment::Verdict => self.partitions[at].verdict(self.fenced_below, &out),
            Treatment::Refuse(code) => Verdict::Refused(code),
            Treatment::Fail { stored } => {
                // A batch that would be refused is refused; the disk fails under one that would be stored.
                if stored {
                    self.partitions[at].verdict(self.fenced_below, &out);
                }
                Verdict::Refused(Code::DurabilityUnknown)
            }
        };
        let count = records(&out.bytes).count();
        let is_through = match &verdict {
            Verdict::Stored(_) => true,
            Verdict::Duplicates(duplicates) => duplicates.len() == count,
            Verdict::Refused(_) => false,
        };
        let session = session(self)?;
        session.gated[at] |= !is_through;
        session.failing[at] |= matches!(verdict, Verdict::Refused(Code::DurabilityUnknown));
        Some((out, verdict))
    }

    fn bump(&mut self, given: u32) -> (u32, Vec<NextSequence>) {
        self.fenced_below = self.fenced_below.max(given + 1);
        let next = |(partition, of): (u32, &Partition)| NextSequence { partition, next: of.next() };
        let partitions = (0..).zip(&self.partitions).map(next);
        (given + 1, partitions.collect())
    }

    fn crash(&mut self) {
        (self.current, self.old, self.fenced_below) = (Session::default(), VecDeque::new(), 0);
        self.late_bumps.clear();
        self.partitions.iter_mut().for_each(|partition| partition.passed = None);
    }
}

struct Run {
    pipeline: Pipeline,
    server: Server,
    now: Instant,
    start: Instant,
    serial: u64,
    /// Every record, by number: its partition, its id, its delivery.
    records: Vec<(usize, Option<u8>, Delivery)>,
    lose_bump: bool,
}

impl Run {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            pipeline: Pipeline::new(PARTITIONS as u32, DEPTH, (ProducerId(7), 0)),
            server: Server::default(),
            now,
            start: now,
            serial: 0,
            records: Vec::new(),
            lose_bump: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { partition, ids, flaw } => self.push(partition, ids, flaw),
            Step::Send => self.send(),
            Step::Store => self.answer(Treatment::Verdict),
            Step::Refuse(code) => self.answer(Treatment::Refuse(code)),
            Step::Fail { stored, batches } => (0..batches).for_each(|_| self.answer(Treatment::Fail { stored })),
            Step::Lose { stored } => {
                for _ in 0..stored {
                    self.server.work(|server| Some(&mut server.current), Treatment::Verdict);
                }
                let session = std::mem::take(&mut self.server.current);
                self.server.old.push_back(session);
                self.pipeline.lost(&lost());
            }
            Step::Late => {
                self.server.work(|server| server.old.front_mut(), Treatment::Verdict);
                if self.server.old.front().is_some_and(|session| session.arrived.is_empty()) {
                    self.server.old.pop_front();
                }
            }
            Step::LateBump => {
                if let Some(given) = self.server.late_bumps.pop() {
                    self.server.bump(given);
                }
            }
            Step::LoseBump => self.lose_bump = true,
            Step::Crash => {
                self.server.crash();
                self.pipeline.lost(&lost());
            }
            Step::Forget(partition) => {
                // A producer is forgotten when ten thousand others have come: no session has a copy for as long.
                self.server.old.clear();
                let partition = &mut self.server.partitions[partition];
                partition.has_forgotten |= partition.standing.take().is_some();
            }
            Step::ForgetIds(partition) => {
                let partition = &mut self.server.partitions[partition];
                partition.window_from = partition.log.len();
            }
            Step::Expire(batches) => {
                let oldest = self.serial.saturating_sub(u64::from(DEPTH + 3 * batches));
                let (expired, _) = self.pipeline.expire(self.start + Duration::from_millis(oldest));
                for batch in expired {
                    let error = Error::local(Code::TimedOut, "not sent in time");
                    batch.ticket.complete(Err(if batch.in_doubt { lost() } else { error }));
                }
            }
            Step::Wait => self.now += Duration::from_secs(3),
        }
        assert!(self.pipeline.in_flight() <= DEPTH as usize);
    }

    fn push(&mut self, partition: usize, ids: Vec<Option<u8>>, flaw: Flaw) {
        let mut taken = Vec::new();
        let mut records = Vec::new();
        for id in ids {
            // As the accumulator has it: an id once in a batch.
            let id = id.filter(|id| !taken.contains(id));
            taken.extend(id);
            let record = Record::new((self.records.len() + records.len()).to_string());
            records.push(match id {
                Some(id) => record.dedup_id(vec![id]),
                None => record,
            });
        }
        let numbers = self.pipeline.numbers(PartitionId(partition as u32));
        let numbers = match flaw {
            Flaw::StaleNumbers => Numbers { base: numbers.base + 1, ..numbers },
            _ => numbers,
        };
        if flaw == Flaw::Corrupt {
            self.server.corrupt.insert(self.records.len() as u64);
        }
        let mut batch = batch_of(partition as u32, self.serial, &records, numbers);
        batch.opened = self.start + Duration::from_millis(self.serial);
        self.serial += 1;
        for (index, record) in (0..).zip(&records) {
            let delivery = Delivery::new(batch.ticket.clone(), index, self.start);
            self.records.push((partition, kept(record).id, delivery));
        }
        self.pipeline.push(batch);
    }

    fn send(&mut self) {
        match self.pipeline.next(self.now) {
            Next::Send(outgoing) => self.server.current.arrived.push_back(outgoing),
            Next::Bump(_, epoch) if std::mem::take(&mut self.lose_bump) => {
                self.server.late_bumps.push(epoch);
                self.step(Step::Lose { stored: 0 });
            }
            Next::Bump(_, epoch) => {
                let (epoch, next) = self.server.bump(epoch);
                let unknown = self.pipeline.bumped(epoch, &next);
                unknown.into_iter().for_each(|finished| Answered::from(finished).tell(self.now));
            }
            Next::Wait(_) => {}
        }
    }

    fn answer(&mut self, treatment: Treatment) {
        let Some((out, verdict)) = self.server.work(|server| Some(&mut server.current), treatment) else { return };
        let answer = match verdict {
            Verdict::Stored(offset) => {
                Answer::Stored(Stored { base_offset: Offset(offset), append_time: Timestamp(0) })
            }
            Verdict::Refused(code) => Answer::Refused(Refusal::new(code, "no")),
            Verdict::Duplicates(duplicates) => {
                let rest = without(&out.bytes, &duplicates, Codec::None).expect("our own batch");
                Answer::Duplicates { duplicates, rest }
            }
        };
        let answered = self.pipeline.ack(out.correlation, answer, self.now).expect("the model answers in order");
        answered.tell(self.now);
    }

    /// The storm is over: everything gets its outcome.
    fn calm(&mut self) {
        for _ in 0..4 * self.records.len() + 200 {
            [Step::Late, Step::Wait, Step::Send, Step::Store].into_iter().for_each(|step| self.step(step));
        }
        assert_eq!(self.pipeline.in_flight(), 0);
    }

    fn check(self) {
        let logs = self.server.partitions.map(|partition| partition.log);
        let mut places: HashMap<u64, usize> = HashMap::new();
        for log in &logs {
            assert!(log.windows(2).all(|pair| pair[0].number < pair[1].number), "out of order, or twice: {log:?}");
            log.iter().for_each(|kept| *places.entry(kept.number).or_default() += 1);
        }
        assert!(places.values().all(|count| *count == 1), "stored twice");
        for (number, (partition, id, delivery)) in (0..).zip(self.records) {
            match delivery.now_or_never().unwrap_or_else(|| panic!("record {number} has no outcome")) {
                Ok(Receipt { offset, duplicate, .. }) => {
                    let at = logs[partition].get(offset.0 as usize);
                    let at = at.unwrap_or_else(|| panic!("record {number}: nothing is stored at {offset}"));
                    match duplicate {
                        false => assert_eq!((at.number, at.id), (number, id)),
                        // Of itself, where the batch was forgotten and the id was not.
                        true => assert!(at.id == id && id.is_some(), "record {number}: {at:?}"),
                    }
                }
                Err(error) if error.outcome() == Outcome::Definite => {
                    assert!(
                        !places.contains_key(&number),
                        "record {number} is stored, and was called failed: {error:?}"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_stored_twice_or_out_of_order_and_every_outcome_is_true(
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.calm();
        run.check();
    }
}
