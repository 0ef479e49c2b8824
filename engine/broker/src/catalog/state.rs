//! The machine.

use std::collections::{BTreeMap, BTreeSet};

use millstream_protocol::frame::control::{Cleanup, LakeConfig, StreamConfig};
use millstream_protocol::limits::{DELAY_MS_MAX, LAKES_MAX, PARTITIONS_MAX, PRODUCER_NAMES_MAX, RECORD_BYTES_MAX};
use millstream_protocol::names::check_name;
use millstream_protocol::{Incarnation, LakeId, ProducerId, StreamId, Timestamp};
use rkyv::{Archive, Deserialize, Serialize};

use super::lakes::check_lake;
use super::queues::{QueueEvent, QueueInput, Queues};
use super::redrives::RedriveEvent;
use crate::error::BrokerError;

const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;
const RETENTION_MS_MIN: u64 = 1_000;
const DEDUP_WINDOW_MS: std::ops::RangeInclusive<u64> = 1_000..=24 * 60 * 60 * 1_000;
/// Bounds the catalog's memory and the start's work.
const STREAMS_MAX: usize = 100_000;

/// A stream as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// Its number.
    pub id: StreamId,
    /// Its settings.
    pub config: StreamConfig,
    /// When it was made.
    pub created: Timestamp,
    /// Its partitions' incarnations, in order.
    pub incarnations: Vec<Incarnation>,
}

/// A lake as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeEntry {
    /// Its number.
    pub id: LakeId,
    /// Its settings.
    pub config: LakeConfig,
}

/// What the catalog is asked.
#[derive(Debug, Clone)]
pub enum Input {
    /// The server starts.
    Start {
        /// The time.
        now: Timestamp,
    },
    /// Make a stream.
    CreateStream {
        /// Its name.
        name: String,
        /// Its settings.
        config: StreamConfig,
        /// Random numbers for its partitions, one each.
        incarnations: Vec<Incarnation>,
        /// The time.
        now: Timestamp,
    },
    /// Delete a stream.
    DeleteStream {
        /// Its name.
        name: String,
    },
    /// A deleted stream's files are gone.
    StreamFilesRemoved {
        /// Its number.
        id: StreamId,
    },
    /// Add a lake.
    CreateLake {
        /// Its settings.
        config: LakeConfig,
    },
    /// Change a lake's settings.
    AlterLake {
        /// Its settings, with the name of one that is there.
        config: LakeConfig,
    },
    /// Remove a lake.
    RemoveLake {
        /// Its name.
        name: String,
    },
    /// About a queue.
    Queue(QueueInput),
    /// Give a name's producer a new id, in the place of the one before.
    NameProducer {
        /// The name.
        name: String,
        /// The id, which rises from naming to naming.
        id: ProducerId,
    },
}

/// What happened. The layout is fixed: a new one is a new type under a new version byte.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server started.
    Started {
        /// When, Unix ms.
        at_ms: i64,
    },
    /// A stream was made.
    StreamCreated {
        /// Its number.
        id: u64,
        /// Its name.
        name: String,
        /// Its settings.
        config: StreamConfig,
        /// When, Unix ms.
        created_ms: i64,
        /// Its partitions' incarnations, in order.
        incarnations: Vec<u64>,
    },
    /// A stream was deleted; its files may still be there.
    StreamDeleted {
        /// Its number.
        id: u64,
    },
    /// A deleted stream's files are gone.
    StreamRemoved {
        /// Its number.
        id: u64,
    },
    /// A lake was added.
    LakeCreated {
        /// Its number.
        id: u64,
        /// Its settings.
        config: LakeConfig,
    },
    /// A lake was removed.
    LakeRemoved {
        /// Its number.
        id: u64,
    },
    /// To a queue.
    Queue(QueueEvent),
    /// A name's producer has a new id.
    ProducerNamed {
        /// The name.
        name: String,
        /// The id.
        id: u64,
        /// The name that is forgotten, so that there are not too many: the one named longest ago.
        forgotten: Option<String>,
    },
    /// A lake has other settings.
    LakeAltered {
        /// Its number.
        id: u64,
        /// Its settings.
        config: LakeConfig,
    },
}

/// The state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The last number given out.
    pub(super) last_id: u64,
    pub(super) streams: BTreeMap<String, StreamEntry>,
    pub(super) lakes: BTreeMap<String, LakeEntry>,
    pub(super) queues: Queues,
    /// Deleted streams whose files may still be there.
    pub(super) leaving: BTreeSet<u64>,
    /// The current ids of named producers.
    pub(super) producers: BTreeMap<String, u64>,
}

