use super::*;

fn batch(producer: u64, base_sequence: u64, count: u32, base_offset: u64) -> Sequenced {
    Sequenced {
        producer: ProducerId(producer),
        epoch: 0,
        base_sequence,
        count,
        base_offset: Offset(base_offset),
        append_time: Timestamp(base_offset as i64),
    }
}

#[test]
fn a_batch_that_comes_again_is_found_and_nothing_else_is() {
    let mut producers = Producers::default();
    assert!(producers.is_blank());
    producers.note(&batch(7, 0, 5, 100));
    producers.note(&batch(7, 5, 3, 110));
    assert_eq!(producers.standing(ProducerId(7)), Some(Standing { epoch: 0, next: 8 }));
    let find = |base, count| producers.find(ProducerId(7), base, count).map(|found| found.base_offset.0);
    assert_eq!((find(0, 5), find(5, 3), find(6, 2)), (Some(100), Some(110), Some(111)));
    assert_eq!((find(0, 8), find(5, 4), find(8, 1)), (None, None, None), "not one behind the other, or not all");
    assert_eq!(producers.find(ProducerId(8), 0, 1), None);
}
