//! The background task behind one queue stream.
//!
//! It owns the stream's sending half and what is not answered; a second task reads frames, so that nothing that was begun is
//! dropped half-way. After a lost connection the stream is opened again under the same receiver key, with the deliveries that
//! are still in hand: those that never came are released by the server, and what was said and not answered is said again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::batch::BatchView;
use millstream_protocol::frame::control::Message as _;
use millstream_protocol::frame::delivery::{Deliveries, Receipt, Receive, Received, Verb, encode_window};
use millstream_protocol::frame::queue::{HeldDelivery, QueueOpen, QueueOpened};
use millstream_protocol::frame::{FrameHeader, Kind, Refusal};
use millstream_protocol::limits::QUEUE_HELD_MAX;
use millstream_protocol::{Code, QueueId};
use parking_lot::Mutex;
use quinn::SendStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::message::{Delivered, Message, Said, Settling};
use super::waiting::{Waiting, Word};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::Opening;
use crate::error::{Error, Result};
use crate::frame_io::{StreamError, write_frame};

/// How long a queue's stream is tried to be opened again.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Frames read ahead of the task; what they hold is bounded by the window.
const FRAMES_AHEAD: usize = 16;
/// Commands taken in one go.
const COMMANDS_AT_ONCE: usize = 4_096;

type Answer = oneshot::Sender<Result<Said>>;

/// What the task is asked.
enum Command {
    Say(Word<Answer>),
    Receive(Receive, oneshot::Sender<Result<Vec<Message>>>),
    Window(u32),
    Settled(oneshot::Sender<Result<()>>),
}

/// A handle to the task; it ends when the last is gone and all that was said is answered.
#[derive(Clone)]
pub(super) struct Link {
    commands: mpsc::UnboundedSender<Command>,
    /// Partition and fence of the deliveries in the application's hands.
    held: Arc<Mutex<HashSet<(u32, u64)>>>,
    /// How long an answer may take beyond what it waits for.
    patience: Duration,
}

/// A stream that was opened.
pub(super) struct Opened {
    pub link: Link,
    pub items: mpsc::UnboundedReceiver<Result<Message>>,
    pub visibility: Duration,
    pub is_fifo: bool,
}

impl Link {
    /// Opens a queue stream.
    pub async fn open(client: Client, queue: String, window: u32, visibility_ms: Option<u64>) -> Result<Opened> {
        let (commands, requests) = mpsc::unbounded_channel();
        let (items, received) = mpsc::unbounded_channel();
        let patience = client.config().request_timeout;
        let link = Link { commands, held: Arc::default(), patience };
        let mut task = Task {
            client,
            name: queue,
            receiver: random(),
            queue: None,
            window,
            visibility_ms,
            requests,
            handle: link.commands.downgrade(),
            held: Arc::clone(&link.held),
            patience,
            items,
            waiting: Waiting::default(),
            receives: HashMap::new(),
            settled: Vec::new(),
            next_correlation: 1,
        };
        let (stream, opened) = task.open_stream().await?;
        tokio::spawn(task.run(stream));
        let visibility = Duration::from_millis(opened.visibility_ms);
        Ok(Opened { link, items: received, visibility, is_fifo: opened.is_fifo })
    }

    /// Whether the task goes on.
    pub fn is_open(&self) -> bool {
        !self.commands.is_closed()
    }

    pub fn say(&self, receipt: Receipt, verb: Verb) -> Settling {
        let (answer, answered) = oneshot::channel();
        // If the task has ended, the answer says so.
        let _ = self.commands.send(Command::Say(Word { receipt, verb, answer }));
        Settling(answered)
    }

