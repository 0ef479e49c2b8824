//! A model of a server and its clients that is simple and legal: it makes runs, each out of a seed.
//!
//! Producers pipeline batches; the server stores them in order, acknowledges them later, and is killed now and then:
//! what was in flight is sent again, or given up. Of some producers the server recognises what it has stored already. One
//! consumer follows everything, another one seeks. `group`: the same for a consumer group.

pub mod group;
pub mod queue;

use std::collections::VecDeque;

use millstream_check::history::{Event, Life, Place, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;

pub const HARNESS: u32 = 0;
pub const FOLLOWER: u32 = 100;
pub const SEEKER: u32 = 101;
const FAILED: u16 = 203;
const LOST: u16 = 402;

struct Batch {
    at: Place,
    values: Vec<ValueId>,
    stored: Option<u64>,
    resends: u16,
}

#[derive(Default)]
struct Producer {
    sent: u64,
    once: bool,
    in_flight: VecDeque<Batch>,
}

struct Model {
    seeded: Seeded,
    now: u64,
    logs: Vec<Vec<ValueId>>,
    producers: Vec<Producer>,
    positions: [Vec<usize>; 2],
    events: Vec<Event>,
}

/// A legal run: so many steps of that seed.
pub fn run(seed: u64, steps: usize) -> Vec<Event> {
    let mut seeded = Seeded::new(seed);
    let partitions = seeded.of(1..=3) as usize;
    let count = seeded.of(1..=4);
    let producers: Vec<Producer> =
        (0..count).map(|_| Producer { once: seeded.percent(50), ..Producer::default() }).collect();
    let logs = vec![Vec::new(); partitions];
    let positions = [vec![0; partitions], vec![0; partitions]];
    let mut model = Model { seeded, now: 0, logs, producers, positions, events: Vec::new() };
    for number in 0..model.producers.len() {
        if model.producers[number].once {
            model.tell(HARNESS, What::Once { producer: number as u32 + 1 });
        }
    }
    (0..partitions).for_each(|partition| {
        model.tell(FOLLOWER, What::Open { at: place(partition), next: 0 });
        model.tell(SEEKER, What::Open { at: place(partition), next: 0 });
    });
    for _ in 0..steps {
        model.step();
    }
    model.end();
    model.events
}

fn place(partition: usize) -> Place {
    Place { stream: 0, partition: partition as u32 }
}

impl Model {
    fn tell(&mut self, process: u32, what: What) {
        self.now += 1;
        self.events.push(Event { at_ns: self.now, process, what });
    }

    fn step(&mut self) {
        let producer = self.seeded.index(self.producers.len());
        let partition = self.seeded.index(self.logs.len());
        match self.seeded.of(0..=99) {
            0..=29 => self.send(producer, partition),
            30..=54 => self.store(producer),
            55..=74 => self.answer(producer),
            75..=84 => self.fetch(FOLLOWER, partition),
            85..=90 => self.fetch(SEEKER, partition),
            91..=93 => self.seek(partition),
            94..=97 => self.ask(partition),
            _ => self.kill(),
        }
    }

    fn send(&mut self, producer: usize, partition: usize) {
        let sender = &mut self.producers[producer];
        let count = self.seeded.of(1..=4);
        let value = |counter| ValueId::new(producer as u32 + 1, counter);
        let values: Vec<ValueId> = (sender.sent..sender.sent + count).map(value).collect();
        sender.sent += count;
        let at = place(partition);
        sender.in_flight.push_back(Batch { at, values: values.clone(), stored: None, resends: 0 });
        self.tell(producer as u32 + 1, What::Invoke { at, values });
    }

    /// The first batch that is not stored is; now and then it is refused instead.
    fn store(&mut self, producer: usize) {
        let in_flight = &mut self.producers[producer].in_flight;
        let Some(index) = in_flight.iter().position(|batch| batch.stored.is_none()) else { return };
        if in_flight[index].resends == 0 && self.seeded.percent(10) {
            let Batch { at, values, .. } = in_flight.remove(index).expect("it was found");
            return self.tell(producer as u32 + 1, What::Fail { at, values, code: FAILED });
        }
        let batch = &mut in_flight[index];
        let log = &mut self.logs[batch.at.partition as usize];
        batch.stored = Some(log.len() as u64);
        log.extend(&batch.values);
    }

    fn answer(&mut self, producer: usize) {
        let in_flight = &mut self.producers[producer].in_flight;
        let Some(base_offset) = in_flight.front().and_then(|batch| batch.stored) else { return };
        let Batch { at, values, resends, .. } = in_flight.pop_front().expect("it was found");
        self.tell(producer as u32 + 1, What::Ok { at, base_offset, values, resends });
    }

    fn fetch(&mut self, process: u32, partition: usize) {
        let log = &self.logs[partition];
        let position = &mut self.positions[usize::from(process == SEEKER)][partition];
        let from = *position;
        *position = log.len().min(from + self.seeded.of(1..=6) as usize);
        let records: Vec<_> = (from..*position).map(|offset| (offset as u64, Some(log[offset]))).collect();
        let high_watermark = log.len() as u64;
        if !records.is_empty() {
            self.tell(process, What::Fetch { at: place(partition), records, high_watermark });
        }
    }

    fn seek(&mut self, partition: usize) {
        let next = self.seeded.index(self.logs[partition].len() + 1);
        self.positions[1][partition] = next;
        self.tell(SEEKER, What::Open { at: place(partition), next: next as u64 });
    }

    fn ask(&mut self, partition: usize) {
        let (invoked_ns, high_watermark) = (self.now + 1, self.logs[partition].len() as u64);
        self.now += 1;
        self.tell(HARNESS, What::Tail { at: place(partition), invoked_ns, start: 0, high_watermark });
    }

    fn kill(&mut self) {
        self.tell(HARNESS, What::Server(Life::KillUnderLoad));
        for producer in 0..self.producers.len() {
            let gives_up = self.seeded.percent(40);
            let mut in_flight = std::mem::take(&mut self.producers[producer].in_flight);
            if gives_up {
                for Batch { at, values, resends, .. } in in_flight.drain(..) {
                    self.tell(producer as u32 + 1, What::Info { at, values, code: LOST, resends });
                }
            }
            let once = self.producers[producer].once;
            for batch in &mut in_flight {
                batch.resends += 1;
                batch.stored = batch.stored.filter(|_| once);
            }
            self.producers[producer].in_flight = in_flight;
        }
        self.tell(HARNESS, What::Server(Life::Ready));
    }

    /// Everything is answered, followed and read once more.
    fn end(&mut self) {
        for producer in 0..self.producers.len() {
            while !self.producers[producer].in_flight.is_empty() {
                self.store(producer);
                self.answer(producer);
            }
        }
        for partition in 0..self.logs.len() {
            while self.positions[0][partition] < self.logs[partition].len() {
                self.fetch(FOLLOWER, partition);
            }
            let (at, log) = (place(partition), self.logs[partition].clone());
            let records = (0..).zip(log.iter().copied().map(Some)).collect();
            self.tell(HARNESS, What::Final { at, records });
            self.tell(HARNESS, What::FinalEnd { at, start: 0, end: log.len() as u64 });
        }
    }
}
