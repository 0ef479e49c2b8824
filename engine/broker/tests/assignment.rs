//! The assignment over random histories of joins, leaves, time-outs and partition-count changes, held against checks that
//! are slow and obviously right: exactly one owner, one of those that read the stream; nobody can be relieved by any
//! chain of moves; where all read the same, balanced within one, with as few moves as any such assignment needs.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_broker::group::assign::{Owner, assign};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    /// A member that reads the streams in the mask.
    Join(u8),
    /// The n-th member leaves.
    Leave(u8),
    /// Several at once: their sessions end together.
    TimeOut(u8, u8),
    /// A stream has so many partitions from now on; 0: it is deleted.
    Partitions(u8, u8),
}

const STREAMS: u8 = 4;

/// A group: members by number, and each partition's owner.
#[derive(Debug, Clone, Default)]
struct Group {
    next: u32,
    members: BTreeMap<u32, BTreeSet<u8>>,
    streams: BTreeMap<u8, Vec<Option<u32>>>,
}

impl Group {
    fn apply(&mut self, op: &Op, same: bool) {
        match *op {
            Op::Join(mask) => {
                let mask = if same { 0xff } else { mask };
                let reads = (0..STREAMS).filter(|stream| mask & (1 << stream) != 0).collect();
                self.members.insert(self.next, reads);
                self.next += 1;
            }
            Op::Leave(n) => self.leave(n),
            Op::TimeOut(n, m) => {
                self.leave(n);
                self.leave(m);
            }
            Op::Partitions(stream, count) => {
                self.streams.entry(stream % STREAMS).or_default().resize(usize::from(count), None);
            }
        }
    }

    fn leave(&mut self, n: u8) {
        let len = self.members.len();
        if len > 0 {
            let number = *self.members.keys().nth(usize::from(n) % len).unwrap();
            self.members.remove(&number);
        }
    }

    /// Assigns anew, and returns who owned and who owns each partition.
    fn assign(&mut self) -> Vec<(Option<u32>, Option<u32>)> {
        let numbers: Vec<u32> = self.members.keys().copied().collect();
        let ids: Vec<u8> = self.streams.keys().copied().collect();
        let index = |number: u32| numbers.iter().position(|other| *other == number).map(|index| index as u32);
        let members: Vec<Vec<u32>> = self
            .members
            .values()
            .map(|reads| (0..ids.len() as u32).filter(|s| reads.contains(&ids[*s as usize])).collect())
            .collect();
        let current: Vec<Vec<Owner>> = self
            .streams
            .values()
            .map(|owners| {
                // One that has left is nobody; that an owner is settled must change no count.
                let owner =
                    |(at, owner): (usize, &Option<u32>)| Owner { member: owner.and_then(index), settled: at % 3 != 0 };
                owners.iter().enumerate().map(owner).collect()
            })
            .collect();
        let placed = assign(&members, &current);
        assert_eq!(placed, assign(&members, &current), "the same question, the same answer");
        let mut all = Vec::new();
        for (owners, placed) in self.streams.values_mut().zip(placed) {
            assert_eq!(owners.len(), placed.len());
            let after: Vec<Option<u32>> = placed.iter().map(|m| m.map(|m| numbers[m as usize])).collect();
            all.extend(owners.iter().copied().zip(after.iter().copied()));
            *owners = after;
        }
        all
    }

    fn loads(&self) -> BTreeMap<u32, usize> {
        let mut loads: BTreeMap<u32, usize> = self.members.keys().map(|member| (*member, 0)).collect();
        self.streams.values().flatten().flatten().for_each(|owner| *loads.get_mut(owner).unwrap() += 1);
        loads
    }

    fn check_owners(&self) {
        for (stream, owners) in &self.streams {
            let readers: Vec<u32> =
                self.members.iter().filter(|(_, reads)| reads.contains(stream)).map(|(number, _)| *number).collect();
            for owner in owners {
                match owner {
                    Some(owner) => assert!(readers.contains(owner), "{owner} does not read {stream}"),
                    None => assert!(readers.is_empty(), "a partition of {stream} has no owner, but readers"),
                }
            }
        }
    }

    /// No chain of moves could take from one member and give to another that has two fewer.
    fn check_spread(&self) {
        let loads = self.loads();
        let gives = |from: u32, to: u32| {
            self.streams
                .iter()
                .any(|(stream, owners)| owners.contains(&Some(from)) && self.members[&to].contains(stream))
        };
        let numbers: Vec<u32> = self.members.keys().copied().collect();
        let mut reach: Vec<Vec<bool>> =
            numbers.iter().map(|from| numbers.iter().map(|to| gives(*from, *to)).collect()).collect();
        for via in 0..numbers.len() {
            for from in 0..numbers.len() {
                for to in 0..numbers.len() {
                    reach[from][to] |= reach[from][via] && reach[via][to];
                }
            }
        }
        for (i, from) in numbers.iter().enumerate() {
            for (j, to) in numbers.iter().enumerate() {
                assert!(!reach[i][j] || loads[from] <= loads[to] + 1, "{from} could relieve itself to {to}: {loads:?}");
            }
        }
    }

    fn check_balance(&self) {
        let loads = self.loads();
        if let (Some(least), Some(most)) = (loads.values().min(), loads.values().max()) {
            assert!(most - least <= 1, "{loads:?}");
        }
    }
}