    pub async fn receive(&self, receive: Receive) -> Result<Vec<Message>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Receive(receive, answer));
        let patience = Duration::from_millis(receive.wait_ms) + self.patience;
        match tokio::time::timeout(patience, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            // Messages that come for it after all are released.
            Err(_) => Err(Error::timed_out(format!("the server did not answer a receive within {patience:?}"))),
        }
    }

    pub fn set_window(&self, messages: u32) {
        let _ = self.commands.send(Command::Window(messages));
    }

    /// Waits until all that was said is answered.
    pub async fn settled(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Command::Settled(answer));
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// A delivery is in nobody's hands any more.
    pub fn let_go(&self, receipt: &Receipt) {
        self.held.lock().remove(&(receipt.partition, receipt.fence));
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

/// What is said when the task has ended.
pub(super) fn gone() -> Error {
    Error::lost("the queue's stream has ended: whether what was said was heard is not known", "the stream ended")
}

pub(super) fn random() -> u128 {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    u128::from_le_bytes(bytes)
}

/// A receive that is not answered.
struct Receiving {
    receive: Receive,
    since: Instant,
    answer: oneshot::Sender<Result<Vec<Message>>>,
    got: Vec<Delivered>,
}

struct Task {
    client: Client,
    name: String,
    receiver: u128,
    /// Its number, once it is known: another one under the name is another queue.
    queue: Option<QueueId>,
    window: u32,
    visibility_ms: Option<u64>,
    requests: mpsc::UnboundedReceiver<Command>,
    /// Handles for messages, while there is another.
    handle: mpsc::WeakUnboundedSender<Command>,
    held: Arc<Mutex<HashSet<(u32, u64)>>>,
    patience: Duration,
    items: mpsc::UnboundedSender<Result<Message>>,
    waiting: Waiting<Answer>,
    receives: HashMap<u64, Receiving>,
    settled: Vec<oneshot::Sender<Result<()>>>,
    next_correlation: u64,
}

struct Stream {
    send: SendStream,
    frames: mpsc::Receiver<Result<(FrameHeader, Bytes)>>,
    reader: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Task {
    async fn open_stream(&mut self) -> Result<(Stream, QueueOpened)> {
        let held: HashSet<(u32, u64)> = {
            let words = self.waiting.receipts().map(|receipt| (receipt.partition, receipt.fence));
            self.held.lock().iter().copied().chain(words).collect()
        };
        let held = (held.len() <= QUEUE_HELD_MAX)
            .then(|| held.into_iter().map(|(partition, fence)| HeldDelivery { partition, fence }).collect());
        let open = QueueOpen {
            queue: self.name.clone(),
            receiver: self.receiver,
            window: self.window,
            visibility_ms: self.visibility_ms,
            held,
        };
        let connection = self.client.connection().await?;
        let (send, mut reader, answer) = connection
            .open_stream(Opening {
                kind: Kind::OpenQueue,
                body: &open.encode(),
                answer: Kind::OpenQueueOk,
                within: self.client.config().request_timeout,
            })
            .await?;
        let opened = QueueOpened::decode(&answer)?;
        if self.queue.is_some_and(|queue| queue != QueueId(opened.queue)) {
            let text = format!("the queue {:?} was deleted, and another one of that name is there now", self.name);
            return Err(Error::local(Code::QueueDeleted, text));
        }
        self.queue = Some(QueueId(opened.queue));
        let (to_task, frames) = mpsc::channel(FRAMES_AHEAD);
        let reader = tokio::spawn(async move {
            loop {
                let frame = match reader.frame().await {
                    Ok(Some(frame)) => Ok(frame),
                    Ok(None) => Err(StreamError::Cut.into()),
                    Err(error) => Err(error.into()),
                };
                let is_last = frame.is_err();
                if to_task.send(frame).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok((Stream { send, frames, reader }, opened))
    }

    async fn run(mut self, stream: Stream) {
        let mut stream = Ok(stream);
        let mut backoff = Backoff::default();
        let mut failing_since = None;
        loop {
            let error = match stream {
                Ok(stream) => match self.serve(stream, &mut backoff, &mut failing_since).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            if !error.is_retryable() || since.elapsed() >= RECONNECT_TIMEOUT {
                return self.fail(&error);
            }
            tracing::debug!(queue = self.name, %error, "a queue stream ended; it will be opened again");
            tokio::time::sleep(backoff.next(error.retry_after())).await;
            if self.handle.strong_count() == 0 && self.requests.is_empty() && self.waiting.is_empty() {
                return;
            }
            stream = self.open_stream().await.map(|(stream, _)| stream);
        }
    }

    /// Serves a stream until nobody wants more of it, or it ends.
    async fn serve(
        &mut self,
        mut stream: Stream,
        backoff: &mut Backoff,
        failing_since: &mut Option<Instant>,
    ) -> Result<()> {
        self.waiting.lost();
        self.receive_again(&mut stream.send).await?;
        let mut commands = Vec::new();
        let mut has_handles = true;
        loop {
            self.send_words(&mut stream.send).await?;
            if self.waiting.is_empty() {
                self.settled.drain(..).for_each(|answer| drop(answer.send(Ok(()))));
                if !has_handles {
                    // An error means that the server has ended it already.
                    let _ = stream.send.finish();
                    let _ = tokio::time::timeout(self.patience, stream.send.stopped()).await;
                    return Ok(());
                }
            }
            tokio::select! {
                count = self.requests.recv_many(&mut commands, COMMANDS_AT_ONCE), if has_handles => {
                    has_handles = count > 0;
                    for command in commands.drain(..) {
                        self.command(command, &mut stream.send).await?;
                    }
                }
                frame = stream.frames.recv() => {
                    let (header, body) = frame.unwrap_or_else(|| Err(StreamError::Cut.into()))?;
                    self.take(&header, &body)?;
                    *failing_since = None;
                    backoff.reset();
                }
            }
        }
    }

    async fn command(&mut self, command: Command, send: &mut SendStream) -> Result<()> {
        match command {
            Command::Say(word) => self.waiting.say(word),
            Command::Settled(answer) => self.settled.push(answer),
            Command::Window(window) => {
                self.window = window;
                write_frame(send, Kind::QueueWindow, 0, &encode_window(window)).await?;
            }
            Command::Receive(receive, answer) => {
                let receiving = Receiving { receive, since: Instant::now(), answer, got: Vec::new() };
                self.send_receive(receiving, send).await?;
            }
        }
        Ok(())
    }

    async fn send_words(&mut self, send: &mut SendStream) -> Result<()> {
        while let Some(body) = self.waiting.next_frame(self.next_correlation) {
            let correlation = self.correlation();
            write_frame(send, Kind::QueueVerbs, correlation, &body).await?;
        }
        Ok(())
    }

    fn correlation(&mut self) -> u64 {
        self.next_correlation += 1;
        self.next_correlation - 1
    }

    async fn send_receive(&mut self, receiving: Receiving, send: &mut SendStream) -> Result<()> {
        let waited = u64::try_from(receiving.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wait_ms = receiving.receive.wait_ms.saturating_sub(waited);
        let body = Receive { wait_ms, ..receiving.receive }.encode();
        let correlation = self.correlation();
        self.receives.insert(correlation, receiving);
        Ok(write_frame(send, Kind::Receive, correlation, &body).await?)
    }

    /// Receives that were not answered are made again, under their attempts: what they had got comes again.
    async fn receive_again(&mut self, send: &mut SendStream) -> Result<()> {
        let mut receives: Vec<(u64, Receiving)> = self.receives.drain().collect();
        receives.sort_unstable_by_key(|(correlation, _)| *correlation);
        receives.retain(|(_, receiving)| !receiving.answer.is_closed());
        let mut receives = receives.into_iter().map(|(_, receiving)| Receiving { got: Vec::new(), ..receiving });
        while let Some(receiving) = receives.next() {
            if let Err(error) = self.send_receive(receiving, send).await {
                // The next stream tries again.
                for rest in receives {
                    let correlation = self.correlation();
                    self.receives.insert(correlation, rest);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn take(&mut self, header: &FrameHeader, body: &Bytes) -> Result<()> {
        match header.kind {
            Kind::Deliveries => {
                let delivered = self.deliveries(body)?;
                if header.correlation == 0 {
                    delivered.into_iter().for_each(|delivered| self.hand_out(delivered));
                } else if let Some(receiving) = self.receives.get_mut(&header.correlation) {
                    receiving.got.extend(delivered);
                } else {
                    return Err(Error::protocol(format_args!(
                        "messages for receive {}, which nobody made",
                        header.correlation
                    )));
                }
            }
            Kind::Received => {
                let received = Received::decode(body)?;
                let Some(receiving) = self.receives.remove(&header.correlation) else {
                    return Err(Error::protocol("the end of a receive that nobody made"));
                };
                if received.messages as usize != receiving.got.len() {
                    let (said, got) = (received.messages, receiving.got.len());
                    return Err(Error::protocol(format_args!("{got} messages of a receive where {said} were said")));
                }
                let messages: Vec<Message> = receiving.got.into_iter().filter_map(|got| self.message(got)).collect();
                if let Err(Ok(unwanted)) = receiving.answer.send(Ok(messages)) {
                    unwanted.iter().for_each(|message| self.release(message.receipt()));
                }
            }
            Kind::QueueResults => {
                for (word, code) in self.waiting.answered(header.correlation, body)? {
                    // Whoever does not wait for it does not want to know.
                    let _ = word.answer.send(result(&word.verb, code));
                }
            }
            Kind::Error => return Err(Refusal::decode(body)?.into()),
            found => return Err(Error::protocol(format_args!("a frame of kind {found:?} on a queue stream"))),
        }
        Ok(())
    }

    /// Decodes and verifies what was delivered.
    fn deliveries(&self, body: &Bytes) -> Result<Vec<Delivered>> {
        let (deliveries, batches) = Deliveries::decode(body)?;
        let mut rest = body.slice(batches..);
        let bad = |what: &dyn std::fmt::Display| Error::protocol(format_args!("deliveries of a queue: {what}"));
        let mut all = Vec::new();
        let queue = self.queue.unwrap_or(QueueId(0));
        for run in &deliveries.runs {
            let batch = BatchView::split_stored(&mut rest, deliveries.incarnation).map_err(|error| bad(&error))?;
            let append_time = batch.header().append_time;
            let mut records = batch.records().map_err(|error| bad(&error))?;
            let first = Receipt {
                queue,
                epoch: deliveries.epoch,
                partition: deliveries.partition.0,
                offset: run.offset,
                redriven: run.redriven,
                fence: run.fence,
            };
            let mut found = 0;
            while found < run.count
                && let Some(record) = records.next_with_offset()
            {
                let (offset, record) = record.map_err(|error| bad(&error))?;
                let receipt = first.nth(found);
                if offset.0 < receipt.offset {
                    continue;
                }
                if offset.0 > receipt.offset {
                    break;
                }
                found += 1;
                let (receives, first_ms) = (run.receives, run.first_ms);
                all.push(Delivered { receipt, receives, first_ms, append_time, record });
            }
            if found < run.count {
                return Err(bad(&format_args!(
                    "{found} of the {} messages from {} on are in its batch",
                    run.count, run.offset
                )));
            }
        }
        if rest.is_empty() { Ok(all) } else { Err(bad(&"more batches than runs")) }
    }

    fn message(&self, delivered: Delivered) -> Option<Message> {
        // Without another handle nobody is there to take it: the stream ends, and the server takes it back.
        let commands = self.handle.upgrade()?;
        self.held.lock().insert((delivered.receipt.partition, delivered.receipt.fence));
        let link = Link { commands, held: Arc::clone(&self.held), patience: self.patience };
        Some(Message::new(link, delivered))
    }

    fn hand_out(&mut self, delivered: Delivered) {
        let receipt = delivered.receipt;
        let taken = self.message(delivered).is_some_and(|message| self.items.send(Ok(message)).is_ok());
        if !taken {
            self.release(receipt);
        }
    }

    fn release(&mut self, receipt: Receipt) {
        self.waiting.say(Word { receipt, verb: Verb::Release, answer: oneshot::channel().0 });
    }

    /// It cannot go on: everyone who waits is told why.
    fn fail(mut self, error: &Error) {
        self.waiting.take_all().for_each(|word| drop(word.answer.send(Err(error.clone()))));
        self.receives.drain().for_each(|(_, receiving)| drop(receiving.answer.send(Err(error.clone()))));
        self.settled.drain(..).for_each(|answer| drop(answer.send(Err(error.clone()))));
        let _ = self.items.send(Err(error.clone()));
        self.requests.close();
        while let Ok(command) = self.requests.try_recv() {
            match command {
                Command::Say(word) => drop(word.answer.send(Err(error.clone()))),
                Command::Receive(_, answer) => drop(answer.send(Err(error.clone()))),
                Command::Settled(answer) => drop(answer.send(Err(error.clone()))),
                Command::Window(_) => {}
            }
        }
    }
}

fn result(verb: &Verb, code: Option<Code>) -> Result<Said> {
    let Some(code) = code else { return Ok(Said::Done) };
    let text = match code {
        Code::AlreadySettled if *verb == Verb::Ack => return Ok(Said::AlreadySettled),
        Code::ReceiptExpired => {
            "receipt expired: another delivery has begun, or this one was nacked, released, rejected, dead-lettered or \
             purged; leave the message to who has it now"
        }
        Code::AlreadySettled => "already settled: the message is done",
        Code::ReceiptForeign => "receipt foreign: it is another queue's",
        Code::OutOfGroupOrder => "out of group order: settle the earlier messages of the group first",
        Code::VisibilityOutOfRange => {
            "visibility out of range: use 0 to 12 hours, and no more than 12 hours in all for one delivery"
        }
        Code::NoDeadLetter => "no dead-letter stream: the queue has none to send the message to",
        Code::QueueDeleted => "queue deleted: nothing is left of it",
        code => return Err(Refusal::new(code, format!("{code}: nothing was changed, as far as is known")).into()),
    };
    Err(Refusal::new(code, text).into())
}
