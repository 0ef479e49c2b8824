//! Control messages: rkyv archives under a version byte.
//!
//! ```text
//! u8 version (1) · rkyv 0.8 archive (little-endian, unaligned), its root at the end
//! ```
//! Types are flat: integers, text, options, vectors of flat structs, plain enums. No maps, no shared pointers, no
//! recursion. A new layout is a new type under a new version byte, never an edited one: `tests/golden.rs` holds
//! the bytes. Meaning (names, ranges) is checked by who acts on a message, not here.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use super::group::{
    CommitResult, CommittedOffset, GroupHeartbeat, GroupInfo, GroupJoin, GroupReset, GroupSummary, Membership,
    OffsetCommit, StreamPartition,
};
pub use super::lake::{
    LakeAudit, LakeColumn, LakeColumns, LakeCompression, LakeConfig, LakeDelivery, LakeFormat, LakePartition,
    LakePreview, LakeRetry, LakeStatus, SMALL_FILE_BYTES,
};
use super::queue::{
    PeekedMessage, QueueConfig, QueueInfo, QueueOpen, QueueOpened, QueueStart, QueueSummary, RedriveInfo,
    RedriveOptions,
};
use super::{FrameError, Refusal};
use crate::Code;
use crate::limits::CONTROL_BYTES_MAX;

/// The version byte this code writes.
pub const CONTROL_VERSION: u8 = 1;

/// What an ack means. `Synced` unless asked otherwise by name.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Durability {
    /// The record survives a crash and power loss: it was synced before the ack.
    #[default]
    Synced,
    /// The record is in the page cache: it survives a crash of the server, not power loss.
    Written,
}

/// What makes room in a stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Cleanup {
    /// Old segments are deleted, by age and by bytes.
    #[default]
    Delete,
    /// Of each key the latest value stays; every record needs a key. Nothing goes by age or bytes: `retention_ms` and
    /// `retention_bytes` must be `None`.
    Compact(Compaction),
}

/// How a stream is compacted.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compaction {
    /// How long a tombstone (a record without a value) stays, in milliseconds, counted from when it was first cleaned:
    /// the time in which every reader must get past it to learn that the key is gone.
    pub delete_retention_ms: u64,
    /// How long every record stays, in milliseconds, counted from the last append to its segment.
    pub min_compaction_lag_ms: u64,
}

impl Default for Compaction {
    /// Tombstones stay 24 hours; no lag.
    fn default() -> Self {
        Self { delete_retention_ms: 24 * 60 * 60 * 1_000, min_compaction_lag_ms: 0 }
    }
}

/// A stream's settings.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// What an ack means.
    pub durability: Durability,
    /// Segments whose last append is older than this, in milliseconds, go; `None` keeps them.
    pub retention_ms: Option<u64>,
    /// The oldest segments of a partition go while it holds at least this many bytes without them; `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// A segment rolls at this size, in bytes; 1 MiB to 4 GiB.
    pub segment_bytes: u64,
    /// The largest record, key and headers included, in bytes; 1 to 8 MiB.
    pub record_bytes_max: u32,
    /// What makes room: deletion of old segments, or compaction by key.
    pub cleanup: Cleanup,
    /// How long a dedup id is remembered, in milliseconds, from its first append; 1 s to 24 h.
    pub dedup_window_ms: u32,
    /// The longest delay that a record may ask for, in milliseconds; 0 (none may) to 30 days.
    pub max_delay_ms: u32,
    /// Whether whole segments go once all who are interested are past them: every queue and lake on the stream, and every group
    /// that reads it or has committed in it. Nothing goes so while nobody is interested. Age and bytes, where they are set,
    /// delete by themselves all the same. Not for a compacted stream.
    pub interest: bool,
}

