//! Handlers at work on a queue's messages.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::message::Message;
use super::messages::{Messages, MessagesBuilder};
use crate::error::Result;

/// Works on a queue's messages: `Ok` acknowledges, `Err` says that the delivery failed, and it comes again after the queue's
/// backoff. Made by [`Queue::worker`](super::Queue::worker).
///
/// In a FIFO queue the messages of one key are worked on one after the other, however many handlers there are; after a
/// failure those that came with it are left for their next delivery. A handler that panics has failed.
///
/// Acks are answered behind the handlers' backs: an unordered queue's next message begins before the last one's ack is durable,
/// so a wider [`window`](Self::window) than twice the handlers pays where they are quick.
///
/// # Example
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> millstream_client::Result<()> {
/// let worker = client.queue("accounting").worker(8).extend_while_running();
/// let report = worker
///     .run_until(
///         |message| async move {
///             let text = std::str::from_utf8(message.record().value.as_deref().unwrap_or_default())?;
///             println!("{text}");
///             Ok::<(), std::str::Utf8Error>(())
///         },
///         async { let _ = tokio::time::sleep(std::time::Duration::from_secs(60)).await; },
///     )
///     .await?;
/// println!("{} done, {} failed", report.acked, report.failed);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Worker {
    messages: MessagesBuilder,
    concurrency: u32,
    extends: bool,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerReport {
    /// Messages whose handler succeeded, acknowledged durably.
    pub acked: u64,
    /// Deliveries whose handler failed.
    pub failed: u64,
    /// Messages whose handler succeeded, but whose ack was refused: another delivery had begun.
    pub expired: u64,
}

impl Worker {
    pub(super) fn new(messages: MessagesBuilder, concurrency: u32) -> Self {
        let concurrency = concurrency.max(1);
        Self { messages: messages.default_window(concurrency.saturating_mul(2)), concurrency, extends: false }
    }

    /// How many messages may be in hand, twice the handlers unless said.
    pub fn window(mut self, messages: u32) -> Self {
        self.messages = self.messages.window(messages);
        self
    }

    /// How long each message is the worker's own, instead of the queue's visibility timeout.
    pub fn visibility(mut self, visibility: Duration) -> Self {
        self.messages = self.messages.visibility(visibility);
        self
    }

    /// A message's lease is extended while its handler runs: by its visibility, each third of it.
    pub fn extend_while_running(mut self) -> Self {
        self.extends = true;
        self
    }

    /// Works until the queue is deleted or no connection can be made.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn run<H, F, E>(self, handler: H) -> Result<WorkerReport>
    where
        H: Fn(Message) -> F,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.run_until(handler, std::future::pending()).await
    }

    /// Works until `stop` resolves; then no handler begins, those that run come to their end, and what was not begun is
    /// released.
    ///
    /// # Errors
    /// Why it ended earlier; the acks of what was done are waited for in any case.
    pub async fn run_until<H, F, E>(self, handler: H, stop: impl Future<Output = ()>) -> Result<WorkerReport>
    where
        H: Fn(Message) -> F,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let Self { messages, concurrency, extends } = self;
        let mut messages = messages.open().await?;
        let extension = extends.then(|| messages.visibility()).filter(|visibility| !visibility.is_zero());
        let mut work = Work { lines: Lines::new(messages.is_fifo()), running: JoinSet::new(), report: <_>::default() };
        let slots = Arc::new(Semaphore::new(concurrency as usize));
        tokio::pin!(stop);
        let ended = loop {
            let slot = slots.clone().acquire_owned();
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(done) = work.running.join_next() => work.finished(done),
                Ok(slot) = slot, if work.lines.has_ready() => if let Some(message) = work.lines.next() {
                    let handling = handler(message.clone());
                    work.running.spawn(handle(message, handling, extension, slot));
                },
                item = messages.next() => match item {
                    Some(Ok(message)) => work.lines.add(message),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                },
            }
        };
        work.drain(messages).await;
        ended.map(|()| work.report)
    }
}

struct Work {
    lines: Lines,
    /// Messages whose handler runs, or whose ack or nack was sent and is not answered yet.
    running: JoinSet<(Message, Outcome)>,
    report: WorkerReport,
}

