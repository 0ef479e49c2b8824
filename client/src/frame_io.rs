//! Frames on a QUIC stream: the header first, its limit checked, then the body into one buffer.
//!
//! Not cancel safe: a read or write that is dropped half-way leaves half a frame; whoever drops one drops the stream.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, Kind, Refusal};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};

use crate::error::Error;

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
        let length = header.body_len as usize;
        let Some(first) = self.chunk(length).await? else { return Ok(Bytes::new()) };
        if first.len() == length {
            return Ok(first);
        }
        let mut body = BytesMut::with_capacity(length);
        body.put(first);
        while let Some(chunk) = self.chunk(length - body.len()).await? {
            body.put(chunk);
        }
        Ok(body.freeze())
    }

    async fn chunk(&mut self, most: usize) -> Result<Option<Bytes>, StreamError> {
        if most == 0 {
            return Ok(None);
        }
        match self.stream.read_chunk(most, true).await? {
            Some(chunk) => Ok(Some(chunk.bytes)),
            None => Err(StreamError::Cut),
        }
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