// The archive's layout hangs on rkyv's features, and any crate of a build can switch those on for all: a layout
// other than little-endian and unaligned does not compile.
const _: fn(rkyv::Archived<u64>) -> rkyv::rend::unaligned::u64_ule = |archived| archived;
const _: () = assert!(align_of::<ArchivedStreamConfig>() == 1, "archives are read where they lie in a frame");
const _: () = assert!(size_of::<ArchivedStreamConfig>() == 1 + 9 + 9 + 8 + 4 + 17 + 4 + 4 + 1, "no padding");

impl Default for StreamConfig {
    /// Synced, 7 days, no byte limit, segments of 256 MiB, records of 1 MiB; old segments are deleted; dedup ids are
    /// remembered for 5 minutes; a message may be delayed by 7 days; nothing goes by interest.
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            retention_ms: Some(7 * 24 * 60 * 60 * 1_000),
            retention_bytes: None,
            segment_bytes: 256 << 20,
            record_bytes_max: crate::limits::RECORD_BYTES_DEFAULT as u32,
            cleanup: Cleanup::Delete,
            dedup_window_ms: 5 * 60 * 1_000,
            max_delay_ms: 7 * 24 * 60 * 60 * 1_000,
            interest: false,
        }
    }
}

impl StreamConfig {
    /// The defaults of a compacted stream: nothing goes by age or bytes.
    pub fn compacted(compaction: Compaction) -> Self {
        Self { retention_ms: None, retention_bytes: None, cleanup: Cleanup::Compact(compaction), ..Self::default() }
    }

    /// The defaults of a stream whose records go after consumption: by interest, and by neither age nor bytes.
    pub fn by_interest() -> Self {
        Self { retention_ms: None, retention_bytes: None, interest: true, ..Self::default() }
    }

    /// Checks how long a record would be withheld from queues: what it asks for must not be longer than the stream allows, nor
    /// than it keeps records.
    ///
    /// # Errors
    /// [`Code::DelayTooLong`].
    pub fn check_delay(&self, delay_ms: u64) -> Result<(), Refusal> {
        let (limit, setting) = match self.retention_ms {
            Some(age) if age < u64::from(self.max_delay_ms) => (age, "retention"),
            _ => (u64::from(self.max_delay_ms), "max_delay"),
        };
        if delay_ms <= limit {
            return Ok(());
        }
        let text = format!(
            "a record asks for a delay of {delay_ms} ms (`ms-delay` or `ms-not-before`), the limit is this stream's \
             {setting} of {limit} ms: send it later, or make a stream with a longer {setting}"
        );
        Err(Refusal::new(Code::DelayTooLong, text))
    }

    /// Whether every record needs a key.
    pub fn is_compacted(&self) -> bool {
        matches!(self.cleanup, Cleanup::Compact(_))
    }
}

/// Who asked for a stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CreateMode {
    /// A person or program, by name.
    Explicit,
    /// A producer that found it missing: the server's setting may forbid it.
    Automatic,
}

