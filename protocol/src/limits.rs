//! Every maximum of the system in one place, tied to the others by assertions.
//!
//! What is refused beyond a limit is said beside it. Settings may lower some of them; none may be raised above
//! what stands here.

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
/// The longest stream, group, queue or lake name (`IllegalName` beyond).
pub const NAME_BYTES_MAX: usize = 128;
/// The largest body of a control frame (connection closed beyond).
pub const CONTROL_BYTES_MAX: usize = 256 << 10;
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

const _: () = assert!(RECORD_BYTES_DEFAULT <= RECORD_BYTES_MAX, "the default must be legal");
const _: () = assert!(RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES <= BATCH_BYTES_MAX, "a record must fit into a batch");
const _: () = assert!(BATCH_BYTES_MAX + ROUTING_BYTES_MAX <= FRAME_BYTES_MAX, "a batch must fit into a frame");
const _: () = assert!(CONTROL_BYTES_MAX <= FRAME_BYTES_MAX, "a control message must fit into a frame");
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize, "lengths are u32 on the wire");
