//! Batches and their records, from a client and as stored.

use bytes::Bytes;
use millstream_protocol::batch::{
    BatchError, BatchHeader, BatchView, Codec, HEADER_BYTES, check_zero_stamp, header, varint,
};
use millstream_protocol::limits::{BATCH_RECORDS_MAX, BATCH_UNCOMPRESSED_BYTES_MAX};
use millstream_protocol::{Incarnation, Offset};
use proptest::prelude::*;

use crate::CODECS;
use crate::allocations::peak_of;
use crate::damage::{damage, damaged, for_each_flip, for_each_lie};
use crate::seal::{Claim, read, seal};
use crate::support::{INCARNATION, batch, stamped};

#[test]
fn the_meter_sees_what_is_allocated_and_the_seal_is_the_encoders() {
    let (_, peak) = peak_of(|| drop(vec![1u8; 1 << 20]));
    assert!(peak >= 1 << 20);
    for codec in CODECS {
        let mut resealed = stamped(codec);
        resealed[28] ^= 0xff;
        resealed[92] ^= 0xff;
        seal(&mut resealed);
        assert_eq!(resealed, stamped(codec));
        assert_eq!(read(&resealed), Ok(5));
    }
}

#[test]
fn every_cut_of_a_batch_is_an_error() {
    for codec in CODECS {
        let bytes = Bytes::from(stamped(codec));
        for length in 0..bytes.len() {
            let cut = bytes.slice(..length);
            assert!(BatchView::parse(&cut).is_err());
            assert!(BatchView::split_stored(&mut cut.clone(), INCARNATION).is_err());
            assert_eq!(BatchHeader::decode(&cut).is_err(), length < HEADER_BYTES);
            assert_eq!(check_zero_stamp(&cut).is_err_and(|e| matches!(e, BatchError::Truncated { .. })), length < 40);
            assert_eq!(header::check_header_crc(&cut, INCARNATION).is_err(), length < HEADER_BYTES);
            assert!(header::check_body_crc(&cut).is_err());
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert!(BatchView::parse(&longer).is_err());
        let mut rest = longer.clone();
        assert!(BatchView::split_stored(&mut rest, INCARNATION).is_ok());
        assert_eq!(rest.len(), 1, "what follows a stored batch is the next one's");
    }
}

#[test]
fn every_bit_flip_of_a_stored_batch_is_detected() {
    for codec in CODECS {
        for_each_flip(&stamped(codec), |bit, bytes| {
            let mut rest = Bytes::copy_from_slice(bytes);
            assert!(BatchView::split_stored(&mut rest, INCARNATION).is_err(), "{codec}: bit {bit}");
        });
    }
}

#[test]
fn every_bit_flip_of_a_batch_from_a_client_is_detected() {
    for codec in CODECS {
        for_each_flip(&batch(codec), |bit, bytes| {
            let result = BatchView::parse(&Bytes::copy_from_slice(bytes)).and_then(|_| check_zero_stamp(bytes));
            assert!(result.is_err(), "{codec}: bit {bit}");
        });
    }
}

#[test]
fn bytes_of_another_partition_are_refused_though_they_are_whole() {
    for bit in 0..64 {
        let mut bytes = Bytes::from(stamped(Codec::None));
        let other = Incarnation(INCARNATION.0 ^ (1 << bit));
        assert!(matches!(BatchView::split_stored(&mut bytes, other), Err(BatchError::HeaderChecksum { .. })));
    }
}

#[test]
fn lies_under_right_checksums_do_no_harm() {
    for codec in CODECS {
        for_each_lie(&stamped(codec), |bytes| {
            let mut bytes = bytes.to_vec();
            seal(&mut bytes);
            let _ = read(&bytes);
        });
        for_each_flip(&stamped(codec), |_, bytes| {
            let mut bytes = bytes.to_vec();
            seal(&mut bytes);
            let _ = read(&bytes);
        });
    }
}

#[test]
fn a_header_field_out_of_range_is_refused_under_right_checksums() {
    let whole = stamped(Codec::None);
    let refused = |what: &str, at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        seal(&mut bytes);
        assert!(read(&bytes).is_err(), "{what} {value:02x?}");
    };
    refused("header version", 4, &[0]);
    refused("header version", 4, &[2]);
    refused("checksum kind", 5, &[2]);
    (1..16).for_each(|bit| refused("stamped flag", 6, &(1u16 << bit).to_le_bytes()));
    (1..16).for_each(|bit| refused("flag", 56, &(1u32 << bit).to_le_bytes()));
    (3..=255).for_each(|codec| refused("codec", 60, &[codec]));
    [61, 62, 63, 104, 111].into_iter().for_each(|at| refused("reserved", at, &[1]));
    let body = (whole.len() - HEADER_BYTES) as u32;
    for lie in [0, body - 1, body + 1, 1 << 24, u32::MAX] {
        refused("body length", 40, &lie.to_le_bytes());
        refused("uncompressed length", 44, &lie.to_le_bytes());
    }
    for lie in [0, 4, 6, BATCH_RECORDS_MAX, u32::MAX] {
        refused("record count", 48, &lie.to_le_bytes());
        refused("last offset delta", 52, &(lie.wrapping_sub(1)).to_le_bytes());
        let both = [lie.to_le_bytes(), lie.wrapping_sub(1).to_le_bytes()].concat();
        refused("record count and span", 48, &both);
    }
    for base in [u64::MAX, u64::MAX - 4] {
        refused("base offset", 8, &base.to_le_bytes());
    }
    for first in [i64::MIN, i64::MAX] {
        refused("first timestamp, which the records' deltas overflow", 64, &first.to_le_bytes());
    }

    let mut carried = whole.clone();
    carried[58..60].copy_from_slice(&[0xff, 0xff]);
    seal(&mut carried);
    assert_eq!(read(&carried), Ok(5), "flags of the high half are carried");
    let mut last = whole.clone();
    last[8..16].copy_from_slice(&(u64::MAX - 5).to_le_bytes());
    seal(&mut last);
    assert_eq!(read(&last), Ok(5));
    assert_eq!(BatchHeader::decode(&last).map(|header| header.end_offset()), Ok(Offset(u64::MAX)));
}

