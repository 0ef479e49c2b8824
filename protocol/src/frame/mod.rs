//! Frames: how messages and batches travel on a QUIC stream.
//!
//! Every QUIC stream is bidirectional and opened by the client; its first frame says what it is for.
//!
//! ```text
//! stream    client sends                                   server sends
//! control   Hello, then Request*                           HelloOk, then Response* | Error* (any order, by correlation)
//! produce   OpenProduce, then Produce*                     OpenProduceOk, then ProduceAcks*
//! consume   OpenConsume                                    OpenConsumeOk, then (Batches | ConsumeEvent)*
//! queue     OpenQueue, then (QueueVerbs | Receive          OpenQueueOk, then (Deliveries | QueueResults | Received)*
//!           | QueueWindow)*
//! ```
//! The control stream is the connection's first; the others are refused until its hello is through. An `Error`
//! frame in place of an answer carries a [`Refusal`]; on a data stream it is the last frame.
//!
//! Bodies are of three kinds: control messages are rkyv archives under a version byte ([`control`], always
//! validated); the hello, errors, acks and what a queue stream says are decoded by hand ([`hello`], [`refusal`],
//! [`produce`], [`delivery`]); batches follow a routing prefix and are never wrapped.
//!
//! Not here: reading from a socket. A reader takes [`FRAME_HEADER_BYTES`], asks [`FrameHeader::decode`], reserves
//! the length, and only then takes the body.
//! Proof: `tests/golden.rs`, `tests/round_trip.rs`, `tests/hostile.rs`.

pub mod consume;
pub mod control;
pub mod delivery;
pub mod group;
mod header;
pub mod hello;
pub mod lake;
pub mod produce;
pub mod queue;
pub mod refusal;

pub use header::{FLAG_RESEND, FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind};
pub use refusal::Refusal;

/// Why bytes are not a frame, or its body not what its kind says. The peer is to blame: close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than the layout needs.
    #[error("{what}: {have} bytes where {need} are needed")]
    Truncated {
        /// The message.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// Bytes after the end of the layout.
    #[error("{what}: {extra} bytes follow its end")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many.
        extra: usize,
    },
    /// A body longer than its kind may have.
    #[error("{what} of {length} bytes is above the limit of {limit}")]
    TooLong {
        /// The message.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A kind, flag or version this code does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A frame of a kind that has no place here.
    #[error("unexpected frame {found:?} where {expected} belongs")]
    Unexpected {
        /// What came.
        found: Kind,
        /// What should have come.
        expected: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// An archive that does not validate.
    #[error("{what} does not validate: {reason}")]
    Archive {
        /// The message.
        what: &'static str,
        /// The validator's words.
        reason: String,
    },
}

/// Takes fixed-size fields off the front of a body.
pub(crate) struct Fields<'a> {
    what: &'static str,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, body: &'a [u8]) -> Self {
        Self { what, length: body.len(), rest: body }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        if count > self.rest.len() {
            let need = (self.length - self.rest.len()).saturating_add(count);
            return Err(FrameError::Truncated { what: self.what, need, have: self.length });
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.bytes(N).map(|bytes| *bytes.first_chunk().expect("`bytes` gave N of them"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text behind a `u16` length of at most `limit` bytes.
    pub(crate) fn text(&mut self, limit: usize) -> Result<&'a str, FrameError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(FrameError::TooLong { what: self.what, length, limit });
        }
        std::str::from_utf8(self.bytes(length)?).map_err(|_| FrameError::NotUtf8(self.what))
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(FrameError::TrailingBytes { what: self.what, extra }),
        }
    }
}

/// Appends text behind a `u16` length, cut at a character boundary to at most `limit` bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str, limit: usize) {
    let limit = limit.min(usize::from(u16::MAX));
    let cut = if text.len() <= limit { text.len() } else { text.floor_char_boundary(limit) };
    out.extend_from_slice(&(cut as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..cut]);
}
