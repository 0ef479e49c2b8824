//! The catalog's queues: which there are, under which settings, and where each begins.

use std::collections::{BTreeMap, BTreeSet};

use millstream_protocol::frame::queue::{QueueConfig, QueueOrdering};
use millstream_protocol::limits::{FILTER_BYTES_MAX, QUEUE_DELAY_MS_MAX, QUEUES_MAX, VISIBILITY_MS_MAX};
use millstream_protocol::names::check_name;
use millstream_protocol::{QueueId, StreamId, Timestamp};
use rkyv::{Archive, Deserialize, Serialize};

use super::redrives::{RedriveEntry, RedriveEvent, RedriveInput, RedriveStatus, RedriveTo};
use super::state::{Catalog, Event, range};
use crate::error::BrokerError;
use crate::queue::{GROUP_BATCH_MAX, NACK_DELAY_MS_MAX};

/// The changes of a queue's filter and delay that are remembered: the oldest is forgotten, and the one after it is taken for
/// what it was about.
const RULES_MAX: usize = 16;

/// What holds of the records from some offsets on: a change never acts back.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueRule {
    /// From which offset on, by partition; partitions beyond the list: from their first.
    pub from: Vec<u64>,
    /// The filter; empty: all.
    pub filter: String,
    /// The delay, in milliseconds.
    pub delay_ms: u64,
}

/// A queue as the catalog knows it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its stream's number.
    pub stream: u64,
    /// Its settings.
    pub config: QueueConfig,
    /// Filters and delays, the oldest first.
    pub rules: Vec<QueueRule>,
    /// Raised by each purge and seek.
    pub epoch: u32,
    /// Where it begins under this epoch, by partition; partitions beyond the list: at their first offset.
    pub floors: Vec<u64>,
    /// The epoch began with a purge: what was open then is counted.
    pub is_purge: bool,
    /// Nothing is delivered.
    pub is_paused: bool,
    /// When it was made, Unix ms.
    pub created_ms: i64,
}

impl QueueEntry {
    /// Its number.
    pub fn id(&self) -> QueueId {
        QueueId(self.id)
    }

    /// Where it begins in a partition.
    pub fn floor(&self, partition: u32) -> u64 {
        self.floors.get(partition as usize).copied().unwrap_or(0)
    }
}

/// What the catalog is asked about queues.
#[derive(Debug, Clone)]
pub enum QueueInput {
    /// Make a queue.
    Create {
        /// Its name.
        name: String,
        /// Its stream's name.
        stream: String,
        /// Its settings.
        config: QueueConfig,
        /// Where it begins, by partition.
        starts: Vec<u64>,
        /// The time.
        now: Timestamp,
    },
    /// Give it other settings; its ordering stays.
    Update {
        /// Its name.
        name: String,
        /// Its settings.
        config: QueueConfig,
        /// From which offset on another filter or delay holds, by partition.
        from: Vec<u64>,
    },
    /// Begin anew elsewhere.
    Move {
        /// Its name.
        name: String,
        /// Where, by partition.
        floors: Vec<u64>,
        /// What was open is purged.
        is_purge: bool,
    },
    /// Deliver nothing, or again.
    Pause {
        /// Its name.
        name: String,
        /// Nothing.
        is_paused: bool,
    },
    /// Delete it.
    Delete {
        /// Its name.
        name: String,
    },
    /// All that a deleted queue stored is gone.
    FilesRemoved {
        /// Its number.
        id: QueueId,
    },
    /// About a redrive.
    Redrive(RedriveInput),
}

