//! The formats' bytes, committed: a change of layout does not go unnoticed, and what an older version wrote is read.
//!
//! Every sample of `support` has a file in `golden/`. Its bytes must decode to the sample, and the encoder must give
//! exactly them; compressed bodies are exempt from the latter, since a newer compressor may pack better.
//! A deliberate change (before the first release only: afterwards it is a new version byte with files of its own):
//! `MILLSTREAM_WRITE_GOLDEN=1 cargo test -p millstream-protocol --test golden`, then look at the diff.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use millstream_protocol::batch::{BatchView, Codec, Thinned, check_zero_stamp, thin};
use millstream_protocol::frame::control::{Message, Request};
use millstream_protocol::{Epoch, Incarnation, Offset, ProducerId, Timestamp};
use support::{INCARNATION, STAMP, batch, messages, records, stamped};

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The committed bytes; written first where that was asked for.
fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = directory().join(format!("{name}.bin"));
    if std::env::var("MILLSTREAM_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        fs::write(&path, fresh).expect("the source tree can be written");
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; see the head of golden.rs", path.display()))
}

fn assert_same(name: &str, fresh: &[u8], committed: &[u8]) {
    let differs = fresh.iter().zip(committed).position(|(a, b)| a != b).unwrap_or(fresh.len().min(committed.len()));
    assert!(
        fresh == committed,
        "{name}: the encoder gives {} bytes, {} are committed, the first difference is at {differs}",
        fresh.len(),
        committed.len()
    );
}

fn batch_name(codec: Codec) -> String {
    format!("batch_{codec}")
}

#[test]
fn every_message_is_decoded_from_and_encoded_to_its_committed_bytes() {
    for sample in messages() {
        let committed = golden(sample.name, &sample.bytes);
        let decoded = (sample.decode)(&committed).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        assert!(decoded.is_the_sample, "{} decodes to another value", sample.name);
        assert_same(sample.name, &sample.bytes, &committed);
        assert_same(sample.name, &decoded.again, &committed);
    }
}

#[test]
fn committed_batches_of_every_codec_are_decoded() {
    for codec in CODECS {
        let fresh = batch(codec);
        let committed = golden(&batch_name(codec), &fresh);
        let view = BatchView::parse(&Bytes::from(committed.clone())).expect("a legal batch");
        assert_eq!(check_zero_stamp(&committed), Ok(()));
        let header = view.header();
        assert_eq!(header.codec, codec);
        assert_eq!((header.record_count, header.last_offset_delta, header.flags), (5, 4, 0));
        assert_eq!(header.first_timestamp, Timestamp(1_700_000_000_000));
        assert_eq!(header.max_timestamp, Timestamp(1_800_000_000_000));
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (ProducerId(0x0123_4567), 0x89ab, 0x00cd_ef01)
        );
        let decoded = view.records().expect("it decompresses").collect::<Result<Vec<_>, _>>().expect("legal records");
        assert_eq!(decoded, records());
        if codec == Codec::None {
            assert_same(&batch_name(codec), &fresh, &committed);
        }
    }
}

#[test]
fn a_committed_stamped_batch_is_read_by_its_partition_only() {
    let fresh = stamped(Codec::None);
    let committed = golden("batch_stamped", &fresh);
    assert_same("batch_stamped", &fresh, &committed);
    let bytes = Bytes::from(committed);
    let mut rest = bytes.clone();
    let view = BatchView::split_stored(&mut rest, INCARNATION).expect("header_crc holds");
    assert!(rest.is_empty());
    let header = view.header();
    assert_eq!(
        (header.base_offset, header.append_time, header.epoch, header.synced_end, header.sparse),
        (STAMP.base_offset, STAMP.append_time, STAMP.epoch, STAMP.synced_end, false)
    );
    assert_eq!((header.epoch, header.end_offset()), (Epoch(9), Offset(STAMP.base_offset.0 + 5)));
    assert_eq!(view.bytes()[40..], batch(Codec::None)[40..], "the stamp leaves the producer's part alone");
    assert!(BatchView::split_stored(&mut bytes.clone(), Incarnation(INCARNATION.0 ^ 1)).is_err());
}