impl Catalog {
    /// Decides.
    ///
    /// # Errors
    /// What is wrong with the input; nothing has changed.
    pub fn step(&self, input: Input) -> Result<Vec<Event>, BrokerError> {
        match input {
            Input::Start { now } => Ok(vec![Event::Started { at_ms: now.0 }]),
            Input::CreateStream { name, config, incarnations, now } => {
                self.create_stream(name, config, &incarnations, now)
            }
            Input::DeleteStream { name } => self.delete_stream(name),
            Input::StreamFilesRemoved { id } => {
                Ok(self.leaving.contains(&id.0).then_some(Event::StreamRemoved { id: id.0 }).into_iter().collect())
            }
            Input::CreateLake { config } => self.create_lake(config),
            Input::AlterLake { config } => self.alter_lake(config),
            Input::RemoveLake { name } => match self.lakes.get(&name) {
                Some(lake) => Ok(vec![Event::LakeRemoved { id: lake.id.0 }]),
                None => Err(BrokerError::UnknownLake(name)),
            },
            Input::Queue(input) => self.step_queue(input),
            Input::NameProducer { name, id } => {
                check_name(&name)?;
                let forgotten = self.producer_to_forget(&name).map(|(forgotten, _)| forgotten.to_owned());
                Ok(vec![Event::ProducerNamed { name, id: id.0, forgotten }])
            }
        }
    }

    fn create_stream(
        &self,
        name: String,
        config: StreamConfig,
        incarnations: &[Incarnation],
        now: Timestamp,
    ) -> Result<Vec<Event>, BrokerError> {
        check_name(&name)?;
        range("partitions", incarnations.len() as u64, 1..=u64::from(PARTITIONS_MAX))?;
        range("segment_bytes", config.segment_bytes, SEGMENT_BYTES)?;
        range("record_bytes_max", u64::from(config.record_bytes_max), 1..=RECORD_BYTES_MAX as u64)?;
        range("dedup_window_ms", u64::from(config.dedup_window_ms), DEDUP_WINDOW_MS)?;
        range("max_delay_ms", u64::from(config.max_delay_ms), 0..=u64::from(DELAY_MS_MAX))?;
        if let Some(age) = config.retention_ms {
            range("retention_ms", age, RETENTION_MS_MIN..=i64::MAX as u64)?;
        }
        if let Some(bytes) = config.retention_bytes {
            range("retention_bytes", bytes, 1..=u64::MAX)?;
        }
        if let Cleanup::Compact(compaction) = config.cleanup {
            range("delete_retention_ms", compaction.delete_retention_ms, 0..=i64::MAX as u64)?;
            range("min_compaction_lag_ms", compaction.min_compaction_lag_ms, 0..=i64::MAX as u64)?;
            none_if_compacted("retention_ms", config.retention_ms)?;
            none_if_compacted("retention_bytes", config.retention_bytes)?;
            if config.interest {
                let legal =
                    "false for a compacted stream, which keeps the latest value of each key for those who come later";
                let (value, legal) = ("true".to_owned(), legal.to_owned());
                return Err(BrokerError::IllegalSetting { setting: "interest", value, legal });
            }
        }
        if self.streams.contains_key(&name) {
            return Err(BrokerError::StreamExists(name));
        }
        range("the number of streams", self.streams.len() as u64 + 1, 1..=STREAMS_MAX as u64)?;
        let incarnations = incarnations.iter().map(|incarnation| incarnation.0).collect();
        let id = self.next_id().0;
        Ok(vec![Event::StreamCreated { id, name, config, created_ms: now.0, incarnations }])
    }

    fn delete_stream(&self, name: String) -> Result<Vec<Event>, BrokerError> {
        let Some(stream) = self.streams.get(&name) else { return Err(BrokerError::UnknownStream(name)) };
        let lake = self.lakes.values().find(|lake| lake.config.stream == name);
        let queue = self.queues.user_of(&name, stream.id);
        let by = lake.map(|lake| format!("lake '{}'", lake.config.name));
        match by.or_else(|| queue.map(|queue| format!("queue '{}'", queue.name))) {
            Some(by) => Err(BrokerError::StreamInUse { stream: name, by }),
            None => Ok(vec![Event::StreamDeleted { id: stream.id.0 }]),
        }
    }

    fn create_lake(&self, config: LakeConfig) -> Result<Vec<Event>, BrokerError> {
        check_lake(&config)?;
        if !self.streams.contains_key(&config.stream) {
            return Err(BrokerError::UnknownStream(config.stream));
        }
        if self.lakes.contains_key(&config.name) {
            return Err(BrokerError::LakeExists(config.name));
        }
        range("the number of lakes", self.lakes.len() as u64 + 1, 1..=LAKES_MAX as u64)?;
        Ok(vec![Event::LakeCreated { id: self.next_id().0, config }])
    }

