//! A model of a server with one consumer group and its members, simple and legal: a partition has one holder, a commit is
//! taken from the holder only, a new holder begins where the last commit says.

use std::collections::BTreeMap;

use millstream_check::history::{CommitOutcome, Event, InGroup, OfGroup, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;

use super::{HARNESS, LOST, place};

const PRODUCER: u32 = 1;
const FIRST_MEMBER: u64 = 100;
const STALE: u16 = 307;

struct Model {
    seeded: Seeded,
    now: u64,
    sent: u64,
    partitions: Vec<Partition>,
    epoch: u32,
    members: Vec<u64>,
    next_member: u64,
    /// Members that were taken for dead and go on: partition, epoch, position.
    away: Vec<(u64, usize, u32, u64)>,
    events: Vec<Event>,
}

#[derive(Default)]
struct Partition {
    log: Vec<ValueId>,
    committed: Option<u64>,
    holder: Option<(u64, u32)>,
    /// The holder's.
    position: u64,
}

/// A legal run: so many steps of that seed.
pub fn run(seed: u64, steps: usize) -> Vec<Event> {
    let mut seeded = Seeded::new(seed);
    let partitions = (0..seeded.of(1..=3)).map(|_| Partition::default()).collect();
    let mut model = Model {
        seeded,
        now: 0,
        sent: 0,
        partitions,
        epoch: 0,
        members: Vec::new(),
        next_member: FIRST_MEMBER,
        away: Vec::new(),
        events: Vec::new(),
    };
    model.join();
    for _ in 0..steps {
        model.step();
    }
    model.end();
    model.events
}

impl Model {
    fn tell(&mut self, process: u32, what: What) {
        self.now += 1;
        self.events.push(Event { at_ns: self.now, process, what });
    }

    fn member(&mut self, member: u64, what: InGroup) {
        self.tell(member as u32, What::Group(OfGroup { group: 0, member, what }));
    }

    fn step(&mut self) {
        let partition = self.seeded.index(self.partitions.len());
        match self.seeded.of(0..=99) {
            0..=24 => self.append(partition),
            25..=54 => self.work(partition),
            55..=74 => self.commit(partition),
            75..=79 => self.join(),
            80..=84 => self.end_of_a_member(),
            85..=90 => self.assign(partition),
            91..=95 => self.act_though_away(),
            _ => self.ask(partition),
        }
    }

    fn append(&mut self, partition: usize) {
        let (at, count) = (place(partition), self.seeded.of(1..=4));
        let values: Vec<ValueId> = (self.sent..self.sent + count).map(|n| ValueId::new(PRODUCER, n)).collect();
        self.sent += count;
        let base_offset = self.partitions[partition].log.len() as u64;
        self.partitions[partition].log.extend(&values);
        self.tell(PRODUCER, What::Invoke { at, values: values.clone() });
        self.tell(PRODUCER, What::Ok { at, base_offset, values, resends: 0 });
    }

    fn work(&mut self, partition: usize) {
        let count = self.seeded.of(1..=4);
        let of = &mut self.partitions[partition];
        let Some((member, epoch)) = of.holder else { return };
        let end = (of.position + count).min(of.log.len() as u64);
        let records: Vec<_> = (of.position..end).map(|offset| (offset, Some(of.log[offset as usize]))).collect();
        of.position = end;
        if !records.is_empty() {
            self.member(member, InGroup::Delivered { at: place(partition), epoch, records });
        }
    }

    fn commit(&mut self, partition: usize) {
        let of = &self.partitions[partition];
        let (Some((member, epoch)), offset) = (of.holder, of.position) else { return };
        let (is_taken, is_known) = (self.seeded.percent(90), self.seeded.percent(80));
        if is_taken || is_known {
            self.partitions[partition].committed = Some(offset);
        }
        let outcome = if is_known { CommitOutcome::Ok } else { CommitOutcome::Unknown { code: LOST } };
        self.told_of_commit(member, partition, epoch, offset, outcome);
    }

    fn told_of_commit(&mut self, member: u64, partition: usize, epoch: u32, offset: u64, outcome: CommitOutcome) {
        let at = place(partition);
        self.member(member, InGroup::Commit { at, epoch, offset });
        let invoked_ns = self.now;
        self.member(member, InGroup::CommitDone { at, epoch, offset, invoked_ns, outcome });
    }

    /// A new member; it may get what another one lets go of.
    fn join(&mut self) {
        let member = self.next_member;
        self.next_member += 1;
        self.members.push(member);
        self.member(member, InGroup::Joined { streams: vec![0] });
        let partition = self.seeded.index(self.partitions.len());
        if let Some((holder, epoch)) = self.partitions[partition].holder {
            self.commit(partition);
            self.member(holder, InGroup::Revoked { at: place(partition), epoch });
            self.partitions[partition].holder = None;
            self.give(partition, member);
        }
    }

    fn give(&mut self, partition: usize, member: u64) {
        self.epoch += 1;
        let of = &mut self.partitions[partition];
        of.holder = Some((member, self.epoch));
        of.position = of.committed.unwrap_or(0);
        let epoch = self.epoch;
        self.member(member, InGroup::Assigned { at: place(partition), epoch });
    }

    fn assign(&mut self, partition: usize) {
        if self.partitions[partition].holder.is_none() && !self.members.is_empty() {
            let member = self.members[self.seeded.index(self.members.len())];
            self.give(partition, member);
        }
    }

    /// It is killed, or is away for too long.
    fn end_of_a_member(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let index = self.seeded.index(self.members.len());
        let (member, is_away) = (self.members.swap_remove(index), self.seeded.percent(50));
        for (partition, of) in self.partitions.iter_mut().enumerate() {
            if let Some((_, epoch)) = of.holder.take_if(|(holder, _)| *holder == member)
                && is_away
            {
                self.away.push((member, partition, epoch, of.position));
            }
        }
    }

    /// Who was taken for dead works on and commits in vain, once its partition is another's.
    fn act_though_away(&mut self) {
        let moved_on = |(_, partition, epoch, _): &(u64, usize, u32, u64)| {
            self.partitions[*partition].holder.is_some_and(|(_, newer)| newer > *epoch)
        };
        let Some(index) = self.away.iter().position(moved_on) else { return };
        let (member, partition, epoch, position) = self.away.swap_remove(index);
        let log = &self.partitions[partition].log;
        let records: Vec<_> = (position..log.len() as u64).map(|at| (at, Some(log[at as usize]))).take(2).collect();
        let at = place(partition);
        let offset = position + records.len() as u64;
        if !records.is_empty() {
            self.member(member, InGroup::Delivered { at, epoch, records });
        }
        self.told_of_commit(member, partition, epoch, offset, CommitOutcome::Refused { code: STALE });
        self.member(member, InGroup::Lost { at, epoch });
    }

    fn ask(&mut self, partition: usize) {
        let (invoked_ns, offset) = (self.now + 1, self.partitions[partition].committed);
        self.now += 1;
        self.member(0, InGroup::Committed { at: place(partition), offset, invoked_ns });
    }

    /// Everything is done, and read once more.
    fn end(&mut self) {
        if self.members.is_empty() {
            self.join();
        }
        for partition in 0..self.partitions.len() {
            self.assign(partition);
            while self.partitions[partition].position < self.partitions[partition].log.len() as u64 {
                self.work(partition);
            }
            self.commit(partition);
            self.ask(partition);
            let (at, log) = (place(partition), self.partitions[partition].log.clone());
            let records: BTreeMap<u64, ValueId> = (0..).zip(log).collect();
            let end = records.len() as u64;
            let records = records.into_iter().map(|(offset, value)| (offset, Some(value))).collect();
            self.tell(HARNESS, What::Final { at, records });
            self.tell(HARNESS, What::FinalEnd { at, start: 0, end });
        }
    }
}
