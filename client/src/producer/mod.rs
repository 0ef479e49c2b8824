//! Sending records: batched, pipelined, in order, with a receipt for each.
//!
//! Idempotent: each batch is stored once, however often it is sent. The server remembers of each producer what it has.
//!
//! - `accumulator` (pure): which records share a batch. `partitioner` (pure): which partition they go to.
//! - `pipeline` (pure): what is sent next, what an answer means, what is sent again.
//! - `delivery`: a record's outcome. `shared`: the books between enqueue and outcome.
//! - `sender`: the background task that moves bytes.

mod accumulator;
mod dedup;
mod deliveries;
mod delivery;
mod partitioner;
mod pipeline;
mod sender;
mod shared;
mod stats;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::batch::Codec;
use millstream_protocol::frame::control::{StreamConfig, StreamInfo};
use millstream_protocol::limits::{BATCH_BYTES_MAX, PRODUCE_DEPTH_MAX};
use millstream_protocol::names::check_name;
use millstream_protocol::{ByteSize, Code, Incarnation, ProducerId, Record, StreamId};
use parking_lot::Mutex;

use crate::client::Client;
use crate::error::{Error, Result};
use accumulator::Accumulator;
use pipeline::Pipeline;
use shared::{Books, Enqueued, Shared};

pub use dedup::Dedup;
pub use deliveries::Deliveries;
pub use delivery::{Delivery, Receipt};
pub use partitioner::partition_of_key;
pub use stats::ProducerStats;

/// Settings of a [`Producer`]; made by [`Client::producer`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProducerBuilder {
    client: Client,
    stream: String,
    codec: Codec,
    batch_bytes: usize,
    linger: Duration,
    buffer_bytes: usize,
    depth: u32,
    delivery_timeout: Duration,
    idempotent: bool,
    name: Option<String>,
    dedup: Dedup,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, stream: String) -> Self {
        Self {
            client,
            stream,
            codec: Codec::None,
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            depth: 64,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
            name: None,
            dedup: Dedup::None,
        }
    }

    /// How batches are compressed. Default: not at all.
    ///
    /// Compressing a KiB of JSON costs 2 µs (lz4) or 3 µs (zstd) of this program's CPU, where sending it costs 1.5: it
    /// pays when the network or the server's disk is what is short, or when consumers read the data often. Then
    /// take [`Codec::Zstd`]: it packs JSON 2.7-fold, lz4 1.7-fold. A batch that would not shrink is sent as it is.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// When a batch is closed by its size, before compression: 1 KiB to 8 MiB, default 256 KiB. Larger ones cost
    /// less per record and compress better; each partition in use holds one in memory. A larger record has a batch
    /// of its own.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a batch waits for more records after its first; default 5 ms, 0 sends at once. Batches grow beyond
    /// it while the server is busy. It adds to the latency of a record that comes alone.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How many bytes may wait for their acknowledgement; default 32 MiB. Beyond it `enqueue` waits; it may be
    /// exceeded by one record. Unless it is empty, a batch is opened only where there is room for all of it: give it room
    /// for several.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How many batches to have in flight: 1 to 4096, default 64; the server may grant fewer. Order is kept at any
    /// depth.
    pub fn max_in_flight(mut self, batches: u32) -> Self {
        self.depth = batches;
        self
    }

    /// How long to go on trying for a record, from its enqueue; default 120 s. It covers refusals that a retry may
    /// help and lost connections.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Whether each batch is stored once, however often it has to be sent; default yes. Without it, what was in flight on
    /// a lost connection may be stored twice.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// A name for a producer of which there must be one: 1 to 128 bytes of `[a-z0-9._-]`, the server's for all streams. An
    /// earlier producer of that name, a process thought dead, say, is *fenced*: from when this one is built nothing more
    /// of it is stored, and it ends with [`Code::Fenced`]. Default: none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the dedup ids of records without one come from; default [`Dedup::None`].
    pub fn dedup(mut self, dedup: Dedup) -> Self {
        self.dedup = dedup;
        self
    }

    /// Looks the stream up, gets a producer id and starts the producer's background task.
    ///
    /// # Errors
    /// [`Code::UnknownStream`]; [`Code::IllegalSetting`], [`Code::IllegalName`]; [`Code::Unsupported`] by a server that knows
    /// no idempotent producers; those of the connection.
    pub async fn build(self) -> Result<Producer> {
        let settings = self.settings()?;
        let connection = self.client.connection().await?;
        let info = self.client.describe_stream(&self.stream).await?;
        let partitions = info.partitions.len() as u32;
        if partitions == 0 {
            return Err(Error::protocol("a stream without partitions"));
        }
        let target = Target::new(&info, connection.server_id());
        drop(connection);
        let producer = match self.idempotent {
            true => self.client.init_producer(self.name).await?,
            false => (ProducerId(0), 0),
        };
        // Producers that start together begin at different partitions.
        let seed = RandomState::new().hash_one(partitions);
        let accumulating =
            accumulator::Settings { codec: settings.codec, batch_bytes_target: self.batch_bytes, linger: self.linger };
        let shared = Arc::new(Shared {
            client: self.client,
            target,
            pipeline: Mutex::new(Pipeline::new(partitions, settings.depth, producer)),
            books: Mutex::new(Books::new(Accumulator::new(accumulating, partitions, seed))),
            settings,
            pack: Default::default(),
            write: Default::default(),
            reset: Default::default(),
            end: Default::default(),
            room: Default::default(),
        });
        tokio::spawn(sender::run(Arc::clone(&shared)));
        Ok(Producer { shared })
    }

    fn settings(&self) -> Result<Settings> {
        let illegal = |text: String| Err(Error::local(Code::IllegalSetting, text));
        if !(1 << 10..=BATCH_BYTES_MAX).contains(&self.batch_bytes) {
            return illegal(format!("batches of {}: use 1 KiB to 8 MiB", ByteSize(self.batch_bytes as u64)));
        }
        if !(1..=PRODUCE_DEPTH_MAX).contains(&self.depth) {
            return illegal(format!("{} batches in flight: use 1 to {PRODUCE_DEPTH_MAX}", self.depth));
        }
        if self.buffer_bytes == 0 || self.delivery_timeout.is_zero() {
            return illegal("a buffer or a delivery timeout of 0 would send nothing: raise it".to_owned());
        }
        if let Some(name) = &self.name {
            check_name(name).map_err(|error| Error::local_from(Code::IllegalName, error.to_string(), error))?;
            if !self.idempotent {
                return illegal("a producer that is not idempotent can fence no other: give it no name".to_owned());
            }
        }
        Ok(Settings {
            codec: self.codec,
            depth: self.depth,
            buffer_bytes: self.buffer_bytes,
            delivery_timeout: self.delivery_timeout,
            name: self.name.clone(),
            dedup: self.dedup,
        })
    }
}