/// What happened to a queue. The layout is fixed: a new one is a new type under a new version byte.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum QueueEvent {
    /// It was made.
    Created(QueueEntry),
    /// It has other settings.
    Updated {
        /// Its number.
        id: u64,
        /// Its settings.
        config: QueueConfig,
        /// Another filter or delay, if there is.
        rule: Option<QueueRule>,
    },
    /// It begins anew.
    Moved {
        /// Its number.
        id: u64,
        /// The new epoch.
        epoch: u32,
        /// Where, by partition.
        floors: Vec<u64>,
        /// What was open is purged.
        is_purge: bool,
    },
    /// It delivers nothing, or again.
    Paused {
        /// Its number.
        id: u64,
        /// Nothing.
        is_paused: bool,
    },
    /// It was deleted; what it stored may still be there.
    Deleted {
        /// Its number.
        id: u64,
    },
    /// What it stored is gone.
    Removed {
        /// Its number.
        id: u64,
    },
    /// To a redrive of it.
    Redrive(RedriveEvent),
}

/// The queues, by name, and the deleted ones whose events may still be there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Queues {
    pub by_name: BTreeMap<String, QueueEntry>,
    pub leaving: BTreeSet<u64>,
    /// The newest redrive of each queue, by the queue's number.
    pub redrives: BTreeMap<u64, RedriveEntry>,
}

impl Queues {
    pub fn find(&self, name: &str) -> Result<&QueueEntry, BrokerError> {
        self.by_name.get(name).ok_or_else(|| BrokerError::UnknownQueue(name.to_owned()))
    }

    fn by_id(&mut self, id: u64) -> Option<&mut QueueEntry> {
        self.by_name.values_mut().find(|queue| queue.id == id)
    }

    /// A queue that reads the stream, or sends its dead there.
    pub fn user_of(&self, stream: &str, id: StreamId) -> Option<&QueueEntry> {
        let uses = |queue: &&QueueEntry| queue.stream == id.0 || queue.config.dead_letter.as_deref() == Some(stream);
        let redrives_to = |queue: &&QueueEntry| {
            self.redrives.get(&queue.id).is_some_and(|redrive| {
                redrive.status == RedriveStatus::Running && redrive.to == RedriveTo::Stream(stream.to_owned())
            })
        };
        self.by_name.values().find(uses).or_else(|| self.by_name.values().find(redrives_to))
    }

    pub fn apply(&mut self, event: &QueueEvent) {
        match event {
            QueueEvent::Created(entry) => drop(self.by_name.insert(entry.name.clone(), entry.clone())),
            QueueEvent::Updated { id, config, rule } => {
                if let Some(queue) = self.by_id(*id) {
                    queue.config = config.clone();
                    queue.rules.extend(rule.clone());
                    let surplus = queue.rules.len().saturating_sub(RULES_MAX);
                    queue.rules.drain(..surplus);
                }
            }
            QueueEvent::Moved { id, epoch, floors, is_purge } => {
                if let Some(queue) = self.by_id(*id) {
                    (queue.epoch, queue.floors, queue.is_purge) = (*epoch, floors.clone(), *is_purge);
                }
            }
            QueueEvent::Paused { id, is_paused } => {
                if let Some(queue) = self.by_id(*id) {
                    queue.is_paused = *is_paused;
                }
            }
            QueueEvent::Deleted { id } => {
                self.by_name.retain(|_, queue| queue.id != *id);
                self.leaving.insert(*id);
                self.redrives.remove(id);
            }
            QueueEvent::Removed { id } => {
                self.leaving.remove(id);
            }
            QueueEvent::Redrive(RedriveEvent::Began(entry)) => {
                self.redrives.insert(entry.queue, entry.clone());
            }
            QueueEvent::Redrive(RedriveEvent::Went { queue, id, positions, copied, counts }) => {
                if let Some(known) = self.redrives.get_mut(queue).filter(|known| known.id == *id) {
                    (known.positions, known.copied) = (positions.clone(), copied.clone());
                    known.counts = *counts;
                }
            }
            QueueEvent::Redrive(RedriveEvent::Ended { queue, status }) => {
                if let Some(known) = self.redrives.get_mut(queue) {
                    known.status = *status;
                }
            }
        }
    }
}

