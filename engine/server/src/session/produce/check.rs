//! What a batch from a client must be. Pure.

use std::sync::Arc;

use bytes::Bytes;
use millstream_log::DedupKey;
use millstream_protocol::batch::record::asked_delay_ms;
use millstream_protocol::batch::{BatchError, BatchView, FLAG_CONTROL_HEADERS, check_zero_stamp};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::StreamConfig;
use millstream_protocol::limits::{CONTROL_BATCH_RECORDS_MAX, TIMESTAMP_AHEAD_MS_MAX};
use millstream_protocol::{ByteSize, Code, Timestamp};

/// Checks a batch without reading its records: fields, checksum, an empty stamp, a time that is not far ahead.
pub(super) fn parse(batch: &Bytes, crc: Option<u32>, now: Timestamp) -> Result<BatchView, Refusal> {
    let view = BatchView::parse_hashed(batch, crc).map_err(|error| refusal(&error))?;
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
/// batches pass unread; those of compacted streams are read for their keys, flagged ones for the headers on which the
/// server acts.
pub(super) fn must_read(view: &BatchView, config: &StreamConfig) -> bool {
    config.is_compacted() || is_flagged(view) || view.header().uncompressed_len > config.record_bytes_max
}

fn is_flagged(view: &BatchView) -> bool {
    view.header().flags & FLAG_CONTROL_HEADERS != 0
}

/// Of each record the key of its dedup id, `None` for one without; of a batch that is not flagged nothing.
pub(super) type DedupKeys = Option<Arc<[Option<DedupKey>]>>;

/// Reads the records: each must be whole, within the stream's limit, and have a key if the stream is compacted; of a flagged
/// batch there must not be too many, and their reserved headers must be right. Decompresses. Gives their dedup keys.
pub(super) fn records(view: &BatchView, config: &StreamConfig, now: Timestamp) -> Result<DedupKeys, Refusal> {
    let record_bytes_max = config.record_bytes_max as usize;
    let count = view.header().record_count;
    let mut keys = is_flagged(view).then(Vec::new);
    if keys.is_some() && count > CONTROL_BATCH_RECORDS_MAX {
        let text = format!(
            "the batch is refused: {count} records with headers on which the server acts, the limit is \
             {CONTROL_BATCH_RECORDS_MAX}: send them in several batches"
        );
        return Err(Refusal::new(Code::CorruptBatch, text));
    }
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
        if let Some(keys) = &mut keys {
            record.check_reserved().map_err(|error| refusal(&error))?;
            config.check_delay(asked_delay_ms(now, |name| record.control_number(name)))?;
            keys.push(record.dedup_id().map(|id| DedupKey::of(record.key, id)));
        }
        index += 1;
    }
    Ok(keys.map(Arc::from))
}

fn refusal(error: &BatchError) -> Refusal {
    let code = match error {
        BatchError::RecordLimit { .. }
        | BatchError::ReservedHeader(_)
        | BatchError::DedupId { .. }
        | BatchError::ControlHeader { .. } => Code::IllegalRecord,
        BatchError::Unknown { .. } => Code::Unsupported,
        BatchError::OutOfRange { what: "body length" | "uncompressed length", .. } => Code::BatchTooLarge,
        _ => Code::CorruptBatch,
    };
    Refusal::new(code, format!("the batch is refused: {error}"))
}