/// What became of one message.
enum Outcome {
    Acked,
    Failed,
    Expired,
}

impl Work {
    fn finished(&mut self, done: Result<(Message, Outcome), tokio::task::JoinError>) {
        let Ok((message, outcome)) = done else { return };
        match outcome {
            Outcome::Acked => self.report.acked += 1,
            Outcome::Failed => self.report.failed += 1,
            Outcome::Expired => self.report.expired += 1,
        }
        self.lines.done(&message, matches!(outcome, Outcome::Acked));
    }

    async fn drain(&mut self, messages: Messages) {
        self.lines.take_all().for_each(|message| message.release().detach());
        messages.set_window(0);
        while let Some(done) = self.running.join_next().await {
            self.finished(done);
        }
        self.lines.take_all().for_each(|message| message.release().detach());
        // An error was told already, or concerns what was released: it comes back at its deadline.
        let _ = messages.close().await;
    }
}

async fn handle<E: Display>(
    message: Message,
    handling: impl Future<Output = Result<(), E>>,
    extension: Option<Duration>,
    slot: OwnedSemaphorePermit,
) -> (Message, Outcome) {
    let handling = AssertUnwindSafe(handling).catch_unwind();
    tokio::pin!(handling);
    let handled = loop {
        let Some(visibility) = extension else { break handling.await };
        tokio::select! {
            handled = &mut handling => break handled,
            // A lease that has ended cannot be extended; the ack will tell whether it still holds.
            () = tokio::time::sleep(visibility / 3) => message.extend(visibility).detach(),
        }
    };
    // The next handler need not wait for the disk to hold what is said of this message.
    drop(slot);
    let outcome = match handled {
        Ok(Ok(())) => match message.ack().await {
            Ok(_) => Outcome::Acked,
            Err(_) => Outcome::Expired,
        },
        Ok(Err(error)) => {
            // Refused, it has failed all the same.
            let _ = message.nack(error.to_string()).await;
            Outcome::Failed
        }
        Err(_) => {
            tracing::error!(partition = %message.partition(), offset = %message.offset(), "a handler panicked");
            let _ = message.nack("the handler panicked").await;
            Outcome::Failed
        }
    };
    (message, outcome)
}

/// Messages that wait for a handler. In a FIFO queue each key has a line of its own, in which one is worked on at a time.
struct Lines {
    is_fifo: bool,
    ready: VecDeque<Message>,
    /// By key, while one of it is ready or in hand: what waits behind it.
    behind: HashMap<Bytes, VecDeque<Message>>,
}

impl Lines {
    fn new(is_fifo: bool) -> Self {
        Self { is_fifo, ready: VecDeque::new(), behind: HashMap::new() }
    }

    fn add(&mut self, message: Message) {
        match message.record().key.clone().filter(|_| self.is_fifo) {
            None => self.ready.push_back(message),
            Some(key) => match self.behind.get_mut(&key) {
                Some(line) => line.push_back(message),
                None => {
                    self.behind.insert(key, VecDeque::new());
                    self.ready.push_back(message);
                }
            },
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn next(&mut self) -> Option<Message> {
        self.ready.pop_front()
    }

    /// A message is settled, or has failed: then those that were delivered with it are not this receiver's any more.
    fn done(&mut self, message: &Message, is_settled: bool) {
        let Some(key) = message.record().key.clone().filter(|_| self.is_fifo) else { return };
        let Some(line) = self.behind.get_mut(&key) else { return };
        if !is_settled {
            // It comes again before anything later: what was delivered with it, under the fences that follow, is over. Its
            // next delivery may be there already.
            let (mut fence, offset) = (message.fencing_token(), message.offset());
            while line.front().is_some_and(|next| next.fencing_token() == fence + 1 && next.offset() > offset) {
                line.pop_front();
                fence += 1;
            }
        }
        match line.pop_front() {
            Some(next) => self.ready.push_back(next),
            None => drop(self.behind.remove(&key)),
        }
    }

    fn take_all(&mut self) -> impl Iterator<Item = Message> + use<> {
        let behind = std::mem::take(&mut self.behind);
        std::mem::take(&mut self.ready).into_iter().chain(behind.into_values().flatten())
    }
}