/// A request on the control stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Makes a stream. Answer: `Stream`.
    CreateStream {
        /// Its name.
        name: String,
        /// How many partitions.
        partitions: u32,
        /// Its settings.
        config: StreamConfig,
        /// Who asks.
        mode: CreateMode,
    },
    /// Deletes a stream and its records. Answer: `Done`.
    DeleteStream {
        /// Its name.
        name: String,
    },
    /// All streams. Answer: `Streams`.
    ListStreams,
    /// One stream with its partitions. Answer: `Stream`.
    DescribeStream {
        /// Its name.
        name: String,
    },
    /// Forgets a partition's records below `offset`. Answer: `Offset`, the new log start.
    DeleteBefore {
        /// The stream's name.
        stream: String,
        /// The partition.
        partition: u32,
        /// The first offset to keep.
        offset: u64,
    },
    /// Adds a lake. Answer: `Lake`.
    CreateLake {
        /// The lake.
        config: LakeConfig,
    },
    /// Removes a lake; its files stay. Answer: `Done`.
    RemoveLake {
        /// Its name.
        name: String,
    },
    /// All lakes. Answer: `Lakes`, with the text of declared schemas left out: a lake's status has it.
    ListLakes,
    /// How far a lake is. Answer: `LakeStatus`.
    LakeStatus {
        /// Its name.
        name: String,
    },
    /// What the server's start had to do. Answer: `Recovery`.
    DescribeRecovery,
    /// Lands all that was produced before this request. Answer: `LakeStatus`, once it has landed.
    FlushLake {
        /// Its name.
        name: String,
        /// How long to wait, in milliseconds, before `TimedOut`.
        timeout_ms: u64,
    },
    /// Gives a producer its number. Answer: `Producer`.
    InitProducer {
        /// Its name: an earlier producer of that name is fenced. `None`: it has none.
        name: Option<String>,
    },
    /// Raises a producer's epoch: nothing sent under an earlier one is stored any more once this is answered. Answer:
    /// `ProducerBumped`.
    BumpProducer {
        /// Its number.
        id: u64,
        /// Its epoch as it knows it.
        epoch: u32,
        /// The stream it writes to, by number.
        stream: u64,
    },
    /// Joins a consumer group. Answer: `Membership`, with an assignment.
    JoinGroup(GroupJoin),
    /// A member is alive. Answer: `Membership`.
    HeartbeatGroup(GroupHeartbeat),
    /// A member leaves; a static one only if `for_good`. Answer: `Done`.
    LeaveGroup {
        /// The group.
        group: String,
        /// The member.
        member: u64,
        /// Also if it is static: otherwise its session runs on, for the one who comes back under its instance id.
        for_good: bool,
    },
    /// Commits offsets; each partition for itself. Answer: `Committed`.
    CommitOffsets {
        /// The group.
        group: String,
        /// The member; `None`: no member.
        member: Option<u64>,
        /// The offsets, each partition once; 1 to 512.
        commits: Vec<OffsetCommit>,
    },
    /// Committed offsets, as durable now. Answer: `Offsets`, in the order asked.
    FetchOffsets {
        /// The group.
        group: String,
        /// Which; 1 to 512.
        partitions: Vec<StreamPartition>,
    },
    /// All groups. Answer: `Groups`.
    ListGroups,
    /// One group. Answer: `Group`.
    DescribeGroup {
        /// Its name.
        name: String,
    },
    /// Moves the offsets of a group without members. Answer: `Offsets`, as they are then.
    ResetGroup(GroupReset),
    /// Deletes a group without members, and its offsets. Answer: `Done`.
    DeleteGroup {
        /// Its name.
        name: String,
    },
    /// Deletes the offsets of a group without members in one stream. Answer: `Done`.
    DeleteOffsets {
        /// The group.
        group: String,
        /// The stream's name.
        stream: String,
        /// Which partitions; empty: all.
        partitions: Vec<u32>,
    },
    /// Makes a queue on a stream. Answer: `Queue`.
    CreateQueue {
        /// Its name.
        name: String,
        /// Its stream's name.
        stream: String,
        /// Its settings.
        config: QueueConfig,
        /// Where it begins.
        start: QueueStart,
    },
    /// Gives a queue other settings: another filter or delay holds from the offsets on that the answer names. Answer: `Queue`.
    UpdateQueue {
        /// Its name.
        name: String,
        /// Its settings.
        config: QueueConfig,
    },
    /// Deletes a queue; its stream stays as it is. Answer: `Done`.
    DeleteQueue {
        /// Its name.
        name: String,
    },
    /// All queues. Answer: `Queues`.
    ListQueues,
    /// One queue, and how it stands. Answer: `Queue`.
    DescribeQueue {
        /// Its name.
        name: String,
    },
    /// Settles all that a queue holds now, in flight and delayed too. Answer: `Count`, of messages.
    PurgeQueue {
        /// Its name.
        name: String,
    },
    /// A queue begins anew elsewhere: all leases end, what lies above is delivered (again). Answer: `Queue`.
    SeekQueue {
        /// Its name.
        name: String,
        /// Where.
        to: QueueStart,
    },
    /// Stops a queue's deliveries, or lets them go on. Answer: `Done`.
    PauseQueue {
        /// Its name.
        name: String,
        /// Whether it stops.
        is_paused: bool,
    },
    /// Shows unsettled messages of a queue, without a lease. Answer: `Peeked`.
    PeekQueue {
        /// Its name.
        name: String,
        /// Only of this partition.
        partition: Option<u32>,
        /// In each partition from this offset on.
        from: Option<u64>,
        /// How many at most, 1 to 100; fewer if they are large.
        max: u32,
        /// Only those that stand parked.
        only_parked: bool,
    },
    /// Decides about a parked message, or all of a parked group. Answer: `Count`, of messages.
    UnparkQueue {
        /// The queue's name.
        name: String,
        /// The partition.
        partition: u32,
        /// The message; `None`: the group's.
        offset: Option<u64>,
        /// The group's key, without an offset.
        key: Option<Vec<u8>>,
        /// They are tried again from the first; otherwise they go to the dead letters.
        retry: bool,
    },
    /// Brings dead messages back. Answer: `Redrive`; the task goes on by itself.
    RedriveQueue {
        /// The queue's name.
        name: String,
        /// Which, how fast, and where to.
        options: RedriveOptions,
    },
    /// How a queue's newest redrive stands. Answer: `Redrive`.
    DescribeRedrive {
        /// The queue's name.
        name: String,
    },
    /// Ends a queue's redrive where it stands. Answer: `Redrive`.
    CancelRedrive {
        /// The queue's name.
        name: String,
    },
    /// What a lake would do with the newest records of its stream; nothing is written. Answer: `LakePreview`.
    PreviewLake {
        /// The lake.
        config: LakeConfig,
        /// How many records to look at; 1 to 10,000.
        records: u32,
    },
    /// Changes a lake's declared schema. Answer: `Lake`.
    AlterLake {
        /// Its name.
        name: String,
        /// The new schema file's text; it may only add to the old one, or loosen it.
        schema: String,
    },
    /// Tries again to land what is in a lake's error prefix. Answer: `LakeRetry`.
    RetryLakeErrors {
        /// Its name.
        name: String,
        /// How long to wait, in milliseconds, before `TimedOut`.
        timeout_ms: u64,
    },
    /// Compares a lake's manifest, its files and the log. Answer: `LakeAudit`.
    AuditLake {
        /// Its name.
        name: String,
        /// How long to wait, in milliseconds, before `TimedOut`.
        timeout_ms: u64,
    },
}

