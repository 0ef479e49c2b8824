//! What one subscriber has seen, held against what must be true: a machine without I/O.
//!
//! Of each source (a producer of a run):
//! - each sequence comes once, and in the end none below the number sent is missing;
//! - within a partition they rise; of a FIFO queue each key's offsets rise.
//!
//! Of each partition: offsets rise by one, where a subscriber reads everything. Of each record: its CRC holds. A queue or a
//! group may deliver again what it says it delivers again.
//! What is kept: a bit for each sequence above the first that has not come.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::stamp::{Found, Stamp};

/// Mismatches kept with all they say; beyond it they are counted.
const EXAMPLES_MAX: usize = 10;

/// What must be true for this subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Offsets of a partition rise by one.
    pub offsets: bool,
    /// Sequences of a producer rise within a partition.
    pub order: bool,
    /// Offsets of a key rise.
    pub key_order: bool,
    /// Only records of this run count, and every other one is left alone; `None`: all are looked at.
    pub run: Option<u32>,
}

/// Where a record was found.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Its key, where its order matters.
    pub key: Option<&'a [u8]>,
    /// Whether the server says that it may have come before.
    pub again: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Its bytes are not those that were sent.
    Damaged { stamp: Stamp, partition: u32, offset: u64 },
    /// It came before.
    Duplicate { stamp: Stamp, partition: u32, offset: u64 },
    /// A later one of its producer or key came before it.
    Reordered { stamp: Stamp, partition: u32, offset: u64 },
    /// The partition's offsets do not go on by one.
    Offsets { partition: u32, expected: u64, found: u64 },
    /// It is not a record of ours, among some that are.
    Foreign { partition: u32, offset: u64 },
    /// The number of records is another.
    Count { expected: u64, found: u64 },
    /// These never came.
    Missing { run: u32, producer: u32, first: u64, count: u64, sent: u64 },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = |stamp: &Stamp, partition: &u32, offset: &u64| {
            format!(
                "producer {}, sequence {}, at partition {partition}, offset {offset}",
                stamp.producer, stamp.sequence
            )
        };
        match self {
            Mismatch::Damaged { stamp, partition, offset } => {
                write!(f, "damaged: {}: its checksum does not hold", record(stamp, partition, offset))
            }
            Mismatch::Duplicate { stamp, partition, offset } => {
                write!(f, "duplicate: {}: it came before", record(stamp, partition, offset))
            }
            Mismatch::Reordered { stamp, partition, offset } => {
                write!(f, "out of order: {}: a later one came before it", record(stamp, partition, offset))
            }
            Mismatch::Offsets { partition, expected, found } => {
                write!(f, "offsets: partition {partition} goes on with offset {found}, not {expected}")
            }
            Mismatch::Foreign { partition, offset } => {
                write!(f, "foreign: partition {partition}, offset {offset} holds a record that nobody here sent")
            }
            Mismatch::Count { expected, found } => write!(f, "count: {found} records came, not {expected}"),
            Mismatch::Missing { producer, first, count, sent, .. } => {
                write!(f, "missing: producer {producer}, sequence {first}: {count} of its {sent} records never came")
            }
        }
    }
}

/// What became of a record that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first of its kind.
    New(Stamp),
    /// It came before.
    Again,
    /// It came, and is not what was sent.
    Damaged,
    /// It is not ours, or not this run's.
    Foreign,
}

/// What one subscriber has seen.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    sources: HashMap<(u32, u32), Source>,
    next_offsets: Vec<Option<u64>>,
    keys: HashMap<Box<[u8]>, u64>,
    records: u64,
    stamped: u64,
    foreign: u64,
    again: u64,
    mismatches: u64,
    examples: Vec<Mismatch>,
}

