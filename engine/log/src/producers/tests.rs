//! Producers against a model that is slow and obviously right: for each producer a map from sequence to offset, of all that
//! was stored since it last began anew. Below the bounds both must agree on every question, however the batches reached the
//! machine: one by one, segment by segment, from a checkpoint. What happens at the bounds is tested one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

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

fn noted(batches: &[Sequenced]) -> Producers {
    let mut producers = Producers::default();
    batches.iter().for_each(|batch| producers.note(batch));
    producers
}

#[test]
fn a_batch_that_comes_again_is_found_and_nothing_else_is() {
    let producers = noted(&[batch(7, 0, 5, 100), batch(7, 5, 3, 110)]);
    assert_eq!(producers.standing(ProducerId(7)), Some(Standing { epoch: 0, next: 8 }));
    let find = |base, count| producers.find(ProducerId(7), base, count).map(|found| found.base_offset.0);
    assert_eq!((find(0, 5), find(5, 3), find(6, 2)), (Some(100), Some(110), Some(111)));
    assert_eq!((find(0, 8), find(5, 4), find(8, 1)), (None, None, None), "not one behind the other, or not all");
    assert_eq!(producers.find(ProducerId(8), 0, 1), None);
    assert!(Producers::default().is_blank() && !producers.is_blank());
}

/// What is known of one producer.
#[derive(Debug, Clone, Default)]
struct Model {
    epoch: u32,
    next: u64,
    offsets: BTreeMap<u64, u64>,
}

impl Model {
    fn find(&self, base: u64, count: u32) -> Option<u64> {
        let first = *self.offsets.get(&base)?;
        (0..u64::from(count)).all(|n| self.offsets.get(&(base + n)) == Some(&(first + n))).then_some(first)
    }
}

/// Producer, records, offsets skipped before it, and what is odd about it.
type Step = (u64, u32, u64, u8);

/// The batches that the steps make, and what is known after them.
fn played(steps: &[Step]) -> (Vec<Sequenced>, BTreeMap<u64, Model>) {
    let (mut batches, mut models) = (Vec::new(), BTreeMap::<u64, Model>::new());
    let mut offset = 0;
    for (producer, count, skipped, odd) in steps {
        let model = models.entry(*producer).or_default();
        offset += skipped;
        match odd {
            0 => model.next += 2,
            1 => {
                // It was forgotten, and begins anew.
                model.epoch += 1;
                if model.next > 0 {
                    model.next = 0;
                    model.offsets.clear();
                }
            }
            2 => model.epoch += 1,
            _ => {}
        }
        batches.push(Sequenced { epoch: model.epoch, ..batch(*producer, model.next, *count, offset) });
        for n in 0..u64::from(*count) {
            model.offsets.insert(model.next + n, offset + n);
        }
        model.next += u64::from(*count);
        offset += u64::from(*count);
    }
    (batches, models)
}

fn agrees(producers: &Producers, models: &BTreeMap<u64, Model>, how: &str) {
    for (id, model) in models {
        let id = ProducerId(*id);
        let standing = Standing { epoch: model.epoch, next: model.next };
        assert_eq!(producers.standing(id), Some(standing), "{how}: producer {id}");
        for base in 0..=model.next {
            for count in 1..6 {
                let found = producers.find(id, base, count).map(|found| found.base_offset.0);
                assert_eq!(found, model.find(base, count), "{how}: producer {id}, {count} from {base}");
            }
        }
    }
    assert_eq!(producers.known.len(), models.len(), "{how}");
    assert_eq!(producers.batches, producers.known.values().map(|p| p.batches.len()).sum::<usize>(), "{how}");
}

