//! A consumer's settings, checked when it is built.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_protocol::frame::control::{ConsumeMode, Start as WireStart, StreamInfo};
use millstream_protocol::{Code, Incarnation, PartitionId, StreamId};
use tokio::sync::mpsc;

use super::Consumer;
use super::fetcher::Fetcher;
use super::intake::Intake;
use super::position::{Position, Positions, Start};
use super::source::{Budget, ITEMS_MAX, Source};
use crate::client::Client;
use crate::error::{Error, Result};

/// Settings of a [`Consumer`]; made by [`Client::consumer`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    client: Client,
    stream: String,
    start: Start,
    mode: ConsumeMode,
    partitions: Option<Vec<PartitionId>>,
    positions: Vec<Position>,
    prefetch_bytes: u32,
    reconnect_timeout: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, stream: String) -> Self {
        Self {
            client,
            stream,
            start: Start::Earliest,
            mode: ConsumeMode::Follow,
            partitions: None,
            positions: Vec::new(),
            prefetch_bytes: 8 << 20,
            reconnect_timeout: Duration::from_secs(120),
        }
    }

    /// Where to begin in every partition; default [`Start::Earliest`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Ends where the partitions' high watermarks stand when the consumer is built.
    pub fn bounded(mut self) -> Self {
        self.mode = ConsumeMode::Bounded;
        self
    }

    /// Never ends: waits for more. The default.
    pub fn follow(mut self) -> Self {
        self.mode = ConsumeMode::Follow;
        self
    }

    /// Only these partitions; default all.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = PartitionId>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Begins where an earlier consumer was ([`Consumer::positions`]): these partitions and no others, unless
    /// [`partitions`](Self::partitions) names them, each at its own start.
    pub fn positions(mut self, positions: impl IntoIterator<Item = Position>) -> Self {
        self.positions = positions.into_iter().collect();
        self
    }

    /// How many bytes of batches to read ahead of the application; default 8 MiB. It may be exceeded by what the
    /// transport holds (1 MiB), and a single larger frame passes.
    pub fn prefetch_bytes(mut self, bytes: u32) -> Self {
        self.prefetch_bytes = bytes;
        self
    }

    /// How long to go on trying after the connection was lost; default 120 s.
    pub fn reconnect_timeout(mut self, timeout: Duration) -> Self {
        self.reconnect_timeout = timeout;
        self
    }

    /// Looks the stream up and opens it. When it returns the positions are fixed: with [`Start::Latest`] everything
    /// appended from now on will come.
    ///
    /// # Errors
    /// [`Code::UnknownStream`], [`Code::UnknownPartition`]; [`Code::OffsetOutOfRange`]: a start above the end;
    /// those of the connection.
    pub async fn build(self) -> Result<Consumer> {
        let connection = self.client.connection().await?;
        let info = self.client.describe_stream(&self.stream).await?;
        let mut positions = Positions::new(self.mode, self.starts(&info)?);
        let source = Source {
            client: self.client,
            name: self.stream,
            id: StreamId(info.id),
            server_id: connection.server_id(),
            mode: self.mode,
        };
        drop(connection);
        let reader = source.open(&mut positions).await?;
        let of_application = positions.all().cloned().collect();
        let (items, fetched) = mpsc::channel(ITEMS_MAX);
        let fetcher = Fetcher {
            source,
            intake: Intake::new(positions),
            budget: Budget::new(self.prefetch_bytes),
            reconnect_timeout: self.reconnect_timeout,
            items,
        };
        let task = tokio::spawn(fetcher.run(reader));
        Ok(Consumer::new(fetched, of_application, task.abort_handle()))
    }

    /// The partitions wanted, in rising order, each with its start.
    fn starts(&self, info: &StreamInfo) -> Result<Vec<(PartitionId, Incarnation, WireStart)>> {
        let at = |position: &Position| {
            let epoch = position.epoch.map(|epoch| epoch.0);
            (position.partition.0, WireStart::Offset { offset: position.next.0, epoch })
        };
        let own: BTreeMap<u32, WireStart> = self.positions.iter().map(at).collect();
        let mut wanted: Vec<u32> = match &self.partitions {
            Some(partitions) => partitions.iter().map(|partition| partition.0).collect(),
            None if own.is_empty() => info.partitions.iter().map(|partition| partition.partition).collect(),
            None => own.keys().copied().collect(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Err(Error::local(Code::IllegalSetting, "a consumer of no partitions: name at least one"));
        }
        let start = |partition: u32| {
            let found = info.partitions.iter().find(|info| info.partition == partition).ok_or_else(|| {
                let count = info.partitions.len();
                let text = format!("stream {:?} has {count} partitions: there is no {partition}", info.name);
                Error::local(Code::UnknownPartition, text)
            })?;
            let start = own.get(&partition).copied().unwrap_or(self.start.wire());
            Ok((PartitionId(partition), Incarnation(found.incarnation), start))
        };
        wanted.into_iter().map(start).collect()
    }
}
