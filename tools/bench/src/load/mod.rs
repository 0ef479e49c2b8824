//! A load: all that a run is told, as data. Scenarios and workloads are nothing but loads with other defaults; a run's result
//! holds its load, so that it can be repeated.
//!
//! - `flags`: the same settings as flags. `duration`: how times are written. `workloads`: the named ones.
//! - `pace`: when records are due. `keys`, `zipf`, `payload`, `random`: what they are.

pub mod duration;
pub mod flags;
pub mod keys;
pub mod pace;
pub mod payload;
mod random;
pub mod workloads;
mod zipf;

use clap::ValueEnum;
use millstream_client::{ByteSize, Codec, Durability, StreamConfig};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::stamp::STAMP_BYTES;
use duration::Time;
use keys::Keys;
use payload::Payload;

/// Of a stream that nobody said anything about.
const PARTITIONS_DEFAULT: u32 = 4;

/// What is done with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Send, and wait for each ack.
    Produce,
    /// Read a stream from its beginning to its end.
    Consume,
    /// Send, and read at the tail.
    EndToEnd,
    /// Send jobs, and work on them: each is acknowledged.
    Queue,
    /// Send, and have several subscribers read everything.
    FanOut,
    /// Send, and have the members of a group share the partitions.
    Group,
    /// Send, while a lake lands it.
    Lake,
    /// Send, read at the tail and work on a queue, at once.
    Mixed,
}

impl Scenario {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Produce => "produce",
            Scenario::Consume => "consume",
            Scenario::EndToEnd => "end-to-end",
            Scenario::Queue => "queue",
            Scenario::FanOut => "fan-out",
            Scenario::Group => "group",
            Scenario::Lake => "lake",
            Scenario::Mixed => "mixed",
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

impl From<Compression> for Codec {
    fn from(choice: Compression) -> Self {
        match choice {
            Compression::None => Codec::None,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }
}

/// What an ack means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acks {
    /// The record is on the disk.
    #[default]
    Synced,
    /// The record is in the system's page cache.
    Written,
}

/// Where the load goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A server, over the network.
    #[default]
    Server,
    /// A server that this program starts, over loopback.
    OwnServer,
    /// The engine in this program, without a network.
    Engine,
}

/// All that a run is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// What is done.
    pub scenario: Scenario,
    /// Where.
    pub place: Place,
    /// The stream; `None`: one of the run's own, deleted at the end.
    pub stream: Option<String>,
    /// Whether what the run makes stays.
    pub keep: bool,
    /// Of the stream; `None`: as it is there, or 4. In a result: what it had.
    pub partitions: Option<u32>,
    /// Of the stream, if it is made.
    pub durability: Acks,
    /// How many send.
    pub producers: u32,
    /// How many share the partitions of each subscriber.
    pub consumers: u32,
    /// How many read everything at the tail.
    pub subscribers: u32,
    /// How many are in the group.
    pub members: u32,
    /// How many queues are on the stream.
    pub queues: u32,
    /// How many work on each queue.
    pub workers: u32,
    /// Over how many connections all of them come; 0: one each.
    pub connections: u32,
    /// Records a second over all producers; `None`: as fast as they are taken.
    pub rate: Option<f64>,
    /// Before anything is counted.
    pub warm_up: Time,
    /// How long it is counted; `None`: by records.
    pub duration: Option<Time>,
    /// How many records are sent and counted, over all producers.
    pub records: Option<u64>,
    /// Records that are there before anyone reads.
    pub backlog: Option<u64>,
    /// Records sent and not yet read by all, at most.
    pub outstanding: Option<u32>,
    /// The size of a value.
    pub record_size: u64,
    /// What values are made of.
    pub payload: Payload,
    /// Which keys records have.
    pub keys: Keys,
    /// When a batch is full; `None`: as the client says.
    pub batch_size: Option<u64>,
    /// How long a record waits for others; `None`: as the client says.
    pub linger: Option<Time>,
    /// How many batches may wait for their acks; `None`: as the client says.
    pub in_flight: Option<u32>,
    /// Each record waits for the ack of the one before.
    pub one_at_a_time: bool,
    /// How batches are compressed.
    pub compression: Compression,
    /// Whether queues keep the order of each key.
    pub fifo: bool,
    /// Messages that a worker may have unsettled.
    pub window: u32,
    /// How old the records of a lake's file may be.
    pub roll_age: Time,
    /// Where the lake lands; `None`: in a directory of the run's own, deleted at the end.
    pub lake_url: Option<String>,
    /// Whether what is read is compared with what was sent.
    pub verify: bool,
    /// How long readers may take for what was sent, after the last was.
    pub drain_timeout: Time,
    /// Where random numbers begin.
    pub seed: u64,
}