fn encoded(producers: &Producers) -> Vec<u8> {
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn whatever_way_the_batches_come_the_same_is_known(
        steps in proptest::collection::vec((1u64..4, 1u32..4, 0u64..3, 0u8..12), 1..60),
        cuts in proptest::collection::vec(0usize..60, 0..5),
        checkpoint in 0usize..60,
    ) {
        let (batches, models) = played(&steps);
        let direct = noted(&batches);
        agrees(&direct, &models, "one by one");

        // Segments, folded; the first ones are known from a checkpoint that lies in the middle of one.
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(batches.len())).chain([0, batches.len()]).collect();
        cuts.sort_unstable();
        let known = checkpoint.min(batches.len());
        let mut folded = Producers::decode(&encoded(&noted(&batches[..known]))).unwrap();
        let mut end = known.checked_sub(1).map_or(Offset(0), |last| {
            Offset(batches[last].base_offset.0 + u64::from(batches[last].count))
        });
        for pair in cuts.windows(2) {
            let segment = &batches[pair[0]..pair[1]];
            folded.fold(&Producers::decode(&encoded(&noted(segment))).unwrap(), end);
            if let Some(last) = segment.last() {
                end = end.max(Offset(last.base_offset.0 + u64::from(last.count)));
            }
        }
        agrees(&folded, &models, "folded");

        // The summary of the last segment is taken out of what is known of all.
        let from = batches.get(known).map_or(Offset(u64::MAX), |batch| batch.base_offset);
        let mut completed = noted(&batches[..known]);
        completed.fold(&direct.since(from), from);
        agrees(&completed, &models, "completed");
        prop_assert_eq!(encoded(&direct), encoded(&completed), "one state has one encoding");
    }

    #[test]
    fn bytes_that_are_no_producers_are_refused_and_never_panic(
        steps in proptest::collection::vec((1u64..4, 1u32..4, 0u64..3, 3u8..4), 1..6),
        at in any::<usize>(),
        byte in any::<u8>(),
    ) {
        let bytes = encoded(&noted(&played(&steps).0));
        let length = at % bytes.len();
        prop_assert!(Producers::decode(&bytes[..length]).is_none(), "cut at {}", length);
        let mut changed = bytes.clone();
        changed[length] = byte;
        if let Some(found) = Producers::decode(&changed) {
            prop_assert_eq!(encoded(&found), changed);
        }
        let mut longer = bytes;
        longer.push(byte);
        prop_assert!(Producers::decode(&longer).is_none());
    }
}

#[test]
fn a_joined_batch_of_which_the_checkpoint_knows_the_first_half_is_added_from_there() {
    let mut known = noted(&[batch(7, 0, 10, 100)]);
    // Compaction has joined it with the one behind it.
    known.fold(&noted(&[batch(7, 0, 25, 100), batch(7, 25, 5, 200)]), Offset(110));
    assert_eq!(known.standing(ProducerId(7)).unwrap().next, 30);
    let find = |base, count| known.find(ProducerId(7), base, count).map(|found| found.base_offset.0);
    assert_eq!((find(0, 10), find(10, 15), find(25, 5)), (Some(100), Some(110), Some(200)));
}

#[test]
fn of_one_producer_the_last_batches_are_remembered() {
    let count = PRODUCER_BATCHES_MAX as u64 + 3;
    let batches: Vec<Sequenced> = (0..count).map(|n| batch(7, 2 * n, 2, 10 * n)).collect();
    let producers = noted(&batches);
    assert_eq!(producers.find(ProducerId(7), 4, 2), None);
    assert_eq!(producers.find(ProducerId(7), 6, 2).unwrap().base_offset, Offset(30));
    assert_eq!(producers.batches, PRODUCER_BATCHES_MAX);
    let mut folded = Producers::default();
    folded.fold(&noted(&batches[..100]), Offset(0));
    folded.fold(&noted(&batches[100..]), Offset(1_000));
    assert_eq!(encoded(&folded), encoded(&producers));
}

