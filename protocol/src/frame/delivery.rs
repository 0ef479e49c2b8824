//! A queue stream's data frames: messages out, verbs in, their results out. Decoded by hand.
//!
//! ```text
//! Deliveries    u32 partition · u32 runs · u64 incarnation · u32 queue epoch · u32 zero
//!               then for each run: u64 first offset · u64 first fence · u64 first delivery (Unix ms) · u32 count ·
//!                                  u16 receives · u16 redriven
//!               then a batch for each run, back to back, with the records of its offsets (others at no other offsets)
//! QueueVerbs    u32 entries, then for each: u8 verb · u8 zero · u16 redriven · u32 partition · u64 queue · u32 queue epoch ·
//!               u32 count · u64 first offset · u64 first fence, and
//!                 nack: u64 delay in ms (all ones: the queue's) · u16 length, error     extend: u64 ms
//!                 reject: u16 length, error                                             ack, release: nothing
//! QueueResults  u32 runs, then for each: u32 count · u16 code, 0: it holds
//! Receive       u32 most · u32 most bytes · u64 wait in ms · u64 visibility in ms (all ones: the queue's) · u128 attempt
//! Received      u32 messages · u32 1 if the queue's or the receiver's limit of messages in flight held some back
//! QueueWindow   u32 messages
//! ```
//! In a run offsets and fences follow one another. A frame of deliveries with a correlation other than 0 answers the
//! `Receive` of that correlation, which `Received` ends; 0: they came by themselves, within the window. Verbs are answered in
//! the frame's order, once those that hold are durable.

use super::{Fields, FrameError, put_text};
use crate::limits::QUEUE_VERBS_MAX;
use crate::{Code, Incarnation, PartitionId, QueueId};

const PREFIX_BYTES: usize = 24;
const RUN_BYTES: usize = 32;
const VERB_BYTES: usize = 40;
const RESULT_BYTES: usize = 6;
/// The longest text of a failure that a verb carries, in bytes; more is cut.
pub const VERB_ERROR_BYTES_MAX: usize = 256;
const NONE: u64 = u64::MAX;

/// Names one delivery of one message: what a receiver needs to say something of it, over any connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt {
    /// The queue.
    pub queue: QueueId,
    /// The queue's epoch: purge and seek raise it.
    pub epoch: u32,
    /// The message's partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// How often it was redriven.
    pub redriven: u16,
    /// The delivery: rises with each of the queue and partition.
    pub fence: u64,
}

impl Receipt {
    /// Bytes of an encoded receipt.
    pub const BYTES: usize = 35;
    const VERSION: u8 = 1;

    /// Its bytes, to be kept outside the process.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = Self::VERSION;
        out[1..9].copy_from_slice(&self.queue.0.to_le_bytes());
        out[9..13].copy_from_slice(&self.epoch.to_le_bytes());
        out[13..17].copy_from_slice(&self.partition.to_le_bytes());
        out[17..25].copy_from_slice(&self.offset.to_le_bytes());
        out[25..27].copy_from_slice(&self.redriven.to_le_bytes());
        out[27..35].copy_from_slice(&self.fence.to_le_bytes());
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    /// [`FrameError`]: it is no receipt, or a newer version's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("receipt", bytes);
        match fields.u8()? {
            Self::VERSION => {}
            other => return Err(FrameError::Unknown { what: "receipt version", value: other.into() }),
        }
        let receipt = Self {
            queue: QueueId(fields.u64()?),
            epoch: fields.u32()?,
            partition: fields.u32()?,
            offset: fields.u64()?,
            redriven: fields.u16()?,
            fence: fields.u64()?,
        };
        fields.finish().map(|()| receipt)
    }

    /// The receipt of the `n`th message of a run that begins with this one.
    pub fn nth(&self, n: u32) -> Self {
        let n = u64::from(n);
        Self { offset: self.offset.wrapping_add(n), fence: self.fence.wrapping_add(n), ..*self }
    }
}

impl std::fmt::Display for Receipt {
    /// In hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Receipt {
    type Err = FrameError;

    fn from_str(text: &str) -> Result<Self, FrameError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::BYTES {
            return Err(FrameError::Truncated { what: "receipt", need: 2 * Self::BYTES, have: digits.len() });
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| (pair[at] as char).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(FrameError::Unknown { what: "receipt digit", value: pair[0].into() });
            };
            *byte = (high << 4 | low) as u8;
        }
        Self::from_bytes(&bytes)
    }
}

/// Messages of one partition that follow one another, as they were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveredRun {
    /// The first message's offset.
    pub offset: u64,
    /// The first message's fence.
    pub fence: u64,
    /// The first delivery of each, Unix ms.
    pub first_ms: u64,
    /// How many.
    pub count: u32,
    /// Deliveries of each with this one, less those released.
    pub receives: u16,
    /// How often each was redriven.
    pub redriven: u16,
}

/// What precedes the batches of a Deliveries frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliveries {
    /// The partition.
    pub partition: PartitionId,
    /// Seeds the checksums of its batches.
    pub incarnation: Incarnation,
    /// The queue's epoch.
    pub epoch: u32,
    /// What was delivered, a batch for each.
    pub runs: Vec<DeliveredRun>,
}