#[test]
fn a_record_that_lies_about_its_parts_is_refused() {
    let record = |bytes: &[u8]| {
        let mut out = Vec::new();
        varint::put(&mut out, bytes.len() as u64);
        [out.as_slice(), bytes].concat()
    };
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let with = |front: &[u8], back: &[u8]| record(&[front, &huge, back].concat());
    let headers = |count: usize| record(&[&[0, 0, count as u8][..], &[1, b'n', 0].repeat(count)].concat());
    let name = |length: usize| {
        let (low, high) = (length as u8 & 0x7f | 0x80, (length >> 7) as u8);
        record(&[&[0, 0, 1, low, high][..], &b"n".repeat(length), &[0]].concat())
    };
    // The body, and what the error must say: an input refused for another reason tests nothing.
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (vec![4, 0, 0, 0], "its length goes beyond the body"),
        (huge.to_vec(), "its length goes beyond the body"),
        (vec![0x83, 0, 0, 0, 0], "its length goes beyond the body"),
        (vec![0, 0, 0, 0], "it is empty"),
        (record(&[4, 0, 0]), "unknown attribute bits"),
        (record(&[0, 0x80, 0x80]), "its timestamp is cut"),
        (with(&[1, 0], &[0]), "its key goes beyond it"),
        (with(&[2, 0], &[0]), "its value goes beyond it"),
        (record(&[0, 0, 0x80]), "its header count is cut"),
        (with(&[0, 0], &[]), "too many headers"),
        (headers(65), "too many headers"),
        (with(&[0, 0, 1], &[0]), "a header name goes beyond it"),
        (record(&[0, 0, 2, 1, b'n', 0]), "a header name goes beyond it"),
        (name(257), "a header name of illegal length"),
        (record(&[0, 0, 1, 0, 0]), "a header name of illegal length"),
        (record(&[0, 0, 1, 1, 0xff, 0]), "a header name that is not UTF-8"),
        (record(&[0, 0, 1, 1, b'n', 0x80]), "a header value's length is cut"),
        (with(&[0, 0, 1, 1, b'n'], &[]), "a header value goes beyond it"),
        (record(&[0, 0, 0, 0]), "bytes follow its end"),
    ];
    for (body, what) in bad {
        let result = read(&Claim::of(1, &body).seal(&body));
        assert_eq!(result, Err(BatchError::Record { index: 0, what }), "{body:02x?}");
    }
    for body in [headers(64), name(256)] {
        assert_eq!(read(&Claim::of(1, &body).seal(&body)), Ok(1), "the most that is legal");
    }
    let good = record(&[0, 0, 0]);
    let two = [good.clone(), good.clone()].concat();
    assert_eq!(read(&Claim::of(2, &two).seal(&two)), Ok(2));
    assert_eq!(read(&Claim::of(1, &two).seal(&two)), Err(BatchError::TrailingBytes { extra: 4 }));
}

#[test]
fn records_of_a_sparse_batch_rise_within_its_span() {
    let record = |delta: u64| {
        let mut rest = vec![0, 0];
        varint::put(&mut rest, delta);
        rest.push(0);
        [vec![rest.len() as u8], rest].concat()
    };
    let sparse = |deltas: &[u64], span: u32| {
        let body: Vec<u8> = deltas.iter().flat_map(|delta| record(*delta)).collect();
        let claim = Claim { sparse: true, last_offset_delta: span - 1, ..Claim::of(deltas.len() as u32, &body) };
        read(&claim.seal(&body))
    };
    assert_eq!(sparse(&[0, 1, 2], 3), Ok(3));
    assert_eq!(sparse(&[3, 70], 100), Ok(2));
    assert_eq!(sparse(&[], 100), Ok(0));
    for (deltas, span) in
        [(&[5, 5][..], 10), (&[5, 4], 10), (&[10], 10), (&[u64::from(u32::MAX)], 10), (&[u64::MAX], 10)]
    {
        assert!(matches!(sparse(deltas, span), Err(BatchError::Record { .. })), "{deltas:?}");
    }
    assert!(sparse(&[0, 1, 2], 2).is_err(), "more records than offsets");
}

