//! As each group went, in one partition: L11 group, L13 unseen, and L7 within what a member held.
//!
//! What proves what:
//! - *Who owns it* is told by assignment epochs: one epoch belongs to one member, a newer one ends an older one. A member
//!   that was killed, or was away too long, may still believe that it owns what is another's by now: that is legal, its
//!   commits are refused. Not legal: a commit under an old epoch that is sent after a newer epoch's holder was told, and
//!   taken; and a partition given away while its holder had neither let go of it nor ceased to be a member, which a later
//!   commit of that member shows, in whichever partition, if it is taken.
//! - *Where it begins* is what was committed: all commits taken under older epochs were taken before the newer one began, so
//!   its holder begins at none of them or above, and not above all that may have been taken.
//! - *What an answer says* is at least what was known to be committed before it was asked, and not what nobody committed.
//!
//! Costs the square of a partition's commits and answers: some thousands of them in a run, where records are millions.
//! A reset by hand, of a group without members, ends what was committed before it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, Ranges, Sighting, Source};
use crate::history::{CommitOutcome, InGroup};
use crate::verdict::{Check, Findings};

/// One group in one partition.
#[derive(Debug, Default)]
pub(super) struct InPartition {
    /// By epoch, who was told that it holds it, and when.
    told: BTreeMap<u32, Vec<Told>>,
    /// When a member let go of it or learned that it lost it.
    ended: BTreeMap<Hold, u64>,
    /// Sends of commits.
    sent: Vec<Commit>,
    done: Vec<(Commit, CommitOutcome)>,
    answers: Vec<Answer>,
    resets: Vec<Reset>,
    work: BTreeMap<Hold, Work>,
    delivered: Vec<u64>,
}

/// A member's hold on it: epoch, then member.
type Hold = (u32, u64);

