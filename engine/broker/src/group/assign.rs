//! Who is meant to own which partition. Pure, and deterministic: the same question always has the same answer.
//!
//! ```text
//! keep    every partition stays with its owner, as long as that one is there and reads the stream
//! fill    each of the others goes to the reader that has least, those of streams with few readers first
//! level   while some member has two more than another that its partitions can reach, one goes that way
//! ```
//! A *way* is a chain: a gives b a partition of a stream that b reads, and b one of its own to c. When no way is left, no
//! sequence of moves lowers the spread (a semi-matching without a cost-reducing path is optimal: Harvey, Ladner, Lovász,
//! Tamir, "Semi-matchings for bipartite graphs and load balancing", 2003). Partitions of one stream are
//! interchangeable, so all of this is arithmetic on counts; only at the end does each member keep as many of its own
//! partitions as its count allows.
//!
//! Where all members read the same streams, they differ by at most one partition, and no assignment with that property
//! moves fewer. Proof: `tests/assignment.rs`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Who owns a partition today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// The member's index; `None`, or an index that no member has: nobody.
    pub member: Option<u32>,
    /// Whether it has taken the partition in hand: those that are still on their way move more cheaply.
    pub settled: bool,
}

/// Gives every partition of a stream that has a reader to exactly one of its readers.
///
/// `members` are the indexes of the streams that each member reads, rising; `current` the owners of each stream's
/// partitions. The answer has the layout of `current`: the members' indexes.
///
/// # Panics
/// If a member reads a stream beyond `current`, or its streams do not rise.
pub fn assign(members: &[Vec<u32>], current: &[Vec<Owner>]) -> Vec<Vec<Option<u32>>> {
    let mut plan = Plan::new(members, current.len());
    let unowned = plan.keep(current);
    plan.fill(&unowned);
    plan.level();
    plan.place(current)
}

/// How many partitions of which stream each member gets.
struct Plan<'a> {
    members: &'a [Vec<u32>],
    /// By member, beside its streams in `members`.
    counts: Vec<Vec<u32>>,
    /// By member: the sum of its counts.
    loads: Vec<u32>,
    /// By stream: who reads it.
    readers: Vec<Vec<u32>>,
}

impl<'a> Plan<'a> {
    fn new(members: &'a [Vec<u32>], streams: usize) -> Self {
        let mut readers = vec![Vec::new(); streams];
        for (member, reads) in members.iter().enumerate() {
            assert!(reads.is_sorted_by(|a, b| a < b), "a member's streams rise");
            reads.iter().for_each(|stream| readers[*stream as usize].push(member as u32));
        }
        let counts = members.iter().map(|reads| vec![0; reads.len()]).collect();
        Self { members, counts, loads: vec![0; members.len()], readers }
    }

    /// Where a member's count of a stream is, if it reads it.
    fn slot(&self, member: u32, stream: u32) -> Option<usize> {
        self.members.get(member as usize)?.binary_search(&stream).ok()
    }

    fn add(&mut self, member: u32, slot: usize) {
        self.counts[member as usize][slot] += 1;
        self.loads[member as usize] += 1;
    }

    fn remove(&mut self, member: u32, slot: usize) {
        self.counts[member as usize][slot] -= 1;
        self.loads[member as usize] -= 1;
    }

    /// Counts what stays; returns how many partitions of each stream have no owner that may keep them.
    fn keep(&mut self, current: &[Vec<Owner>]) -> Vec<u32> {
        let mut unowned = vec![0; current.len()];
        for (stream, owners) in current.iter().enumerate() {
            for owner in owners {
                match owner.member.and_then(|member| Some((member, self.slot(member, stream as u32)?))) {
                    Some((member, slot)) => self.add(member, slot),
                    None => unowned[stream] += 1,
                }
            }
        }
        unowned
    }

    /// Gives out what has no owner.
    fn fill(&mut self, unowned: &[u32]) {
        let mut streams: Vec<u32> = (0..unowned.len() as u32).filter(|s| unowned[*s as usize] > 0).collect();
        streams.sort_by_key(|stream| (self.readers[*stream as usize].len(), *stream));
        for stream in streams {
            let slots = self.readers[stream as usize].iter().map(|reader| {
                let slot = self.slot(*reader, stream).expect("it is one of its readers");
                let (reader, count) = (*reader, self.counts[*reader as usize][slot]);
                // Least load first; then who has least of this stream, so that its work is spread.
                Reverse((self.loads[reader as usize], count, reader, slot))
            });
            let mut least: BinaryHeap<_> = slots.collect();
            for _ in 0..unowned[stream as usize] {
                let Some(mut top) = least.peek_mut() else { break };
                let Reverse((load, count, reader, slot)) = *top;
                *top = Reverse((load + 1, count + 1, reader, slot));
                drop(top);
                self.add(reader, slot);
            }
        }
    }

