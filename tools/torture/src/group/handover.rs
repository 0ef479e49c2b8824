//! How long the partitions of members that were killed were nobody's: from histories, and from what the server was asked
//! meanwhile. Pure.
//!
//! Two times for each partition that a killed member held:
//! - *noticed*: until the server says that it is not the dead one's any more;
//! - *handed over*: until another member is told that it holds it. Where the server gave it to somebody who was dead as well,
//!   that one's death is measured instead.
//!
//! While the server itself was away nobody's session could run: then it counts from when it was ready again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream_check::history::{Event, InGroup, Life, OfGroup, What};

use crate::children::Killed;

/// What the server said of who holds what.
#[derive(Debug, Clone)]
pub struct Poll {
    pub invoked_ns: u64,
    pub at_ns: u64,
    /// By partition, the member.
    pub holders: BTreeMap<u32, u64>,
}

/// What is needed of a history; taken in event by event.
#[derive(Debug, Default)]
pub struct Seen {
    /// By partition and epoch.
    told: BTreeMap<(u32, u32), Told>,
    /// When a member let go of it, or learned that it was lost.
    ended: BTreeSet<(u32, u32)>,
    ready_ns: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    process: u32,
    member: u64,
    at_ns: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handovers {
    pub noticed: Vec<Duration>,
    pub handed_over: Vec<Duration>,
    /// Holds of dead members of which the end was never seen.
    pub never: u64,
}

impl Seen {
    pub fn push(&mut self, event: &Event) {
        match &event.what {
            What::Server(Life::Ready) => self.ready_ns.push(event.at_ns),
            What::Group(OfGroup { member, what, .. }) => match what {
                InGroup::Assigned { at, epoch } => {
                    let told = Told { process: event.process, member: *member, at_ns: event.at_ns };
                    self.told.insert((at.partition, *epoch), told);
                }
                InGroup::Revoked { at, epoch } | InGroup::Lost { at, epoch } => {
                    self.ended.insert((at.partition, *epoch));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// `polls` in the order of their times. From before each kill on: what is measured is too long rather than too short.
    pub fn handovers(&self, killed: &[Killed], polls: &[Poll]) -> Handovers {
        let killed: BTreeMap<u32, u64> = killed.iter().map(|killed| (killed.process, killed.before_ns)).collect();
        let mut found = Handovers::default();
        for (&hold @ (partition, epoch), told) in &self.told {
            let Some(killed_ns) = killed.get(&told.process).copied() else { continue };
            // What was told after the kill is none of it: its line was written, and it was dead.
            if self.ended.contains(&hold) {
                continue;
            }
            let newer = self.told.range((partition, epoch + 1)..=(partition, u32::MAX)).map(|(_, told)| told).next();
            if newer.is_some_and(|newer| newer.at_ns < killed_ns) {
                continue;
            }
            let moved = polls.iter().find(|poll| {
                poll.invoked_ns > killed_ns && poll.holders.get(&partition).is_none_or(|member| *member != told.member)
            });
            let polled_ns = moved.map(|poll| poll.at_ns);
            let told_ns = newer.map(|newer| newer.at_ns);
            match polled_ns.into_iter().chain(told_ns).min() {
                Some(at_ns) => found.noticed.push(self.waited(killed_ns, at_ns)),
                None => found.never += 1,
            }
            // Straight to one who lives: no poll between has it with somebody else.
            if let Some(newer) = newer {
                let between = polls.iter().filter(|poll| poll.invoked_ns > killed_ns && poll.at_ns < newer.at_ns);
                let holders: BTreeSet<u64> = between.filter_map(|poll| poll.holders.get(&partition).copied()).collect();
                if holders.iter().all(|member| [told.member, newer.member].contains(member)) {
                    found.handed_over.push(self.waited(killed_ns, newer.at_ns));
                }
            }
        }
        found
    }

    fn waited(&self, from_ns: u64, at_ns: u64) -> Duration {
        let within = self.ready_ns.iter().copied().filter(|ready_ns| (from_ns..at_ns).contains(ready_ns));
        Duration::from_nanos(at_ns.saturating_sub(within.max().unwrap_or(from_ns)))
    }
}

#[cfg(test)]
mod tests {
    use millstream_check::history::Place;

    use super::*;

    const MS: u64 = 1_000_000;

    fn assigned(process: u32, epoch: u32, at_ms: u64) -> Event {
        let what = InGroup::Assigned { at: Place { stream: 0, partition: 2 }, epoch };
        let what = What::Group(OfGroup { group: 0, member: u64::from(process), what });
        Event { at_ns: at_ms * MS, process, what }
    }

    fn poll(at_ms: u64, member: u64) -> Poll {
        Poll { invoked_ns: at_ms * MS, at_ns: at_ms * MS, holders: [(2, member)].into() }
    }

    fn found(events: &[Event], killed: &[(u32, u64)], polls: &[Poll]) -> (Vec<u64>, Vec<u64>, u64) {
        let mut seen = Seen::default();
        events.iter().for_each(|event| seen.push(event));
        let at =
            |(process, at_ms): &(u32, u64)| Killed { process: *process, before_ns: at_ms * MS, after_ns: at_ms * MS };
        let killed: Vec<_> = killed.iter().map(at).collect();
        let Handovers { noticed, handed_over, never } = seen.handovers(&killed, polls);
        let ms = |all: Vec<Duration>| all.into_iter().map(|time| time.as_millis() as u64).collect();
        (ms(noticed), ms(handed_over), never)
    }

    #[test]
    fn from_the_kill_to_the_next_one_that_is_told() {
        let events = [assigned(10, 1, 0), assigned(11, 4, 3_500)];
        let polls = [poll(900, 10), poll(1_100, 10), poll(3_400, 11)];
        assert_eq!(found(&events, &[(10, 1_000)], &polls), (vec![2_400], vec![2_500], 0));
        assert_eq!(found(&events[..1], &[(10, 1_000)], &polls[..2]), (vec![], vec![], 1), "it was never noticed");
        assert_eq!(found(&events, &[(12, 1_000)], &polls), (vec![], vec![], 0), "it lived");
    }

    #[test]
    fn a_dead_one_between_is_measured_for_itself() {
        let events = [assigned(10, 1, 0), assigned(12, 6, 6_500)];
        let polls = [poll(3_400, 11), poll(6_400, 12)];
        assert_eq!(found(&events, &[(10, 1_000), (11, 3_000)], &polls), (vec![2_400], vec![], 0));
    }

    #[test]
    fn time_without_a_server_does_not_count() {
        let ready = Event { at_ns: 2_000 * MS, process: 0, what: What::Server(Life::Ready) };
        let events = [assigned(10, 1, 0), assigned(11, 4, 5_500), ready];
        assert_eq!(found(&events, &[(10, 1_000)], &[]), (vec![3_500], vec![3_500], 0));
    }
}
