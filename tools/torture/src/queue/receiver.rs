//! A process with one receiver of each queue, which asks for messages or has them pushed, and may be killed at any moment.
//!
//! A receiver lives for some seconds, ends well, and another one begins in its place.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use millstream_check::history::InQueue;
use millstream_check::seeded::Seeded;
use millstream_client::{Client, Code, Error, Message};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::book::Book;
use super::plan::{self, Plan};
use super::work::{Worker, delivery};
use crate::children::Told;
use crate::failure::Failure;
use crate::load::{outcome, patiently};

/// What the harness tells it.
#[derive(Debug, Clone, Args)]
pub struct Receiver {
    #[command(flatten)]
    told: Told,
    /// A canary: it acknowledges messages before it works on them, as nobody should who may be killed.
    #[arg(long)]
    ack_first: bool,
}

const LIFE_MS: std::ops::RangeInclusive<u64> = 5_000..=30_000;
const WAIT_MS_MAX: u64 = 1_000;
const ASKED_MAX: u64 = 20;
const WINDOW_MAX: u64 = 40;
/// Runs that one receiver works on at one time.
const AT_ONCE: usize = 64;
/// Of those who ask, so many ask for another visibility than the queue's.
const OWN_VISIBILITY_PERCENT: u64 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Works until it is terminated or killed.
pub async fn run(options: Receiver) -> Result<(), Failure> {
    let book = Book::new(options.told.recorder()?);
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| Failure::run(format!("no signals: {error}")))?;
    let client = patiently("a receiver cannot connect", || options.told.connect()).await?;
    let (stop, stopped) = watch::channel(false);
    let mut slots = JoinSet::new();
    for (queue, plan) in (0..).zip(plan::queues()) {
        let process = options.told.process;
        let slot = Slot {
            client: client.clone(),
            book: book.clone(),
            queue,
            // In turn, so that each queue has both.
            is_pushed: plan.can_push && (process + queue).is_multiple_of(2),
            plan,
            first: u64::from(process) << 24 | u64::from(queue) << 16,
            seeded: options.told.seeded().fork(queue.into()),
            stop: stopped.clone(),
            ack_first: options.ack_first,
        };
        slots.spawn(slot.run());
    }
    tokio::select! {
        _ = terminate.recv() => {}
        Some(slot) = slots.join_next() => {
            outcome(slot)?;
            return Err(Failure::run("a receiver ended before it was told to"));
        }
    }
    stop.send_replace(true);
    while let Some(slot) = slots.join_next().await {
        outcome(slot)?;
    }
    client.close().await;
    Ok(())
}

/// One receiver after the other of one queue.
struct Slot {
    client: Client,
    book: Book,
    queue: u32,
    plan: Plan,
    is_pushed: bool,
    /// The number of the first life; the others count on from it.
    first: u64,
    seeded: Seeded,
    stop: watch::Receiver<bool>,
    ack_first: bool,
}

/// What a receiver does at one time.
type Works = JoinSet<Result<(), Failure>>;

impl Slot {
    async fn run(mut self) -> Result<(), Failure> {
        let mut number = self.first;
        while !*self.stop.borrow() {
            let worker = Worker {
                client: self.client.clone(),
                book: self.book.clone(),
                queue: self.queue,
                name: self.plan.name,
                receiver: number,
                visibility: self.plan.visibility(),
            };
            number += 1;
            worker.tell(InQueue::Opened)?;
            let end = Instant::now() + Duration::from_millis(self.seeded.of(LIFE_MS));
            let since_ns = match self.is_pushed {
                true => self.is_pushed_messages(&worker, end).await?,
                false => self.asks(&worker, end).await?,
            };
            worker.tell(InQueue::Gone { since_ns })?;
        }
        Ok(())
    }