/// What the background task goes by.
#[derive(Debug, Clone)]
struct Settings {
    codec: Codec,
    depth: u32,
    buffer_bytes: usize,
    delivery_timeout: Duration,
    name: Option<String>,
    dedup: Dedup,
}

/// The stream as it was found when the producer was built.
#[derive(Debug)]
struct Target {
    name: String,
    id: StreamId,
    incarnations: Vec<Incarnation>,
    server_id: u64,
    config: StreamConfig,
}

impl Target {
    fn new(info: &StreamInfo, server_id: u64) -> Self {
        Self {
            name: info.name.clone(),
            id: StreamId(info.id),
            incarnations: info.partitions.iter().map(|partition| Incarnation(partition.incarnation)).collect(),
            server_id,
            config: info.config.clone(),
        }
    }

    /// Whether this is still the stream that the producer was built for.
    fn check_same(&self, info: &StreamInfo, server_id: u64) -> Result<()> {
        let incarnations = info.partitions.iter().map(|partition| Incarnation(partition.incarnation));
        if self.id == StreamId(info.id)
            && self.server_id == server_id
            && incarnations.eq(self.incarnations.iter().copied())
        {
            return Ok(());
        }
        let text = format!(
            "the stream {:?} was deleted and another one of that name is there now: build a new producer for it",
            self.name
        );
        Err(Error::local(Code::StreamDeleted, text))
    }
}

