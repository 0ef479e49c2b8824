//! A model of a server with one queue and its receivers, simple and legal: a message has one lease at most, comes again when
//! that is over, goes to the dead letters after its last, and in its group nothing overtakes it.

use std::collections::BTreeMap;

use millstream_check::history::queue::{
    Answer, DeadLetter, DeadLetterLimit, Delivery, InQueue, OfQueue, Order, Origin, Reason, Receipt, Retry, Settings,
    Verb,
};
use millstream_check::history::{Event, Life, Place, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;

use super::HARNESS;

const PRODUCER: u32 = 1;
const READER: u32 = 2;
const FIRST_RECEIVER: u64 = 100;
const MS: u64 = 1_000_000;
const AT: Place = Place { stream: 0, partition: 0 };
const GRAVES: u32 = 9;
const EXPIRED: u16 = 311;
/// Of the visibility.
pub const VISIBILITY_MS: u64 = 1_000;
const NACK_MS: u64 = 200;
const MAX_RECEIVES: u32 = 3;
/// The delay of some messages.
const DELAY_MS: u64 = 500;
const GROUPS: u64 = 3;

struct Model {
    seeded: Seeded,
    /// Every event takes a moment.
    now: u64,
    order: Order,
    messages: Vec<Message>,
    next_fence: u64,
    /// By fence: whose, and of which message.
    given: BTreeMap<u64, (u64, usize)>,
    letters: Vec<DeadLetter>,
    events: Vec<Event>,
}

struct Message {
    state: State,
    receives: u32,
    group: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may be delivered from then on.
    Waits(u64),
    /// By fence, until then.
    Leased(u64, u64),
    Done,
    Dead,
}

/// A legal run: so many steps of that seed.
pub fn run(seed: u64, steps: usize) -> Vec<Event> {
    let mut seeded = Seeded::new(seed);
    let order = if seeded.percent(50) { Order::Fifo } else { Order::Unordered };
    let (messages, letters, events, given) = Default::default();
    let mut model = Model { seeded, now: 0, order, messages, next_fence: 1, given, letters, events };
    model.tell(HARNESS, What::Server(Life::Ready));
    model.queue(0, InQueue::Created { stream: 0, starts: vec![0], settings: settings(order) });
    model.append();
    for _ in 0..steps {
        model.step();
    }
    model.end();
    model.events
}

fn settings(order: Order) -> Settings {
    Settings {
        visibility_ms: VISIBILITY_MS,
        retry: Retry { min_ms: NACK_MS, max_ms: NACK_MS, factor_percent: 100 },
        dead_letter: Some(DeadLetterLimit { stream: GRAVES, max_receives: MAX_RECEIVES }),
        order,
        ..Settings::default()
    }
}

impl Model {
    fn tell(&mut self, process: u32, what: What) {
        self.now += self.seeded.of(1..=MS);
        self.events.push(Event { at_ns: self.now, process, what });
    }

    fn queue(&mut self, receiver: u64, what: InQueue) {
        self.tell(receiver as u32 + 10, What::Queue(OfQueue { queue: 0, receiver, what }));
    }

    fn step(&mut self) {
        match self.seeded.of(0..=99) {
            0..=14 => self.append(),
            15..=54 => self.receive(),
            55..=89 => self.settle(),
            _ => self.now += self.seeded.of(0..=VISIBILITY_MS) * MS,
        }
        self.expire();
    }

    fn append(&mut self) {
        let value = value(self.messages.len());
        let group = self.seeded.of(0..=GROUPS - 1);
        let delay_ms = if self.seeded.percent(20) { DELAY_MS } else { 0 };
        if delay_ms > 0 {
            self.tell(PRODUCER, What::Delayed { values: vec![value], delay_ms });
        }
        self.tell(PRODUCER, What::Invoke { at: AT, values: vec![value] });
        let base_offset = self.messages.len() as u64;
        self.now += 1;
        let due = self.now + delay_ms * MS;
        self.messages.push(Message { state: State::Waits(due), receives: 0, group });
        self.tell(PRODUCER, What::Ok { at: AT, base_offset, values: vec![value], resends: 0 });
    }

    /// The first that may be delivered.
    fn deliverable(&self) -> Option<usize> {
        let is_free = |(place, message): &(usize, &Message)| {
            let is_due = matches!(message.state, State::Waits(due) if due <= self.now);
            let is_first = || {
                let before = self.messages[..*place].iter().filter(|other| other.group == message.group);
                before.into_iter().all(|other| matches!(other.state, State::Done | State::Dead))
            };
            is_due && (self.order == Order::Unordered || is_first())
        };
        self.messages.iter().enumerate().find(is_free).map(|(place, _)| place)
    }

    fn receive(&mut self) {
        let receiver = FIRST_RECEIVER + self.seeded.of(0..=2);
        let invoked_ns = self.now;
        self.now += 1;
        let mut deliveries = Vec::new();
        for _ in 0..self.seeded.of(1..=3) {
            let Some(place) = self.deliverable() else { break };
            let fence = self.next_fence;
            self.next_fence += 1;
            let message = &mut self.messages[place];
            message.receives += 1;
            message.state = State::Leased(fence, self.now + VISIBILITY_MS * MS);
            self.given.insert(fence, (receiver, place));
            deliveries.push(Delivery {
                partition: 0,
                offset: place as u64,
                value: Some(value(place)),
                receives: message.receives,
                fence,
                group: Some(message.group),
                redriven: 0,
            });
        }
        self.queue(receiver, InQueue::Received { stream: 0, invoked_ns, visibility_ms: None, deliveries });
    }

    fn settle(&mut self) {
        if self.given.is_empty() {
            return;
        }
        // Mostly one of the last ones.
        let back = self.seeded.index(self.given.len().min(6));
        let (&fence, &(receiver, place)) = self.given.iter().rev().nth(back).expect("it was counted");
        let verb = match self.seeded.of(0..=99) {
            0..=64 => Verb::Ack,
            65..=84 => Verb::Nack { delay_ms: Some(NACK_MS) },
            85..=92 => Verb::Release,
            _ => Verb::Reject,
        };
        self.says(receiver, fence, place, verb);
    }

    fn says(&mut self, receiver: u64, fence: u64, place: usize, verb: Verb) {
        let of = vec![Receipt { partition: 0, offset: place as u64, fence }];
        let invoked_ns = self.now;
        self.queue(receiver, InQueue::Settle { verb, of: of.clone() });
        self.expire();
        let now = self.now;
        let message = &mut self.messages[place];
        let has = matches!(message.state, State::Leased(held, _) if held == fence);
        // An ack after the lease holds while nobody else has the message.
        let is_last =
            self.given.iter().rev().find(|(_, (_, other))| *other == place).map(|(last, _)| *last) == Some(fence);
        let was_said = self.events.iter().any(|event| matches!(&event.what, What::Queue(OfQueue { what: InQueue::Settled {
            verb: Verb::Nack { .. } | Verb::Release | Verb::Reject, of, answer: Answer::Ok, .. }, .. }) if of[0].fence == fence));
        let answer = match verb {
            _ if message.state == State::Done => Answer::AlreadySettled,
            Verb::Ack if has || is_last && !was_said && message.state != State::Dead => {
                message.state = State::Done;
                Answer::Ok
            }
            Verb::Nack { .. } if has => {
                message.state = State::Waits(now + NACK_MS * MS);
                Answer::Ok
            }
            Verb::Release if has => {
                message.receives -= 1;
                message.state = State::Waits(now);
                Answer::Ok
            }
            Verb::Reject if has => {
                self.dies(place, Reason::Rejected);
                Answer::Ok
            }
            _ => Answer::Refused { code: EXPIRED },
        };
        if matches!(verb, Verb::Nack { .. }) && answer == Answer::Ok && self.messages[place].receives >= MAX_RECEIVES {
            self.dies(place, Reason::MaxReceives);
        }
        self.queue(receiver, InQueue::Settled { verb, of, invoked_ns, answer });
    }

    fn expire(&mut self) {
        for place in 0..self.messages.len() {
            let message = &mut self.messages[place];
            if let State::Leased(_, until) = message.state
                && until <= self.now
            {
                message.state = State::Waits(until);
                if message.receives >= MAX_RECEIVES {
                    self.dies(place, Reason::MaxReceives);
                }
            }
        }
    }

    fn dies(&mut self, place: usize, reason: Reason) {
        let message = &mut self.messages[place];
        message.state = State::Dead;
        self.letters.push(DeadLetter {
            partition: 0,
            offset: self.letters.len() as u64,
            value: Some(value(place)),
            origin: Some(Origin { queue: 0, at: AT, offset: place as u64 }),
            receives: Some(message.receives),
            reason: Some(reason),
        });
    }

    /// Everything is worked off, asked for and read.
    fn end(&mut self) {
        while self.messages.iter().any(|message| !matches!(message.state, State::Done | State::Dead)) {
            self.now += NACK_MS * MS;
            self.expire();
            self.receive();
            let held: Vec<(u64, usize)> = (0..)
                .zip(&self.messages)
                .filter_map(|(place, message)| match message.state {
                    State::Leased(fence, _) => Some((fence, place)),
                    _ => None,
                })
                .collect();
            for (fence, place) in held {
                self.says(self.given[&fence].0, fence, place, Verb::Ack);
            }
        }
        let (invoked_ns, dead) = (self.now, self.letters.len() as u64);
        let [available, in_flight, delayed, dying, unread] = [0; 5];
        self.queue(0, InQueue::State { invoked_ns, available, in_flight, delayed, dying, unread, dead });
        let floor = self.messages.len() as u64;
        self.queue(0, InQueue::Floor { at: AT, floor, invoked_ns });
        let records = (0..floor).map(|offset| (offset, Some(value(offset as usize)))).collect();
        self.tell(READER, What::Final { at: AT, records });
        self.tell(READER, What::FinalEnd { at: AT, start: 0, end: floor });
        self.now += 10 * VISIBILITY_MS * MS;
        let invoked_ns = self.now;
        let records = self.letters.clone();
        self.queue(0, InQueue::DeadLetters { records });
        self.queue(0, InQueue::DeadLettersEnd { invoked_ns });
    }
}

fn value(place: usize) -> ValueId {
    ValueId::new(PRODUCER, place as u64)
}
