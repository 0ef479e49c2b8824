//! What a producer has done so far.

/// Counts since the producer was built, of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Records accepted by `enqueue` or `send`.
    pub records: u64,
    /// Their bytes: keys, values, header names and values.
    pub bytes: u64,
    /// Batches sent, repeats included.
    pub batches_sent: u64,
    /// Batches sent again after a refusal or a lost connection. Where the first copy was stored, the server stores no
    /// other one and answers with its place; a producer that is not idempotent may have stored these twice.
    pub batches_resent: u64,
    /// Bytes of the batches sent, as encoded and compressed, repeats included.
    pub bytes_sent: u64,
    /// Batches acknowledged.
    pub batches_acked: u64,
    /// Batches given up.
    pub batches_failed: u64,
    /// Records acknowledged, duplicates included.
    pub records_acked: u64,
    /// Records acknowledged and not stored: their dedup ids were known.
    pub records_duplicate: u64,
    /// Records given up; their deliveries say why.
    pub records_failed: u64,
    /// Batches sent and not answered yet.
    pub batches_in_flight: u64,
    /// Bytes of the buffer in use.
    pub buffered_bytes: u64,
}
