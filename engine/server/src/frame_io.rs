//! Frames from and to a QUIC stream: the header first, the body only when its reader asks for it.
//!
//! The reader of a body has reserved its length before (`budget`); the header's decoder has bounded it. A body is
//! copied once, from quinn's packets into one buffer of exactly its size: a body is larger than a packet nearly
//! always, and a batch must lie in one piece to be checked and written. The buffer is not filled with zeros
//! first, is one that was used before where it is large, and of a new one pages that the peer never sends are never touched.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_protocol::batch::BodyCrcs;
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, buffers};
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use tokio::io::AsyncReadExt;

/// How much of a body is copied at a time: what is done with it next finds it in the nearest caches.
const READ_STEP_BYTES: usize = 64 << 10;

/// How a session ends, other than well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer broke the protocol: the whole connection is closed with this.
    Close(Refusal),
    /// This stream ends with an Error frame.
    Refused(Refusal),
    /// The peer, or the connection, is gone: there is nobody to tell.
    Gone,
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        End::Close(Refusal::new(Code::ProtocolViolation, format!("not a frame of this protocol: {error}")))
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        End::Refused(refusal)
    }
}

impl From<quinn::WriteError> for End {
    fn from(_: quinn::WriteError) -> Self {
        End::Gone
    }
}

/// Reads frames off a stream.
#[derive(Debug)]
pub(crate) struct FrameReader {
    recv: RecvStream,
    body_timeout: Duration,
}

impl FrameReader {
    pub fn new(recv: RecvStream, body_timeout: Duration) -> Self {
        Self { recv, body_timeout }
    }

    /// The next 16 bytes; `None` where the peer has finished the stream between two frames.
    pub async fn raw_header(&mut self) -> Result<Option<[u8; FRAME_HEADER_BYTES]>, End> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        match self.recv.read_exact(&mut bytes).await {
            Ok(()) => Ok(Some(bytes)),
            Err(ReadExactError::FinishedEarly(0)) => Ok(None),
            Err(ReadExactError::FinishedEarly(have)) => {
                Err(FrameError::Truncated { what: "frame header", need: FRAME_HEADER_BYTES, have }.into())
            }
            Err(ReadExactError::ReadError(_)) => Err(End::Gone),
        }
    }

    /// The next frame's header; `None` where the peer has finished the stream.
    pub async fn header(&mut self) -> Result<Option<FrameHeader>, End> {
        match self.raw_header().await? {
            Some(bytes) => Ok(Some(FrameHeader::decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// The frame's body. The caller holds a reservation for it, which a peer may keep busy for `body_timeout` only.
    pub async fn body(&mut self, header: &FrameHeader) -> Result<Bytes, End> {
        self.read_body(header, |_| {}).await
    }

    /// The same for a body with a batch at `batch_at`: its checksum as well, computed as it came.
    pub async fn body_hashed(&mut self, header: &FrameHeader, batch_at: usize) -> Result<(Bytes, Option<u32>), End> {
        let mut crcs = BodyCrcs::starting_at(batch_at);
        let body = self.read_body(header, |received| crcs.update(received)).await?;
        Ok((body, crcs.take()))
    }

    /// `seen` is shown all that has come, each time that more has.
    async fn read_body(&mut self, header: &FrameHeader, seen: impl FnMut(&[u8])) -> Result<Bytes, End> {
        let length = header.body_len as usize;
        match tokio::time::timeout(self.body_timeout, read_exactly(&mut self.recv, length, seen)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(BodyError::Finished(have))) => {
                Err(FrameError::Truncated { what: "frame body", need: length, have }.into())
            }
            Ok(Err(BodyError::Gone)) => Err(End::Gone),
            Err(_) => {
                let text = format!("the {length} bytes of a frame did not arrive within {:?}", self.body_timeout);
                Err(End::Close(Refusal::new(Code::TimedOut, text)))
            }
        }
    }

    /// Tells the peer that nothing more is read from this stream, and why.
    pub fn stop(&mut self, code: Code) {
        // An error means that the stream has ended already.
        let _ = self.recv.stop(close_code(code));
    }
}

enum BodyError {
    Finished(usize),
    Gone,
}

impl From<io::Error> for BodyError {
    fn from(_: io::Error) -> Self {
        BodyError::Gone
    }
}

async fn read_exactly(recv: &mut RecvStream, length: usize, mut seen: impl FnMut(&[u8])) -> Result<Bytes, BodyError> {
    let mut body = buffers::buffer(length);
    while body.len() < length {
        // Takes what has arrived under one lock of the connection.
        let step = (length - body.len()).min(READ_STEP_BYTES);
        if (&mut *recv).take(step as u64).read_buf(&mut body).await? == 0 {
            return Err(BodyError::Finished(body.len()));
        }
        seen(&body);
    }
    Ok(buffers::share(body))
}

/// Writes one frame.
pub(crate) async fn write_frame(send: &mut SendStream, kind: Kind, correlation: u64, body: &[u8]) -> Result<(), End> {
    let header = FrameHeader::new(kind, correlation, body.len()).encode();
    let mut frame = BytesMut::with_capacity(header.len() + body.len());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(body);
    Ok(send.write_chunk(frame.freeze()).await?)
}

/// Writes an Error frame.
pub(crate) async fn write_error(send: &mut SendStream, correlation: u64, refusal: &Refusal) -> Result<(), End> {
    write_frame(send, Kind::Error, correlation, &refusal.encode()).await
}

/// The application error code that stands for `code` in QUIC's own frames.
pub(crate) fn close_code(code: Code) -> VarInt {
    VarInt::from_u32(u32::from(code.number()))
}
