//! The catalog's events and snapshots as bytes: rkyv archives under a version byte.

use millstream_log::Machine;
use millstream_protocol::frame::control::{LakeConfig, StreamConfig};
use millstream_protocol::{Incarnation, LakeId, StreamId, Timestamp};
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::queues::{QueueEntry, Queues};
use super::redrives::RedriveEntry;
use super::state::{Catalog, Event, LakeEntry, StreamEntry};

const VERSION: u8 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct StreamImage {
    id: u64,
    name: String,
    config: StreamConfig,
    created_ms: i64,
    incarnations: Vec<u64>,
}

#[derive(Archive, Serialize, Deserialize)]
struct LakeImage {
    id: u64,
    config: LakeConfig,
}

#[derive(Archive, Serialize, Deserialize)]
struct ProducerImage {
    name: String,
    id: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct Image {
    last_id: u64,
    streams: Vec<StreamImage>,
    lakes: Vec<LakeImage>,
    leaving: Vec<u64>,
    producers: Vec<ProducerImage>,
    queues: Vec<QueueEntry>,
    leaving_queues: Vec<u64>,
    redrives: Vec<RedriveEntry>,
}

impl Machine for Catalog {
    type Event = Event;

    fn apply(&mut self, event: &Event) {
        Catalog::apply(self, event);
    }

    fn encode_event(event: &Event) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Error>(event).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_event(bytes: &[u8]) -> Result<Event, String> {
        rkyv::from_bytes::<Event, rancor::Error>(versioned(bytes)?).map_err(|error| error.to_string())
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let streams = self.streams.iter().map(|(name, stream)| StreamImage {
            id: stream.id.0,
            name: name.clone(),
            config: stream.config.clone(),
            created_ms: stream.created.0,
            incarnations: stream.incarnations.iter().map(|incarnation| incarnation.0).collect(),
        });
        let lakes = self.lakes.values().map(|lake| LakeImage { id: lake.id.0, config: lake.config.clone() });
        let image = Image {
            last_id: self.last_id,
            streams: streams.collect(),
            lakes: lakes.collect(),
            leaving: self.leaving.iter().copied().collect(),
            queues: self.queues.by_name.values().cloned().collect(),
            leaving_queues: self.queues.leaving.iter().copied().collect(),
            redrives: self.queues.redrives.values().cloned().collect(),
            producers: self.producers.iter().map(|(name, id)| ProducerImage { name: name.clone(), id: *id }).collect(),
        };
        let archive = rkyv::to_bytes::<rancor::Error>(&image).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String> {
        let image = rkyv::from_bytes::<Image, rancor::Error>(versioned(bytes)?).map_err(|error| error.to_string())?;
        let streams = image.streams.into_iter().map(|stream| {
            let entry = StreamEntry {
                id: StreamId(stream.id),
                config: stream.config,
                created: Timestamp(stream.created_ms),
                incarnations: stream.incarnations.into_iter().map(Incarnation).collect(),
            };
            (stream.name, entry)
        });
        let lakes = image
            .lakes
            .into_iter()
            .map(|lake| (lake.config.name.clone(), LakeEntry { id: LakeId(lake.id), config: lake.config }));
        Ok(Catalog {
            last_id: image.last_id,
            streams: streams.collect(),
            lakes: lakes.collect(),
            leaving: image.leaving.into_iter().collect(),
            queues: Queues {
                by_name: image.queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect(),
                leaving: image.leaving_queues.into_iter().collect(),
                redrives: image.redrives.into_iter().map(|redrive| (redrive.queue, redrive)).collect(),
            },
            producers: image.producers.into_iter().map(|producer| (producer.name, producer.id)).collect(),
        })
    }
}

fn versioned(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((&VERSION, archive)) => Ok(archive),
        Some((version, _)) => Err(format!("version {version} is newer than this program")),
        None => Err("no bytes".to_owned()),
    }
}