    /// What a lake may become without landing twice is for who lands it; here it stays on its stream.
    fn alter_lake(&self, config: LakeConfig) -> Result<Vec<Event>, BrokerError> {
        check_lake(&config)?;
        let Some(lake) = self.lakes.get(&config.name) else { return Err(BrokerError::UnknownLake(config.name)) };
        if config.stream != lake.config.stream {
            let legal = format!("'{}': a lake stays on its stream", lake.config.stream);
            return Err(BrokerError::IllegalSetting { setting: "stream", value: config.stream, legal });
        }
        let is_new = config != lake.config;
        Ok(is_new.then_some(Event::LakeAltered { id: lake.id.0, config }).into_iter().collect())
    }

    /// Changes the state.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { .. } => {}
            Event::StreamCreated { id, name, config, created_ms, incarnations } => {
                self.last_id = self.last_id.max(*id);
                let entry = StreamEntry {
                    id: StreamId(*id),
                    config: config.clone(),
                    created: Timestamp(*created_ms),
                    incarnations: incarnations.iter().copied().map(Incarnation).collect(),
                };
                self.streams.insert(name.clone(), entry);
            }
            Event::StreamDeleted { id } => {
                self.streams.retain(|_, stream| stream.id.0 != *id);
                self.leaving.insert(*id);
            }
            Event::StreamRemoved { id } => {
                self.leaving.remove(id);
            }
            Event::LakeCreated { id, config } => {
                self.last_id = self.last_id.max(*id);
                self.lakes.insert(config.name.clone(), LakeEntry { id: LakeId(*id), config: config.clone() });
            }
            Event::LakeAltered { id, config } => {
                if let Some(lake) = self.lakes.get_mut(&config.name).filter(|lake| lake.id.0 == *id) {
                    lake.config = config.clone();
                }
            }
            Event::LakeRemoved { id } => self.lakes.retain(|_, lake| lake.id.0 != *id),
            Event::Queue(event) => {
                if let QueueEvent::Created(entry) = event {
                    self.last_id = self.last_id.max(entry.id);
                }
                if let QueueEvent::Redrive(RedriveEvent::Began(entry)) = event {
                    self.last_id = self.last_id.max(entry.id);
                }
                self.queues.apply(event);
            }
            Event::ProducerNamed { name, id, forgotten } => {
                if let Some(forgotten) = forgotten {
                    self.producers.remove(forgotten);
                }
                self.producers.insert(name.clone(), *id);
            }
        }
    }

    /// The number that the next stream, lake or queue gets.
    pub fn next_id(&self) -> StreamId {
        StreamId(self.last_id + 1)
    }

    /// Whether a number was given to a stream that is no more.
    pub fn was_given(&self, id: StreamId) -> bool {
        id.0 > 0 && id.0 <= self.last_id
    }

    /// The streams, by name.
    pub fn streams(&self) -> impl Iterator<Item = (&str, &StreamEntry)> {
        self.streams.iter().map(|(name, stream)| (name.as_str(), stream))
    }

    /// The lakes, by name.
    pub fn lakes(&self) -> impl Iterator<Item = &LakeEntry> {
        self.lakes.values()
    }

    /// The lake of that name.
    pub fn lake(&self, name: &str) -> Option<&LakeEntry> {
        self.lakes.get(name)
    }

    /// The named producers, by name, with their current ids.
    pub fn producers(&self) -> impl Iterator<Item = (&str, ProducerId)> {
        self.producers.iter().map(|(name, id)| (name.as_str(), ProducerId(*id)))
    }

    /// The current id of a name's producer.
    pub fn producer(&self, name: &str) -> Option<ProducerId> {
        self.producers.get(name).copied().map(ProducerId)
    }

    /// The name that has to go for another one, and its id: the one named longest ago, once there are as many as may be.
    pub fn producer_to_forget(&self, name: &str) -> Option<(&str, ProducerId)> {
        if self.producers.len() < PRODUCER_NAMES_MAX || self.producers.contains_key(name) {
            return None;
        }
        self.producers().min_by_key(|(_, id)| *id)
    }

    /// Deleted streams whose files may still be there.
    pub fn leaving(&self) -> impl Iterator<Item = StreamId> {
        self.leaving.iter().copied().map(StreamId)
    }
}

/// A limit that would delete the latest value of a key behind the back of who reads them all.
fn none_if_compacted(setting: &'static str, limit: Option<u64>) -> Result<(), BrokerError> {
    let Some(value) = limit else { return Ok(()) };
    let legal = "none for a compacted stream, where nothing goes by age or bytes".to_owned();
    Err(BrokerError::IllegalSetting { setting, value: value.to_string(), legal })
}

pub(super) fn range(
    setting: &'static str,
    value: u64,
    legal: std::ops::RangeInclusive<u64>,
) -> Result<(), BrokerError> {
    if legal.contains(&value) {
        return Ok(());
    }
    let legal = format!("{} to {}", legal.start(), legal.end());
    Err(BrokerError::IllegalSetting { setting, value: value.to_string(), legal })
}