#[test]
fn a_committed_sparse_batch_is_what_compaction_leaves() {
    let stored = BatchView::split_stored(&mut Bytes::from(stamped(Codec::None)), INCARNATION).expect("just stamped");
    let kept = [STAMP.base_offset.0 + 1, STAMP.base_offset.0 + 4];
    let thinned = thin(&stored, INCARNATION, |offset, _| kept.contains(&offset.0)).expect("legal records");
    let Thinned::Batches(batches) = thinned else { panic!("three records went") };
    assert_eq!(batches.len(), 1);
    let committed = golden("batch_sparse", &batches[0]);
    assert_same("batch_sparse", &batches[0], &committed);
    let view = BatchView::split_stored(&mut Bytes::from(committed), INCARNATION).expect("both checksums hold");
    let header = view.header();
    assert_eq!((header.sparse, header.record_count, header.last_offset_delta), (true, 2, 4));
    let mut records = view.records().expect("not compressed");
    let decoded: Result<Vec<_>, _> = std::iter::from_fn(|| records.next_with_offset()).collect();
    let all = support::records();
    assert_eq!(decoded, Ok(vec![(Offset(kept[0]), all[1].clone()), (Offset(kept[1]), all[4].clone())]));
}

/// Written out by hand from the layout's description: the check that needs no file. (That the layout is
/// little-endian and unaligned at all is asserted at compile time, in `frame::control`.)
#[test]
fn an_archive_is_little_endian_and_has_no_padding() {
    let request = Request::DeleteBefore { stream: "flights".into(), partition: 0x0102_0304, offset: 0x1112_1314_1516 };
    let mut expected = vec![1]; // the version byte
    expected.push(4); // the fifth request
    expected.extend_from_slice(b"flights\xff"); // text of up to 8 bytes lies inline, filled up with 0xff
    expected.extend_from_slice(&[0x04, 0x03, 0x02, 0x01]);
    expected.extend_from_slice(&[0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0, 0]);
    let encoded = request.encode();
    assert_eq!(encoded[..expected.len()], expected);
    assert!(encoded[expected.len()..].iter().all(|byte| *byte == 0), "the rest of the widest request is zero");
    assert_eq!(encoded.len(), request_bytes(), "each request is as wide as the widest");
}

/// CreateStream, PreviewLake or CreateQueue, whichever is wider, under a version and a kind byte.
fn request_bytes() -> usize {
    let create_stream = 8 + 4 + (1 + 9 + 9 + 8 + 4 + 17 + 4) + 1;
    let columns = 1 + 8; // which, and a declared schema's text
    let lake_config = 8 + 8 + 8 + 1 + 1 + columns + 8 + 1 + 8 + 8 + 8 + 8 + 4;
    let preview_lake = lake_config + 4;
    let queue_config = 8 + 4 + 8 + 3 + 9 + 8 + (8 + 8 + 4) + 9 + 9 + 1 + 4 + 4;
    let create_queue = 8 + 8 + queue_config + 9;
    1 + 1 + create_stream.max(preview_lake).max(create_queue)
}

#[test]
fn no_file_is_without_its_sample() {
    let mut expected: BTreeSet<String> = messages().iter().map(|sample| format!("{}.bin", sample.name)).collect();
    expected.extend(CODECS.map(|codec| format!("{}.bin", batch_name(codec))));
    expected.insert("batch_stamped.bin".into());
    expected.insert("batch_sparse.bin".into());
    let found = fs::read_dir(directory())
        .expect("it is there")
        .map(|entry| entry.expect("a readable directory").file_name().into_string().expect("our own names are text"));
    let stray: Vec<String> = found.filter(|name| !expected.contains(name)).collect();
    assert_eq!(stray, Vec::<String>::new());
}
