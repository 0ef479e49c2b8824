//! Which offsets are settled: a floor, below which all are, and a compressed set above it.
//!
//! The set is a roaring map: containers of 65,536 offsets, each an array, a bitmap or a list of runs, whichever is smallest
//! when it is stored; a container that is full is one run. So what lies above a hole that is held open for days costs at
//! most a bit an offset, and next to nothing where all of it is settled.

use std::ops::Range;

use roaring::RoaringTreemap;

/// The settled offsets of one queue on one partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Settled {
    floor: u64,
    /// All at or above the floor; the floor itself is never in it.
    above: RoaringTreemap,
}

impl Settled {
    /// All below `floor`, and nothing else.
    pub fn below(floor: u64) -> Self {
        Self { floor, above: RoaringTreemap::new() }
    }

    /// The offset below which all are settled.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The first offset above which none is settled.
    pub fn end(&self) -> u64 {
        self.above.max().map_or(self.floor, |last| last + 1)
    }

    pub fn contains(&self, offset: u64) -> bool {
        offset < self.floor || self.above.contains(offset)
    }

    /// How many of the range are settled.
    pub fn count(&self, range: &Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let below = self.floor.clamp(range.start, range.end);
        let above = if below < range.end { self.above.range_cardinality(below..range.end) } else { 0 };
        below - range.start + above
    }

    /// Settles a range; answers how many of it were not.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.end <= self.floor || range.is_empty() {
            return 0;
        }
        if range.start > self.floor {
            return self.above.insert_range(range);
        }
        let mut new = range.end - self.floor;
        if !self.above.is_empty() {
            new -= self.above.range_cardinality(self.floor..range.end);
        }
        self.floor = range.end;
        if !self.above.is_empty() {
            self.raise_floor();
        }
        new
    }

    /// The floor rises over what is settled behind it.
    fn raise_floor(&mut self) {
        self.above.remove_range(..self.floor);
        loop {
            let first = self.runs(self.floor).next();
            match first {
                Some((start, end)) if start == self.floor => {
                    self.floor = end;
                    self.above.remove_range(..end);
                }
                _ => return,
            }
        }
    }

    /// Forgets all at or above `end`.
    pub fn cut(&mut self, end: u64) {
        self.floor = self.floor.min(end);
        self.above.remove_range(end..);
    }

    /// The runs of settled offsets at or above `from` and the floor; neighbours may touch where containers do.
    fn runs(&self, from: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = from.max(self.floor);
        let (first, low) = ((from >> 32) as u32, from as u32);
        self.above.bitmaps().filter(move |(high, _)| *high >= first).flat_map(move |(high, bitmap)| {
            let mut runs = bitmap.iter();
            if high == first {
                runs.advance_to(low);
            }
            let base = u64::from(high) << 32;
            std::iter::from_fn(move || runs.next_range())
                .map(move |run| (base + u64::from(*run.start()), base + u64::from(*run.end()) + 1))
        })
    }

    /// The parts of `range` that are not settled, in order.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut runs = self.runs(range.start).peekable();
        let mut next = range.start.max(self.floor);
        std::iter::from_fn(move || {
            while next < range.end {
                let gap = match runs.peek() {
                    Some(&(start, end)) if start <= next => {
                        next = next.max(end);
                        runs.next();
                        continue;
                    }
                    Some(&(start, _)) => next..start.min(range.end),
                    None => next..range.end,
                };
                next = gap.end;
                return Some(gap);
            }
            None
        })
    }

    /// The set's bytes: the roaring map's portable serialization, each container in its smallest form.
    pub fn encode(&self) -> Vec<u8> {
        encode_set(&self.above)
    }

    /// Reads a set back.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(floor: u64, bytes: &[u8]) -> Result<Self, String> {
        let above = decode_set(bytes)?;
        let mut settled = Self { floor, above };
        settled.raise_floor();
        Ok(settled)
    }
}

/// A set's bytes, each container in its smallest form.
pub(super) fn encode_set(set: &RoaringTreemap) -> Vec<u8> {
    let mut smallest = set.clone();
    smallest.optimize();
    let mut bytes = Vec::with_capacity(smallest.serialized_size());
    smallest.serialize_into(&mut bytes).expect("a vector takes all bytes");
    bytes
}

pub(super) fn decode_set(mut bytes: &[u8]) -> Result<RoaringTreemap, String> {
    let set = RoaringTreemap::deserialize_from(&mut bytes).map_err(|error| format!("a set of offsets: {error}"))?;
    match bytes.len() {
        0 => Ok(set),
        more => Err(format!("a set of offsets: {more} bytes too many")),
    }
}

impl PartialEq for Settled {
    fn eq(&self, other: &Self) -> bool {
        self.floor == other.floor && self.above == other.above
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few offsets, on both sides of where the map's halves and the containers meet.
    fn offsets() -> impl Strategy<Value = u64> {
        prop_oneof![0..40_u64, 65_530..65_545_u64, (1 << 32) - 10..(1 << 32) + 10_u64]
    }

    proptest! {
        #[test]
        fn it_is_the_set_that_a_plain_one_would_be(ranges in prop::collection::vec((offsets(), 1..70_u64), 1..40)) {
            let (mut settled, mut plain) = (Settled::below(3), (0..3).collect::<BTreeSet<u64>>());
            for (start, length) in ranges {
                let range = start..start + length;
                let new = range.clone().filter(|offset| plain.insert(*offset)).count() as u64;
                prop_assert_eq!(settled.insert(range.clone()), new);
                prop_assert_eq!(settled.count(&(start.saturating_sub(9)..start + 9)),
                    (start.saturating_sub(9)..start + 9).filter(|offset| plain.contains(offset)).count() as u64);
            }
            prop_assert_eq!(settled.floor(), (0..).find(|offset| !plain.contains(offset)).unwrap());
            prop_assert_eq!(settled.end(), settled.floor().max(plain.last().unwrap() + 1));
            for from in [0, 30, 65_530, (1 << 32) - 40] {
                let range = from..from + 200;
                let expected: Vec<u64> = range.clone().filter(|offset| !plain.contains(offset)).collect();
                prop_assert_eq!(settled.gaps(range).flatten().collect::<Vec<u64>>(), expected);
            }
            prop_assert_eq!(&Settled::decode(settled.floor(), &settled.encode()).unwrap(), &settled);
        }
    }

    #[test]
    fn five_million_behind_a_hole_are_a_few_hundred_bytes_and_every_second_one_a_bit() {
        let mut settled = Settled::below(0);
        for offset in 1..5_000_000 {
            settled.insert(offset..offset + 1);
        }
        assert!(settled.encode().len() < 2_000, "{}", settled.encode().len());
        assert_eq!(settled.insert(0..1), 1);
        assert_eq!((settled.floor(), settled.encode().len() < 20), (5_000_000, true));

        let mut every_second = Settled::below(0);
        for n in 0..1_000_000 {
            every_second.insert(2 * n + 1..2 * n + 2);
        }
        assert!(every_second.encode().len() < 260_000, "{}", every_second.encode().len());
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        assert!(Settled::decode(0, &[1, 2, 3]).is_err());
        let mut bytes = Settled::below(0).encode();
        bytes.push(0);
        assert!(Settled::decode(0, &bytes).is_err());
    }
}
