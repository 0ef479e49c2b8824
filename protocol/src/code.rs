//! Error codes: a number for ever; its hundred is its class, and the class says what a caller can do.
//!
//! A gap inside a class is a retired code and stays empty. Programs exit with 10 × the class.

use std::fmt;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// 1xx: the request is wrong; change it.
    Wrong,
    /// 2xx: not now; the same request may succeed later.
    NotNow,
    /// 3xx: the caller is behind; refresh what it holds, then decide.
    Behind,
    /// 4xx: the outcome is unknown; ask before repeating.
    Unknown,
    /// 5xx: stored data is damaged, or the server has a bug; an operator must look.
    Damaged,
}

impl Class {
    /// The hundred of the class's codes, 1 to 5.
    pub const fn number(self) -> u8 {
        match self {
            Class::Wrong => 1,
            Class::NotNow => 2,
            Class::Behind => 3,
            Class::Unknown => 4,
            Class::Damaged => 5,
        }
    }
}

/// Whether a failed request surely had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did not happen and will not.
    Definite,
    /// It may have happened.
    Indefinite,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Every error a client can see. See the module's classes: `code.class()`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $number),* }

        impl Code {
            /// All codes, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code of that number; an unknown one (of a newer server) is [`Code::Internal`].
            pub fn from_number(number: u16) -> Code {
                match number { $($number => Code::$name,)* _ => Code::Internal }
            }

            /// The stable name users see, for example `unknown stream`.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }
        }
    };
}

codes! {
    /// No stream has that name.
    UnknownStream = 101, "unknown stream";
    /// A name that is not 1–128 bytes of `[a-z0-9._-]` beginning with a letter or digit or `-`.
    IllegalName = 102, "illegal name";
    /// A record above the stream's limit.
    RecordTooLarge = 103, "record too large";
    /// A batch above the limit.
    BatchTooLarge = 104, "batch too large";
    /// A batch that does not decode, or whose checksum is wrong.
    CorruptBatch = 105, "corrupt batch";
    /// A stream of that name exists.
    StreamExists = 106, "stream exists";
    /// The stream has no such partition.
    UnknownPartition = 107, "unknown partition";
    /// A setting outside its range, or unknown.
    IllegalSetting = 108, "illegal setting";
    /// A record that breaks a rule other than its size: too many headers, a long key, an unknown `ms-` header.
    IllegalRecord = 109, "illegal record";
    /// A producer timestamp more than an hour ahead of the server's clock.
    TimestampTooFarAhead = 110, "timestamp too far ahead";
    /// No lake has that name.
    UnknownLake = 111, "unknown lake";
    /// A lake of that name exists.
    LakeExists = 112, "lake exists";
    /// A lake's URL, format or store cannot be used.
    IllegalLake = 113, "illegal lake";
    /// The peer broke the protocol: the connection is closed.
    ProtocolViolation = 114, "protocol violation";
    /// The principal may not do this.
    NotAllowed = 115, "not allowed";
    /// The stream is in use by a lake.
    StreamInUse = 116, "stream in use";
    /// The server does not know this request or format version.
    Unsupported = 117, "unsupported";
    /// A record without a key for a compacted stream.
    KeyRequired = 118, "key required";
    /// No consumer group has that name.
    UnknownGroup = 119, "unknown group";
    /// The group has members: what was asked for needs it empty.
    GroupNotEmpty = 120, "group not empty";
    /// A commit above the partition's high watermark.
    CommitPastEnd = 121, "commit past the end";
    /// No queue has that name.
    UnknownQueue = 122, "unknown queue";
    /// A queue of that name exists.
    QueueExists = 123, "queue exists";
    /// A filter that is no filter; the answer says where and why.
    FilterInvalid = 124, "filter invalid";
    /// A visibility, or the sum of one delivery's, above 12 hours.
    VisibilityOutOfRange = 125, "visibility out of range";
    /// A dead-letter stream that is the queue's own, or leads back to it over other queues.
    DeadLetterCycle = 126, "dead-letter cycle";
    /// The queue has no dead-letter stream, and what was asked for needs one.
    NoDeadLetter = 127, "no dead-letter stream";
    /// A receipt of another queue.
    ReceiptForeign = 128, "receipt foreign";
    /// A delay longer than the stream allows.
    DelayTooLong = 129, "delay too long";

    /// The disk is full: appends are refused, reads go on.
    DiskFull = 201, "disk full";
    /// Too much at once; `retry_after_ms` says when.
    Throttled = 202, "throttled";
    /// The server is stopping.
    ShuttingDown = 203, "shutting down";
    /// The request did not finish in its time, and had no effect or is idempotent.
    TimedOut = 204, "timed out";
    /// The partition or server is read-only after a disk error, until a restart has re-verified the log.
    ReadOnly = 205, "read only";
    /// The lake's store does not answer or refuses; the lake goes on trying.
    LakeUnavailable = 206, "lake unavailable";
    /// A partition remembers as many dedup ids as it may: it takes new ones as old ones leave the window.
    DedupWindowFull = 207, "dedup window full";

    /// The offset is below the log start or above the end; the answer names both.
    OffsetOutOfRange = 301, "offset out of range";
    /// The log lost its unsynced tail below this position (`written` streams).
    LogTruncated = 302, "log truncated";
    /// A newer owner, producer or writer of that name has taken over.
    Fenced = 303, "fenced";
    /// This server does not own the partition; retry at the address in the answer.
    NotOwner = 304, "not owner";
    /// The stream was deleted (and perhaps made again): look it up anew.
    StreamDeleted = 305, "stream deleted";
    /// The group has no such member (any more): join again.
    UnknownMember = 306, "unknown member";
    /// The partition is not held under this assignment epoch: it has moved to another member.
    StaleEpoch = 307, "stale member epoch";
    /// A batch's sequence lies beyond the next one of its producer: something before it is missing.
    OutOfOrderSequence = 308, "out of order sequence";
    /// Records of the batch have dedup ids that are known: resolve them, send the rest.
    Duplicates = 309, "duplicates";
    /// The queue was deleted (and perhaps made again): look it up anew.
    QueueDeleted = 310, "queue deleted";
    /// The delivery is over: another has begun, or it was nacked, released, rejected, dead-lettered or purged.
    ReceiptExpired = 311, "receipt expired";
    /// The message is settled, by whom is not known any more: success, as a rule.
    AlreadySettled = 312, "already settled";
    /// An earlier message of the FIFO group is not settled.
    OutOfGroupOrder = 313, "out of group order";

    /// The disk failed under the request: it may or may not be stored.
    DurabilityUnknown = 401, "durability unknown";
    /// The connection was lost before the answer came.
    ConnectionLost = 402, "connection lost";
    /// The server does not remember the producer, or not as far back as the batch: whether it was stored is not known.
    UnknownProducer = 403, "unknown producer";

    /// Stored records are damaged; the answer names the offsets lost.
    RecordsLost = 501, "records lost";
    /// A bug or an unreadable disk; the server's log has the details.
    Internal = 502, "internal error";
}

