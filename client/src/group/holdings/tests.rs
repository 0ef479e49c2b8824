//! What is committed is behind what the application is done with, never ahead of it.

use proptest::prelude::*;

use super::*;

const P: StreamPartition = StreamPartition { stream: 5, partition: 0 };
const Q: StreamPartition = StreamPartition { stream: 5, partition: 1 };

fn name() -> Arc<str> {
    "rides".into()
}

fn spot(next: u64) -> Option<Spot> {
    Some(Spot { next: Offset(next), epoch: Some(Epoch(3)) })
}

fn reached(next: u64) -> Reached {
    Reached { partition: PartitionId(0), next: Offset(next), epoch: Epoch(3) }
}

fn due(holdings: &Holdings) -> Vec<(u32, u64, u32)> {
    holdings.due().iter().map(|commit| (commit.at.partition, commit.offset, commit.epoch)).collect()
}

fn start_of(holdings: &Holdings, partition: u32) -> Option<(u64, WireStart)> {
    let wanted = holdings.wanted();
    let (_, wanted) = wanted.get(&StreamId(5))?;
    let found = wanted.iter().find(|wanted| wanted.partition.0 == partition)?;
    Some((found.generation, found.start))
}

fn at(offset: u64, epoch: Option<u32>) -> WireStart {
    WireStart::Offset { offset, epoch }
}

#[test]
fn the_record_in_hand_is_committed_when_the_next_one_is_asked_for() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, spot(10), WireStart::Earliest);
    assert_eq!(start_of(&holdings, 0).map(|(_, start)| start), Some(at(10, Some(3))), "where it was committed");
    assert_eq!(due(&holdings), []);
    holdings.reached(P, reached(11));
    assert_eq!(due(&holdings), [], "it is still in hand");
    holdings.settle();
    assert_eq!(due(&holdings), [(0, 11, 7)]);
    let commit = holdings.due().remove(0);
    assert_eq!(commit.batch_epoch, Some(3));
    holdings.committed(&commit);
    assert_eq!(due(&holdings), []);
}

#[test]
fn a_position_found_without_a_commit_is_committed_and_an_answer_to_an_older_holding_counts_for_nothing() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, None, WireStart::Latest);
    assert_eq!((due(&holdings), holdings.positions().len()), (vec![], 0), "not known yet");
    holdings.began(P, Offset(40));
    assert_eq!(due(&holdings), [(0, 40, 7)]);
    let commit = holdings.due().remove(0);
    holdings.remove(&[P]);
    holdings.take_up(P, name(), 9, spot(20), WireStart::Latest);
    holdings.committed(&commit);
    holdings.reached(P, reached(41));
    holdings.settle();
    assert_eq!(due(&holdings), [(0, 41, 9)]);
}

#[test]
fn a_pause_ends_a_generation_and_goes_on_where_the_application_was() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, None, WireStart::Earliest);
    holdings.take_up(Q, name(), 7, None, WireStart::Earliest);
    let (first, start) = start_of(&holdings, 0).expect("wanted");
    assert_eq!(start, WireStart::Earliest);
    holdings.began(P, Offset(0));
    holdings.reached(P, reached(5));
    holdings.pause(P);
    assert!(!holdings.is_current(P, first) && start_of(&holdings, 0).is_none() && start_of(&holdings, 1).is_some());
    holdings.pause(P);
    holdings.resume(P);
    let (second, start) = start_of(&holdings, 0).expect("wanted");
    assert!(second != first);
    assert_eq!(start, at(5, Some(3)));
    let other = start_of(&holdings, 1).expect("wanted");
    holdings.resume(Q);
    assert_eq!(start_of(&holdings, 1), Some(other), "what is not paused is not disturbed");
}

#[test]
fn a_seek_is_what_is_committed_next_once_it_is_known_where_it_goes() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, spot(10), WireStart::Earliest);
    holdings.reached(P, reached(20));
    holdings.seek(P, at(3, None));
    holdings.settle();
    assert_eq!(due(&holdings), [(0, 3, 7)], "also backwards");
    holdings.seek(P, WireStart::Time(9));
    assert_eq!(due(&holdings), []);
    holdings.began(P, Offset(15));
    assert_eq!(due(&holdings), [(0, 15, 7)]);
}