/// Where a producer goes on in a partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextSequence {
    /// The partition.
    pub partition: u32,
    /// The sequence after its last record stored there, 0 if there is none; `None`: nothing of it is remembered, and there
    /// may have been something.
    pub next: Option<u64>,
}

/// What a client needs to know of a partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: u32,
    /// Seeds the checksums of its batches.
    pub incarnation: u64,
    /// The owner's epoch.
    pub epoch: u32,
    /// Where its owner listens; empty: at this connection.
    pub owner: String,
    /// The first offset still kept.
    pub log_start: u64,
    /// The offset below which records have reached the stream's durability.
    pub high_watermark: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// What it can do.
    pub state: PartitionState,
}

/// What a partition can do.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PartitionState {
    /// Everything.
    Online,
    /// Reads only: the disk failed under it.
    ReadOnly,
    /// Nothing: its log could not be opened.
    Offline,
}

/// One stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: StreamConfig,
    /// When it was made, Unix ms.
    pub created_ms: i64,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionInfo>,
}

/// One stream in a list.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// What an ack means.
    pub durability: Durability,
    /// Records kept, over all partitions.
    pub records: u64,
    /// Bytes on disk, over all partitions.
    pub bytes: u64,
}

/// What a server's start had to do in one partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PartitionRecovery {
    /// The stream's name.
    pub stream: String,
    /// The partition.
    pub partition: u32,
    /// Bytes read and verified.
    pub bytes_read: u64,
    /// Bytes cut off as a torn tail; they are in quarantine.
    pub bytes_cut: u64,
    /// Files moved into quarantine.
    pub files_quarantined: u64,
    /// Damaged ranges of offsets.
    pub holes: u64,
    /// Damaged segment preambles written again.
    pub preambles_restored: u64,
    /// Why it is offline; empty if it is not.
    pub error: String,
}

