//! Frame headers, and messages decoded by hand or as archives.

use millstream_protocol::frame::produce::decode_acks;
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind};
use millstream_protocol::limits::CONTROL_BYTES_MAX;
use proptest::prelude::*;

use crate::Shown;
use crate::allocations::peak_of;
use crate::damage::{damage, damaged, for_each_flip, for_each_lie};
use crate::support::{Sample, messages};

/// What decoding a message of so many bytes, and encoding it again, may hold: a part of a message is larger in memory
/// than on the wire (an empty text takes 8 bytes in an archive, 24 here), vectors double. 100 bytes: 34 KiB.
fn message_bound(length: usize) -> usize {
    (32 << 10) + 16 * length
}

/// Messages decoded by hand: one form for one value, and every byte counts.
fn is_by_hand(name: &str) -> bool {
    !["request", "response", "consume", "queue_open"].iter().any(|prefix| name.starts_with(prefix))
}

/// Messages whose decoder reads the front of a body: batches follow.
fn is_prefix(name: &str) -> bool {
    name.ends_with("_prefix") || name == "frame_header"
}

/// Messages with error codes: an unknown one is read as an internal error, the one field that may change.
fn has_codes(name: &str) -> bool {
    matches!(name, "refusal" | "produce_acks" | "queue_results")
}

/// Decodes; says whether that gave a value. Whatever is accepted can be encoded, and then stays what it is.
fn feed(sample: &Sample, bytes: &[u8]) -> bool {
    let _shown = Shown(sample.name, bytes);
    let (result, peak) = peak_of(|| (sample.decode)(bytes));
    assert!(peak <= message_bound(bytes.len()), "{peak} bytes held for {}", bytes.len());
    let Ok(decoded) = result else { return false };
    let twice = (sample.decode)(&decoded.again).expect("our own encoding");
    assert_eq!(twice.again, decoded.again);
    if is_by_hand(sample.name) && !has_codes(sample.name) {
        assert_eq!(decoded.again, bytes[..decoded.again.len()], "two forms of one value");
    }
    true
}

#[test]
fn every_cut_of_a_message_is_harmless_and_one_decoded_by_hand_refuses_it() {
    for sample in messages() {
        for length in 0..sample.bytes.len() {
            let taken = feed(&sample, &sample.bytes[..length]);
            assert!(!(taken && is_by_hand(sample.name)), "{} cut to {length} bytes is taken", sample.name);
        }
    }
}

#[test]
fn a_byte_after_a_message_decoded_by_hand_is_refused() {
    for sample in messages() {
        let bytes = [sample.bytes.as_slice(), &[0]].concat();
        let taken = feed(&sample, &bytes);
        if is_by_hand(sample.name) {
            assert_eq!(taken, is_prefix(sample.name), "{}", sample.name);
        }
    }
}

#[test]
fn every_bit_flip_and_lie_in_a_message_is_an_error_or_another_value() {
    for sample in messages() {
        for_each_flip(&sample.bytes, |bit, bytes| {
            if feed(&sample, bytes) {
                let decoded = (sample.decode)(bytes).expect("it was just taken");
                // What an archive does not look at: the unused rest of a narrow variant, bytes between its parts.
                let matters = is_by_hand(sample.name) && !has_codes(sample.name);
                assert!(!(decoded.is_the_sample && matters), "{}: bit {bit} is not read", sample.name);
            }
        });
        for_each_lie(&sample.bytes, |bytes| {
            feed(&sample, bytes);
        });
    }
}

#[test]
fn another_version_of_a_control_message_is_refused() {
    for sample in messages().iter().filter(|sample| !is_by_hand(sample.name)) {
        for version in (0..=255).filter(|version| *version != 1) {
            let mut bytes = sample.bytes.clone();
            bytes[0] = version;
            assert!(!feed(sample, &bytes));
        }
    }
}

#[test]
fn a_body_above_its_limit_is_refused_unread() {
    for sample in messages().iter().filter(|sample| !is_by_hand(sample.name)) {
        let bytes = vec![1; 4 * CONTROL_BYTES_MAX + 1];
        let (result, peak) = peak_of(|| (sample.decode)(&bytes).is_err());
        assert!(result && peak < 1 << 10, "{}: {peak}", sample.name);
    }
}

#[test]
fn a_count_of_acks_that_cannot_be_there_is_refused_before_anything_is_allocated() {
    for count in [1u32, 2, 7, 1 << 16, i32::MAX as u32, u32::MAX - 1, u32::MAX] {
        let bytes = [count.to_le_bytes().as_slice(), &[1; 12]].concat();
        let (result, peak) = peak_of(|| decode_acks(&bytes).is_err());
        assert!(result && peak == 0, "{count}: {peak}");
    }
    // Room for a million refusals, but the first is cut short: what is reserved is for as many as can be in flight.
    let count = 1_000_000u32;
    let mut bytes = count.to_le_bytes().to_vec();
    bytes.resize(4 + 13 * count as usize, 0xff);
    let (result, peak) = peak_of(|| decode_acks(&bytes).is_err());
    assert!(result && peak < 1 << 20, "{peak}");
}

#[test]
fn a_frame_header_takes_known_kinds_flags_and_lengths_only() {
    for number in 0..=u8::MAX {
        for flags in [0, FLAG_RESUME, FLAG_RESEND, FLAG_RESUME | FLAG_RESEND, 4, 0x80, 0xff] {
            for reserved in [0u16, 1, 0x8000] {
                let kind = Kind::from_number(number);
                let limit = kind.map_or(100, Kind::body_bytes_max) as u32;
                for body_len in [0, 1, limit, limit + 1, 0x8000_0000, u32::MAX] {
                    let mut bytes = [0xab; FRAME_HEADER_BYTES];
                    bytes[..4].copy_from_slice(&body_len.to_le_bytes());
                    (bytes[4], bytes[5]) = (number, flags);
                    bytes[6..8].copy_from_slice(&reserved.to_le_bytes());
                    let (result, peak) = peak_of(|| FrameHeader::decode(&bytes));
                    assert_eq!(peak, 0);
                    let flag_is_legal =
                        flags == 0 || (flags & !(FLAG_RESUME | FLAG_RESEND) == 0 && kind == Some(Kind::Produce));
                    let legal = kind.is_some() && flag_is_legal && reserved == 0 && body_len <= limit;
                    assert_eq!(result.is_ok(), legal, "{bytes:02x?}: {result:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn noise_is_no_message_that_does_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..400), versioned: bool) {
        if let (true, Some(first)) = (versioned, bytes.first_mut()) {
            *first = 1;
        }
        for sample in messages() {
            feed(&sample, &bytes);
        }
    }

    #[test]
    fn messages_damaged_in_several_places_do_no_harm(damage in damage()) {
        for sample in messages() {
            feed(&sample, &damaged(&sample.bytes, &damage));
        }
    }
}
