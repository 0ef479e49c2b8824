//! Producers that write all the while, and note what was acknowledged at which offset.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::FutureExt;
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;
use millstream_client::{Client, Delivery, LocalServer, Outcome, Producer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Maker;
use crate::failure::Failure;
use crate::load::{PATIENCE, outcome, patiently};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than the server is ever away: a record given up would be one whose offset nobody knows.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Records of a producer without an outcome; beyond, it waits.
const WINDOW: usize = 2_000;
const BURST: std::ops::RangeInclusive<u64> = 1..=24;
const PAUSE_US: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// So many times longer are pauses while somebody waits for what takes longer the more there is: an audit under load
/// would never catch up with its own files.
const TRICKLE: u32 = 60;

/// What became of the records.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// By partition and offset: the number of the record that was acknowledged there.
    pub acked: BTreeMap<(u32, u64), ValueId>,
    /// Records of which nobody knows whether they were stored.
    pub unknown: u64,
}

/// How fast producers work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Full,
    Trickle,
    Stop,
}

/// Producers at work.
pub struct Producers {
    tasks: JoinSet<Result<(), Failure>>,
    pace: watch::Sender<Pace>,
    sent: watch::Sender<Sent>,
}

impl Producers {
    /// Starts so many of them against a server that is ready.
    pub async fn start(
        server: &LocalServer,
        stream: &str,
        count: u32,
        maker: &Maker,
        seeded: &Seeded,
    ) -> Result<Self, Failure> {
        let (pace, paced) = watch::channel(Pace::Full);
        let sent = watch::Sender::new(Sent::default());
        let mut tasks = JoinSet::new();
        for number in 1..=count {
            let connect = || {
                let builder = Client::builder(&server.address).fingerprint(&server.fingerprint);
                builder.connect_timeout(CONNECT_TIMEOUT).name(format!("torture-{number}")).connect()
            };
            let client = patiently("a client cannot connect", connect).await?;
            let build = || client.producer(stream).delivery_timeout(DELIVERY_TIMEOUT).build();
            let producer = patiently("a producer cannot be built", build).await?;
            let (maker, seeded) = (maker.clone(), seeded.fork(u64::from(number)));
            tasks.spawn(work(producer, number, maker, seeded, paced.clone(), sent.clone()));
        }
        Ok(Self { tasks, pace, sent })
    }

    /// From now on.
    pub fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// How many records were acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.sent.borrow().acked.len() as u64
    }

    /// Waits until a record is acknowledged from now on.
    ///
    /// # Errors
    /// None was within the producers' patience, or one of them failed meanwhile.
    pub async fn next_ack(&mut self) -> Result<(), Failure> {
        let before = self.acked();
        let mut sent = self.sent.subscribe();
        let more = sent.wait_for(|sent| sent.acked.len() as u64 > before);
        tokio::select! {
            more = tokio::time::timeout(PATIENCE, more) => match more {
                Ok(_) => Ok(()),
                Err(_) => Err(Failure::run(format!("nothing was acknowledged within {PATIENCE:?} of a start"))),
            },
            ended = self.tasks.join_next() => match ended {
                Some(ended) => outcome(ended).and_then(|()| Err(Failure::run("a producer ended by itself"))),
                None => Err(Failure::run("all producers ended")),
            }
        }
    }

    /// What became of the records so far.
    pub fn sent(&self) -> Sent {
        self.sent.borrow().clone()
    }

    /// Stops sending, and waits until every record has its outcome.
    pub async fn stop(mut self) -> Result<Sent, Failure> {
        self.set_pace(Pace::Stop);
        while let Some(ended) = self.tasks.join_next().await {
            outcome(ended)?;
        }
        Ok(self.sent.borrow().clone())
    }
}

async fn work(
    producer: Producer,
    number: u32,
    maker: Maker,
    mut seeded: Seeded,
    mut pace: watch::Receiver<Pace>,
    sent: watch::Sender<Sent>,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::run(format!("producer p{number} cannot go on: {error}"));
    let (mut counter, mut pending) = (0, VecDeque::new());
    loop {
        let now = *pace.borrow_and_update();
        if now == Pace::Stop {
            break;
        }
        for _ in 0..seeded.of(BURST) {
            let id = ValueId::new(number, counter);
            counter += 1;
            // No error of a server that is away ends a producer.
            let delivery = producer.enqueue(maker.make(id).record).await.map_err(|error| failed(&error))?;
            pending.push_back((id, delivery));
        }
        settle(&mut pending, WINDOW, &sent).await?;
        let pause = Duration::from_micros(seeded.of(PAUSE_US)) * if now == Pace::Full { 1 } else { TRICKLE };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // None is left who could change it only when the run ends.
            _ = pace.changed() => {}
        }
    }
    // A failure is in its record's outcome.
    let _ = producer.flush().await;
    settle(&mut pending, 0, &sent).await
}

/// Waits until so many at most have no outcome, and notes what else has one by now.
async fn settle(
    pending: &mut VecDeque<(ValueId, Delivery)>,
    open_max: usize,
    sent: &watch::Sender<Sent>,
) -> Result<(), Failure> {
    let mut settled = Vec::new();
    while let Some((id, mut delivery)) = pending.pop_front() {
        let done = if pending.len() >= open_max { Some((&mut delivery).await) } else { (&mut delivery).now_or_never() };
        match done {
            Some(done) => settled.push((id, done)),
            None => {
                pending.push_front((id, delivery));
                break;
            }
        }
    }
    let mut trouble = Ok(());
    sent.send_modify(|sent| {
        for (id, done) in settled {
            match done {
                Ok(receipt) => {
                    let at = (receipt.partition.0, receipt.offset.0);
                    if let Some(other) = sent.acked.insert(at, id) {
                        let (partition, offset) = at;
                        let text = format!(
                            "{id} and {other} were both acknowledged at offset {offset} of partition {partition}"
                        );
                        trouble = Err(Failure::run(text));
                    }
                }
                Err(error) => sent.unknown += u64::from(error.outcome() == Outcome::Indefinite),
            }
        }
    });
    trouble
}