/// What a server's start had to do.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RecoveryInfo {
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Partitions opened, or tried.
    pub partitions: u64,
    /// Partitions that could not be opened.
    pub offline: u64,
    /// Partitions that needed something, or are offline.
    pub needed: u64,
    /// Bytes of segments and journals read.
    pub bytes_read: u64,
    /// Journal frames replayed.
    pub frames_replayed: u64,
    /// Bytes of batches they gave back.
    pub bytes_replayed: u64,
    /// Journal files, frames and checkpoints that are damaged.
    pub journal_damage: u64,
    /// Bytes cut off as torn tails; they are in quarantine.
    pub bytes_cut: u64,
    /// Files moved into quarantine.
    pub files_quarantined: u64,
    /// Damaged ranges of offsets.
    pub holes: u64,
    /// Damaged segment preambles written again.
    pub preambles_restored: u64,
    /// The first of the partitions that needed something.
    pub named: Vec<PartitionRecovery>,
}

/// The answer to a [`Request`].
#[allow(clippy::large_enum_variant, reason = "one at a time, and on its way to the wire")]
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// It is done.
    Done,
    /// One stream.
    Stream(StreamInfo),
    /// All streams, by name.
    Streams(Vec<StreamSummary>),
    /// A position.
    Offset(u64),
    /// One lake.
    Lake(LakeConfig),
    /// All lakes, by name.
    Lakes(Vec<LakeConfig>),
    /// One lake's state.
    LakeStatus(LakeStatus),
    /// What the start had to do.
    Recovery(RecoveryInfo),
    /// A producer.
    Producer {
        /// Its number; never 0, never given twice.
        id: u64,
        /// Its epoch.
        epoch: u32,
    },
    /// A producer's new epoch.
    ProducerBumped {
        /// The epoch.
        epoch: u32,
        /// Where it goes on, in each of the stream's partitions that is online.
        partitions: Vec<NextSequence>,
    },
    /// A member's place in its group.
    Membership(Membership),
    /// What became of each commit, in the order given.
    Committed(Vec<CommitResult>),
    /// Committed offsets.
    Offsets(Vec<CommittedOffset>),
    /// All groups, by name.
    Groups(Vec<GroupSummary>),
    /// One group.
    Group(GroupInfo),
    /// One queue.
    Queue(QueueInfo),
    /// All queues, by name.
    Queues(Vec<QueueSummary>),
    /// How many.
    Count(u64),
    /// Messages, by partition and offset.
    Peeked(Vec<PeekedMessage>),
    /// A queue's newest redrive, if there was one.
    Redrive(Option<RedriveInfo>),
    /// What a lake would do.
    LakePreview(LakePreview),
    /// What an audit found.
    LakeAudit(LakeAudit),
    /// What became of the records in the error prefix.
    LakeRetry(LakeRetry),
}

/// Where to begin in a partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the log start.
    Earliest,
    /// At the high watermark: only what comes later.
    Latest,
    /// At an offset.
    Offset {
        /// The next offset wanted.
        offset: u64,
        /// Epoch of the batch before it, if known: finds out whether the log lost its tail since.
        epoch: Option<u32>,
    },
    /// At the first record appended at or after this time, Unix ms.
    Time(i64),
}

/// One partition of a [`ConsumeOpen`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumeStart {
    /// The partition.
    pub partition: u32,
    /// Where to begin.
    pub start: Start,
}