impl Deliveries {
    /// The bytes in front of the batches.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_BYTES + RUN_BYTES * self.runs.len());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for run in &self.runs {
            out.extend_from_slice(&run.offset.to_le_bytes());
            out.extend_from_slice(&run.fence.to_le_bytes());
            out.extend_from_slice(&run.first_ms.to_le_bytes());
            out.extend_from_slice(&run.count.to_le_bytes());
            out.extend_from_slice(&run.receives.to_le_bytes());
            out.extend_from_slice(&run.redriven.to_le_bytes());
        }
        out
    }

    /// Decodes the front of a body; also says where the batches begin.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<(Self, usize), FrameError> {
        let mut fields = Fields::new("deliveries", body);
        let (partition, count) = (PartitionId(fields.u32()?), fields.u32()? as usize);
        let (incarnation, epoch) = (Incarnation(fields.u64()?), fields.u32()?);
        zero(fields.u32()?, "deliveries field")?;
        let need = count.saturating_mul(RUN_BYTES);
        if need > fields.remaining() {
            return Err(FrameError::Truncated { what: "deliveries", need, have: fields.remaining() });
        }
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            runs.push(DeliveredRun {
                offset: fields.u64()?,
                fence: fields.u64()?,
                first_ms: fields.u64()?,
                count: fields.u32()?,
                receives: fields.u16()?,
                redriven: fields.u16()?,
            });
        }
        Ok((Self { partition, incarnation, epoch, runs }, PREFIX_BYTES + need))
    }
}

/// What can be said of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Done, for ever.
    Ack,
    /// Failed: again later.
    Nack {
        /// After this time in milliseconds; `None`: by the queue's backoff.
        delay_ms: Option<u64>,
        /// Why; cut to 256 bytes.
        error: String,
    },
    /// Not tried: back at once, in its place, uncounted.
    Release,
    /// More time.
    Extend {
        /// From now on, in milliseconds.
        visibility_ms: u64,
    },
    /// Hopeless: to the dead letters.
    Reject {
        /// Why; cut to 256 bytes.
        error: String,
    },
}

impl Verb {
    fn number(&self) -> u8 {
        match self {
            Verb::Ack => 0,
            Verb::Nack { .. } => 1,
            Verb::Release => 2,
            Verb::Extend { .. } => 3,
            Verb::Reject { .. } => 4,
        }
    }
}

/// The same said of messages that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerbRun {
    /// The first one's receipt.
    pub first: Receipt,
    /// How many.
    pub count: u32,
    /// What is said.
    pub verb: Verb,
}

/// Encodes verbs.
pub fn encode_verbs(runs: &[VerbRun]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + VERB_BYTES * runs.len());
    out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
    for VerbRun { first, count, verb } in runs {
        out.extend_from_slice(&[verb.number(), 0]);
        out.extend_from_slice(&first.redriven.to_le_bytes());
        out.extend_from_slice(&first.partition.to_le_bytes());
        out.extend_from_slice(&first.queue.0.to_le_bytes());
        out.extend_from_slice(&first.epoch.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&first.offset.to_le_bytes());
        out.extend_from_slice(&first.fence.to_le_bytes());
        match verb {
            Verb::Ack | Verb::Release => {}
            Verb::Nack { delay_ms, error } => {
                out.extend_from_slice(&delay_ms.unwrap_or(NONE).to_le_bytes());
                put_text(&mut out, error, VERB_ERROR_BYTES_MAX);
            }
            Verb::Extend { visibility_ms } => out.extend_from_slice(&visibility_ms.to_le_bytes()),
            Verb::Reject { error } => put_text(&mut out, error, VERB_ERROR_BYTES_MAX),
        }
    }
    out
}

/// Decodes verbs: of at most [`QUEUE_VERBS_MAX`] messages, none of them of no message.
///
/// # Errors
/// [`FrameError`].
pub fn decode_verbs(body: &[u8]) -> Result<Vec<VerbRun>, FrameError> {
    let mut fields = Fields::new("verbs", body);
    let count = fields.u32()? as usize;
    let need = count.saturating_mul(VERB_BYTES);
    if need > fields.remaining() {
        return Err(FrameError::Truncated { what: "verbs", need, have: fields.remaining() });
    }
    let mut messages = 0u64;
    let mut runs = Vec::with_capacity(count.min(QUEUE_VERBS_MAX));
    for _ in 0..count {
        let number = fields.u8()?;
        zero(fields.u8()?.into(), "verb field")?;
        let redriven = fields.u16()?;
        let (partition, queue) = (fields.u32()?, QueueId(fields.u64()?));
        let (epoch, count) = (fields.u32()?, fields.u32()?);
        let first = Receipt { queue, epoch, partition, offset: fields.u64()?, redriven, fence: fields.u64()? };
        messages += u64::from(count);
        if count == 0 || messages > QUEUE_VERBS_MAX as u64 {
            return Err(FrameError::TooLong { what: "verbs", length: messages as usize, limit: QUEUE_VERBS_MAX });
        }
        let verb = match number {
            0 => Verb::Ack,
            1 => {
                let delay_ms = Some(fields.u64()?).filter(|delay| *delay != NONE);
                Verb::Nack { delay_ms, error: fields.text(VERB_ERROR_BYTES_MAX)?.to_owned() }
            }
            2 => Verb::Release,
            3 => Verb::Extend { visibility_ms: fields.u64()? },
            4 => Verb::Reject { error: fields.text(VERB_ERROR_BYTES_MAX)?.to_owned() },
            other => return Err(FrameError::Unknown { what: "verb", value: other.into() }),
        };
        runs.push(VerbRun { first, count, verb });
    }
    fields.finish().map(|()| runs)
}

