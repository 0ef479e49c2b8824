//! The frame header: 16 bytes, little-endian.
//!
//! ```text
//!  at  size  field
//!   0     4  body length   checked against the kind's limit before anything is allocated
//!   4     1  kind
//!   5     1  flags         0 but for Produce: bit 0 `resume`, bit 1 `resend`; others refused
//!   6     2  zero
//!   8     8  correlation   chosen by the client, repeated in the answer
//!  16        body
//! ```

use super::FrameError;
use crate::limits::{CONTROL_BYTES_MAX, ERROR_TEXT_BYTES_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX};

/// The header's length.
pub const FRAME_HEADER_BYTES: usize = 16;

/// Flag of a Produce frame: the producer has seen its partition's last failure and starts again from here. After
/// a failed batch the server refuses that partition's later batches of the same stream until this comes, so
/// that what was pipelined behind a failure is never stored ahead of it.
pub const FLAG_RESUME: u8 = 1 << 0;

/// Flag of a Produce frame: the batch was sent before, on a stream that was lost, so a copy may be stored. A server that
/// does not remember its producer refuses it then, where it would take a first batch.
pub const FLAG_RESEND: u8 = 1 << 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $limit:expr;)*) => {
        /// What a frame carries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The kind of that number.
            pub const fn from_number(number: u8) -> Option<Kind> {
                match number { $($number => Some(Kind::$name),)* _ => None }
            }

            /// The longest body it may have, in bytes.
            pub const fn body_bytes_max(self) -> usize {
                match self { $(Kind::$name => $limit),* }
            }
        }
    };
}

kinds! {
    /// Client, first on a connection: [`super::hello::Hello`].
    Hello = 1, HELLO_BYTES_MAX;
    /// Server: [`super::hello::HelloOk`].
    HelloOk = 2, HELLO_BYTES_MAX;
    /// Server, in place of any answer: [`super::Refusal`].
    Error = 3, ERROR_TEXT_BYTES_MAX + 64;
    /// Client: [`super::control::Request`].
    Request = 10, CONTROL_BYTES_MAX;
    /// Server: [`super::control::Response`]. Longer than a request: it may describe thousands of partitions.
    Response = 11, 4 * CONTROL_BYTES_MAX;
    /// Client, first on a produce stream: [`super::produce::OpenProduce`].
    OpenProduce = 20, 64;
    /// Server: the same layout, with what is granted.
    OpenProduceOk = 21, 64;
    /// Client: [`super::produce::ProducePrefix`] and one batch.
    Produce = 22, FRAME_BYTES_MAX;
    /// Server: [`super::produce::ProduceAck`]s.
    ProduceAcks = 23, FRAME_BYTES_MAX;
    /// Client, first and only one on a consume stream: [`super::control::ConsumeOpen`].
    OpenConsume = 30, 4 * CONTROL_BYTES_MAX;
    /// Server: [`super::control::ConsumeOpened`].
    OpenConsumeOk = 31, 4 * CONTROL_BYTES_MAX;
    /// Server: [`super::consume::BatchesPrefix`] and batches of one partition, back to back.
    Batches = 32, FRAME_BYTES_MAX;
    /// Server: [`super::control::ConsumeEvent`].
    ConsumeEvent = 33, CONTROL_BYTES_MAX;
    /// Client, first on a queue stream: [`super::queue::QueueOpen`].
    OpenQueue = 40, 4 * CONTROL_BYTES_MAX;
    /// Server: [`super::queue::QueueOpened`].
    OpenQueueOk = 41, CONTROL_BYTES_MAX;
    /// Server: [`super::delivery::Deliveries`] and the batches of one partition.
    Deliveries = 42, FRAME_BYTES_MAX;
    /// Client: [`super::delivery::VerbRun`]s.
    QueueVerbs = 43, 4 * CONTROL_BYTES_MAX;
    /// Server: what became of them.
    QueueResults = 44, CONTROL_BYTES_MAX;
    /// Client: [`super::delivery::Receive`].
    Receive = 45, 64;
    /// Server: [`super::delivery::Received`].
    Received = 46, 64;
    /// Client: how many messages it may have unsettled.
    QueueWindow = 47, 64;
}

/// A frame's header, decoded and in range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the body.
    pub body_len: u32,
    /// What the body is.
    pub kind: Kind,
    /// See [`FLAG_RESUME`] and [`FLAG_RESEND`].
    pub flags: u8,
    /// Chosen by the client; an answer repeats it.
    pub correlation: u64,
}

impl FrameHeader {
    /// A header without flags.
    ///
    /// # Panics
    /// If the body is longer than its kind may be: our own encoder is at fault.
    pub fn new(kind: Kind, correlation: u64, body_len: usize) -> Self {
        assert!(body_len <= kind.body_bytes_max(), "a {kind:?} frame of {body_len} bytes");
        Self { body_len: body_len as u32, kind, flags: 0, correlation }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.body_len.to_le_bytes());
        out[4] = self.kind as u8;
        out[5] = self.flags;
        out[8..16].copy_from_slice(&self.correlation.to_le_bytes());
        out
    }

    /// Decodes a header and checks kind, flags and the kind's length limit.
    ///
    /// # Errors
    /// [`FrameError::Unknown`], [`FrameError::TooLong`].
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let mut fields = super::Fields::new("frame header", bytes);
        let body_len = fields.u32()?;
        let number = fields.u8()?;
        let kind = Kind::from_number(number).ok_or(FrameError::Unknown { what: "frame kind", value: number.into() })?;
        let flags = fields.u8()?;
        let known = if kind == Kind::Produce { FLAG_RESUME | FLAG_RESEND } else { 0 };
        if flags & !known != 0 {
            return Err(FrameError::Unknown { what: "frame flag", value: flags.into() });
        }
        match fields.u16()? {
            0 => {}
            value => return Err(FrameError::Unknown { what: "frame header field", value: value.into() }),
        }
        let limit = kind.body_bytes_max();
        if body_len as usize > limit {
            return Err(FrameError::TooLong { what: "frame body", length: body_len as usize, limit });
        }
        Ok(Self { body_len, kind, flags, correlation: fields.u64()? })
    }

    /// Checks that the frame is of `kind`.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`].
    pub fn expect(&self, kind: Kind, expected: &'static str) -> Result<(), FrameError> {
        if self.kind == kind { Ok(()) } else { Err(FrameError::Unexpected { found: self.kind, expected }) }
    }
}
