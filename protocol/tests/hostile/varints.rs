//! Variable-length integers.

use millstream_protocol::batch::varint;

use crate::allocations::peak_of;

#[test]
fn a_varint_has_one_form_and_at_most_ten_bytes() {
    let take = |bytes: &[u8]| {
        let mut rest = bytes;
        let (value, peak) = peak_of(|| varint::take(&mut rest));
        assert_eq!(peak, 0);
        assert!(value.is_some() || rest == bytes, "what is refused is not taken");
        value.map(|value| (value, bytes.len() - rest.len()))
    };
    for first in 0..=u8::MAX {
        for second in 0..=u8::MAX {
            let expected = match (first, second) {
                (..0x80, _) => Some((u64::from(first), 1)),
                (_, 0 | 0x80..) => None,
                _ => Some((u64::from(first & 0x7f) | u64::from(second) << 7, 2)),
            };
            assert_eq!(take(&[first, second]), expected);
        }
    }
    let mut longest = Vec::new();
    varint::put(&mut longest, u64::MAX);
    assert_eq!(take(&longest), Some((u64::MAX, 10)));
    (0..10).for_each(|length| assert_eq!(take(&longest[..length]), None));
    longest[9] = 2;
    assert_eq!(take(&longest), None, "2^64");
    assert_eq!(take(&[0xff; 11]), None);
    assert_eq!(take(&[0x80; 1_000]), None);
}