/// Sends records to one stream. Made by [`Client::producer`]; share it behind an [`Arc`].
///
/// Records of a partition are stored in the order in which they were enqueued, through refusals and lost
/// connections and crashes of the server. What was not acknowledged is sent again, and stored once: the server remembers
/// what it has of this producer. Should it not remember any more (it has seen more than 10,000 others meanwhile), the
/// delivery says so with [`Code::UnknownProducer`]; it never stores a second copy instead. A program that starts anew is a
/// new producer: give its records *dedup ids* ([`Record::dedup_id`], [`ProducerBuilder::dedup`]) where what it sends may
/// have been sent before.
///
/// **Dropping a producer loses what is not acknowledged yet**; [`close`](Self::close) or [`flush`](Self::flush) it
/// first. Its deliveries then resolve with [`Code::ConnectionLost`].
///
/// # Example
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> millstream_client::Result<()> {
/// use millstream_client::{Codec, Record};
///
/// let producer = client.producer("rides").compression(Codec::Zstd).build().await?;
/// let mut deliveries = Vec::new();
/// for n in 0..1_000 {
///     deliveries.push(producer.enqueue(Record::new(format!("{n}")).key("ride-17")).await?);
/// }
/// producer.flush().await?;
/// for delivery in deliveries {
///     println!("{}", delivery.await?.offset);
/// }
/// producer.close().await?;
/// # Ok(()) }
/// ```
pub struct Producer {
    shared: Arc<Shared>,
}

/// Records that `enqueue_all` takes under one lock.
const CHUNK_RECORDS: usize = 64;

impl Producer {
    /// Sends one record and waits until the stream's durability holds for it (`synced`: it is on disk).
    ///
    /// A call takes at least the linger and a round trip: enqueue many to be fast.
    ///
    /// # Errors
    /// Those of [`enqueue`](Self::enqueue) and of the [`Delivery`].
    pub async fn send(&self, record: Record) -> Result<Receipt> {
        self.enqueue(record).await?.await
    }

    /// Puts one record into the buffer; waits while it is full. The [`Delivery`] resolves with the outcome: a
    /// [`Receipt`], or
    /// - [`Code::ConnectionLost`] or [`Code::TimedOut`]: not acknowledged within the delivery timeout; the
    ///   error's `outcome` says whether it may be stored;
    /// - [`Code::DurabilityUnknown`]: the disk failed under it;
    /// - [`Code::UnknownProducer`]: it was sent before, and the server cannot say whether it has it;
    /// - [`Code::Fenced`]: a newer producer of the same name has taken over; this one has ended;
    /// - a refusal of its batch, for example [`Code::DiskFull`] for the whole of the timeout.
    ///
    /// # Errors
    /// Nothing was enqueued, and other records are not affected: [`Code::RecordTooLarge`], [`Code::IllegalRecord`],
    /// [`Code::TimestampTooFarAhead`], [`Code::DelayTooLong`]; [`Code::StreamDeleted`] and other errors that ended the producer.
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has enqueued the record or not; none is enqueued twice.
    pub async fn enqueue(&self, mut record: Record) -> Result<Delivery> {
        self.shared.settings.dedup.fill(&mut record);
        let enqueued = match self.shared.try_enqueue(&mut record)? {
            Some(enqueued) => enqueued,
            None => self.enqueue_when_there_is_room(record).await?,
        };
        if enqueued.closed_batch {
            // Once per batch, so that a loop of enqueues lets the background task run on its thread.
            tokio::task::yield_now().await;
        }
        Ok(enqueued.delivery)
    }

    /// Puts records into the buffer in their order, as [`enqueue`](Self::enqueue) does one by one, for less of this
    /// program's time: worth it for many small ones at once. Waits while the buffer is full. A record that is refused has
    /// the error as its outcome; those after it are enqueued all the same.
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has enqueued the first so many of them; none is enqueued twice.
    ///
    /// # Example
    /// ```no_run
    /// # async fn example(producer: millstream_client::Producer) -> millstream_client::Result<()> {
    /// use millstream_client::Record;
    ///
    /// let readings = (0..1_000).map(|n| Record::new(format!("{n}")));
    /// for outcome in producer.enqueue_all(readings).await.outcomes().await {
    ///     println!("{}", outcome?.offset);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn enqueue_all(&self, records: impl IntoIterator<Item = Record>) -> Deliveries {
        let mut records = records.into_iter();
        let mut deliveries = Deliveries::default();
        // The caller's iterator runs outside of the lock.
        let mut chunk: Vec<Record> = Vec::with_capacity(records.size_hint().0.min(CHUNK_RECORDS));
        loop {
            chunk.clear();
            chunk.extend(records.by_ref().take(CHUNK_RECORDS));
            if chunk.is_empty() {
                return deliveries;
            }
            chunk.iter_mut().for_each(|record| self.shared.settings.dedup.fill(record));
            let mut rest = chunk.as_mut_slice();
            while !rest.is_empty() {
                let (taken, closed_batch) = self.shared.try_enqueue_all(rest, &mut deliveries);
                rest = &mut rest[taken..];
                if closed_batch {
                    tokio::task::yield_now().await;
                } else if let Some(record) = rest.first_mut() {
                    let enqueued = self.enqueue_when_there_is_room(std::mem::take(record)).await;
                    deliveries.one(enqueued.map(|enqueued| enqueued.delivery));
                    rest = &mut rest[1..];
                }
            }
        }
    }

    async fn enqueue_when_there_is_room(&self, mut record: Record) -> Result<Enqueued> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(enqueued) = self.shared.try_enqueue(&mut record)? {
                return Ok(enqueued);
            }
            self.shared.relieve();
            room.await;
        }
    }

    /// Sends what is in the buffer at once, and waits until everything enqueued before has its outcome.
    ///
    /// # Errors
    /// The first failure of any record since the last flush, also of those whose delivery was dropped.
    pub async fn flush(&self) -> Result<()> {
        for ticket in self.shared.start_flush() {
            // A failure is in the books, with those of earlier batches.
            let _ = ticket.wait().await;
        }
        self.shared.take_failure().map_or(Ok(()), Err)
    }

    /// Flushes, then ends the producer.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }

    /// What it has done so far.
    pub fn stats(&self) -> ProducerStats {
        self.shared.stats()
    }

    /// How many partitions the stream has.
    pub fn partition_count(&self) -> u32 {
        self.shared.target.incarnations.len() as u32
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.end.notify_one();
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("stream", &self.shared.target.name)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