    /// Asks again and again. Gives when it was surely there for the last time.
    async fn asks(&mut self, worker: &Worker, end: Instant) -> Result<u64, Failure> {
        let queue = self.client.queue(self.plan.name);
        let mut works = Works::new();
        while !*self.stop.borrow() && Instant::now() < end {
            while works.len() >= AT_ONCE {
                works.join_next().await.map_or(Ok(()), outcome)?;
            }
            let most = self.seeded.of(1..=ASKED_MAX) as u32;
            let wait = Duration::from_millis(self.seeded.of(0..=WAIT_MS_MAX));
            let visibility = self
                .seeded
                .percent(OWN_VISIBILITY_PERCENT)
                .then(|| self.plan.visibility() * (self.seeded.of(50..=150) as u32) / 100);
            let invoked_ns = self.book.now_ns();
            match queue.receive_for(most, wait, visibility).await {
                Ok(messages) => {
                    let visibility_ms = visibility.map(|v| u64::try_from(v.as_millis()).unwrap_or(u64::MAX));
                    self.take(worker, &mut works, invoked_ns, visibility_ms, messages)?;
                }
                Err(error) => {
                    worker.tell(InQueue::Unanswered { invoked_ns })?;
                    self.bears(&error)?;
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
            while let Some(work) = works.try_join_next() {
                outcome(work)?;
            }
        }
        while let Some(work) = works.join_next().await {
            outcome(work)?;
        }
        Ok(self.book.now_ns())
    }

    /// Takes what comes. Gives when it was surely there for the last time.
    async fn is_pushed_messages(&mut self, worker: &Worker, end: Instant) -> Result<u64, Failure> {
        let window = self.seeded.of(1..=WINDOW_MAX) as u32;
        let opened_ns = self.book.now_ns();
        worker.tell(InQueue::Credit { messages: window, bytes: None })?;
        let builder = self.client.queue(self.plan.name).messages().window(window);
        let mut messages = match builder.open().await {
            Ok(messages) => messages,
            Err(error) => {
                self.bears(&error)?;
                tokio::time::sleep(TRY_AGAIN).await;
                return Ok(opened_ns);
            }
        };
        let mut works = Works::new();
        loop {
            let first = tokio::select! {
                first = messages.next() => first,
                () = tokio::time::sleep_until(end) => break,
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            let mut got = Vec::new();
            let mut next = first;
            while let Some(item) = next {
                got.push(
                    item.map_err(|error| Failure::run(format!("messages of {:?} ended: {error}", self.plan.name)))?,
                );
                next = messages.try_next();
            }
            if got.is_empty() {
                return Err(Failure::run(format!("messages of {:?} ended", self.plan.name)));
            }
            self.take(worker, &mut works, opened_ns, None, got)?;
            while let Some(work) = works.try_join_next() {
                outcome(work)?;
            }
        }
        let since_ns = self.book.now_ns();
        messages.close().await.map_err(|error| Failure::run(format!("a receiver cannot close: {error}")))?;
        while let Some(work) = works.join_next().await {
            outcome(work)?;
        }
        Ok(since_ns)
    }

    /// Writes down what came, and has it worked on: those of one group in their order.
    fn take(
        &mut self,
        worker: &Worker,
        works: &mut Works,
        invoked_ns: u64,
        visibility_ms: Option<u64>,
        messages: Vec<Message>,
    ) -> Result<(), Failure> {
        if self.ack_first {
            for message in messages {
                works.spawn(worker.clone().ack_first(invoked_ns, message));
            }
            return Ok(());
        }
        let deliveries: Vec<_> = messages.iter().map(delivery).collect();
        let mut runs: BTreeMap<(u64, u64), Vec<Message>> = BTreeMap::new();
        for (delivery, message) in deliveries.iter().zip(messages) {
            let run = match self.plan.can_push {
                false => (delivery.partition.into(), delivery.group.unwrap_or(u64::MAX)),
                // Each by itself.
                true => (delivery.partition.into(), delivery.offset),
            };
            runs.entry(run).or_default().push(message);
        }
        worker.tell(InQueue::Received { stream: 0, invoked_ns, visibility_ms, deliveries })?;
        for run in runs.into_values() {
            let seeded = Seeded::new(self.seeded.any());
            works.spawn(worker.clone().work(run, seeded));
        }
        Ok(())
    }

    /// What has to be borne: the server is away, or the queue is not made yet.
    fn bears(&self, error: &Error) -> Result<(), Failure> {
        match error.code() {
            Code::UnknownQueue if self.queue == plan::REPLAY => Ok(()),
            _ if error.is_retryable() => Ok(()),
            _ => Err(Failure::run(format!("a receiver of {:?} cannot go on: {error}", self.plan.name))),
        }
    }
}
