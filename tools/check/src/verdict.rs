//! What the checkers found.

use std::fmt;

use crate::history::Place;
use crate::value::ValueId;

/// Violations of one checker that are kept with their text; all are counted.
const KEPT_PER_CHECK: u64 = 50;

/// The promises that are checked; the numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// L1: an acknowledged record is not there.
    LostWrite,
    /// L2: a record that nobody sent, that surely failed, or that is not whole.
    Phantom,
    /// L3: two different records at one offset.
    Divergence,
    /// L4: a record stands twice, and nobody sent it again in doubt.
    Duplicate,
    /// L5: a producer's records are not in the order in which it sent them.
    Reorder,
    /// L6: a record was sent after another was acknowledged, and stands before it.
    RealTime,
    /// L7: a consumer's position skipped a record, or went back.
    Position,
    /// L8: a high watermark fell, or a record was served above it.
    Watermark,
    /// L9: a record was served, and then it was gone.
    ReadThenGone,
    /// L11: a partition with two owners in a group, a commit that should not have been taken, one that was taken and is
    /// gone, or a record that was not done and that nobody of the group gets.
    Group,
    /// L13: a record counts as done in a group, and nobody of the group got it.
    Unseen,
    /// L15: a producer that was fenced by a newer one of its name stored a record.
    Fenced,
    /// Q1: a message was neither acknowledged nor given up, and the queue has it no more.
    LostMessage,
    /// Q2: a message was delivered after it was settled.
    Ghost,
    /// Q3: a message had two leases at once.
    DoubleLease,
    /// Q4: a receipt was good for something after its delivery had ended, or for an ack after something had overtaken it.
    StaleReceipt,
    /// Q5: receive counts or fencing numbers that are not as they should be, or a message that was not given up in time.
    ReceiveLimit,
    /// Q5b: a dead letter twice, too early, of a message that goes on, without its origin, or redriven not exactly once.
    DeadLetter,
    /// Q6: within a group a later message was delivered or acknowledged before an earlier one was done.
    GroupOrder,
    /// Q8: a message was delivered that is not the queue's, or one that is was never delivered.
    Filter,
    /// Q9: a message came before its time, or long after it while receivers waited.
    Due,
    /// Q10: a message that could be received was not, while receivers waited.
    Starvation,
    /// Q11: a receiver got more than it had given credit for.
    Credit,
    /// Q12: an ack floor fell or passed a message that was not settled, or such a message's storage was released.
    Floor,
}

impl Check {
    /// All of them, by number.
    pub const ALL: [Check; 24] = [
        Check::LostWrite,
        Check::Phantom,
        Check::Divergence,
        Check::Duplicate,
        Check::Reorder,
        Check::RealTime,
        Check::Position,
        Check::Watermark,
        Check::ReadThenGone,
        Check::Group,
        Check::Unseen,
        Check::Fenced,
        Check::LostMessage,
        Check::Ghost,
        Check::DoubleLease,
        Check::StaleReceipt,
        Check::ReceiveLimit,
        Check::DeadLetter,
        Check::GroupOrder,
        Check::Filter,
        Check::Due,
        Check::Starvation,
        Check::Credit,
        Check::Floor,
    ];

    /// Its number, for example `L1`.
    pub const fn id(self) -> &'static str {
        match self {
            Check::LostWrite => "L1",
            Check::Phantom => "L2",
            Check::Divergence => "L3",
            Check::Duplicate => "L4",
            Check::Reorder => "L5",
            Check::RealTime => "L6",
            Check::Position => "L7",
            Check::Watermark => "L8",
            Check::ReadThenGone => "L9",
            Check::Group => "L11",
            Check::Unseen => "L13",
            Check::Fenced => "L15",
            Check::LostMessage => "Q1",
            Check::Ghost => "Q2",
            Check::DoubleLease => "Q3",
            Check::StaleReceipt => "Q4",
            Check::ReceiveLimit => "Q5",
            Check::DeadLetter => "Q5b",
            Check::GroupOrder => "Q6",
            Check::Filter => "Q8",
            Check::Due => "Q9",
            Check::Starvation => "Q10",
            Check::Credit => "Q11",
            Check::Floor => "Q12",
        }
    }

    /// What a violation of it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Check::LostWrite => "lost write",
            Check::Phantom => "phantom",
            Check::Divergence => "divergence",
            Check::Duplicate => "duplicate",
            Check::Reorder => "reorder",
            Check::RealTime => "real time",
            Check::Position => "gap or step back",
            Check::Watermark => "watermark",
            Check::ReadThenGone => "read, then gone",
            Check::Group => "group",
            Check::Unseen => "unseen",
            Check::Fenced => "fenced write",
            Check::LostMessage => "lost message",
            Check::Ghost => "ghost delivery",
            Check::DoubleLease => "double lease",
            Check::StaleReceipt => "stale receipt",
            Check::ReceiveLimit => "receive count",
            Check::DeadLetter => "dead letter",
            Check::GroupOrder => "order in a group",
            Check::Filter => "filter",
            Check::Due => "not when due",
            Check::Starvation => "starvation",
            Check::Credit => "credit",
            Check::Floor => "floor",
        }
    }
}