/// The fewest moves after which equal members are balanced within one: what has no owner, and what is above a quota, where
/// as many quotas as the remainder says may be higher by one, best at members that have that one.
fn fewest_moves(members: &BTreeSet<u32>, before: &[Option<u32>]) -> usize {
    if members.is_empty() {
        return 0;
    }
    let owned = |member: &u32| before.iter().filter(|owner| **owner == Some(*member)).count();
    let loads: Vec<usize> = members.iter().map(owned).collect();
    let unowned = before.len() - loads.iter().sum::<usize>();
    let (quota, higher) = (before.len() / members.len(), before.len() % members.len());
    let above: usize = loads.iter().map(|load| load.saturating_sub(quota)).sum();
    let kept = loads.iter().filter(|load| **load > quota).count().min(higher);
    unowned + above - kept
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => any::<u8>().prop_map(Op::Join),
        3 => any::<u8>().prop_map(Op::Leave),
        1 => any::<(u8, u8)>().prop_map(|(n, m)| Op::TimeOut(n, m)),
        2 => (0..STREAMS, 0..24u8).prop_map(|(stream, count)| Op::Partitions(stream, count)),
    ];
    prop::collection::vec(op, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn members_that_read_the_same_are_balanced_within_one_by_the_fewest_moves(operations in operations()) {
        let mut group = Group::default();
        for op in &operations {
            group.apply(op, true);
            let members: BTreeSet<u32> = group.members.keys().copied().collect();
            let before: Vec<Option<u32>> = group.streams.values().flatten().copied().collect();
            let fewest = fewest_moves(&members, &before);
            let changes = group.assign();
            group.check_owners();
            group.check_balance();
            let moved = changes.iter().filter(|(was, is)| is.is_some() && was != is).count();
            assert_eq!(moved, fewest, "after {op:?}");
        }
    }

    #[test]
    fn members_that_read_different_streams_cannot_be_relieved_by_any_chain_of_moves(operations in operations()) {
        let mut group = Group::default();
        for op in &operations {
            group.apply(op, false);
            group.assign();
            group.check_owners();
            group.check_spread();
            let settled = group.streams.clone();
            group.assign();
            assert_eq!(group.streams, settled, "nothing moves when nothing has changed");
        }
    }
}

#[test]
fn each_stream_is_spread_over_its_readers() {
    let (members, current) = (vec![vec![0, 1]; 3], vec![vec![Owner::default(); 6]; 2]);
    for stream in assign(&members, &current) {
        for member in 0..3 {
            assert_eq!(stream.iter().filter(|owner| **owner == Some(member)).count(), 2);
        }
    }
}

#[test]
fn a_partition_on_its_way_is_given_up_before_one_in_hand() {
    let owner = |settled| Owner { member: Some(0), settled };
    let current = vec![vec![owner(false), owner(true), owner(true), owner(false)]];
    let placed = assign(&[vec![0], vec![0]], &current);
    assert_eq!(placed, [vec![Some(1), Some(0), Some(0), Some(1)]]);
}

#[test]
fn a_chain_of_moves_relieves_who_shares_no_stream_with_the_idle_one() {
    // 0 reads a; 1 reads a and b; 2 reads b. All of a is with 0, all of b with 1: 2 has nothing.
    let members = [vec![0], vec![0, 1], vec![1]];
    let by = |member| vec![Owner { member: Some(member), settled: true }; 4];
    let placed = assign(&members, &[by(0), by(1)]);
    let load = |member| placed.iter().flatten().filter(|owner| **owner == Some(member)).count();
    assert_eq!([load(0), load(1), load(2)].iter().sum::<usize>(), 8);
    assert!((0..3).all(|member| (2..=3).contains(&load(member))), "{placed:?}");
}

/// By hand: `cargo test --release -p millstream-broker --test assignment -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long it takes; run it in release"]
fn how_long_it_takes() {
    for (count, partitions, streams) in [(100u32, 1_000, 1), (100, 1_000, 10), (1_000, 50_000, 1), (1_000, 50_000, 100)]
    {
        let all: Vec<u32> = (0..streams).collect();
        let alike = vec![all.clone(); count as usize];
        let different: Vec<Vec<u32>> =
            (0..count).map(|m| all.iter().copied().filter(|s| m % 7 == 0 || (m + s) % 3 > 0).collect()).collect();
        for (what, members) in [("alike", alike), ("different", different)] {
            let none = vec![vec![Owner::default(); partitions / streams as usize]; streams as usize];
            let time = |members: &[Vec<u32>], current: &[Vec<Owner>]| {
                let started = std::time::Instant::now();
                let placed = assign(members, current);
                (started.elapsed(), placed)
            };
            let (first, placed) = time(&members, &none);
            let owned = |gone: u32| {
                let owner = |m: &Option<u32>| Owner { member: m.filter(|m| *m != gone), settled: true };
                placed.iter().map(|owners| owners.iter().map(owner).collect()).collect::<Vec<Vec<_>>>()
            };
            let mut left = members.clone();
            left[17].clear();
            let (leave, _) = time(&left, &owned(17));
            let mut joined = members.clone();
            joined.push(all.clone());
            let (join, _) = time(&joined, &owned(u32::MAX));
            println!(
                "{count} members, {partitions} partitions of {streams} streams, {what}: first {first:?}, leave {leave:?}, join {join:?}"
            );
        }
    }
}
