//! Messages that come by themselves, within a window.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;

use super::checked_visibility;
use super::link::{Link, Opened};
use super::message::Message;
use crate::client::Client;
use crate::error::Result;

/// Settings of [`Messages`].
#[derive(Debug, Clone)]
pub struct MessagesBuilder {
    client: Client,
    queue: String,
    window: u32,
    visibility: Option<Duration>,
}

impl MessagesBuilder {
    pub(super) fn new(client: Client, queue: String) -> Self {
        Self { client, queue, window: 16, visibility: None }
    }

    /// How many messages may be unsettled at one time, 16 unless said: as many as are worked on at once, and as many again.
    /// More hoards what others could work on.
    pub fn window(mut self, messages: u32) -> Self {
        self.window = messages;
        self
    }

    pub(super) fn default_window(mut self, messages: u32) -> Self {
        self.window = messages;
        self
    }

    /// How long each message is the receiver's own, instead of the queue's visibility timeout; 0 to 12 hours.
    pub fn visibility(mut self, visibility: Duration) -> Self {
        self.visibility = Some(visibility);
        self
    }

    /// Begins to receive.
    ///
    /// # Errors
    /// [`Code::UnknownQueue`](crate::Code::UnknownQueue),
    /// [`Code::VisibilityOutOfRange`](crate::Code::VisibilityOutOfRange); those of the connection.
    pub async fn open(self) -> Result<Messages> {
        let visibility_ms = self.visibility.map(checked_visibility).transpose()?;
        let Opened { link, items, visibility, is_fifo } =
            Link::open(self.client, self.queue, self.window, visibility_ms).await?;
        Ok(Messages { items, link, visibility, is_fifo })
    }
}

/// A queue's messages, as they come. Made by [`Queue::messages`](super::Queue::messages).
///
/// No more than its window are unsettled at one time: settling one makes room for the next. A lost connection is made again,
/// and what was in hand stays so. Dropped, what was not handed out is released.
///
/// # Errors as items
/// An error is the last item: the queue was deleted, or no connection could be made for two minutes.
#[derive(Debug)]
pub struct Messages {
    items: mpsc::UnboundedReceiver<Result<Message>>,
    link: Link,
    visibility: Duration,
    is_fifo: bool,
}

impl Messages {
    /// The next message. Waits for it.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken nothing.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        self.items.recv().await
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Result<Message>> {
        self.items.try_recv().ok()
    }

    /// Another window; 0: nothing more comes until it is raised again. What is in hand stays so.
    pub fn set_window(&self, messages: u32) {
        self.link.set_window(messages);
    }

    /// How long each message is the receiver's own.
    pub fn visibility(&self) -> Duration {
        self.visibility
    }

    pub(super) fn is_fifo(&self) -> bool {
        self.is_fifo
    }

    /// Receives nothing more, releases what was not handed out, and waits until all that was said is answered.
    ///
    /// # Errors
    /// Those of the connection: what was said and not answered is lost, or not.
    pub async fn close(mut self) -> Result<()> {
        self.give_back();
        self.link.settled().await
    }

    fn give_back(&mut self) {
        self.link.set_window(0);
        self.items.close();
        while let Ok(item) = self.items.try_recv() {
            if let Ok(message) = item {
                message.release().detach();
            }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Stream for Messages {
    type Item = Result<Message>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().items.poll_recv(context)
    }
}