/// Encodes what became of verbs, in their order.
pub fn encode_results(results: impl IntoIterator<Item = Option<Code>>) -> Vec<u8> {
    let mut out = vec![0; 4];
    let mut put = |run: Option<(u32, Option<Code>)>| {
        if let Some((count, code)) = run {
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&code.map_or(0, Code::number).to_le_bytes());
        }
    };
    let mut run: Option<(u32, Option<Code>)> = None;
    let mut runs = 0u32;
    for code in results {
        run = match run {
            Some((count, same)) if same == code => Some((count + 1, code)),
            other => {
                put(other);
                runs += 1;
                Some((1, code))
            }
        };
    }
    put(run);
    out[..4].copy_from_slice(&runs.to_le_bytes());
    out
}

/// Decodes what became of `expected` verbs.
///
/// # Errors
/// [`FrameError`].
pub fn decode_results(body: &[u8], expected: usize) -> Result<Vec<Option<Code>>, FrameError> {
    let mut fields = Fields::new("results", body);
    let runs = fields.u32()? as usize;
    let need = runs.saturating_mul(RESULT_BYTES);
    if need > fields.remaining() {
        return Err(FrameError::Truncated { what: "results", need, have: fields.remaining() });
    }
    let mut results = Vec::with_capacity(expected);
    for _ in 0..runs {
        let (count, number) = (fields.u32()? as usize, fields.u16()?);
        if count == 0 || count > expected - results.len() {
            return Err(FrameError::TooLong { what: "results", length: results.len() + count, limit: expected });
        }
        let code = (number != 0).then(|| Code::from_number(number));
        results.extend(std::iter::repeat_n(code, count));
    }
    if results.len() < expected {
        return Err(FrameError::Truncated { what: "results", need: expected, have: results.len() });
    }
    fields.finish().map(|()| results)
}

/// Asks for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receive {
    /// How many at most; 1 to 1,000.
    pub messages_max: u32,
    /// Bytes of records at most, but one message at least; 1 to 1 MiB.
    pub bytes_max: u32,
    /// How long to wait for the first, in milliseconds; up to 60 s.
    pub wait_ms: u64,
    /// How long each is the receiver's own, in milliseconds; `None`: as the queue says.
    pub visibility_ms: Option<u64>,
    /// Names the attempt: the same one again, while its messages are out, gets the same.
    pub attempt: u128,
}

impl Receive {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend_from_slice(&self.messages_max.to_le_bytes());
        out.extend_from_slice(&self.bytes_max.to_le_bytes());
        out.extend_from_slice(&self.wait_ms.to_le_bytes());
        out.extend_from_slice(&self.visibility_ms.unwrap_or(NONE).to_le_bytes());
        out.extend_from_slice(&self.attempt.to_le_bytes());
        out
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("receive", body);
        let receive = Self {
            messages_max: fields.u32()?,
            bytes_max: fields.u32()?,
            wait_ms: fields.u64()?,
            visibility_ms: Some(fields.u64()?).filter(|ms| *ms != NONE),
            attempt: u128::from(fields.u64()?) | u128::from(fields.u64()?) << 64,
        };
        fields.finish().map(|()| receive)
    }
}

/// Ends the answer to a [`Receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// How many messages came.
    pub messages: u32,
    /// A limit of messages in flight held some back.
    pub at_limit: bool,
}

impl Received {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.messages.to_le_bytes().to_vec();
        out.extend_from_slice(&u32::from(self.at_limit).to_le_bytes());
        out
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("received", body);
        let messages = fields.u32()?;
        let at_limit = match fields.u32()? {
            0 => false,
            1 => true,
            other => return Err(FrameError::Unknown { what: "received field", value: other.into() }),
        };
        fields.finish().map(|()| Self { messages, at_limit })
    }
}

/// Encodes a window.
pub fn encode_window(messages: u32) -> Vec<u8> {
    messages.to_le_bytes().to_vec()
}

/// Decodes a window.
///
/// # Errors
/// [`FrameError`].
pub fn decode_window(body: &[u8]) -> Result<u32, FrameError> {
    let mut fields = Fields::new("window", body);
    let messages = fields.u32()?;
    fields.finish().map(|()| messages)
}

fn zero(value: u32, what: &'static str) -> Result<(), FrameError> {
    match value {
        0 => Ok(()),
        value => Err(FrameError::Unknown { what, value: value.into() }),
    }
}