impl Load {
    /// A scenario as it is without flags.
    pub fn of(scenario: Scenario) -> Self {
        let mut load = Self {
            scenario,
            place: Place::default(),
            stream: None,
            keep: false,
            partitions: None,
            durability: Acks::default(),
            producers: 1,
            consumers: 1,
            subscribers: 0,
            members: 0,
            queues: 0,
            workers: 1,
            connections: 0,
            rate: None,
            warm_up: Time::seconds(1),
            duration: Some(Time::seconds(10)),
            records: None,
            backlog: None,
            outstanding: None,
            record_size: 1_024,
            payload: Payload::default(),
            keys: Keys::default(),
            batch_size: None,
            linger: None,
            in_flight: None,
            one_at_a_time: false,
            compression: Compression::default(),
            fifo: false,
            window: 1_000,
            roll_age: Time::seconds(10),
            lake_url: None,
            verify: true,
            drain_timeout: Time::seconds(60),
            seed: 1,
        };
        match scenario {
            Scenario::Produce => {}
            Scenario::Consume => {
                (load.subscribers, load.warm_up, load.duration) = (1, Time::seconds(0), None);
                load.backlog = Some(1_000_000);
            }
            Scenario::EndToEnd => load.subscribers = 1,
            Scenario::Queue => {
                (load.queues, load.producers, load.outstanding) = (1, 2, Some(50_000));
            }
            Scenario::FanOut => load.subscribers = 3,
            Scenario::Group => load.members = 4,
            Scenario::Lake => load.rate = Some(1_000.0),
            Scenario::Mixed => {
                (load.subscribers, load.queues, load.outstanding) = (1, 1, Some(50_000));
            }
        }
        load
    }

    /// Whether anyone reads.
    pub fn has_readers(&self) -> bool {
        self.subscribers + self.members + self.queues > 0
    }

    /// How many see each record: what is outstanding waits for all of them.
    pub fn readers_of_each(&self) -> u32 {
        self.subscribers + self.queues + u32::from(self.members > 0)
    }

    /// Whether records carry stamps.
    pub fn is_stamped(&self) -> bool {
        matches!(self.payload, Payload::File(_)) || self.record_size >= STAMP_BYTES as u64
    }

    /// Whether producers send while it is counted: not when only a backlog is read.
    pub fn sends(&self) -> bool {
        self.scenario != Scenario::Consume
    }

    /// The stream that it makes.
    pub fn stream_config(&self) -> StreamConfig {
        let durability = match self.durability {
            Acks::Synced => Durability::Synced,
            Acks::Written => Durability::Written,
        };
        let default = StreamConfig::default();
        let record_bytes_max =
            default.record_bytes_max.max(u32::try_from(self.record_size + 4_096).unwrap_or(u32::MAX));
        StreamConfig { durability, record_bytes_max, ..default }
    }

    /// How many partitions the stream is made with.
    pub fn partitions(&self) -> u32 {
        self.partitions.unwrap_or(PARTITIONS_DEFAULT)
    }

    /// Refuses more consumers than there are partitions.
    pub fn check_consumers(&self, partitions: u32) -> Result<(), Failure> {
        if self.subscribers == 0 || self.consumers <= partitions {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{} consumers cannot share {partitions} partition(s), each reads whole ones: raise --partitions, or use fan-out, \
             where each subscriber reads everything",
            self.consumers
        )))
    }

    /// Refuses what contradicts itself.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::usage(text));
        if self.stream.is_none() {
            self.check_consumers(self.partitions())?;
        }
        if self.record_size > ByteSize::mib(7).bytes() {
            return refuse(format!("records of {}: use up to 7 MiB", ByteSize(self.record_size)));
        }
        if self.fifo && self.keys == Keys::None {
            return refuse(
                "--fifo keeps the order of each key, and there are none: give --keys, for example uniform:1000"
                    .to_owned(),
            );
        }
        if self.one_at_a_time && self.rate.is_some() {
            return refuse(
                "--one-at-a-time sends when the last ack has come, and not at a --rate: give one of them".to_owned(),
            );
        }
        if self.scenario == Scenario::Lake && self.place == Place::Engine {
            return refuse("--in-process has no lakes, they are the server's: use --start-server".to_owned());
        }
        if self.place == Place::Engine && self.members > 0 {
            return refuse("--in-process has no groups' clients: use --start-server".to_owned());
        }
        if self.place == Place::Engine && self.stream.is_some() {
            return refuse("--in-process makes its own data directory: there is no --stream in it".to_owned());
        }
        if self.scenario == Scenario::Consume && self.rate.is_some() {
            return refuse("consume reads what is there, nothing is sent at a --rate: use end-to-end".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_survives_json_whole() {
        let mut load = Load::of(Scenario::Queue);
        (load.keys, load.rate, load.linger) = (Keys::Zipf(10, 0.9), Some(12.5), Some(Time::millis(5)));
        let json = serde_json::to_string(&load).expect("it serializes");
        assert_eq!(serde_json::from_str::<Load>(&json).expect("it reads back"), load);
    }

    #[test]
    fn every_scenario_is_legal_as_it_comes() {
        use Scenario::{Consume, EndToEnd, FanOut, Group, Lake, Mixed, Produce, Queue};
        for scenario in [Produce, Consume, EndToEnd, Queue, FanOut, Group, Lake, Mixed] {
            assert!(Load::of(scenario).check().is_ok(), "{}", scenario.name());
        }
    }

    #[test]
    fn contradictions_are_named_with_what_to_do() {
        let refused = |change: fn(&mut Load)| {
            let mut load = Load::of(Scenario::EndToEnd);
            change(&mut load);
            load.check().expect_err("refused").text
        };
        assert!(refused(|load| load.consumers = 5).contains("raise --partitions"));
        assert!(refused(|load| load.fifo = true).contains("--keys"));
        assert!(refused(|load| load.record_size = 8 << 20).contains("8 MiB"));
        assert!(refused(|load| (load.place, load.members) = (Place::Engine, 1)).contains("--start-server"));
    }
}