#[derive(Debug, Clone, Copy)]
struct Told {
    member: u64,
    at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Commit {
    hold: Hold,
    offset: u64,
    invoked_ns: u64,
    /// When the answer came; of a send, when it was sent.
    at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    offset: Option<u64>,
    invoked_ns: u64,
    at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reset {
    offset: u64,
    at_ns: u64,
}

/// How a member went through it.
#[derive(Debug, Clone, Default)]
struct Work {
    first: Option<u64>,
    next: u64,
    /// Other offsets than the next one: wanted, got.
    moves: Vec<(u64, u64)>,
}

impl InPartition {
    pub fn push(&mut self, member: u64, at_ns: u64, what: InGroup) {
        match what {
            InGroup::Joined { .. } => {}
            InGroup::Assigned { epoch, .. } => self.told.entry(epoch).or_default().push(Told { member, at_ns }),
            InGroup::Revoked { epoch, .. } | InGroup::Lost { epoch, .. } => {
                self.ended.entry((epoch, member)).or_insert(at_ns);
            }
            InGroup::Delivered { epoch, records, .. } => {
                let work = self.work.entry((epoch, member)).or_default();
                records.iter().for_each(|(offset, _)| work.take(*offset));
                self.delivered.extend(records.iter().map(|(offset, _)| *offset));
            }
            InGroup::Commit { epoch, offset, .. } => {
                self.sent.push(Commit { hold: (epoch, member), offset, invoked_ns: at_ns, at_ns });
            }
            InGroup::CommitDone { epoch, offset, invoked_ns, outcome, .. } => {
                self.done.push((Commit { hold: (epoch, member), offset, invoked_ns, at_ns }, outcome));
            }
            InGroup::Committed { offset, invoked_ns, .. } => self.answers.push(Answer { offset, invoked_ns, at_ns }),
            InGroup::Reset { offset, .. } => self.resets.push(Reset { offset, at_ns }),
        }
    }

    /// Commits that were taken.
    fn taken(&self) -> impl Iterator<Item = &Commit> {
        self.done.iter().filter(|(_, outcome)| *outcome == CommitOutcome::Ok).map(|(commit, _)| commit)
    }

    /// Commits that may have been taken: all that were sent but those that were surely refused.
    fn possible(&self) -> Vec<Commit> {
        let mut refused: BTreeMap<(Hold, u64), u64> = BTreeMap::new();
        for (commit, outcome) in &self.done {
            if matches!(outcome, CommitOutcome::Refused { .. }) {
                *refused.entry((commit.hold, commit.offset)).or_default() += 1;
            }
        }
        let is_possible = |commit: &&Commit| match refused.get_mut(&(commit.hold, commit.offset)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        // One whose send is not on record was sent all the same.
        let mut all: Vec<Commit> = self.sent.iter().filter(is_possible).copied().collect();
        all.extend(self.taken().copied());
        all
    }

    /// The last reset before that time.
    fn reset_before(&self, at_ns: u64) -> Option<Reset> {
        self.resets.iter().copied().filter(|reset| reset.at_ns < at_ns).max_by_key(|reset| reset.at_ns)
    }
}

impl Work {
    fn take(&mut self, got: u64) {
        if self.first.is_none() {
            self.first = Some(got);
        } else if self.next != got {
            self.moves.push((self.next, got));
        }
        self.next = got.saturating_add(1);
    }
}

/// `sightings` sorted by offset. Leaves what was delivered sorted.
pub(super) fn check(
    group: u32,
    of: &mut InPartition,
    known: &Known,
    sightings: &[Sighting],
    lost: &Ranges,
    findings: &mut Findings<'_>,
) {
    of.delivered.sort_unstable();
    of.answers.sort_unstable_by_key(|answer| answer.invoked_ns);
    let judged = Judged { group, of, known, sightings, lost };
    judged.count(findings);
    judged.owners(findings);
    judged.beginnings(findings);
    judged.answers(findings);
    judged.ways(findings);
    judged.unseen(findings);
}

struct Judged<'a> {
    group: u32,
    of: &'a InPartition,
    known: &'a Known,
    sightings: &'a [Sighting],
    lost: &'a Ranges,
}

impl Judged<'_> {
    fn count(&self, findings: &mut Findings<'_>) {
        let counts = findings.verdict.counts_mut();
        let delivered = self.of.delivered.len() as u64;
        counts.delivered += delivered;
        counts.redelivered += delivered - self.of.delivered.chunk_by(|a, b| a == b).count() as u64;
        for (hold, work) in &self.of.work {
            let under_it = self.of.taken().filter(|commit| commit.hold == *hold).map(|commit| commit.offset);
            counts.uncommitted += work.next.saturating_sub(under_it.max().max(work.first).unwrap_or(0));
        }
        counts.commits += self.of.taken().count() as u64;
        let refused = |(_, outcome): &&(Commit, CommitOutcome)| matches!(outcome, CommitOutcome::Refused { .. });
        counts.commits_refused += self.of.done.iter().filter(refused).count() as u64;
    }

    fn owners(&self, findings: &mut Findings<'_>) {
        let group = self.group;
        for (epoch, told) in &self.of.told {
            let members: BTreeSet<u64> = told.iter().map(|told| told.member).collect();
            if members.len() > 1 {
                findings.add(Check::Group, None, None, || {
                    format!("group {group}: members {members:?} were told that they hold it, all under epoch {epoch}")
                });
            }
        }
        let mut stale: BTreeSet<Hold> = BTreeSet::new();
        for commit in self.of.taken() {
            let (epoch, member) = commit.hold;
            if let Some((newer, told)) = self.newer_than(epoch).filter(|(_, told)| told.at_ns < commit.invoked_ns) {
                stale.insert(commit.hold);
                findings.add(Check::Group, Some(commit.offset), None, || {
                    format!(
                        "group {group}: a commit of member {member} under epoch {epoch} was taken, sent after member {} was \
                         told that it holds it under epoch {newer}",
                        told.member
                    )
                });
            }
        }
        let holds = self.of.told.iter().flat_map(|(epoch, told)| told.iter().map(|told| (*epoch, told.member)));
        for hold @ (epoch, member) in holds.filter(|hold| !stale.contains(hold)) {
            let Some((newer, told)) = self.newer_than(epoch).filter(|(_, told)| told.member != member) else {
                continue;
            };
            let let_go = self.of.ended.get(&hold).is_some_and(|at_ns| *at_ns <= told.at_ns);
            let last_ns = self.known.last_commit_ns.get(&(group, member)).copied().unwrap_or_default();
            if !let_go && last_ns > told.at_ns {
                findings.add(Check::Group, None, None, || {
                    format!(
                        "group {group}: member {} was told that it holds it under epoch {newer}, while member {member} held \
                         it under epoch {epoch}: it had not let go of it, and was a member still, for a later commit of \
                         it was taken",
                        told.member
                    )
                });
            }
        }
    }

    /// The first that was told of a newer epoch.
    fn newer_than(&self, epoch: u32) -> Option<(u32, Told)> {
        let newer = self.of.told.range(epoch.saturating_add(1)..);
        newer.flat_map(|(epoch, told)| told.iter().map(|told| (*epoch, *told))).min_by_key(|(_, told)| told.at_ns)
    }

    /// Where each member began.
    fn beginnings(&self, findings: &mut Findings<'_>) {
        let group = self.group;
        let possible = self.of.possible();
        for ((epoch, member), work) in &self.of.work {
            let Some(first) = work.first else { continue };
            let told_ns = self.of.told.get(epoch).and_then(|told| told.iter().map(|told| told.at_ns).min());
            let reset = self.of.reset_before(told_ns.unwrap_or(u64::MAX));
            let since_ns = reset.map_or(0, |reset| reset.at_ns);
            let binds = |commit: &&Commit| commit.hold.0 < *epoch && commit.at_ns >= since_ns;
            let by_hand = reset.map(|reset| reset.offset);
            let least = self.of.taken().filter(binds).map(|commit| commit.offset).max().max(by_hand);
            if let Some(least) = least.filter(|least| first < *least) {
                findings.add(Check::Group, Some(first), None, || {
                    format!(
                        "group {group}: member {member} began there under epoch {epoch}, but a commit of {least} was taken \
                         before"
                    )
                });
            }
            let most = possible.iter().filter(binds).map(|commit| commit.offset).max().max(by_hand).unwrap_or(0);
            if let Some(skipped) = self.record_between(most, first) {
                findings.add(Check::Group, Some(skipped.offset), Some(skipped.value), || {
                    format!(
                        "group {group}: member {member} began at {first} under epoch {epoch}, but nothing above {most} was \
                         committed before, and {}",
                        skipped.told()
                    )
                });
            }
        }
    }

    /// What was asked and answered.
    fn answers(&self, findings: &mut Findings<'_>) {
        let group = self.group;
        let possible = self.of.possible();
        for answer in &self.of.answers {
            let reset = self.of.reset_before(answer.invoked_ns);
            let since_ns = reset.map_or(0, |reset| reset.at_ns);
            let by_hand = reset.map(|reset| reset.offset);
            let known = |at_ns: u64| at_ns >= since_ns && at_ns < answer.invoked_ns;
            let taken = self.of.taken().filter(|commit| known(commit.at_ns)).map(|commit| commit.offset);
            let answered = self.of.answers.iter().filter(|other| known(other.at_ns)).filter_map(|other| other.offset);
            let least = taken.chain(answered).max().max(by_hand);
            if answer.offset < least {
                let (least, offset) = (least.unwrap_or_default(), answer.offset);
                findings.add(Check::Group, Some(least), None, || {
                    let says = offset.map_or("nothing".to_owned(), |offset| offset.to_string());
                    format!("group {group}: it was known to be committed, but a later answer says {says}")
                });
            }
            let sent = possible.iter().filter(|commit| commit.invoked_ns <= answer.at_ns).map(|commit| commit.offset);
            let by_hand = self.of.resets.iter().map(|reset| reset.offset);
            if let Some(offset) = answer.offset.filter(|offset| sent.chain(by_hand).all(|sent| sent < *offset)) {
                findings.add(Check::Group, Some(offset), None, || {
                    format!("group {group}: an answer says that it is committed, but nobody has committed that far")
                });
            }
        }
    }

    /// How each member went on from where it began.
    fn ways(&self, findings: &mut Findings<'_>) {
        let group = self.group;
        for ((epoch, member), work) in &self.of.work {
            for (wanted, got) in work.moves.iter().copied() {
                if got < wanted {
                    findings.add(Check::Position, Some(got), None, || {
                        format!(
                            "group {group}: member {member} under epoch {epoch} got it, but had everything below {wanted} \
                             already"
                        )
                    });
                } else if let Some(skipped) = self.record_between(wanted, got) {
                    findings.add(Check::Position, Some(skipped.offset), Some(skipped.value), || {
                        format!(
                            "group {group}: member {member} under epoch {epoch} wanted {wanted} and got {got}, but {}",
                            skipped.told()
                        )
                    });
                }
            }
        }
    }

    /// What nobody of the group got: what was not done is due to somebody, what was done was somebody's.
    fn unseen(&self, findings: &mut Findings<'_>) {
        let group = self.group;
        let committed =
            self.of.taken().map(|commit| commit.offset).chain(self.of.answers.iter().filter_map(|a| a.offset));
        let done = committed.max().unwrap_or(0);
        let in_last_read = self.sightings.iter().filter(|sighting| sighting.source == Source::Final);
        for Sighting { offset, value, .. } in in_last_read.copied() {
            if self.of.delivered.binary_search(&offset).is_ok()
                || self.of.resets.iter().any(|reset| offset < reset.offset)
            {
                continue;
            }
            match offset < done {
                true => findings.add(Check::Unseen, Some(offset), Some(value), || {
                    format!("group {group}: everything below {done} is committed, and nobody of it got this one")
                }),
                false => findings.add(Check::Group, Some(offset), Some(value), || {
                    format!(
                        "group {group}: nothing above {done} is committed, and nobody of it got this one in the end"
                    )
                }),
            }
        }
    }

    /// The first record that is known to be in that range.
    fn record_between(&self, from: u64, end: u64) -> Option<Sighting> {
        let first = self.sightings.partition_point(|sighting| sighting.offset < from);
        let within = self.sightings[first..].iter().take_while(|sighting| sighting.offset < end);
        within.copied().find(|sighting| !self.lost.contain(sighting.offset))
    }
}
