//! What operators do with a queue's messages, in process.

use millstream_log::LogError;

use super::Refusal;
use super::peek::PEEK_MAX;
use super::shell::QueueHandle;
use super::types::{ParkedAt, Peeked, Unpark, VerbResult};
use super::worker::{Command, PeekWhat};
use crate::error::BrokerError;

impl QueueHandle {
    /// Shows unsettled messages with their records, by partition and offset, and changes nothing: no lease, no count. Of one
    /// partition or all, in each from offset `from` on, up to `max` (1 to 100) in all. Messages that the filter does not match
    /// are not shown; of those that the queue has not looked at yet, the next few thousand records are. Blocks for a moment.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`] if it was deleted; [`BrokerError::IllegalSetting`] (`max`); the log's, if a record cannot
    /// be read.
    pub fn peek(&self, partition: Option<u32>, from: Option<u64>, max: usize) -> Result<Vec<Peeked>, BrokerError> {
        self.show(partition, from, max, false)
    }

    /// The same of parked messages alone.
    ///
    /// # Errors
    /// As [`peek`](Self::peek).
    pub fn parked(&self, partition: Option<u32>, from: Option<u64>, max: usize) -> Result<Vec<Peeked>, BrokerError> {
        self.show(partition, from, max, true)
    }

    fn show(
        &self,
        partition: Option<u32>,
        from: Option<u64>,
        max: usize,
        only_parked: bool,
    ) -> Result<Vec<Peeked>, BrokerError> {
        if !(1..=PEEK_MAX).contains(&max) {
            return Err(BrokerError::IllegalSetting {
                setting: "the number of messages to peek at",
                value: max.to_string(),
                legal: format!("1 to {PEEK_MAX}"),
            });
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        let what = PeekWhat { partition, from: from.unwrap_or(0), max, only_parked };
        let sent = self.commands.send(Command::Peek { queue: self.id(), what, reply });
        match sent.ok().and_then(|()| answer.recv().ok()) {
            Some(peeked) => Ok(peeked?),
            None => Err(BrokerError::UnknownQueue(self.entry.name.clone())),
        }
    }

    /// Lets parked messages be tried again from the first, or go to the dead letters; their groups go on. Answers how many it
    /// was: 0 if none stood parked there. Durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::NoDeadLetter`]: to skip one the queue needs a dead-letter stream, since no message is ever dropped;
    /// [`BrokerError::UnknownQueue`] if it was deleted; the log's.
    pub fn unpark(&self, partition: u32, which: ParkedAt, how: Unpark) -> Result<u64, BrokerError> {
        let gone = || BrokerError::UnknownQueue(self.entry.name.clone());
        let (send, answer) = crossbeam_channel::bounded(1);
        let reply = Box::new(move |results| drop(send.send(results)));
        let sent = self.commands.send(Command::Unpark { queue: self.id(), partition, which, how, reply });
        let results: Vec<VerbResult> = sent.ok().and_then(|()| answer.recv().ok()).ok_or_else(gone)?;
        for result in &results {
            match result {
                VerbResult::Done => {}
                VerbResult::Refused(Refusal::NoDeadLetter) => {
                    return Err(BrokerError::NoDeadLetter("skipping a parked message"));
                }
                VerbResult::Failed(error) => return Err(error.clone().into()),
                VerbResult::QueueDeleted => return Err(gone()),
                VerbResult::Refused(_) | VerbResult::Foreign => return Err(LogError::Closed.into()),
            }
        }
        Ok(results.len() as u64)
    }
}