impl Catalog {
    pub(super) fn step_queue(&self, input: QueueInput) -> Result<Vec<Event>, BrokerError> {
        let event = match input {
            QueueInput::Create { name, stream, config, starts, now } => {
                return self.create_queue(name, &stream, config, starts, now);
            }
            QueueInput::Update { name, config, from } => self.update_queue(&name, config, from)?,
            QueueInput::Move { name, floors, is_purge } => {
                let queue = self.queues.find(&name)?;
                QueueEvent::Moved { id: queue.id, epoch: queue.epoch + 1, floors, is_purge }
            }
            QueueInput::Pause { name, is_paused } => {
                let queue = self.queues.find(&name)?;
                if queue.is_paused == is_paused {
                    return Ok(Vec::new());
                }
                QueueEvent::Paused { id: queue.id, is_paused }
            }
            QueueInput::Delete { name } => QueueEvent::Deleted { id: self.queues.find(&name)?.id },
            QueueInput::FilesRemoved { id } => match self.queues.leaving.contains(&id.0) {
                true => QueueEvent::Removed { id: id.0 },
                false => return Ok(Vec::new()),
            },
            QueueInput::Redrive(input) => return self.step_redrive(input),
        };
        Ok(vec![Event::Queue(event)])
    }

    fn create_queue(
        &self,
        name: String,
        stream: &str,
        config: QueueConfig,
        starts: Vec<u64>,
        now: Timestamp,
    ) -> Result<Vec<Event>, BrokerError> {
        check_name(&name)?;
        self.check_queue(stream, &config)?;
        if self.queues.by_name.contains_key(&name) {
            return Err(BrokerError::QueueExists(name));
        }
        range("the number of queues", self.queues.by_name.len() as u64 + 1, 1..=QUEUES_MAX as u64)?;
        let id = self.next_id().0;
        let stream = self.streams[stream].id.0;
        let rule = QueueRule { from: Vec::new(), filter: config.filter.clone(), delay_ms: config.delay_ms };
        let entry = QueueEntry {
            id,
            name,
            stream,
            config,
            rules: vec![rule],
            epoch: 1,
            floors: starts,
            is_purge: false,
            is_paused: false,
            created_ms: now.0,
        };
        Ok(vec![Event::Queue(QueueEvent::Created(entry))])
    }

    fn update_queue(&self, name: &str, config: QueueConfig, from: Vec<u64>) -> Result<QueueEvent, BrokerError> {
        let queue = self.queues.find(name)?;
        let stream = self.streams.iter().find(|(_, stream)| stream.id.0 == queue.stream).map(|(name, _)| name.as_str());
        self.check_queue(stream.unwrap_or_default(), &config)?;
        let is_fifo = |ordering| matches!(ordering, QueueOrdering::Fifo { .. });
        if is_fifo(config.ordering) != is_fifo(queue.config.ordering) {
            return Err(BrokerError::IllegalSetting {
                setting: "a queue's ordering",
                value: "another one".to_owned(),
                legal: "the one it was made with: make another queue, which may begin where this one stands".to_owned(),
            });
        }
        if queue.config.dead_letter.is_some() && queue.config.dead_letter != config.dead_letter {
            return Err(BrokerError::IllegalSetting {
                setting: "a queue's dead-letter stream",
                value: config.dead_letter.unwrap_or_else(|| "none".to_owned()),
                legal: "the one it has: what is on its way there must arrive once".to_owned(),
            });
        }
        let is_same = config.filter == queue.config.filter && config.delay_ms == queue.config.delay_ms;
        let rule = QueueRule { from, filter: config.filter.clone(), delay_ms: config.delay_ms };
        Ok(QueueEvent::Updated { id: queue.id, config, rule: (!is_same).then_some(rule) })
    }

