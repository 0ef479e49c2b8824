//! Frames on a QUIC stream: the header first, its limit checked, then the body into one buffer.
//!
//! Not cancel safe: a read or write that is dropped half-way leaves half a frame; whoever drops one drops the stream.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::batch::BodyCrcs;
use millstream_protocol::buffers;
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, Kind, Refusal};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::io::AsyncReadExt;

use crate::error::Error;

/// How much of a body is copied at a time: what is done with it next finds it in the nearest caches.
const READ_STEP_BYTES: usize = 64 << 10;

/// Why a stream cannot be read or written on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the stream ended within a frame")]
    Cut,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// What tokio's way of reading makes of quinn's error.
impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        error.downcast::<ReadError>().map_or(StreamError::Cut, StreamError::Read)
    }
}

impl StreamError {
    /// Whether the peer, not the network, is at fault.
    fn is_violation(&self) -> bool {
        matches!(self, StreamError::Frame(_))
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        if error.is_violation() {
            return Error::protocol(error);
        }
        Error::lost(format!("the connection was lost before the answer came ({error}): the outcome is unknown"), error)
    }
}

/// Reads a stream frame by frame.
pub(crate) struct FrameReader {
    stream: RecvStream,
}

impl FrameReader {
    pub fn new(stream: RecvStream) -> Self {
        Self { stream }
    }

    /// The next header; `None` where the peer finished the stream between two frames.
    pub async fn header(&mut self) -> Result<Option<FrameHeader>, StreamError> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        match self.stream.read_exact(&mut bytes).await {
            Ok(()) => Ok(Some(FrameHeader::decode(&bytes)?)),
            Err(ReadExactError::FinishedEarly(0)) => Ok(None),
            Err(ReadExactError::FinishedEarly(_)) => Err(StreamError::Cut),
            Err(ReadExactError::ReadError(error)) => Err(error.into()),
        }
    }

    /// The body of the header just read. Its length was checked against the kind's limit.
    pub async fn body(&mut self, header: &FrameHeader) -> Result<Bytes, StreamError> {
        self.read_body(header, |_| {}).await
    }

    /// The same for a body with batches from `batches_at` on: their checksums as well, computed as they came.
    pub async fn body_hashed(
        &mut self,
        header: &FrameHeader,
        batches_at: usize,
    ) -> Result<(Bytes, BodyCrcs), StreamError> {
        let mut crcs = BodyCrcs::starting_at(batches_at);
        let body = self.read_body(header, |received| crcs.update(received)).await?;
        Ok((body, crcs))
    }

    /// `seen` is shown all that has come, each time that more has.
    async fn read_body(&mut self, header: &FrameHeader, mut seen: impl FnMut(&[u8])) -> Result<Bytes, StreamError> {
        let length = header.body_len as usize;
        let mut body = buffers::buffer(length);
        while body.len() < length {
            // Takes what has arrived under one lock of the connection.
            let step = (length - body.len()).min(READ_STEP_BYTES);
            if (&mut self.stream).take(step as u64).read_buf(&mut body).await? == 0 {
                return Err(StreamError::Cut);
            }
            seen(&body);
        }
        Ok(buffers::share(body))
    }

    /// The next whole frame.
    pub async fn frame(&mut self) -> Result<Option<(FrameHeader, Bytes)>, StreamError> {
        let Some(header) = self.header().await? else { return Ok(None) };
        let body = self.body(&header).await?;
        Ok(Some((header, body)))
    }

    /// The answer to an opening frame: of `kind`, or a refusal.
    pub async fn answer(&mut self, kind: Kind, expected: &'static str) -> Result<Bytes, Error> {
        let (header, body) = self.frame().await?.ok_or(StreamError::Cut)?;
        if header.kind == Kind::Error {
            return Err(Refusal::decode(&body)?.into());
        }
        header.expect(kind, expected)?;
        Ok(body)
    }
}

/// One frame in one piece: for small bodies.
pub(crate) fn encode_frame(kind: Kind, correlation: u64, body: &[u8]) -> Bytes {
    let header = FrameHeader::new(kind, correlation, body.len());
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + body.len());
    frame.put_slice(&header.encode());
    frame.put_slice(body);
    frame.freeze()
}

pub(crate) async fn write_frame(
    stream: &mut SendStream,
    kind: Kind,
    correlation: u64,
    body: &[u8],
) -> Result<(), StreamError> {
    Ok(stream.write_chunk(encode_frame(kind, correlation, body)).await?)
}
