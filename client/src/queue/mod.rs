//! Queues: messages that are worked on one by one.
//!
//! - `message`: a message and what can be said of it. `messages`: those that come by themselves. `worker`: handlers at work.
//! - `link`: the background task behind a queue stream: what is said goes out in runs, is said again after a lost connection,
//!   and deliveries come in. `waiting` (pure): what was said and not answered, in the order it was said.
//! - `admin`: making, changing and watching queues.

mod admin;
mod link;
mod message;
mod messages;
mod waiting;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::delivery::{Receive, Verb};
use millstream_protocol::limits::{RECEIVE_BYTES_MAX, RECEIVE_MESSAGES_MAX, RECEIVE_WAIT_MS_MAX};
use tokio::sync::Mutex;

use crate::client::Client;
use crate::error::{Error, Result};
use link::Link;

pub use message::{Message, Said, Settling};
pub use messages::{Messages, MessagesBuilder};
pub use millstream_protocol::frame::delivery::Receipt as MessageReceipt;
pub use worker::{Worker, WorkerReport};

/// A queue. Cheap to clone; clones share one stream for what they ask for.
///
/// # Example
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> millstream_client::Result<()> {
/// use std::time::Duration;
///
/// let queue = client.queue("notifications");
/// for message in queue.receive(10, Duration::from_secs(20)).await? {
///     println!("{:?}, delivered {} times", message.record().value, message.receive_count());
///     message.ack().await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    name: String,
    /// Of what is asked for; made when first used, and again once it has failed for good.
    link: Mutex<Option<Link>>,
}

impl Queue {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { shared: Arc::new(Shared { client, name, link: Mutex::default() }) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    async fn link(&self) -> Result<Link> {
        let mut slot = self.shared.link.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| link.is_open()) {
            return Ok(link.clone());
        }
        let opened = Link::open(self.shared.client.clone(), self.shared.name.clone(), 0, None).await?;
        Ok(slot.insert(opened.link).clone())
    }

    /// Asks for up to `most` messages (1 to 1,000, and 1 MiB of records): what is at hand, as soon as there is one; none if
    /// `wait` (up to 60 s) is over. They are the caller's for the queue's visibility timeout. A lost connection is no reason
    /// to lose messages: the server gives what an unheard answer had.
    ///
    /// # Errors
    /// [`Code::UnknownQueue`], [`Code::QueueDeleted`], [`Code::IllegalSetting`]; those of the connection.
    pub async fn receive(&self, most: u32, wait: Duration) -> Result<Vec<Message>> {
        self.receive_for(most, wait, None).await
    }

    /// The same, for another visibility timeout than the queue's: 0 to 12 hours.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); [`Code::VisibilityOutOfRange`].
    pub async fn receive_for(
        &self,
        most: u32,
        wait: Duration,
        visibility: impl Into<Option<Duration>>,
    ) -> Result<Vec<Message>> {
        let out_of_range = |what: &str, legal: &str| {
            Err(Error::local(Code::IllegalSetting, format!("a receive's {what} is out of range: use {legal}")))
        };
        if most == 0 || most > RECEIVE_MESSAGES_MAX {
            return out_of_range("number of messages", "1 to 1,000");
        }
        let wait_ms = millis(wait);
        if wait_ms > RECEIVE_WAIT_MS_MAX {
            return out_of_range("wait", "0 to 60 s");
        }
        let visibility_ms = visibility.into().map(checked_visibility).transpose()?;
        let attempt = link::random();
        let receive = Receive { messages_max: most, bytes_max: RECEIVE_BYTES_MAX, wait_ms, visibility_ms, attempt };
        self.link().await?.receive(receive).await
    }

    /// Receives messages as they come: see [`MessagesBuilder`].
    pub fn messages(&self) -> MessagesBuilder {
        MessagesBuilder::new(self.shared.client.clone(), self.shared.name.clone())
    }

    /// Works on messages with `concurrency` handlers at once: see [`Worker`].
    pub fn worker(&self, concurrency: u32) -> Worker {
        Worker::new(self.messages(), concurrency)
    }

    /// Acknowledges a delivery by its receipt: of this process or another, over this connection or another.
    ///
    /// # Errors
    /// [`Code::ReceiptExpired`]: another delivery has begun, or it was nacked, released, rejected, dead-lettered or purged;
    /// [`Code::ReceiptForeign`]: another queue's; [`Code::OutOfGroupOrder`]; those of the connection. A message that is
    /// settled already is settled: success.
    pub async fn ack(&self, receipt: MessageReceipt) -> Result<Said> {
        self.say(receipt, Verb::Ack).await
    }

    /// Says that a delivery failed; the message comes again after `delay`, or the queue's backoff.
    ///
    /// # Errors
    /// As [`ack`](Self::ack); the lease must live. [`Code::VisibilityOutOfRange`]: a delay above 12 hours.
    pub async fn nack(&self, receipt: MessageReceipt, delay: Option<Duration>, error: &str) -> Result<()> {
        self.say(receipt, Verb::Nack { delay_ms: delay.map(millis), error: error.to_owned() }).await.map(drop)
    }

    /// Gives a delivery back, not tried and uncounted.
    ///
    /// # Errors
    /// As [`nack`](Self::nack).
    pub async fn release(&self, receipt: MessageReceipt) -> Result<()> {
        self.say(receipt, Verb::Release).await.map(drop)
    }

    /// A delivery's lease ends `visibility` from now.
    ///
    /// # Errors
    /// As [`nack`](Self::nack).
    pub async fn extend(&self, receipt: MessageReceipt, visibility: Duration) -> Result<()> {
        self.say(receipt, Verb::Extend { visibility_ms: millis(visibility) }).await.map(drop)
    }

    /// Sends a hopeless message to the dead letters.
    ///
    /// # Errors
    /// As [`nack`](Self::nack); [`Code::NoDeadLetter`].
    pub async fn reject(&self, receipt: MessageReceipt, error: &str) -> Result<()> {
        self.say(receipt, Verb::Reject { error: error.to_owned() }).await.map(drop)
    }

    async fn say(&self, receipt: MessageReceipt, verb: Verb) -> Result<Said> {
        self.link().await?.say(receipt, verb).await
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn checked_visibility(visibility: Duration) -> Result<u64> {
    let ms = millis(visibility);
    if ms > millstream_protocol::limits::VISIBILITY_MS_MAX {
        let text = format!("a visibility of {visibility:?} is out of range: use 0 to 12 hours");
        return Err(Error::local(Code::VisibilityOutOfRange, text));
    }
    Ok(ms)
}
