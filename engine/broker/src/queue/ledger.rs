//! What a queue knows for ever about one partition's messages: the durable half of the machine.
//!
//! It changes by [`Ledger::apply`] alone, live and in recovery. Per message there is only what the rest does not say:
//!
//! ```text
//!  below the floor, or in the set above it   settled                                  0 to 1 bit
//!  in `marks`                                redelivered, nacked, released             40 bytes
//!  in `delayed`                              held back, never delivered                16 bytes
//!  in a run of `firsts`                      delivered once                           a run for each delivered batch
//!  else, below `judged`                      matches the filter, never delivered      nothing
//!  at or above `judged`                      not looked at                            nothing
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use roaring::RoaringTreemap;

use super::event::{Adopted, Dying, Event, How, Mark, Pass};
use super::settled::Settled;

/// Messages delivered once, with fences that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub fence: u64,
    pub at_ms: u64,
    pub len: u32,
    /// Those of them that are unsettled and have no mark: the run goes with the last.
    pub left: u32,
}

/// How many messages were settled, by how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Acknowledged.
    pub acked: u64,
    /// Not matched by the filter.
    pub filtered: u64,
    /// Moved to the dead letters.
    pub dead: u64,
    /// Not delivered in time.
    pub expired: u64,
    /// Deleted by retention before they were settled.
    pub expired_by_retention: u64,
    /// Removed by compaction.
    pub removed: u64,
    /// Lost to damage that an operator accepted.
    pub lost: u64,
    /// Purged.
    pub purged: u64,
}

impl Tally {
    pub(super) fn of(&mut self, how: How) -> &mut u64 {
        match how {
            How::Acked => &mut self.acked,
            How::Filtered => &mut self.filtered,
            How::Dead => &mut self.dead,
            How::Expired => &mut self.expired,
            How::Retention => &mut self.expired_by_retention,
            How::Removed => &mut self.removed,
            How::Lost => &mut self.lost,
            How::Purged => &mut self.purged,
        }
    }
}

/// What is known of an unsettled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Never delivered, nor held back.
    Fresh,
    /// Delivered once.
    Once {
        fence: u64,
        at_ms: u64,
    },
    Marked(Mark),
}

impl Known {
    /// As a mark.
    pub fn mark(self) -> Mark {
        match self {
            Known::Fresh => Mark::default(),
            Known::Once { fence, at_ms } => Mark { fence, first_ms: at_ms, receives: 1, ..Mark::default() },
            Known::Marked(mark) => mark,
        }
    }
}

/// Whether a letter may bring its message back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayAdopt {
    Yes,
    /// It did so before.
    Used,
    /// The message is on its way to the dead letters: not known to be settled yet.
    Later,
    /// The message is not settled: a seek or another letter of it has brought it back.
    Open,
}

/// The state.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub(super) epoch: u32,
    pub(super) judged: u64,
    /// The highest fence given out.
    pub(super) fence: u64,
    pub(super) settled: Settled,
    pub(super) marks: BTreeMap<u64, Mark>,
    /// Never delivered, and when they may be, Unix ms: marks that say nothing else.
    pub(super) delayed: BTreeMap<u64, u64>,
    pub(super) firsts: BTreeMap<u64, First>,
    /// By partition of the dead-letter stream, and sequence there.
    pub(super) dying: BTreeMap<(u32, u64), Dying>,
    /// Those of them whose messages are settled by their arrival, by offset: unsettled ones of this queue epoch.
    pub(super) dying_at: BTreeMap<u64, (u32, u64)>,
    pub(super) adopted: BTreeMap<u64, Adopted>,
    /// Letters that have brought their message back, by the dead-letter partition's incarnation: kept for ever, over purges
    /// and seeks too, so that no letter does it twice. About a bit each.
    pub(super) letters: BTreeMap<u64, RoaringTreemap>,
    /// The next sequence of the internal producer in each partition of the dead-letter stream.
    pub(super) sequences: BTreeMap<u32, u64>,
    pub(super) tally: Tally,
}

