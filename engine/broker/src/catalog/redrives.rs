//! The catalog's redrives: which letters are to come back, and how far each task has come. At most one a queue; the last one
//! stays to be looked at until the next.

use millstream_protocol::limits::FILTER_BYTES_MAX;
use rkyv::{Archive, Deserialize, Serialize};

use super::queues::QueueEvent;
use super::state::{Catalog, Event, range};
use crate::error::BrokerError;

/// Where dead messages go.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub enum RedriveTo {
    /// Back to the queue they died in, and to no one else: nothing is copied.
    #[default]
    Source,
    /// To the stream of that name, as copies.
    Stream(String),
}

/// How a redrive stands.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedriveStatus {
    /// It goes on, over restarts too.
    Running,
    /// It has looked at all letters, or reached its limit.
    Done,
    /// An operator ended it.
    Cancelled,
}

/// How far a redrive has come.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RedriveCounts {
    /// Records of the dead-letter stream it has looked at.
    pub looked_at: u64,
    /// Messages that came back, or were copied.
    pub redriven: u64,
    /// Letters of other queues, those that the filter does not match, those that came back before, and those whose message is
    /// not settled.
    pub skipped: u64,
    /// Letters that could not be understood, or on which the filter failed.
    pub failed: u64,
}

/// A redrive as the catalog knows it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RedriveEntry {
    /// Its number.
    pub id: u64,
    /// Its queue's number.
    pub queue: u64,
    /// Which letters, in CEL over the letter with its `ms-dl-` headers; empty: all.
    pub filter: String,
    /// How many messages at most.
    pub limit: Option<u64>,
    /// How many a second at most.
    pub rate_per_s: Option<u32>,
    /// Where they go.
    pub to: RedriveTo,
    /// By partition of the dead-letter stream: the next offset to look at.
    pub positions: Vec<u64>,
    /// By partition of the dead-letter stream: where it ended when the task began, which is as far as it goes.
    pub ends: Vec<u64>,
    /// By the queue's partition: how many were copied, which is the next copy's sequence. Empty where nothing is copied.
    pub copied: Vec<u64>,
    /// How far it has come.
    pub counts: RedriveCounts,
    /// How it stands.
    pub status: RedriveStatus,
    /// When it began, Unix ms.
    pub began_ms: i64,
}

/// What the catalog is asked about redrives.
#[derive(Debug, Clone)]
pub enum RedriveInput {
    /// Begin one.
    Begin {
        /// The queue's name.
        queue: String,
        /// The task; its numbers are given here.
        entry: RedriveEntry,
    },
    /// One has come further.
    Went {
        /// As it stands now.
        entry: RedriveEntry,
    },
    /// One is at its end.
    End {
        /// The queue's name.
        queue: String,
        /// How.
        status: RedriveStatus,
    },
}

/// What happened to a redrive.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum RedriveEvent {
    /// It began.
    Began(RedriveEntry),
    /// It has come further.
    Went {
        /// Its queue's number.
        queue: u64,
        /// Its number.
        id: u64,
        /// See [`RedriveEntry::positions`].
        positions: Vec<u64>,
        /// See [`RedriveEntry::copied`].
        copied: Vec<u64>,
        /// How far.
        counts: RedriveCounts,
    },
    /// It is at its end.
    Ended {
        /// Its queue's number.
        queue: u64,
        /// How.
        status: RedriveStatus,
    },
}

impl Catalog {
    pub(super) fn step_redrive(&self, input: RedriveInput) -> Result<Vec<Event>, BrokerError> {
        let event = match input {
            RedriveInput::Begin { queue, entry } => self.begin_redrive(&queue, entry)?,
            RedriveInput::Went { entry: RedriveEntry { id, queue, positions, copied, counts, .. } } => {
                match self.redrive(queue) {
                    Some(known) if known.id == id && known.status == RedriveStatus::Running => {
                        RedriveEvent::Went { queue, id, positions, copied, counts }
                    }
                    _ => return Ok(Vec::new()),
                }
            }
            RedriveInput::End { queue, status } => {
                let queue = self.queue(&queue)?.id;
                match self.redrive(queue) {
                    Some(known) if known.status == RedriveStatus::Running => RedriveEvent::Ended { queue, status },
                    _ => return Ok(Vec::new()),
                }
            }
        };
        Ok(vec![Event::Queue(QueueEvent::Redrive(event))])
    }

    fn begin_redrive(&self, name: &str, entry: RedriveEntry) -> Result<RedriveEvent, BrokerError> {
        let queue = self.queue(name)?;
        let Some(dead_letter) = queue.config.dead_letter.as_deref() else {
            return Err(BrokerError::NoDeadLetter("a redrive"));
        };
        range("the length of a filter", entry.filter.len() as u64, 0..=FILTER_BYTES_MAX as u64)?;
        if let Some(limit) = entry.limit {
            range("a redrive's limit", limit, 1..=u64::MAX)?;
        }
        if let Some(rate) = entry.rate_per_s {
            range("a redrive's rate_per_s", u64::from(rate), 1..=1_000_000)?;
        }
        if let RedriveTo::Stream(to) = &entry.to {
            if !self.streams.contains_key(to) {
                return Err(BrokerError::UnknownStream(to.clone()));
            }
            if to == dead_letter {
                return Err(BrokerError::IllegalSetting {
                    setting: "a redrive's target",
                    value: to.clone(),
                    legal: "the source queue, or a stream that is not the one of the dead letters".to_owned(),
                });
            }
        }
        if self.redrive(queue.id).is_some_and(|known| known.status == RedriveStatus::Running) {
            return Err(BrokerError::IllegalSetting {
                setting: "the number of redrives of a queue at one time",
                value: "2".to_owned(),
                legal: "1: wait until the one that runs is done, or cancel it".to_owned(),
            });
        }
        let (id, queue) = (self.next_id().0, queue.id);
        Ok(RedriveEvent::Began(RedriveEntry { id, queue, ..entry }))
    }

    /// The newest redrive of the queue with that number.
    pub fn redrive(&self, queue: u64) -> Option<&RedriveEntry> {
        self.queues.redrives.get(&queue)
    }

    /// The redrives, one a queue.
    pub fn redrives(&self) -> impl Iterator<Item = &RedriveEntry> {
        self.queues.redrives.values()
    }
}