/// One promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub check: Check,
    /// Where.
    pub at: Place,
    /// At which offset, if at one.
    pub offset: Option<u64>,
    /// Of which value, if of one.
    pub value: Option<ValueId>,
    /// What contradicts what.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, name) = (self.check.id(), self.check.name());
        write!(f, "{id} {name}: stream {} partition {}", self.at.stream, self.at.partition)?;
        if let Some(offset) = self.offset {
            write!(f, " offset {offset}")?;
        }
        if let Some(value) = self.value {
            write!(f, " value {value}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// How much was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Lines of the history.
    pub events: u64,
    /// Partitions in it.
    pub partitions: u64,
    /// Values sent.
    pub sent: u64,
    /// Of them acknowledged,
    pub acked: u64,
    /// surely not stored,
    pub failed: u64,
    /// and unknown.
    pub unknown: u64,
    /// Unknown ones that turned out to be stored.
    pub unknown_stored: u64,
    /// Records that consumers got, repeats included.
    pub fetched: u64,
    /// Records of the last read.
    pub last_read: u64,
    /// Further copies of values that were sent again in doubt. Plain producers promise no better.
    pub duplicates: u64,
    /// Values that may have been sent more than once.
    pub resent: u64,
    /// Records that members of groups worked on, repeats included (they are among the fetched ones).
    pub delivered: u64,
    /// Of them those that somebody of the group had worked on before.
    pub redelivered: u64,
    /// What may be worked on again, at most: under each hold, the records behind the last commit that was taken.
    pub uncommitted: u64,
    /// Commits that were taken,
    pub commits: u64,
    /// and commits that were refused.
    pub commits_refused: u64,
    /// Queues in it.
    pub queues: u64,
    /// Deliveries of queues (they are among the fetched records too).
    pub received: u64,
    /// Of them those of messages that the queue had delivered before.
    pub received_again: u64,
    /// Deliveries that were acknowledged,
    pub settled: u64,
    /// of them after their deadline, which is good as long as nobody else has the message.
    pub settled_late: u64,
    /// Messages found in dead-letter streams, repeats after a redrive included.
    pub dead_letters: u64,
    /// Deliveries of messages that had been redriven.
    pub redriven: u64,
}

/// The judgement of a history.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    counts: Counts,
    found: [u64; Check::ALL.len()],
    violations: Vec<Violation>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.found.iter().all(|count| *count == 0)
    }

    /// How much was judged.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How often a promise was broken.
    pub fn count(&self, check: Check) -> u64 {
        self.found[check as usize]
    }

    /// How often any was.
    pub fn count_all(&self) -> u64 {
        self.found.iter().sum()
    }

    /// The first ones of each checker.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }
}

/// Where the checkers of one partition put what they find.
pub(crate) struct Findings<'a> {
    pub verdict: &'a mut Verdict,
    pub at: Place,
}

impl Findings<'_> {
    /// One more; `text` is asked for only while violations of that kind are kept.
    pub fn add(&mut self, check: Check, offset: Option<u64>, value: Option<ValueId>, text: impl FnOnce() -> String) {
        let count = &mut self.verdict.found[check as usize];
        *count += 1;
        if *count <= KEPT_PER_CHECK {
            self.verdict.violations.push(Violation { check, at: self.at, offset, value, text: text() });
        }
    }
}

impl fmt::Display for Verdict {
    /// One line: what was judged, then each promise that was broken with its count.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { partitions, sent, acked, failed, unknown, unknown_stored, duplicates, fetched, .. } = self.counts;
        write!(
            f,
            "{sent} sent to {partitions} partitions: {acked} acked, {failed} failed, {unknown} unknown ({unknown_stored} of \
             them stored), {fetched} fetched, {duplicates} duplicates from resends"
        )?;
        let Counts { queues, received, received_again, settled, settled_late, dead_letters, .. } = self.counts;
        if queues > 0 {
            write!(
                f,
                "; {received} received from {queues} queues ({received_again} of them again), {settled} of them acked \
                 ({settled_late} late), {dead_letters} dead letters"
            )?;
        }
        for check in Check::ALL.into_iter().filter(|check| self.count(*check) > 0) {
            write!(f, "; {} {} × {}", check.id(), check.name(), self.count(check))?;
        }
        Ok(())
    }
}