    fn check_queue(&self, stream: &str, config: &QueueConfig) -> Result<(), BrokerError> {
        let Some(entry) = self.streams.get(stream) else { return Err(BrokerError::UnknownStream(stream.to_owned())) };
        range("the length of a filter", config.filter.len() as u64, 0..=FILTER_BYTES_MAX as u64)?;
        if config.visibility_ms > VISIBILITY_MS_MAX {
            return Err(BrokerError::VisibilityOutOfRange(config.visibility_ms));
        }
        range("delay_ms", config.delay_ms, 0..=QUEUE_DELAY_MS_MAX)?;
        range("backoff max_ms", config.backoff.max_ms, 0..=NACK_DELAY_MS_MAX)?;
        range("backoff min_ms", config.backoff.min_ms, 0..=config.backoff.max_ms)?;
        range("backoff factor_percent", u64::from(config.backoff.factor_percent), 100..=1_000)?;
        range("in_flight_max", u64::from(config.in_flight_max), 1..=10_000_000)?;
        range("receiver_in_flight_max", u64::from(config.receiver_in_flight_max), 1..=1_000_000)?;
        if let Some(grace) = config.disconnect_grace_ms {
            range("disconnect_grace_ms", grace, 0..=VISIBILITY_MS_MAX)?;
        }
        if let Some(ttl) = config.ttl_ms {
            range("ttl_ms", ttl, 1..=i64::MAX as u64)?;
        }
        if let Some(receives) = config.max_receives {
            range("max_receives", u64::from(receives), 1..=1_000)?;
        }
        let has_dead_letter = config.dead_letter.is_some();
        if let QueueOrdering::Fifo { group_batch, .. } = config.ordering {
            range("group_batch", u64::from(group_batch), 1..=u64::from(GROUP_BATCH_MAX))?;
            if !has_dead_letter && !entry.config.is_compacted() {
                return Err(BrokerError::NoDeadLetter("a FIFO queue, for records without a key,"));
            }
        }
        let parks = matches!(
            config.ordering,
            QueueOrdering::Fifo { on_dead: millstream_protocol::frame::queue::OnDead::Park, .. }
        );
        if config.max_receives.is_some() && !has_dead_letter && !parks {
            return Err(BrokerError::NoDeadLetter("max_receives"));
        }
        if config.keeps_expired && !has_dead_letter {
            return Err(BrokerError::NoDeadLetter("keeps_expired"));
        }
        match &config.dead_letter {
            Some(dead_letter) => self.check_dead_letter(stream, dead_letter),
            None => Ok(()),
        }
    }

    /// Whether the dead letters of a queue on `stream` may go to `dead_letter`: no way leads back over other queues.
    fn check_dead_letter(&self, stream: &str, dead_letter: &str) -> Result<(), BrokerError> {
        if !self.streams.contains_key(dead_letter) {
            return Err(BrokerError::UnknownStream(dead_letter.to_owned()));
        }
        let name_of = |id: u64| self.streams.iter().find(|(_, entry)| entry.id.0 == id).map(|(name, _)| name.as_str());
        // The streams that a dead letter may come to, each with the way there.
        let mut ways: Vec<Vec<&str>> = vec![vec![stream, dead_letter]];
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        while let Some(way) = ways.pop() {
            let at = way.last().copied().unwrap_or_default();
            if at == stream {
                return Err(BrokerError::DeadLetterCycle {
                    stream: stream.to_owned(),
                    dead_letter: dead_letter.to_owned(),
                    path: way.join(" → "),
                });
            }
            if !seen.insert(at) {
                continue;
            }
            let on = self.queues.by_name.values().filter(|queue| name_of(queue.stream) == Some(at));
            for next in on.filter_map(|queue| queue.config.dead_letter.as_deref()) {
                ways.push(way.iter().copied().chain([next]).collect());
            }
        }
        Ok(())
    }

    /// The queues, by name.
    pub fn queues(&self) -> impl Iterator<Item = &QueueEntry> {
        self.queues.by_name.values()
    }

    /// The queue of that name.
    ///
    /// # Errors
    /// [`BrokerError::UnknownQueue`].
    pub fn queue(&self, name: &str) -> Result<&QueueEntry, BrokerError> {
        self.queues.find(name)
    }

    /// Deleted queues whose events may still be there.
    pub fn leaving_queues(&self) -> impl Iterator<Item = QueueId> {
        self.queues.leaving.iter().copied().map(QueueId)
    }
}