impl Ledger {
    /// A queue that begins at `start`, under queue epoch `epoch`.
    pub fn starting(epoch: u32, start: u64) -> Self {
        Self { epoch, judged: start, settled: Settled::below(start), ..Self::default() }
    }

    /// The ack floor: below it all is settled.
    pub fn floor(&self) -> u64 {
        self.settled.floor()
    }

    /// The offset below which all records were held against the filter.
    pub fn judged(&self) -> u64 {
        self.judged
    }

    /// How many entries it keeps: what its memory and its snapshots are in proportion to, beside the settled offsets.
    pub fn entries(&self) -> usize {
        self.marks.len() + self.delayed.len() + self.firsts.len() + self.dying.len() + self.adopted.len()
    }

    /// Counts since the queue was made.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Changes the state by what one pass decided.
    pub fn apply_pass(&mut self, pass: &Pass) {
        if pass.epoch >= self.epoch {
            pass.events.iter().for_each(|event| self.apply(event));
        }
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Judged { below } => self.judged = self.judged.max(*below),
            Event::Delivered { fence, at_ms, runs } => {
                let mut fence = *fence;
                for &(base, len) in runs {
                    self.delivered(base, First { fence, at_ms: *at_ms, len, left: len });
                    fence += u64::from(len);
                }
                self.fence = self.fence.max(fence.saturating_sub(1));
            }
            Event::Marked { offset, mark } => {
                self.fence = self.fence.max(mark.fence);
                if !self.set_mark(*offset, *mark) {
                    self.leave_run(*offset);
                }
            }
            Event::Dying(dying) => {
                let next = self.sequences.entry(dying.target).or_default();
                *next = (*next).max(dying.sequence.saturating_add(1));
                self.dying.insert((dying.target, dying.sequence), dying.clone());
                self.dying_at.insert(dying.offset, (dying.target, dying.sequence));
            }
            Event::Moved { target, sequence } => {
                let way = (*target, *sequence);
                if let Some(dying) = self.dying.remove(&way)
                    && self.dying_at.get(&dying.offset) == Some(&way)
                {
                    self.tally.dead += self.settle(dying.offset..dying.offset + 1);
                }
            }
            Event::Settled { how, runs } => {
                let settled: u64 = runs.iter().map(|&(base, len)| self.settle(base..base + len)).sum();
                *self.tally.of(*how) += settled;
            }
            Event::Adopted { offset, adopted } => {
                if self.may_adopt(*offset, *adopted) == MayAdopt::Yes {
                    self.letters.entry(adopted.incarnation).or_default().insert(adopted.at);
                    self.adopted.insert(*offset, *adopted);
                    self.marks.insert(*offset, Mark::default());
                }
            }
            Event::Reset { epoch, floor, is_purge } => self.reset(*epoch, *floor, *is_purge),
            Event::Cut { end } => self.cut(*end),
        }
    }

    /// Settles a range, adopted messages in it included; answers how many were not settled.
    fn settle(&mut self, range: Range<u64>) -> u64 {
        let adopted = take_range(&mut self.adopted, &range);
        // A mark of an adopted message says nothing about the run its offset once lay in, which is gone.
        take_range(&mut self.dying_at, &range);
        if range.end - range.start == 1 {
            let has_mark = self.marks.remove(&range.start).is_some() | self.delayed.remove(&range.start).is_some();
            if !has_mark && !self.settled.contains(range.start) {
                self.leave_run(range.start);
            }
        } else {
            self.leave_runs(&range);
            take_range(&mut self.marks, &range);
            take_range(&mut self.delayed, &range);
        }
        adopted as u64 + self.settled.insert(range)
    }

    /// A run, which joins the one that it follows.
    fn delivered(&mut self, base: u64, run: First) {
        if let Some((before, last)) = self.firsts.range_mut(..base).next_back()
            && before + u64::from(last.len) == base
            && last.fence + u64::from(last.len) == run.fence
            && last.at_ms == run.at_ms
            && let Some(len) = last.len.checked_add(run.len)
        {
            (last.len, last.left) = (len, last.left + run.left);
            return;
        }
        self.firsts.insert(base, run);
    }

    /// Sets a mark; whether there was one.
    fn set_mark(&mut self, offset: u64, mark: Mark) -> bool {
        let says_only_when = Mark { due_ms: mark.due_ms, ..Mark::default() } == mark && mark.due_ms > 0;
        if says_only_when {
            let was_marked = self.marks.remove(&offset).is_some();
            return self.delayed.insert(offset, mark.due_ms).is_some() | was_marked;
        }
        let was_delayed = self.delayed.remove(&offset).is_some();
        self.marks.insert(offset, mark).is_some() | was_delayed
    }

    /// When an unsettled message with a mark may be delivered, Unix ms.
    pub(super) fn due_ms(&self, offset: u64) -> Option<u64> {
        self.delayed.get(&offset).copied().or_else(|| self.marks.get(&offset).map(|mark| mark.due_ms))
    }

    /// The unsettled messages with a mark.
    pub(super) fn marks(&self) -> impl Iterator<Item = (u64, Mark)> + '_ {
        let delayed =
            self.delayed.iter().map(|(offset, due_ms)| (*offset, Mark { due_ms: *due_ms, ..Mark::default() }));
        self.marks.iter().map(|(offset, mark)| (*offset, *mark)).chain(delayed)
    }

    /// An offset's knowledge is in its run no more.
    fn leave_run(&mut self, offset: u64) {
        if let Some((base, first)) = self.firsts.range_mut(..=offset).next_back()
            && offset - base < u64::from(first.len)
        {
            first.left = first.left.saturating_sub(1);
            if first.left == 0 {
                let base = *base;
                self.firsts.remove(&base);
            }
        }
    }

    fn leave_runs(&mut self, range: &Range<u64>) {
        let from = self.firsts.range(..=range.start).next_back().map_or(range.start, |(base, _)| *base);
        let mut empty = Vec::new();
        for (base, first) in self.firsts.range_mut(from..range.end) {
            let common = range.start.max(*base)..range.end.min(base + u64::from(first.len));
            if common.is_empty() {
                continue;
            }
            let marked = self.marks.range(common.clone()).map(|(at, _)| at);
            let marked = marked.chain(self.delayed.range(common.clone()).map(|(at, _)| at));
            let marked = marked.filter(|at| !self.settled.contains(**at)).count() as u64;
            let left = common.end - common.start - self.settled.count(&common) - marked;
            first.left = first.left.saturating_sub(left as u32);
            if first.left == 0 {
                empty.push(*base);
            }
        }
        for base in empty {
            self.firsts.remove(&base);
        }
    }

    fn reset(&mut self, epoch: u32, floor: u64, is_purge: bool) {
        if is_purge {
            let open = self.floor()..floor.max(self.judged).max(self.floor());
            let purged = (open.end - open.start) - self.settled.count(&open);
            self.tally.purged += purged + self.adopted.len() as u64;
        }
        *self = Self {
            epoch,
            judged: floor,
            fence: self.fence,
            settled: Settled::below(floor),
            dying: std::mem::take(&mut self.dying),
            sequences: std::mem::take(&mut self.sequences),
            letters: std::mem::take(&mut self.letters),
            tally: self.tally,
            ..Self::default()
        };
    }

    /// Whether a letter may bring its message back.
    pub(super) fn may_adopt(&self, offset: u64, letter: Adopted) -> MayAdopt {
        let was_used = self.letters.get(&letter.incarnation).is_some_and(|letters| letters.contains(letter.at));
        match () {
            () if was_used => MayAdopt::Used,
            () if self.is_dying(offset) => MayAdopt::Later,
            () if self.is_settled(offset) => MayAdopt::Yes,
            () => MayAdopt::Open,
        }
    }

    /// Of each dead-letter partition, by its incarnation, the first letter that is still needed: that of a message that came
    /// back and is not settled, or is dying again. Costs time in proportion to those.
    pub(super) fn letters_needed(&self) -> BTreeMap<u64, u64> {
        let mut needed = BTreeMap::new();
        for letter in self.adopted.values().chain(self.dying.values().filter_map(|dying| dying.adopted.as_ref())) {
            let first = needed.entry(letter.incarnation).or_insert(letter.at);
            *first = letter.at.min(*first);
        }
        needed
    }

    /// The letter that an unsettled message came back by, if it did.
    pub fn adopted(&self, offset: u64) -> Option<Adopted> {
        self.adopted.get(&offset).copied()
    }

    /// Whether a message is settled.
    pub(super) fn is_settled(&self, offset: u64) -> bool {
        self.settled.contains(offset) && !self.adopted.contains_key(&offset)
    }

    /// What is known of an unsettled message.
    pub(super) fn known(&self, offset: u64) -> Known {
        if let Some(mark) = self.marks.get(&offset) {
            return Known::Marked(*mark);
        }
        if let Some(due_ms) = self.delayed.get(&offset) {
            return Known::Marked(Mark { due_ms: *due_ms, ..Mark::default() });
        }
        match self.firsts.range(..=offset).next_back() {
            Some((base, first)) if offset - base < u64::from(first.len) => {
                Known::Once { fence: first.fence + (offset - base), at_ms: first.at_ms }
            }
            _ => Known::Fresh,
        }
    }

    /// Whether an unsettled message is on its way to the dead letters.
    pub(super) fn is_dying(&self, offset: u64) -> bool {
        self.dying_at.contains_key(&offset)
    }

    /// The unsettled messages from `from` on and below `judged`, in order.
    pub(super) fn unsettled_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let mut adopted = self.adopted.range(from..).map(|(offset, _)| *offset).peekable();
        let mut others = self.settled.gaps(from.max(self.floor())..self.judged).flatten().peekable();
        std::iter::from_fn(move || match (adopted.peek(), others.peek()) {
            (Some(first), Some(other)) if first > other => others.next(),
            (Some(_), _) => adopted.next(),
            (None, _) => others.next(),
        })
    }

    /// The unsettled messages below `judged`, in order, adopted ones first.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = u64> + '_ {
        let adopted = self.adopted.keys().copied();
        adopted.chain(self.settled.gaps(self.floor()..self.judged).flatten())
    }

    fn cut(&mut self, end: u64) {
        self.settled.cut(end);
        self.judged = self.judged.min(end).max(self.floor());
        self.marks.retain(|offset, _| *offset < end);
        self.delayed.retain(|offset, _| *offset < end);
        self.dying_at.retain(|offset, _| *offset < end);
        self.adopted.retain(|offset, _| *offset < end);
        // A run across the end keeps what is known of the part that is still there; `left` is counted anew.
        self.firsts.split_off(&end);
        if let Some((&base, &first)) = self.firsts.iter().next_back()
            && base + u64::from(first.len) > end
        {
            let range = base..end;
            let marked = self.marks.range(range.clone()).map(|(at, _)| at);
            let marked = marked.chain(self.delayed.range(range.clone()).map(|(at, _)| at));
            let marked = marked.filter(|at| !self.settled.contains(**at)).count() as u64;
            let left = (end - base) - self.settled.count(&range) - marked;
            match left {
                0 => drop(self.firsts.remove(&base)),
                left => drop(self.firsts.insert(base, First { len: (end - base) as u32, left: left as u32, ..first })),
            }
        }
    }

    /// Whether it knows of anything at or above `end`.
    pub(super) fn reaches_beyond(&self, end: u64) -> bool {
        self.judged > end || self.settled.end() > end
    }
}

fn take_range<V>(map: &mut BTreeMap<u64, V>, range: &Range<u64>) -> usize {
    if map.is_empty() {
        return 0;
    }
    if range.end - range.start == 1 {
        return usize::from(map.remove(&range.start).is_some());
    }
    let offsets: Vec<u64> = map.range(range.clone()).map(|(offset, _)| *offset).collect();
    offsets.iter().for_each(|offset| drop(map.remove(offset)));
    offsets.len()
}
