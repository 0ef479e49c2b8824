//! What can go wrong in the broker.

use millstream_log::LogError;
use millstream_protocol::frame::Refusal;
use millstream_protocol::names::IllegalName;
use millstream_protocol::{Code, PartitionId, ProducerId};

/// An error of the broker. Its `Display` says what happened, with the values, then what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No stream has that name.
    #[error(
        "unknown stream '{0}': `millstream stream list` shows what there is, `millstream stream create {0}` makes it"
    )]
    UnknownStream(String),
    /// A stream of that name exists.
    #[error("stream '{0}' exists: choose another name, or delete it first")]
    StreamExists(String),
    /// The stream was deleted.
    #[error("stream {0} was deleted: look it up again by name")]
    StreamDeleted(u64),
    /// The stream has lakes or queues, or is the dead-letter stream of one.
    #[error("stream '{stream}' is in use by {by}: remove that first")]
    StreamInUse {
        /// The stream.
        stream: String,
        /// One that uses it.
        by: String,
    },
    /// The stream has no such partition.
    #[error("stream '{stream}' has no partition {partition}: it has {count}, counted from 0")]
    UnknownPartition {
        /// The stream.
        stream: String,
        /// The partition asked for.
        partition: PartitionId,
        /// How many it has.
        count: usize,
    },
    /// Streams are not made on the way here.
    #[error(
        "stream '{0}' does not exist, and this server does not create streams on the way (auto_create_streams = false): create it first"
    )]
    AutoCreateForbidden(String),
    /// A name that is not legal.
    #[error("illegal name: {0}")]
    IllegalName(#[from] IllegalName),
    /// A visibility above 12 hours.
    #[error("a visibility of {0} ms is out of range: use 0 to 43200000 (12 hours)")]
    VisibilityOutOfRange(u64),
    /// A setting outside its range.
    #[error("{setting} is {value}, legal is {legal}: change it")]
    IllegalSetting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is legal.
        legal: String,
    },
    /// No lake has that name.
    #[error("unknown lake '{0}': `millstream lake list` shows what there is")]
    UnknownLake(String),
    /// A lake of that name exists.
    #[error("lake '{0}' exists: choose another name, or remove it first")]
    LakeExists(String),
    /// No queue has that name.
    #[error("unknown queue '{0}': `millstream queue list` shows what there is")]
    UnknownQueue(String),
    /// A queue of that name exists.
    #[error("queue '{0}' exists: choose another name, or delete it first")]
    QueueExists(String),
    /// A dead-letter stream that leads back to the queue.
    #[error(
        "a queue on '{stream}' with the dead-letter stream '{dead_letter}' makes a circle ({path}): choose a dead-letter stream of its own"
    )]
    DeadLetterCycle {
        /// The queue's stream.
        stream: String,
        /// Its dead-letter stream.
        dead_letter: String,
        /// The circle, from stream to stream.
        path: String,
    },
    /// A filter that is no filter.
    #[error(transparent)]
    FilterInvalid(#[from] millstream_filter::FilterInvalid),
    /// A setting that needs a dead-letter stream.
    #[error("{0} needs a dead-letter stream: name one")]
    NoDeadLetter(&'static str),
    /// No group has that name.
    #[error(
        "unknown group '{0}': `millstream group list` shows what there is; a group is made by its first member, or by a reset"
    )]
    UnknownGroup(String),
    /// The group has members.
    #[error("group '{group}' has {members} members: stop them, or wait until their sessions have ended, then retry")]
    GroupNotEmpty {
        /// The group.
        group: String,
        /// How many.
        members: usize,
    },
    /// The group has no such member.
    #[error(
        "group '{group}' has no member {member:016x} (any more): its session ended, it did not let go of partitions in time, or it left; join again"
    )]
    UnknownMember {
        /// The group.
        group: String,
        /// The member.
        member: u64,
    },
    /// Another member joined under this one's instance id.
    #[error(
        "member {member:016x} of group '{group}' was replaced by a newer one with the same instance id: stop this one, or give it an instance id of its own"
    )]
    MemberFenced {
        /// The group.
        group: String,
        /// The member.
        member: u64,
    },
    /// The partition is not held under this epoch.
    #[error(
        "group '{group}': stream {stream}, partition {partition} is not held under epoch {epoch} but {held}: what comes after its last commit is another member's; drop what is in hand"
    )]
    StaleEpoch {
        /// The group.
        group: String,
        /// The stream.
        stream: u64,
        /// The partition.
        partition: u32,
        /// The epoch that was given.
        epoch: u32,
        /// How it is held.
        held: String,
    },
    /// A commit above what the partition holds.
    #[error(
        "offset {offset} of stream {stream}, partition {partition} is past the end at {high_watermark}: commit the offset after the last record that was read"
    )]
    CommitPastEnd {
        /// The stream.
        stream: u64,
        /// The partition.
        partition: u32,
        /// The offset that was given.
        offset: u64,
        /// The partition's high watermark.
        high_watermark: u64,
    },
    /// No producer has that number.
    #[error("producer {0} was not made by this server: open the producer anew")]
    UnknownProducer(ProducerId),
    /// A newer producer of the same name has taken over.
    #[error(
        "producer {0} was fenced by a newer one of its name: end it, or give each producer that runs at the same time a name of its own"
    )]
    ProducerFenced(ProducerId),
    /// A start gives four billion numbers.
    #[error("this start of the server has given all the producer numbers it has: restart it")]
    ProducersExhausted,
    /// The log's.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl BrokerError {
    /// The error's number for clients.
    pub fn code(&self) -> Code {
        match self {
            BrokerError::UnknownStream(_) => Code::UnknownStream,
            BrokerError::StreamExists(_) => Code::StreamExists,
            BrokerError::StreamDeleted(_) => Code::StreamDeleted,
            BrokerError::StreamInUse { .. } => Code::StreamInUse,
            BrokerError::UnknownPartition { .. } => Code::UnknownPartition,
            BrokerError::AutoCreateForbidden(_) => Code::UnknownStream,
            BrokerError::IllegalName(_) => Code::IllegalName,
            BrokerError::IllegalSetting { .. } => Code::IllegalSetting,
            BrokerError::VisibilityOutOfRange(_) => Code::VisibilityOutOfRange,
            BrokerError::UnknownLake(_) => Code::UnknownLake,
            BrokerError::LakeExists(_) => Code::LakeExists,
            BrokerError::UnknownQueue(_) => Code::UnknownQueue,
            BrokerError::QueueExists(_) => Code::QueueExists,
            BrokerError::DeadLetterCycle { .. } => Code::DeadLetterCycle,
            BrokerError::FilterInvalid(_) => Code::FilterInvalid,
            BrokerError::NoDeadLetter(_) => Code::NoDeadLetter,
            BrokerError::UnknownGroup(_) => Code::UnknownGroup,
            BrokerError::GroupNotEmpty { .. } => Code::GroupNotEmpty,
            BrokerError::UnknownMember { .. } => Code::UnknownMember,
            BrokerError::MemberFenced { .. } => Code::Fenced,
            BrokerError::StaleEpoch { .. } => Code::StaleEpoch,
            BrokerError::CommitPastEnd { .. } => Code::CommitPastEnd,
            BrokerError::UnknownProducer(_) => Code::UnknownProducer,
            BrokerError::ProducerFenced(_) => Code::Fenced,
            BrokerError::ProducersExhausted => Code::Throttled,
            BrokerError::Log(error) => error.code(),
        }
    }

    /// What a client is told.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), self.to_string())
    }
}