#[test]
fn the_producer_that_was_idle_longest_is_forgotten_and_that_is_not_forgotten() {
    let max = PRODUCERS_MAX as u64;
    let mut batches: Vec<Sequenced> = (1..=max).map(|id| batch(id, 0, 1, id)).collect();
    // The first ones are seen again, in another order; the others become the longest idle.
    batches.extend((1..=700).rev().map(|id| batch(id, 1, 1, 2 * max - id)));
    let mut producers = noted(&batches);
    for id in 1..=max {
        assert!(producers.standing(ProducerId(id)).is_some());
    }
    assert!(!producers.may_have_forgotten(ProducerId(1)));
    // 9,300 go in the order of their last batches, then those that were seen again, the last of them first.
    for n in 0..9_300 + 10 {
        let new = max + 1 + n;
        producers.note(&batch(new, 0, 1, 3 * max + n));
        let gone = if n < 9_300 { 701 + n } else { 700 - (n - 9_300) };
        assert_eq!(producers.standing(ProducerId(gone)), None, "{n}");
        assert_eq!(producers.known.len(), PRODUCERS_MAX);
        assert!(producers.may_have_forgotten(ProducerId(gone)));
        assert!(!producers.may_have_forgotten(ProducerId(new)), "a newer id was never known here");
    }
    assert!(!producers.may_have_forgotten(ProducerId(NAMED | 1)), "named ones are counted apart");
    let back = Producers::decode(&encoded(&producers)).unwrap();
    assert!(back.may_have_forgotten(ProducerId(max)) && !back.may_have_forgotten(ProducerId(max + 9_310)));
}

#[test]
fn two_full_segments_leave_the_producers_seen_last() {
    let max = PRODUCERS_MAX as u64;
    let segment = |from: u64| -> Vec<Sequenced> { (from..from + max).map(|id| batch(id, 0, 1, id)).collect() };
    let mut producers = noted(&segment(1));
    producers.fold(&noted(&segment(max / 2)), Offset(0));
    assert_eq!(producers.known.len(), PRODUCERS_MAX);
    assert!((1..max / 2).all(|id| producers.standing(ProducerId(id)).is_none()));
    assert!((max / 2..max / 2 + max).all(|id| producers.standing(ProducerId(id)).is_some()));
    assert!(
        producers.may_have_forgotten(ProducerId(max / 2 - 1)) && !producers.may_have_forgotten(ProducerId(max / 2))
    );
}

#[test]
fn the_longest_idle_keep_fewer_batches_where_all_together_are_too_many() {
    let each = PRODUCER_BATCHES_MAX as u64;
    let count = (BATCHES_MAX / PRODUCER_BATCHES_MAX) as u64;
    let mut producers = Producers::default();
    let mut offset = 0;
    for id in 1..=count + 1 {
        for n in 0..each {
            producers.note(&batch(id, n, 1, offset));
            offset += 1;
            assert!(producers.batches <= BATCHES_MAX);
        }
    }
    assert_eq!(producers.find(ProducerId(1), each - 9, 1), None);
    assert!(producers.find(ProducerId(1), each - 8, 1).is_some(), "the last eight stay");
    assert!((1..=count + 1).all(|id| producers.standing(ProducerId(id)).unwrap().next == each), "nobody is forgotten");
    assert!(producers.find(ProducerId(count + 1), 0, 1).is_some(), "and the busy ones keep all");

    // So many that eight each are too many as well.
    let mut producers = Producers::default();
    let mut offset = 0;
    for id in 1..=PRODUCERS_MAX as u64 {
        for n in 0..8 {
            producers.note(&batch(id, n, 1, offset));
            offset += 1;
        }
    }
    assert!(producers.batches <= BATCHES_MAX);
    assert_eq!(producers.known.len(), PRODUCERS_MAX);
    assert!(producers.find(ProducerId(1), 6, 1).is_none() && producers.find(ProducerId(1), 7, 1).is_some());
    assert!(producers.find(ProducerId(PRODUCERS_MAX as u64), 0, 1).is_some());
}

#[test]
fn what_was_lost_is_not_taken_for_new() {
    let mut producers = noted(&[batch(7, 0, 5, 100)]);
    producers.forget_earlier();
    assert!(producers.may_have_forgotten(ProducerId(u64::MAX)) && producers.may_have_forgotten(ProducerId(1)));
    assert!(producers.standing(ProducerId(7)).is_some());
    assert!(!producers.is_blank());
}
