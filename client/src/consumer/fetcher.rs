//! A consumer's background task: reads ahead of the application, and opens the stream again where it stood.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::intake::{Intake, Item};
use super::source::{Budget, Source};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::frame_io::FrameReader;

pub(super) struct Fetcher {
    pub source: Source,
    pub intake: Intake,
    pub budget: Budget,
    pub reconnect_timeout: Duration,
    pub items: mpsc::Sender<Item>,
}

/// How a consume stream ended.
enum End {
    /// Everything asked for has come.
    Done,
    /// Nobody wants more.
    Dropped,
    Lost(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Lost(error)
    }
}

impl Fetcher {
    /// Runs until everything has come, nobody wants more, or an error that no retry can help.
    pub async fn run(mut self, reader: FrameReader) {
        let mut backoff = Backoff::default();
        let mut reader = Ok(reader);
        let mut failing_since = None;
        loop {
            let ended = match reader {
                Ok(stream) => Err(self.read(stream, &mut failing_since, &mut backoff).await),
                Err(error) => Ok(error),
            };
            let error = match ended {
                Err(End::Done | End::Dropped) => return,
                Err(End::Lost(error)) | Ok(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            if !error.is_retryable() || since.elapsed() >= self.reconnect_timeout {
                // Nobody to tell is as good as told.
                let _ = self.items.send(Item::Final(error)).await;
                return;
            }
            tracing::debug!(stream = self.source.name, %error, "a consume stream ended; it will be opened again");
            tokio::time::sleep(backoff.next(error.retry_after())).await;
            reader = self.source.open(&mut self.intake.positions).await;
        }
    }

    async fn read(&mut self, mut reader: FrameReader, failing: &mut Option<Instant>, backoff: &mut Backoff) -> End {
        loop {
            match self.read_frame(&mut reader).await {
                Ok(()) if self.intake.positions.is_done() => return End::Done,
                Ok(()) => {
                    *failing = None;
                    backoff.reset();
                }
                Err(end) => return end,
            }
        }
    }

    async fn read_frame(&mut self, reader: &mut FrameReader) -> Result<(), End> {
        let incoming = self.budget.frame(reader).await?;
        let mut items = VecDeque::new();
        let taken = self.intake.take(incoming, &mut items);
        for item in items {
            self.items.send(item).await.map_err(|_| End::Dropped)?;
        }
        Ok(taken?)
    }
}