#[test]
fn a_length_that_its_body_cannot_reach_is_refused_before_anything_is_allocated() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        for body in [0usize, 1, 3, 31] {
            let claim = Claim::packed(codec, BATCH_UNCOMPRESSED_BYTES_MAX, 1);
            let bytes = Bytes::from(claim.seal(&vec![0; body]));
            let (result, peak) = peak_of(|| BatchView::parse(&bytes));
            assert!(result.is_err() && peak == 0, "{codec}, {body}: {peak}");
        }
    }
}

#[test]
fn a_bomb_goes_off_within_what_its_header_promised() {
    let zeros = vec![0; 64 << 20];
    let lz4 = lz4_flex::block::compress(&zeros);
    let zstd_sized = zstd::bulk::compress(&zeros, 1).expect("it packs");
    let zstd_unsized = zstd::stream::encode_all(&zeros[..], 1).expect("it packs");
    let small = zstd::bulk::compress(&zeros[..1_000], 1).expect("it packs");
    let frames = small.repeat(10_000);
    for (codec, body) in
        [(Codec::Lz4, lz4), (Codec::Zstd, zstd_sized), (Codec::Zstd, zstd_unsized), (Codec::Zstd, frames)]
    {
        for promised in [4, 1_000, 1 << 20, BATCH_UNCOMPRESSED_BYTES_MAX] {
            let bytes = Bytes::from(Claim::packed(codec, promised, 1).seal(&body));
            let view = BatchView::parse(&bytes).expect("the header is legal");
            let (result, peak) = peak_of(|| view.records().map(drop));
            assert!(matches!(result, Err(BatchError::Decompress(_))), "{codec}, {promised}");
            assert!(peak <= promised + (4 << 10), "{codec}: {peak} bytes held for {promised} promised");
        }
        let beyond = Claim::packed(codec, 64 << 20, 1).seal(&body);
        assert!(matches!(read(&beyond), Err(BatchError::OutOfRange { .. })), "{codec}: what is above the limit");
    }
}

#[test]
fn a_body_shorter_or_longer_than_promised_is_refused() {
    let record = [3u8, 0, 0, 0].repeat(100);
    for (codec, body) in [
        (Codec::Lz4, lz4_flex::block::compress(&record)),
        (Codec::Zstd, zstd::bulk::compress(&record, 1).expect("it packs")),
        (Codec::Zstd, zstd::stream::encode_all(&record[..], 1).expect("it packs")),
    ] {
        assert_eq!(read(&Claim::packed(codec, 400, 100).seal(&body)), Ok(100));
        for (promised, count) in [(399, 99), (401, 100), (404, 101), (2_000, 100), (4, 1)] {
            let result = read(&Claim::packed(codec, promised, count).seal(&body));
            assert!(matches!(result, Err(BatchError::Decompress(_))), "{codec}, {promised}: {result:?}");
        }
    }
}

#[test]
fn a_legal_body_of_the_greatest_size_is_still_read_from_its_few_bytes() {
    // One record whose value is nearly all of the body: as dense as an honest client can make it.
    let value = 8 << 20;
    let mut record = vec![2, 0];
    varint::put(&mut record, value as u64);
    record.resize(record.len() + value, 0);
    record.push(0);
    let mut body = Vec::new();
    varint::put(&mut body, record.len() as u64);
    body.extend_from_slice(&record);
    for (codec, packed) in [
        (Codec::Lz4, lz4_flex::block::compress(&body)),
        (Codec::Zstd, zstd::bulk::compress(&body, 1).expect("it packs")),
        (Codec::Zstd, zstd::bulk::compress(&body, 19).expect("it packs")),
    ] {
        assert_eq!(read(&Claim::packed(codec, body.len(), 1).seal(&packed)), Ok(1), "{codec}: {}", packed.len());
    }
}

proptest! {
    #[test]
    fn noise_under_right_checksums_does_no_harm(
        body in prop::collection::vec(any::<u8>(), 0..300),
        codec in 0u8..3,
        uncompressed in prop_oneof![0u32..2_000, Just(BATCH_UNCOMPRESSED_BYTES_MAX as u32)],
        records in 0u32..80,
        sparse: bool,
    ) {
        let uncompressed = if codec == 0 { body.len() as u32 } else { uncompressed };
        let claim = Claim { codec, uncompressed, records, last_offset_delta: records.wrapping_sub(1), sparse };
        let _ = read(&claim.seal(&body));
    }

    #[test]
    fn batches_damaged_in_several_places_do_no_harm(damage in damage()) {
        for codec in CODECS {
            let mut bytes = damaged(&stamped(codec), &damage);
            let _ = read(&bytes);
            if let Some(body) = bytes.len().checked_sub(HEADER_BYTES) {
                bytes[40..44].copy_from_slice(&(body as u32).to_le_bytes());
                seal(&mut bytes);
                let _ = read(&bytes);
            }
        }
    }
}
