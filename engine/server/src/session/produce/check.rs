//! What a batch from a client must be. Pure.

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchView, check_zero_stamp};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::StreamConfig;
use millstream_protocol::limits::TIMESTAMP_AHEAD_MS_MAX;
use millstream_protocol::{ByteSize, Code, Timestamp};

/// Checks a batch without reading its records: fields, checksum, an empty stamp, a time that is not far ahead.
pub(super) fn parse(batch: &Bytes, now: Timestamp) -> Result<BatchView, Refusal> {
    let view = BatchView::parse(batch).map_err(|error| refusal(&error))?;
    check_zero_stamp(batch).map_err(|error| refusal(&error))?;
    let latest = view.header().max_timestamp.max(view.header().first_timestamp);
    let ahead_ms = latest.0.saturating_sub(now.0);
    if ahead_ms > TIMESTAMP_AHEAD_MS_MAX {
        let text = format!(
            "a record's timestamp, {} ms, is {} s ahead of the server's clock, the limit is {} s: send milliseconds \
             since 1970 in UTC, and check the clocks",
            latest.0,
            ahead_ms / 1_000,
            TIMESTAMP_AHEAD_MS_MAX / 1_000
        );
        return Err(Refusal::new(Code::TimestampTooFarAhead, text));
    }
    Ok(view)
}

/// Whether a batch's records must be read before it is stored. No record is larger than all of them together, so most
/// batches pass unread; those of compacted streams are read for their keys.
pub(super) fn must_read(view: &BatchView, config: &StreamConfig) -> bool {
    config.is_compacted() || view.header().uncompressed_len > config.record_bytes_max
}

/// Reads the records: each must be whole, within the stream's limit, and have a key if the stream is compacted.
/// Decompresses.
pub(super) fn records(view: &BatchView, config: &StreamConfig) -> Result<(), Refusal> {
    let record_bytes_max = config.record_bytes_max as usize;
    let mut records = view.records().map_err(|error| refusal(&error))?;
    let mut index = 0;
    while let Some(record) = records.next_ref() {
        let record = record.map_err(|error| refusal(&error))?;
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers: usize = record.headers().map(|(name, value)| name.len() + length(value)).sum();
        let size = length(record.key) + length(record.value) + headers;
        if size > record_bytes_max {
            let text = format!(
                "record {index} of the batch has {} ({size} bytes), above this stream's limit of {}: split it, or \
                 make a stream with a larger record_bytes_max",
                ByteSize(size as u64),
                ByteSize(record_bytes_max as u64)
            );
            return Err(Refusal::new(Code::RecordTooLarge, text));
        }
        if config.is_compacted() && record.key.is_none() {
            let text = format!(
                "record {index} of the batch has no key, and this stream keeps the latest record of each key: give it \
                 a key, or make a stream with cleanup = delete"
            );
            return Err(Refusal::new(Code::KeyRequired, text));
        }
        index += 1;
    }
    Ok(())
}

fn refusal(error: &BatchError) -> Refusal {
    let code = match error {
        BatchError::RecordLimit { .. } | BatchError::ReservedHeader(_) | BatchError::DedupId { .. } => {
            Code::IllegalRecord
        }
        BatchError::Unknown { .. } => Code::Unsupported,
        BatchError::OutOfRange { what: "body length" | "uncompressed length", .. } => Code::BatchTooLarge,
        _ => Code::CorruptBatch,
    };
    Refusal::new(code, format!("the batch is refused: {error}"))
}

#[cfg(test)]
mod tests {
    use millstream_protocol::Record;
    use millstream_protocol::batch::{BatchBuilder, Codec};
    use millstream_protocol::frame::control::Compaction;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn batch(codec: Codec, sizes: &[usize], timestamp: Timestamp) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for size in sizes {
            builder.push(&Record::new(vec![b'x'; *size]).timestamp(timestamp)).expect("legal");
        }
        builder.finish().expect("not empty")
    }

    #[test]
    fn a_record_above_the_limit_is_named_with_both_sizes_and_others_pass() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let view = parse(&batch(codec, &[10, 2_000, 10], NOW), NOW).expect("whole");
            let limit = |record_bytes_max| StreamConfig { record_bytes_max, ..StreamConfig::default() };
            assert_eq!(records(&view, &limit(2_000)), Ok(()));
            assert!(must_read(&view, &limit(2_000)) && !must_read(&view, &limit(1 << 20)));
            let refusal = records(&view, &limit(1_999)).expect_err("too large");
            assert_eq!(refusal.code, Code::RecordTooLarge);
            assert!(refusal.text.contains("record 1 ") && refusal.text.contains("2000 bytes"), "{refusal}");
        }
    }

    #[test]
    fn a_record_without_a_key_is_refused_by_a_compacted_stream_only() {
        let (deleting, compacted) = (StreamConfig::default(), StreamConfig::compacted(Compaction::default()));
        let build = |records: &[Record]| {
            let mut builder = BatchBuilder::new(Codec::Lz4);
            records.iter().for_each(|record| builder.push(record).expect("legal"));
            parse(&builder.finish().expect("not empty"), NOW).expect("whole")
        };
        let keyed = build(&[Record::new("a").key("k"), Record::tombstone("k"), Record::new("").key("")]);
        assert_eq!(records(&keyed, &compacted), Ok(()));
        assert!(must_read(&keyed, &compacted) && !must_read(&keyed, &deleting));
        let keyless = build(&[Record::new("a").key("k"), Record::new("b")]);
        assert_eq!(records(&keyless, &deleting), Ok(()));
        let refusal = records(&keyless, &compacted).expect_err("no key");
        assert_eq!(refusal.code, Code::KeyRequired);
        assert!(refusal.text.contains("record 1 "), "{refusal}");
    }

    #[test]
    fn a_timestamp_may_be_an_hour_ahead_and_no_more() {
        let at = |ahead_ms: i64| parse(&batch(Codec::None, &[1], Timestamp(NOW.0 + ahead_ms)), NOW);
        assert!(at(TIMESTAMP_AHEAD_MS_MAX).is_ok());
        assert_eq!(at(TIMESTAMP_AHEAD_MS_MAX + 1).expect_err("ahead").code, Code::TimestampTooFarAhead);
    }

    #[test]
    fn damage_and_a_foreign_stamp_are_corrupt_batches() {
        let good = batch(Codec::Lz4, &[100, 100], NOW);
        for at in [8, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            let refused = parse(&bad.into(), NOW).expect_err("damaged").code;
            assert!(matches!(refused, Code::CorruptBatch), "byte {at}: {refused}");
        }
    }
}
