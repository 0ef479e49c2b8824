//! The engine in this process: the broker's in-process API, without network, TLS and client.
//!
//! What remains is what any program pays that embeds the engine: batches are built, appended, read and decoded. A batch goes
//! when it is full, or when its producer has nothing more to send for now.
//! - `sender`, `reader`, `jobs`: the three sides. Groups and lakes are the server's: there are none here.

mod jobs;
mod reader;
mod sender;

use std::sync::Arc;

use millstream_broker::{Broker, BrokerConfig, BrokerError};
use millstream_client::Client;
use millstream_protocol::PartitionId;
use millstream_protocol::frame::control::CreateMode;
use tempfile::TempDir;

use super::flags::TargetFlags;
use super::{From, StreamFacts, Target, queue_settings};
use crate::failure::Failure;
use crate::load::Load;

pub use jobs::EngineJobs;
pub use reader::EngineReader;
pub use sender::EngineSender;

/// An open broker. Its directory goes with it.
pub struct Engine {
    broker: Arc<Broker>,
    _dir: TempDir,
}

impl Engine {
    /// Opens it in a directory of its own.
    pub async fn open(target: &TargetFlags) -> Result<Self, Failure> {
        let dir = target.make_temp_dir()?;
        let config = BrokerConfig::new(dir.path().join("data"));
        let broker = blocking(move || Broker::open(config)).await?;
        Ok(Self { broker, _dir: dir })
    }
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await.expect("the engine does not panic")?)
}

impl Target for Engine {
    type Sender = EngineSender;
    type Reader = EngineReader;
    type Member = EngineReader;
    type Jobs = EngineJobs;

    async fn look(&self, stream: &str) -> Result<Option<StreamFacts>, Failure> {
        let info = match self.broker.stream(stream) {
            Ok(stream) => stream.info(),
            Err(BrokerError::UnknownStream(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(StreamFacts {
            partitions: info.partitions.len() as u32,
            records: info.partitions.iter().map(|partition| partition.high_watermark - partition.log_start).sum(),
            is_whole: info.partitions.iter().all(|partition| partition.log_start == 0),
        }))
    }

    async fn make_stream(&self, stream: &str, load: &Load) -> Result<(), Failure> {
        let (broker, stream) = (Arc::clone(&self.broker), stream.to_owned());
        let (partitions, config) = (load.partitions(), load.stream_config());
        blocking(move || broker.create_stream(&stream, partitions, config, CreateMode::Explicit)).await.map(drop)
    }

    async fn delete_stream(&self, stream: &str) -> Result<(), Failure> {
        let (broker, stream) = (Arc::clone(&self.broker), stream.to_owned());
        blocking(move || broker.delete_stream(&stream)).await
    }

    async fn make_queue(
        &self,
        queue: &str,
        stream: &str,
        from: From,
        dead_letter: Option<&str>,
    ) -> Result<(), Failure> {
        let (config, start) = queue_settings(from, dead_letter);
        let (broker, queue, stream) = (Arc::clone(&self.broker), queue.to_owned(), stream.to_owned());
        blocking(move || broker.create_queue(&queue, &stream, config, start)).await.map(drop)
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), Failure> {
        let (broker, queue) = (Arc::clone(&self.broker), queue.to_owned());
        blocking(move || broker.delete_queue(&queue)).await
    }

    async fn sender(&self, stream: &str, load: &Load) -> Result<EngineSender, Failure> {
        let stream = self.broker.stream(stream)?;
        let producer = self.broker.init_producer(None)?;
        EngineSender::new(&stream, producer, load)
    }

    async fn reader(&self, stream: &str, partitions: Vec<u32>, from: From) -> Result<EngineReader, Failure> {
        let stream = self.broker.stream(stream)?;
        let partitions = partitions.into_iter().map(|partition| stream.partition(PartitionId(partition)).cloned());
        Ok(EngineReader::new(partitions.collect::<Result<_, _>>()?, from))
    }

    async fn member(&self, _: &str, _: &str) -> Result<EngineReader, Failure> {
        Err(Failure::usage("--in-process has no groups' clients: use --start-server"))
    }

    async fn jobs(&self, queue: &str, load: &Load) -> Result<EngineJobs, Failure> {
        EngineJobs::open(self.broker.queue(queue)?, load.window)
    }

    fn client(&self) -> Result<&Client, Failure> {
        Err(Failure::usage("--in-process has no server: use --start-server"))
    }

    async fn close(self) {
        let broker = Arc::clone(&self.broker);
        // The directory goes: what does not close well is not missed.
        let _ = blocking(move || broker.close()).await;
    }
}
