//! A stream to read from: opened at positions, its frames read under a budget of bytes.
//!
//! Before a frame's body is read its length is taken out of the budget; the frame gives it back when the application has
//! taken its last batch, or when it is dropped. While there is no room nothing is read, and QUIC's flow control holds the
//! server.

use std::sync::Arc;

use millstream_protocol::frame::consume::BATCHES_PREFIX_BYTES;
use millstream_protocol::frame::control::{ConsumeMode, ConsumeOpen, ConsumeOpened, Message, StreamInfo};
use millstream_protocol::frame::{FrameHeader, Kind};
use millstream_protocol::limits::FRAME_BYTES_MAX;
use millstream_protocol::{Code, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::intake::Incoming;
use super::position::{Place, Positions};
use crate::client::Client;
use crate::connection::{Connection, Opening};
use crate::error::{Error, Result};
use crate::frame_io::{FrameReader, StreamError};

/// Items between who reads and the application. What matters is their bytes; this bounds events.
pub(crate) const ITEMS_MAX: usize = 1_024;

/// Bytes that may be read ahead of the application.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    bytes: u32,
    room: Arc<Semaphore>,
}

impl Budget {
    pub fn new(bytes: u32) -> Self {
        let bytes = bytes.max(1);
        Self { bytes, room: Arc::new(Semaphore::new(bytes as usize)) }
    }

    /// Waits for room. A frame above the whole budget takes all of it.
    async fn reserve(&self, bytes: u32) -> OwnedSemaphorePermit {
        let wanted = bytes.min(self.bytes);
        Arc::clone(&self.room).acquire_many_owned(wanted).await.expect("the semaphore is never closed")
    }

    /// Reads the next frame of a consume stream. Dropped before it resolves it has taken nothing but bytes of the stream,
    /// which is then of no more use.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn frame(&self, reader: &mut FrameReader) -> Result<Incoming> {
        let header = reader.header().await?.ok_or(StreamError::Cut)?;
        Ok(match header.kind {
            Kind::Batches => {
                let room = self.reserve(header.body_len).await;
                let (body, crcs) = reader.body_hashed(&header, BATCHES_PREFIX_BYTES).await?;
                Incoming::Batches { body, crcs, room }
            }
            Kind::ConsumeEvent => Incoming::Event(reader.body(&header).await?),
            Kind::Error => Incoming::Refused(reader.body(&header).await?),
            _ => return Err(unexpected(&header)),
        })
    }
}

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize, "a frame's length is a number of permits");

/// The stream as it was found when the consumer was built.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub client: Client,
    pub name: String,
    pub id: StreamId,
    pub server_id: u64,
    pub mode: ConsumeMode,
}

impl Source {
    /// A connection, and the stream as it is described over it, if it is still the same.
    ///
    /// # Errors
    /// [`Code::StreamDeleted`]: it was deleted, and perhaps made again.
    pub async fn describe(&self) -> Result<(Arc<Connection>, StreamInfo)> {
        let connection = self.client.connection().await?;
        let info = self.client.describe_over(&connection, &self.name).await?;
        if self.id != StreamId(info.id) || self.server_id != connection.server_id() {
            return Err(self.made_again());
        }
        Ok((connection, info))
    }

    /// Checks that the places are partitions of the stream as it was described.
    ///
    /// # Errors
    /// [`Code::StreamDeleted`].
    pub fn check(&self, positions: &Positions, info: &StreamInfo) -> Result<()> {
        let same = |place: &Place| {
            let partition = info.partitions.get(place.partition.0 as usize);
            partition.is_some_and(|partition| partition.incarnation == place.incarnation.0)
        };
        if positions.all().all(same) { Ok(()) } else { Err(self.made_again()) }
    }

    fn made_again(&self) -> Error {
        let text = format!(
            "the stream {:?} was deleted and another one of that name is there now: build a new consumer for it",
            self.name
        );
        Error::local(Code::StreamDeleted, text)
    }

    /// Opens a consume stream at the positions of partitions that [`describe`](Self::describe) has found.
    ///
    /// # Errors
    /// The server's refusal, or those of the connection.
    pub async fn open_at(&self, connection: &Connection, positions: &mut Positions) -> Result<FrameReader> {
        let open = ConsumeOpen { stream: self.id.0, partitions: positions.starts(), mode: self.mode };
        let (mut send, reader, answer) = connection
            .open_stream(Opening {
                kind: Kind::OpenConsume,
                body: &open.encode(),
                answer: Kind::OpenConsumeOk,
                within: self.client.config().request_timeout,
            })
            .await?;
        // Nothing more is sent; an error means that the stream has ended, and then reading says why.
        let _ = send.finish();
        positions.opened(&ConsumeOpened::decode(&answer)?.positions)?;
        Ok(reader)
    }

    /// Finds the stream again and opens it at the positions.
    ///
    /// # Errors
    /// As [`describe`](Self::describe) and [`open_at`](Self::open_at).
    pub async fn open(&self, positions: &mut Positions) -> Result<FrameReader> {
        let (connection, info) = self.describe().await?;
        self.check(positions, &info)?;
        self.open_at(&connection, positions).await
    }
}

fn unexpected(header: &FrameHeader) -> Error {
    Error::protocol(format_args!("a frame of kind {:?} on a consume stream", header.kind))
}