    /// Moves along ways until none lowers the spread.
    fn level(&mut self) {
        // Members from which no way leads, and all that can be reached from them: nothing ever goes there or comes from
        // there again, since what they reach is within one of them, and the rest has no more than they have.
        let mut level = vec![false; self.members.len()];
        loop {
            let open = (0..self.members.len() as u32).filter(|member| !level[*member as usize]);
            let Some(source) = open.max_by_key(|member| (self.loads[*member as usize], Reverse(*member))) else {
                return;
            };
            match self.find_way(source, &mut level) {
                Some(way) => way.windows(2).for_each(|step| self.give(step[0], step[1])),
                None => level[source as usize] = true,
            }
        }
    }

    /// The shortest way from `source` to the member with the least load that can be reached and has at least two fewer.
    /// If there is none, all that can be reached is marked in `level`.
    fn find_way(&self, source: u32, level: &mut [bool]) -> Option<Vec<u32>> {
        let load = |member: u32| self.loads[member as usize];
        let open = (0..self.members.len() as u32).filter(|member| !level[*member as usize]);
        let least = open.map(load).min()?;
        if least + 2 > load(source) {
            // Nobody has two fewer.
            level.fill(true);
            return None;
        }
        let mut from: Vec<Option<u32>> = vec![None; self.members.len()];
        let mut seen = vec![false; self.readers.len()];
        let mut queue = VecDeque::from([source]);
        let mut reached = vec![source];
        let mut best: Option<u32> = None;
        'search: while let Some(member) = queue.pop_front() {
            let reads = &self.members[member as usize];
            for (slot, stream) in reads.iter().enumerate() {
                if self.counts[member as usize][slot] == 0 || std::mem::replace(&mut seen[*stream as usize], true) {
                    continue;
                }
                for reader in &self.readers[*stream as usize] {
                    let reader = *reader;
                    if reader == source || level[reader as usize] || from[reader as usize].is_some() {
                        continue;
                    }
                    from[reader as usize] = Some(member);
                    reached.push(reader);
                    queue.push_back(reader);
                    if load(reader) + 2 <= load(source) && best.is_none_or(|best| load(reader) < load(best)) {
                        best = Some(reader);
                        if load(reader) == least {
                            break 'search;
                        }
                    }
                }
            }
        }
        let Some(end) = best else {
            reached.iter().for_each(|member| level[*member as usize] = true);
            return None;
        };
        let mut way = vec![end];
        while let Some(before) = from[*way.last().expect("it has an end") as usize] {
            way.push(before);
        }
        way.reverse();
        Some(way)
    }

    /// One partition goes from one member to another: of the stream of which the giver has most, compared to the taker.
    fn give(&mut self, from: u32, to: u32) {
        let reads = self.members[from as usize].iter().enumerate();
        let shared = reads.filter(|(slot, _)| self.counts[from as usize][*slot] > 0).filter_map(|(slot, stream)| {
            let taken = self.slot(to, *stream)?;
            let more = i64::from(self.counts[from as usize][slot]) - i64::from(self.counts[to as usize][taken]);
            Some((more, Reverse(*stream), slot, taken))
        });
        let (_, _, slot, taken) = shared.max().expect("a way leads over streams that both read");
        self.remove(from, slot);
        self.add(to, taken);
    }

    /// Turns counts into partitions: each member keeps its own as far as its count allows.
    fn place(&self, current: &[Vec<Owner>]) -> Vec<Vec<Option<u32>>> {
        let mut left = vec![0; self.members.len()];
        let mut placed = Vec::with_capacity(current.len());
        for (stream, owners) in current.iter().enumerate() {
            for reader in &self.readers[stream] {
                let slot = self.slot(*reader, stream as u32).expect("it is one of its readers");
                left[*reader as usize] = self.counts[*reader as usize][slot];
            }
            let mut places = vec![None; owners.len()];
            for settled in [true, false] {
                for (place, owner) in places.iter_mut().zip(owners) {
                    if let Some(member) = owner.member
                        && owner.settled == settled
                        && let Some(left) = left.get_mut(member as usize)
                        && *left > 0
                    {
                        *left -= 1;
                        *place = Some(member);
                    }
                }
            }
            let mut takers: VecDeque<u32> =
                self.readers[stream].iter().copied().filter(|reader| left[*reader as usize] > 0).collect();
            for place in places.iter_mut().filter(|place| place.is_none()) {
                // In turns, so that neighbours are spread.
                let Some(taker) = takers.pop_front() else { break };
                *place = Some(taker);
                left[taker as usize] -= 1;
                if left[taker as usize] > 0 {
                    takers.push_back(taker);
                }
            }
            placed.push(places);
        }
        placed
    }
}
