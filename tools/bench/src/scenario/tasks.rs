//! The tasks of a run: who sends, who reads, who works, and what they are measured by.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::limit;
use super::setup::Prepared;
use crate::clock::nanos;
use crate::drive::producer::{self, Limit, Pace, Plan, Produced};
use crate::drive::subscription::Subscription;
use crate::drive::{Shared, reader, worker};
use crate::failure::Failure;
use crate::load::Load;
use crate::load::keys::KeySource;
use crate::load::pace::{Metronome, Schedule};
use crate::load::payload::{Pool, Values};
use crate::record::{Meter, Window};
use crate::target::{From, Target};
use crate::verify::Rules;

/// What a run measures: the meters that its load has use for.
pub struct Meters {
    pub produce: Option<Arc<Meter>>,
    pub consume: Option<Arc<Meter>>,
    pub deliver: Option<Arc<Meter>>,
    pub settle: Option<Arc<Meter>>,
    pub land: Option<Arc<Meter>>,
    /// Of what is not counted: a backlog that is filled.
    unseen: Arc<Meter>,
}

impl Meters {
    /// Those of a load.
    pub fn new(load: &Load, window: &Arc<Window>) -> Self {
        let meter = |exists: bool, name, latency_of| exists.then(|| Meter::new(name, latency_of, Arc::clone(window)));
        let has_consumers = load.subscribers + load.members > 0;
        let of_consume = load.sends().then_some("from when a record was to be sent to its arrival at a consumer");
        Self {
            produce: meter(load.sends(), "produce", Some("from when a record was to be sent to its ack")),
            consume: meter(has_consumers, "consume", of_consume),
            deliver: meter(load.queues > 0, "deliver", Some("from when a record was to be sent to its delivery")),
            settle: meter(load.queues > 0, "settle", Some("from saying ack to the answer that it is durable")),
            land: meter(
                load.scenario == crate::load::Scenario::Lake,
                "land",
                Some("age of the newest record that has landed, whenever it was looked at"),
            ),
            unseen: Meter::new("unseen", None, Arc::clone(window)),
        }
    }

    /// All there are; first the one that the scenario is about.
    pub fn all(&self) -> Vec<Arc<Meter>> {
        let ordered = [&self.settle, &self.land, &self.consume, &self.produce, &self.deliver];
        ordered.into_iter().flatten().cloned().collect()
    }
}

/// As many senders as the load has producers.
pub async fn senders<T: Target>(target: &T, stream: &str, load: &Load) -> Result<Vec<T::Sender>, Failure> {
    let mut senders = Vec::with_capacity(load.producers as usize);
    for _ in 0..load.producers {
        senders.push(target.sender(stream, load).await?);
    }
    Ok(senders)
}

/// Starts the producers that are measured.
pub fn produce<T: Target>(
    senders: Vec<T::Sender>,
    pool: &Pool,
    load: &Load,
    meters: &Meters,
    shared: &Arc<Shared>,
) -> JoinSet<Result<Produced, Failure>> {
    produce_as::<T>(senders, pool, load, meters, shared, (0, &|index| limit(load, index)))
}

/// Starts producers whose numbers begin there, each with its limit.
pub fn produce_as<T: Target>(
    senders: Vec<T::Sender>,
    pool: &Pool,
    load: &Load,
    meters: &Meters,
    shared: &Arc<Shared>,
    (first, limit): (u32, &dyn Fn(u32) -> Limit),
) -> JoinSet<Result<Produced, Failure>> {
    let mut sending = JoinSet::new();
    let metronome = load.rate.map(|_| Metronome::start());
    let start_ns = shared.window.start().saturating_sub(nanos(load.warm_up.get()));
    for (index, sender) in (0..).zip(senders) {
        let producer = first + index;
        let size = usize::try_from(load.record_size).unwrap_or(usize::MAX);
        let plan = Plan {
            producer,
            values: Values::new(pool.clone(), size, producer),
            keys: KeySource::new(load.keys, load.seed.wrapping_add(u64::from(producer) << 32)),
            pace: match (load.rate, &metronome) {
                (Some(rate), Some(metronome)) => {
                    Pace::Open(Schedule::new(rate, load.producers, index, start_ns), metronome.clone())
                }
                _ => Pace::FlatOut,
            },
            limit: limit(index),
            one_at_a_time: load.one_at_a_time,
            readers: load.readers_of_each(),
        };
        let probe = meters.produce.as_ref().unwrap_or(&meters.unseen).probe();
        sending.spawn(producer::run(sender, plan, probe, Arc::clone(shared)));
    }
    sending
}

/// Readers and workers, connected and not started, each with its subscription's index.
pub struct Readers<T: Target> {
    tails: Vec<(usize, T::Reader)>,
    members: Vec<(usize, T::Member)>,
    workers: Vec<(usize, T::Jobs)>,
}

/// Connects all who read.
pub async fn readers<T: Target>(
    target: &T,
    prepared: &Prepared,
    load: &Load,
    rules: Rules,
) -> Result<(Readers<T>, Vec<Arc<Subscription>>), Failure> {
    let Prepared { stream, partitions, .. } = prepared;
    let mut readers = Readers { tails: Vec::new(), members: Vec::new(), workers: Vec::new() };
    let mut subscriptions = Vec::new();
    let mut subscribe = |name: String, rules| {
        subscriptions.push(Arc::new(Subscription::new(name, rules)));
        subscriptions.len() - 1
    };
    let from = if prepared.is_old && load.sends() { From::Now } else { prepared.from };
    for subscriber in 0..load.subscribers {
        let index = subscribe(format!("subscriber {subscriber}"), rules);
        for consumer in 0..load.consumers {
            let own = (0..*partitions).filter(|partition| partition % load.consumers == consumer).collect();
            readers.tails.push((index, target.reader(stream, own, from).await?));
        }
    }
    if let Some(group) = &prepared.group {
        let index = subscribe("group".to_owned(), rules);
        for _ in 0..load.members {
            readers.members.push((index, target.member(stream, group).await?));
        }
    }
    for queue in &prepared.queues {
        let of_queue = Rules { offsets: false, order: false, key_order: load.fifo, ..rules };
        let index = subscribe(format!("queue {queue}"), of_queue);
        for _ in 0..load.workers {
            readers.workers.push((index, target.jobs(queue, load).await?));
        }
    }
    Ok((readers, subscriptions))
}

impl<T: Target> Readers<T> {
    /// Starts them.
    pub fn start(
        self,
        subscriptions: &[Arc<Subscription>],
        meters: &Meters,
        shared: &Arc<Shared>,
    ) -> JoinSet<Result<(), Failure>> {
        let mut reading = JoinSet::new();
        let probe = |meter: &Option<Arc<Meter>>| meter.as_ref().unwrap_or(&meters.unseen).probe();
        for (index, one) in self.tails {
            let (subscription, probe) = (Arc::clone(&subscriptions[index]), probe(&meters.consume));
            reading.spawn(reader::run(one, subscription, probe, Arc::clone(shared)));
        }
        for (index, one) in self.members {
            let (subscription, probe) = (Arc::clone(&subscriptions[index]), probe(&meters.consume));
            reading.spawn(reader::run(one, subscription, probe, Arc::clone(shared)));
        }
        for (index, one) in self.workers {
            let subscription = Arc::clone(&subscriptions[index]);
            let (delivered, settled) = (probe(&meters.deliver), probe(&meters.settle));
            reading.spawn(worker::run(one, subscription, delivered, settled, Arc::clone(shared)));
        }
        reading
    }
}
