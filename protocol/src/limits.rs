//! Every maximum of the system in one place, tied to the others by assertions.
//!
//! What is refused beyond a limit is said beside it. Settings may lower some of them; none may be raised above
//! what stands here.

use std::ops::RangeInclusive;

/// The largest record a stream may be set to accept, key and headers included (`RecordTooLarge` beyond).
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// The largest record unless a stream says otherwise.
pub const RECORD_BYTES_DEFAULT: usize = 1 << 20;
/// Room that a batch needs beyond one largest record: header, lengths, header names.
pub const BATCH_OVERHEAD_BYTES: usize = 64 << 10;
/// The largest batch as stored, header included (`BatchTooLarge` beyond).
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES;
/// The largest uncompressed body: what a decoder may be made to allocate (`CorruptBatch` beyond).
pub const BATCH_UNCOMPRESSED_BYTES_MAX: usize = RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES;
/// The most records in a batch (`CorruptBatch` beyond).
pub const BATCH_RECORDS_MAX: u32 = 1 << 20;
/// The most headers of a record (`IllegalRecord` beyond).
pub const RECORD_HEADERS_MAX: usize = 64;
/// The longest key (`IllegalRecord` beyond).
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// The longest header name (`IllegalRecord` beyond).
pub const HEADER_NAME_BYTES_MAX: usize = 256;
/// The most records in a batch with headers on which the server acts (`CorruptBatch` beyond): an answer names each of them.
pub const CONTROL_BATCH_RECORDS_MAX: u32 = 16 << 10;
/// The longest dedup id (`IllegalRecord` beyond).
pub const DEDUP_ID_BYTES_MAX: usize = 128;
/// The dedup ids that a partition remembers (`DedupWindowFull` beyond).
pub const DEDUP_IDS_MAX: usize = 1_000_000;
/// The producers that a partition remembers; beyond it the one that was idle longest is forgotten (`UnknownProducer`).
pub const PRODUCERS_MAX: usize = 10_000;
/// The batches of one producer that a partition remembers, so that each gets its offset back when it comes again; beyond it
/// the oldest is forgotten (`UnknownProducer`). A client has no more than these in flight to a partition.
pub const PRODUCER_BATCHES_MAX: usize = 256;
/// The partitions that one commit or fetch of offsets names (`IllegalSetting` beyond).
pub const OFFSETS_PER_REQUEST_MAX: usize = 512;
/// The longest metadata of a committed offset (`IllegalSetting` beyond).
pub const COMMIT_METADATA_BYTES_MAX: usize = 256;
/// The consumer groups of a server (`IllegalSetting` beyond).
pub const GROUPS_MAX: usize = 100_000;
/// The members of a group (`IllegalSetting` beyond).
pub const GROUP_MEMBERS_MAX: usize = 1_000;
/// The partitions of all the streams that a group reads (`IllegalSetting` beyond): one member may hold them all.
pub const GROUP_PARTITIONS_MAX: usize = 50_000;
/// The streams that a member reads (`IllegalSetting` beyond).
pub const GROUP_STREAMS_MAX: usize = 100;
/// The queues of a server (`IllegalSetting` beyond).
pub const QUEUES_MAX: usize = 10_000;
/// The longest filter, in bytes (`FilterInvalid` beyond).
pub const FILTER_BYTES_MAX: usize = 1 << 10;
/// The longest visibility of one delivery in all, in milliseconds (`VisibilityOutOfRange` beyond): 12 hours.
pub const VISIBILITY_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// The longest delay of a queue, in milliseconds (`IllegalSetting` beyond): 15 minutes.
pub const QUEUE_DELAY_MS_MAX: u64 = 15 * 60 * 1_000;
/// The longest delay of one message that a stream may allow, in milliseconds (`IllegalSetting` beyond): 30 days.
pub const DELAY_MS_MAX: u32 = 30 * 24 * 60 * 60 * 1_000;
/// The messages that one frame of verbs speaks of (connection closed beyond).
pub const QUEUE_VERBS_MAX: usize = 16 << 10;
/// The most messages of one receive (`IllegalSetting` beyond).
pub const RECEIVE_MESSAGES_MAX: u32 = 1_000;
/// The most bytes of one receive (`IllegalSetting` beyond).
pub const RECEIVE_BYTES_MAX: u32 = 1 << 20;
/// The longest wait of a receive, in milliseconds (`IllegalSetting` beyond).
pub const RECEIVE_WAIT_MS_MAX: u64 = 60_000;
/// The most messages that a receiver which comes back may name as still its own (`IllegalSetting` beyond).
pub const QUEUE_HELD_MAX: usize = 50_000;
/// The most messages that one peek shows (`IllegalSetting` beyond).
pub const PEEK_MESSAGES_MAX: u32 = 100;
/// The producer names that a server remembers; beyond it the one that was named longest ago is forgotten, and its producer
/// fenced (`Fenced`).
pub const PRODUCER_NAMES_MAX: usize = 10_000;
/// The longest stream, group, queue or lake name (`IllegalName` beyond).
pub const NAME_BYTES_MAX: usize = 128;
/// The lakes of a server (`IllegalSetting` beyond).
pub const LAKES_MAX: usize = 1_000;
/// The longest URL of a lake, in bytes (`IllegalSetting` beyond).
pub const LAKE_URL_BYTES_MAX: usize = 4 << 10;
/// The longest layout template of a lake, in bytes (`IllegalSetting` beyond).
pub const LAKE_LAYOUT_BYTES_MAX: usize = 4 << 10;
/// The longest declared schema of a lake, in bytes (`IllegalSetting` beyond).
pub const LAKE_SCHEMA_BYTES_MAX: usize = 256 << 10;
/// At what size a lake's file may be closed, in bytes (`IllegalSetting` outside): it is read into memory for its PUT.
pub const LAKE_ROLL_BYTES: RangeInclusive<u64> = 1 << 20..=512 << 20;
/// At how many rows a lake's file may be closed (`IllegalSetting` outside).
pub const LAKE_ROLL_ROWS: RangeInclusive<u64> = 1_000..=1_000_000_000;
/// At what age a lake's file may be closed, in milliseconds (`IllegalSetting` outside): a tenth of a second to 7 days. The
/// longest age of a small file has the same end, and begins at this age.
pub const LAKE_ROLL_AGE_MS: RangeInclusive<u64> = 100..=7 * 24 * 60 * 60 * 1_000;
/// How many files of a lake may be open (`IllegalSetting` outside).
pub const LAKE_OPEN_FILES: RangeInclusive<u64> = 1..=4_096;
/// The most records that a preview of a lake looks at (`IllegalSetting` beyond).
pub const LAKE_PREVIEW_RECORDS_MAX: u32 = 10_000;
/// The columns that a preview of a lake names: more than a lake may have.
pub const LAKE_PREVIEW_COLUMNS_MAX: usize = 2_048;
/// The bytes of a column's name or type that a preview of a lake shows (cut beyond).
pub const LAKE_PREVIEW_TEXT_BYTES_MAX: usize = 256;
/// The example paths that a preview of a lake shows.
pub const LAKE_PREVIEW_PATHS_MAX: usize = 20;
/// The bytes of a path or a finding that an answer about a lake shows (cut beyond): an object's whole name, mostly.
pub const LAKE_LINE_BYTES_MAX: usize = 4 << 10;
/// The findings of an audit that are named; the count is whole.
pub const LAKE_FINDINGS_MAX: usize = 100;
/// The largest body of a control frame (connection closed beyond).
pub const CONTROL_BYTES_MAX: usize = 320 << 10;
/// The largest frame before the hello is through (connection closed beyond).
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// Room in a data frame beyond its batches: the routing prefix.
pub const ROUTING_BYTES_MAX: usize = 256;
/// The largest body of any frame (connection closed beyond).
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + ROUTING_BYTES_MAX;
/// The most partitions of a stream (`IllegalSetting` beyond).
pub const PARTITIONS_MAX: u32 = 10_000;
/// The most batches in flight that a produce stream is granted.
pub const PRODUCE_DEPTH_MAX: u32 = 4_096;
/// The most partitions on one consume stream (`IllegalSetting` beyond).
pub const CONSUME_PARTITIONS_MAX: usize = PARTITIONS_MAX as usize;
/// The longest text that an error carries to a client.
pub const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;
/// How far ahead of the server's clock a producer's timestamp may be, in milliseconds (`TimestampTooFarAhead`).
pub const TIMESTAMP_AHEAD_MS_MAX: i64 = 60 * 60 * 1_000;
/// The longest filter text (refused at creation beyond, as are the next two).
pub const FILTER_TEXT_BYTES_MAX: usize = 1 << 10;
/// The most operators of a filter: `.`, `[`, calls, and all that compute.
pub const FILTER_OPERATORS_MAX: usize = 256;
/// The deepest brackets of a filter.
pub const FILTER_NESTING_MAX: usize = 16;
/// The work that one evaluation of a filter may do, in steps: an operator, an element compared, 64 bytes of text looked at or
/// 16 copied (an error of that record beyond: it does not match).
pub const FILTER_STEPS_MAX: u32 = 1 << 18;
/// The deepest JSON that a filter reads (an error of that record beyond).
pub const FILTER_VALUE_DEPTH_MAX: usize = 64;
/// The most JSON values in one record that a filter reads (an error of that record beyond): each takes up to about
/// 100 bytes of memory.
pub const FILTER_VALUE_PARTS_MAX: usize = 1 << 18;

const _: () = assert!(
    LAKE_SCHEMA_BYTES_MAX + LAKE_URL_BYTES_MAX + LAKE_LAYOUT_BYTES_MAX + 4 * NAME_BYTES_MAX < CONTROL_BYTES_MAX,
    "a lake must fit into a control message"
);
const _: () = assert!(RECORD_BYTES_DEFAULT <= RECORD_BYTES_MAX, "the default must be legal");
const _: () = assert!(RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES <= BATCH_BYTES_MAX, "a record must fit into a batch");
const _: () = assert!(BATCH_BYTES_MAX + ROUTING_BYTES_MAX <= FRAME_BYTES_MAX, "a batch must fit into a frame");
const _: () = assert!(CONTROL_BYTES_MAX <= FRAME_BYTES_MAX, "a control message must fit into a frame");
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize, "lengths are u32 on the wire");
const _: () =
    assert!(RECORD_BYTES_MAX / 64 < FILTER_STEPS_MAX as usize, "one search through the largest text must be possible");