#[cfg(test)]
mod tests {
    use millstream_protocol::batch::{BatchBuilder, Codec};
    use millstream_protocol::frame::control::Compaction;
    use millstream_protocol::{ProducerId, Record};

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
            let view = parse(&batch(codec, &[10, 2_000, 10], NOW), None, NOW).expect("whole");
            let limit = |record_bytes_max| StreamConfig { record_bytes_max, ..StreamConfig::default() };
            assert_eq!(records(&view, &limit(2_000), NOW), Ok(None));
            assert!(must_read(&view, &limit(2_000)) && !must_read(&view, &limit(1 << 20)));
            let refusal = records(&view, &limit(1_999), NOW).expect_err("too large");
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
            parse(&builder.finish().expect("not empty"), None, NOW).expect("whole")
        };
        let keyed = build(&[Record::new("a").key("k"), Record::tombstone("k"), Record::new("").key("")]);
        assert_eq!(records(&keyed, &compacted, NOW), Ok(None));
        assert!(must_read(&keyed, &compacted) && !must_read(&keyed, &deleting));
        let keyless = build(&[Record::new("a").key("k"), Record::new("b")]);
        assert_eq!(records(&keyless, &deleting, NOW), Ok(None));
        let refusal = records(&keyless, &compacted, NOW).expect_err("no key");
        assert_eq!(refusal.code, Code::KeyRequired);
        assert!(refusal.text.contains("record 1 "), "{refusal}");
    }

    #[test]
    fn a_flagged_batch_is_read_for_its_dedup_ids_and_bounded() {
        let config = StreamConfig::default();
        let build = |records: &[Record]| {
            let mut builder = BatchBuilder::new(Codec::Zstd);
            records.iter().for_each(|record| builder.push(record).expect("legal"));
            parse(&builder.finish().expect("not empty"), None, NOW).expect("whole")
        };
        let flagged =
            build(&[Record::new("a").key("k").dedup_id("1"), Record::new("b"), Record::new("c").dedup_id("1")]);
        assert!(must_read(&flagged, &config));
        let keys = records(&flagged, &config, NOW).expect("legal").expect("flagged");
        assert_eq!(keys[..], [Some(DedupKey::of(Some(b"k"), b"1")), None, Some(DedupKey::of(None, b"1"))]);
        let plain = build(&[Record::new("b").header("ms-reply-to", "x")]);
        assert!(!must_read(&plain, &config) && records(&plain, &config, NOW) == Ok(None));

        // What a good client's builder does not let pass.
        let flag = |view: &BatchView| {
            let mut bytes = view.bytes().to_vec();
            bytes[56] |= FLAG_CONTROL_HEADERS as u8;
            parse(&millstream_protocol::batch::renumber(&bytes, ProducerId(0), 0, 0), None, NOW).expect("whole")
        };
        let most = vec![Record::new("x"); CONTROL_BATCH_RECORDS_MAX as usize];
        assert!(records(&flag(&build(&most)), &config, NOW).is_ok());
        let refused =
            records(&flag(&build(&[most, vec![Record::new("x")]].concat())), &config, NOW).expect_err("too many");
        assert_eq!(refused.code, Code::CorruptBatch);
        let twice = build(&[Record::new("x").header("xs-dedup-id", "1").dedup_id("1")]);
        let bytes = twice.bytes().clone();
        assert_eq!(twice.header().codec, Codec::None, "too short to be packed");
        let at = bytes.windows(11).position(|name| name == b"xs-dedup-id").expect("the header");
        let mut bytes = bytes.to_vec();
        bytes[at] = b'm';
        let twice =
            parse(&millstream_protocol::batch::renumber(&bytes, ProducerId(0), 0, 0), None, NOW).expect("whole");
        assert_eq!(records(&twice, &config, NOW).expect_err("two ids").code, Code::IllegalRecord);
    }

    #[test]
    fn a_delay_is_no_longer_than_the_stream_allows_and_keeps_records() {
        let config =
            |max_delay_ms, retention_ms| StreamConfig { max_delay_ms, retention_ms, ..StreamConfig::default() };
        let of = |name: &str, number: u64, config: &StreamConfig| {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&Record::new("at once")).expect("legal");
            builder.push(&Record::new("later").header(name, number.to_string())).expect("legal");
            let view = parse(&builder.finish().expect("not empty"), None, NOW).expect("whole");
            assert!(must_read(&view, config));
            records(&view, config, NOW).map(|_| ()).map_err(|refusal| (refusal.code, refusal.text))
        };
        let until = |delay_ms| u64::try_from(NOW.0).expect("positive") + delay_ms;
        for (limit, setting, config) in [
            (1_000, "max_delay", config(1_000, None)),
            (1_000, "max_delay", config(1_000, Some(1_000))),
            (0, "max_delay", config(0, Some(1_000))),
            (60_000, "retention", config(100_000, Some(60_000))),
        ] {
            assert_eq!(of("ms-delay", limit, &config), Ok(()));
            assert_eq!(of("ms-not-before", until(limit), &config), Ok(()));
            assert_eq!(of("ms-not-before", 0, &config), Ok(()));
            for (code, text) in [of("ms-delay", limit + 1, &config), of("ms-not-before", until(limit + 1), &config)]
                .map(|refused| refused.expect_err("too long"))
            {
                assert_eq!(code, Code::DelayTooLong);
                assert!(text.contains(&format!("{setting} of {limit} ms")) && text.contains(&(limit + 1).to_string()));
            }
            assert_eq!(of("ms-delay", u64::MAX, &config).map_err(|(code, _)| code), Err(Code::DelayTooLong));
        }
    }

    #[test]
    fn a_timestamp_may_be_an_hour_ahead_and_no_more() {
        let at = |ahead_ms: i64| parse(&batch(Codec::None, &[1], Timestamp(NOW.0 + ahead_ms)), None, NOW);
        assert!(at(TIMESTAMP_AHEAD_MS_MAX).is_ok());
        assert_eq!(at(TIMESTAMP_AHEAD_MS_MAX + 1).expect_err("ahead").code, Code::TimestampTooFarAhead);
    }

    #[test]
    fn damage_and_a_foreign_stamp_are_corrupt_batches() {
        let good = batch(Codec::Lz4, &[100, 100], NOW);
        for at in [8, good.len() - 1] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            let refused = parse(&bad.into(), None, NOW).expect_err("damaged").code;
            assert!(matches!(refused, Code::CorruptBatch), "byte {at}: {refused}");
        }
    }
}