/// When a consume stream ends.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConsumeMode {
    /// At each partition's high watermark as of the opening.
    Bounded,
    /// Never: it waits for more.
    Follow,
}

/// Opens a consume stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ConsumeOpen {
    /// The stream, by number.
    pub stream: u64,
    /// Which partitions, and where to begin.
    pub partitions: Vec<ConsumeStart>,
    /// When to end.
    pub mode: ConsumeMode,
}

/// Where a partition's delivery begins.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumePosition {
    /// The partition.
    pub partition: u32,
    /// The first offset that will come.
    pub offset: u64,
    /// The high watermark: where a bounded stream ends.
    pub high_watermark: u64,
    /// The first offset still kept.
    pub log_start: u64,
}

/// Answers a [`ConsumeOpen`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ConsumeOpened {
    /// In the order asked.
    pub positions: Vec<ConsumePosition>,
}

/// What a consumer is told between batches.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumeEvent {
    /// A bounded delivery of a partition is complete. After the last one the stream ends.
    End {
        /// The partition.
        partition: u32,
        /// The offset after the last record delivered.
        offset: u64,
    },
    /// Records are missing: damage, or retention overtook the reader. Delivery goes on at `resume`.
    Gap {
        /// The partition.
        partition: u32,
        /// The first offset missing.
        from: u64,
        /// The next offset that will come.
        resume: u64,
        /// `OffsetOutOfRange` or `RecordsLost`.
        code: u16,
        /// For people.
        text: String,
    },
    /// A partition's delivery has ended for good: `LogTruncated`, `StreamDeleted`, …
    Failed {
        /// The partition.
        partition: u32,
        /// The code's number.
        code: u16,
        /// For people.
        text: String,
    },
}

/// A control message: what may stand in a frame's rkyv body.
pub trait Message: sealed::Sealed + Sized {
    /// Its name in errors.
    const NAME: &'static str;

    /// The body's bytes.
    fn encode(&self) -> Vec<u8>;

    /// Validates and decodes a body.
    ///
    /// # Errors
    /// [`FrameError`]: of another version, or not a valid archive.
    fn decode(body: &[u8]) -> Result<Self, FrameError>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! messages {
    ($($name:ident $text:literal $limit:expr;)*) => {$(
        impl sealed::Sealed for $name {}
        impl Message for $name {
            const NAME: &'static str = $text;

            fn encode(&self) -> Vec<u8> {
                let archive = rkyv::to_bytes::<rancor::Error>(self).expect("flat types always archive");
                let mut out = Vec::with_capacity(1 + archive.len());
                out.push(CONTROL_VERSION);
                out.extend_from_slice(&archive);
                out
            }

            fn decode(body: &[u8]) -> Result<Self, FrameError> {
                if body.len() > $limit {
                    return Err(FrameError::TooLong { what: $text, length: body.len(), limit: $limit });
                }
                match body.split_first() {
                    None => Err(FrameError::Truncated { what: $text, need: 1, have: 0 }),
                    Some((&CONTROL_VERSION, archive)) => rkyv::from_bytes::<$name, rancor::Error>(archive)
                        .map_err(|error| FrameError::Archive { what: $text, reason: error.to_string() }),
                    Some((version, _)) => {
                        Err(FrameError::Unknown { what: "message version", value: u64::from(*version) })
                    }
                }
            }
        }
    )*};
}

messages! {
    Request "request" CONTROL_BYTES_MAX;
    Response "response" 4 * CONTROL_BYTES_MAX;
    ConsumeOpen "open consume" 4 * CONTROL_BYTES_MAX;
    ConsumeOpened "consume opened" 4 * CONTROL_BYTES_MAX;
    ConsumeEvent "consume event" CONTROL_BYTES_MAX;
    QueueOpen "open queue" 4 * CONTROL_BYTES_MAX;
    QueueOpened "queue opened" CONTROL_BYTES_MAX;
}