#[test]
fn what_is_stopped_is_not_read_and_can_still_be_committed() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, None, WireStart::Earliest);
    let (generation, _) = start_of(&holdings, 0).expect("wanted");
    holdings.reached(P, reached(4));
    holdings.stop(&[P]);
    assert!(!holdings.is_current(P, generation) && holdings.wanted().is_empty() && holdings.all().is_empty());
    holdings.resume(P);
    assert!(holdings.wanted().is_empty(), "not even when it is resumed");
    holdings.settle();
    assert_eq!(due(&holdings), [(0, 4, 7)]);
    let named = NamedPartition { stream: name(), partition: PartitionId(0) };
    assert_eq!((holdings.remove(&[P, Q]), holdings.due()), (vec![named.clone()], vec![]));
    assert_eq!(holdings.find(&named), None);
}

#[test]
fn a_reset_forgets_the_position_until_reading_has_begun_again() {
    let mut holdings = Holdings::default();
    holdings.take_up(P, name(), 7, spot(100), WireStart::Latest);
    holdings.reset(P, WireStart::Latest);
    assert_eq!((due(&holdings), holdings.positions()), (vec![], vec![]));
    holdings.pause(P);
    holdings.resume(P);
    assert_eq!(start_of(&holdings, 0).map(|(_, start)| start), Some(WireStart::Latest));
    holdings.began(P, Offset(60));
    assert_eq!(due(&holdings), [(0, 60, 7)]);
    holdings.skipped(P, Offset(70));
    holdings.settle();
    assert_eq!(due(&holdings), [(0, 70, 7)], "a gap that was told is done with");
}

#[derive(Debug, Clone)]
enum Step {
    Take(u32, u64),
    Ask,
    Commit,
    Pause(u32),
    Resume(u32),
}

proptest! {
    #[test]
    fn a_commit_is_behind_all_that_was_asked_beyond_and_nothing_else(
        steps in prop::collection::vec(prop_oneof![
            4 => (0..2_u32, 1..4_u64).prop_map(|(p, n)| Step::Take(p, n)),
            3 => Just(Step::Ask),
            1 => Just(Step::Commit),
            1 => (0..2_u32).prop_map(Step::Pause),
            1 => (0..2_u32).prop_map(Step::Resume),
        ], 0..60),
    ) {
        let place = |p: u32| StreamPartition { stream: 5, partition: p };
        let mut holdings = Holdings::default();
        holdings.take_up(P, name(), 1, None, WireStart::Earliest);
        holdings.take_up(Q, name(), 1, None, WireStart::Earliest);
        holdings.began(P, Offset(0));
        holdings.began(Q, Offset(0));
        // The model: what each call returned, and what was done with before the last one.
        let (mut delivered, mut done, mut committed) = ([0_u64; 2], [0_u64; 2], [None; 2]);
        for step in steps {
            match step {
                // A call: it asks, which settles what came before, and returns something.
                Step::Take(p, n) => {
                    holdings.settle();
                    done = delivered;
                    delivered[p as usize] += n;
                    holdings.reached(place(p), reached(delivered[p as usize]));
                }
                Step::Ask => {
                    holdings.settle();
                    done = delivered;
                }
                Step::Commit => for commit in holdings.due() {
                    holdings.committed(&commit);
                    committed[commit.at.partition as usize] = Some(commit.offset);
                },
                Step::Pause(p) => holdings.pause(place(p)),
                Step::Resume(p) => holdings.resume(place(p)),
            }
            for p in 0..2 {
                let offered = due(&holdings).into_iter().find(|(partition, ..)| *partition == p as u32);
                let would = offered.map(|(_, offset, _)| offset).or(committed[p]);
                prop_assert_eq!(would, Some(done[p]));
            }
        }
    }
}