impl Code {
    /// The code's number.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What a caller can do.
    pub const fn class(self) -> Class {
        match self.number() / 100 {
            1 => Class::Wrong,
            2 => Class::NotNow,
            3 => Class::Behind,
            4 => Class::Unknown,
            _ => Class::Damaged,
        }
    }

    /// Whether the request surely had no effect. A wrong entry here would blind every checker of histories, so there is
    /// no default: whoever adds a code decides. Timeouts, lost connections and codes that this version does not
    /// know are [`Outcome::Indefinite`].
    pub const fn outcome(self) -> Outcome {
        match self {
            Code::TimedOut
            | Code::DurabilityUnknown
            | Code::ConnectionLost
            | Code::UnknownProducer
            | Code::Internal => Outcome::Indefinite,
            Code::UnknownStream
            | Code::IllegalName
            | Code::RecordTooLarge
            | Code::BatchTooLarge
            | Code::CorruptBatch
            | Code::StreamExists
            | Code::UnknownPartition
            | Code::IllegalSetting
            | Code::IllegalRecord
            | Code::TimestampTooFarAhead
            | Code::UnknownLake
            | Code::LakeExists
            | Code::IllegalLake
            | Code::ProtocolViolation
            | Code::NotAllowed
            | Code::StreamInUse
            | Code::Unsupported
            | Code::KeyRequired
            | Code::DiskFull
            | Code::Throttled
            | Code::ShuttingDown
            | Code::ReadOnly
            | Code::LakeUnavailable
            | Code::OffsetOutOfRange
            | Code::LogTruncated
            | Code::Fenced
            | Code::NotOwner
            | Code::StreamDeleted
            | Code::UnknownGroup
            | Code::GroupNotEmpty
            | Code::CommitPastEnd
            | Code::UnknownQueue
            | Code::QueueExists
            | Code::FilterInvalid
            | Code::VisibilityOutOfRange
            | Code::DeadLetterCycle
            | Code::NoDeadLetter
            | Code::ReceiptForeign
            | Code::DelayTooLong
            | Code::QueueDeleted
            | Code::ReceiptExpired
            | Code::AlreadySettled
            | Code::OutOfGroupOrder
            | Code::DedupWindowFull
            | Code::UnknownMember
            | Code::StaleEpoch
            | Code::OutOfOrderSequence
            | Code::Duplicates
            | Code::RecordsLost => Outcome::Definite,
        }
    }

    /// Whether the same request may succeed later without being changed.
    pub const fn is_retryable(self) -> bool {
        matches!(self.class(), Class::NotNow) || matches!(self, Code::ConnectionLost | Code::NotOwner)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_rising_and_survive_the_wire() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
            assert_eq!(u16::from(code.class().number()), code.number() / 100);
        }
        assert_eq!(Code::from_number(9_999), Code::Internal);
    }
    #[test]
    fn what_may_have_happened_is_never_called_definite() {
        let indefinite: Vec<u16> =
            Code::ALL.iter().filter(|code| code.outcome() == Outcome::Indefinite).map(|code| code.number()).collect();
        assert_eq!(indefinite, [204, 401, 402, 403, 502]);
        assert_eq!(Code::from_number(9_999).outcome(), Outcome::Indefinite, "a newer server's code");
        let unknown = |code: &&Code| code.class() == Class::Unknown;
        assert!(Code::ALL.iter().filter(unknown).all(|code| code.outcome() == Outcome::Indefinite));
    }
}