impl Ledger {
    /// Nothing seen yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            sources: HashMap::new(),
            next_offsets: Vec::new(),
            keys: HashMap::new(),
            records: 0,
            stamped: 0,
            foreign: 0,
            again: 0,
            mismatches: 0,
            examples: Vec::new(),
        }
    }

    /// Takes one record in.
    pub fn saw(&mut self, at: Place<'_>, found: Found) -> Verdict {
        let Place { partition, offset, key, again } = at;
        self.records += 1;
        if self.rules.offsets {
            self.follow(partition, offset, again);
        }
        let stamp = match found {
            Found::Intact(stamp) => stamp,
            Found::Damaged(stamp) => {
                self.stamped += 1;
                self.wrong(Mismatch::Damaged { stamp, partition, offset });
                return Verdict::Damaged;
            }
            Found::Foreign => {
                self.foreign += 1;
                if self.rules.run.is_some() || self.stamped > 0 {
                    self.wrong(Mismatch::Foreign { partition, offset });
                }
                return Verdict::Foreign;
            }
        };
        if self.rules.run.is_some_and(|run| run != stamp.run) {
            return Verdict::Foreign;
        }
        self.stamped += 1;
        let order = self.rules.order;
        let source = self.sources.entry((stamp.run, stamp.producer)).or_default();
        let is_new = source.seen.insert(stamp.sequence);
        let rises = !order || source.rises(partition, stamp.sequence);
        match (is_new, again) {
            (false, true) => self.again += 1,
            (false, false) => self.wrong(Mismatch::Duplicate { stamp, partition, offset }),
            (true, _) if !rises && !again => self.wrong(Mismatch::Reordered { stamp, partition, offset }),
            (true, _) => {}
        }
        if let (true, Some(key)) = (self.rules.key_order && is_new, key) {
            match self.keys.get_mut(key) {
                Some(last) if *last >= offset && !again => self.wrong(Mismatch::Reordered { stamp, partition, offset }),
                Some(last) => *last = offset.max(*last),
                None => drop(self.keys.insert(key.into(), offset)),
            }
        }
        if is_new { Verdict::New(stamp) } else { Verdict::Again }
    }

    /// Takes in a record that can carry no stamp: only its place.
    pub fn counted(&mut self, at: Place<'_>) {
        self.records += 1;
        self.again += u64::from(at.again);
        if self.rules.offsets {
            self.follow(at.partition, at.offset, at.again);
        }
    }

    fn follow(&mut self, partition: u32, offset: u64, again: bool) {
        let at = partition as usize;
        if self.next_offsets.len() <= at {
            self.next_offsets.resize(at + 1, None);
        }
        match self.next_offsets[at] {
            Some(expected) if expected != offset && !again => {
                self.wrong(Mismatch::Offsets { partition, expected, found: offset });
                self.next_offsets[at] = Some(offset + 1);
            }
            Some(expected) => self.next_offsets[at] = Some(expected.max(offset + 1)),
            None => self.next_offsets[at] = Some(offset + 1),
        }
    }

    /// A partition begins anew, elsewhere perhaps: what follows may have come before.
    pub fn moved(&mut self) {
        self.next_offsets.clear();
        self.sources.values_mut().for_each(|source| source.last.clear());
    }

    /// All has been read: what a producer sent and did not come is missing. `sent` is by producer; of a source that is not
    /// in it, no sequence may be left out below the last that came.
    pub fn close(&mut self, run: u32, sent: &HashMap<u32, u64>) {
        let mut missing = Vec::new();
        for (producer, sent) in sent {
            let source = self.sources.entry((run, *producer)).or_default();
            missing.extend(source.seen.missing(*sent).map(|(first, count)| (run, *producer, first, count, *sent)));
        }
        for ((of_run, producer), source) in &self.sources {
            if *of_run != run || !sent.contains_key(producer) {
                let end = source.seen.end();
                missing.extend(source.seen.missing(end).map(|(first, count)| (*of_run, *producer, first, count, end)));
            }
        }
        missing.sort_unstable();
        for (run, producer, first, count, sent) in missing {
            self.wrong(Mismatch::Missing { run, producer, first, count, sent });
        }
    }

    /// All has been read, and nothing says who sent it: the number must be right.
    pub fn close_counted(&mut self, expected: u64) {
        let found = self.records - self.again.min(self.records);
        if found != expected {
            self.wrong(Mismatch::Count { expected, found });
        }
    }

    fn wrong(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(mismatch);
        }
    }

    /// Records taken in.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Those of them that said who sent them.
    pub fn stamped(&self) -> u64 {
        self.stamped
    }

    /// Those that came again, as they may.
    pub fn again(&self) -> u64 {
        self.again
    }

    /// How many things are wrong, and some of them.
    pub fn mismatches(&self) -> (u64, &[Mismatch]) {
        (self.mismatches, &self.examples)
    }
}

/// One producer's records.
#[derive(Debug, Default)]
struct Source {
    seen: Seen,
    /// The last sequence in each partition.
    last: Vec<Option<u64>>,
}

impl Source {
    fn rises(&mut self, partition: u32, sequence: u64) -> bool {
        let at = partition as usize;
        if self.last.len() <= at {
            self.last.resize(at + 1, None);
        }
        let rises = self.last[at].is_none_or(|last| last < sequence);
        self.last[at] = self.last[at].max(Some(sequence));
        rises
    }
}

/// Which sequences came: all below `floor`, and those whose bits are set.
#[derive(Debug, Default)]
struct Seen {
    floor: u64,
    words: VecDeque<u64>,
    end: u64,
}

impl Seen {
    /// False if it came before.
    fn insert(&mut self, sequence: u64) -> bool {
        let Some(above) = sequence.checked_sub(self.floor) else { return false };
        let (word, bit) = ((above / 64) as usize, 1_u64 << (above % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.end = self.end.max(sequence + 1);
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.floor += 64;
        }
        is_new
    }

    /// Behind the last that came.
    fn end(&self) -> u64 {
        self.end
    }

    /// The first below `end` that has not come, and how many have not.
    fn missing(&self, end: u64) -> Option<(u64, u64)> {
        let has = |sequence: u64| {
            let above = sequence - self.floor;
            self.words.get((above / 64) as usize).is_some_and(|word| word & (1 << (above % 64)) != 0)
        };
        let mut missing = (self.floor..end).filter(|sequence| !has(*sequence));
        let first = missing.next()?;
        Some((first, 1 + missing.count() as u64))
    }
}

#[cfg(test)]
mod tests;
