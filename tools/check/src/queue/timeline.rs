//! What lies between two moments: outages of the server, purges and seeks, spans of any kind.
//!
//! Two questions, never mixed: what *may* lie between (the widest reading, which excuses) and what *surely* does (the
//! narrowest one, which accuses).

use crate::history::Life;

/// A time without a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// When the end of the process was seen: not before it.
    pub down_ns: u64,
    /// When the next process was started: not after it.
    pub up_ns: u64,
    /// When a server was seen to be ready again.
    pub ready_ns: u64,
}

/// All of them, in order.
#[derive(Debug, Default)]
pub(super) struct Outages(Vec<Outage>);

impl Outages {
    pub fn of(mut lives: Vec<(u64, Life)>) -> Self {
        lives.sort_by_key(|(at_ns, _)| *at_ns);
        let mut outages: Vec<Outage> = Vec::new();
        for (at_ns, life) in lives {
            let open = outages.iter_mut().rev();
            match life {
                Life::Start => {
                    open.take_while(|outage| outage.up_ns == u64::MAX).for_each(|outage| outage.up_ns = at_ns);
                }
                Life::Ready => open.take_while(|outage| outage.ready_ns == u64::MAX).for_each(|outage| {
                    outage.up_ns = outage.up_ns.min(at_ns);
                    outage.ready_ns = at_ns;
                }),
                Life::KillUnderLoad | Life::KillInRecovery | Life::KillInShutdown | Life::Stop => {
                    outages.push(Outage { down_ns: at_ns, up_ns: u64::MAX, ready_ns: u64::MAX });
                }
            }
        }
        Self(outages)
    }

    /// The first that may have met what was there at some time from then on.
    pub fn first_from(&self, from_ns: u64) -> Option<Outage> {
        self.0.get(self.0.partition_point(|outage| outage.up_ns < from_ns)).copied()
    }

    /// Whether one may lie between.
    pub fn may_be_between(&self, from_ns: u64, to_ns: u64) -> bool {
        self.first_from(from_ns).is_some_and(|outage| outage.down_ns <= to_ns)
    }

    /// The first that surely met what was there at that time; it was over at `up_ns`.
    pub fn surely_after(&self, from_ns: u64) -> Option<Outage> {
        self.0.get(self.0.partition_point(|outage| outage.down_ns <= from_ns)).copied()
    }

    /// From when on there was a server without a break, up to that time; `u64::MAX`: there was none then.
    pub fn ready_before(&self, at_ns: u64) -> u64 {
        let before = self.0.partition_point(|outage| outage.down_ns <= at_ns);
        before.checked_sub(1).map_or(0, |last| self.0[last].ready_ns)
    }
}

/// Spans of time, asked for overlaps.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// Sorted by their beginning; with the latest end of all up to this one.
    of: Vec<(u64, u64)>,
}

impl Spans {
    pub fn of(mut spans: Vec<(u64, u64)>) -> Self {
        spans.sort_unstable();
        let mut latest = 0;
        for (_, end) in &mut spans {
            latest = latest.max(*end);
            *end = latest;
        }
        Self { of: spans }
    }

    /// The latest end of those that begin at that time or before.
    pub fn latest_end(&self, begin_ns: u64) -> Option<u64> {
        let count = self.of.partition_point(|(begin, _)| *begin <= begin_ns);
        count.checked_sub(1).map(|last| self.of[last].1)
    }

    /// Whether one has a moment with that range in common.
    pub fn touch(&self, from_ns: u64, to_ns: u64) -> bool {
        self.latest_end(to_ns).is_some_and(|end| end >= from_ns)
    }
}

/// A purge or a seek.
#[derive(Debug, Clone)]
pub(super) struct Reset {
    pub kind: ResetKind,
    /// By partition: everything below is settled.
    pub points: Vec<u64>,
    pub invoked_ns: u64,
    /// When it had happened; `u64::MAX` where nobody knows whether it has.
    pub done_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetKind {
    Purge,
    /// Everything from the point on is not settled.
    Seek,
}

impl Reset {
    /// Whether it settles that message.
    pub fn settles(&self, partition: u32, offset: u64) -> bool {
        self.points.get(partition as usize).is_some_and(|point| offset < *point)
    }

    /// Whether it brings that message back.
    pub fn revives(&self, partition: u32, offset: u64) -> bool {
        self.kind == ResetKind::Seek && self.points.get(partition as usize).is_some_and(|point| offset >= *point)
    }

    /// Whether it may have happened between.
    pub fn may_be_between(&self, from_ns: u64, to_ns: u64) -> bool {
        self.done_ns >= from_ns && self.invoked_ns <= to_ns
    }

    pub fn is_sure(&self) -> bool {
        self.done_ns != u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_killed_while_it_recovers_is_away_until_one_is_ready() {
        let lives = vec![
            (10, Life::KillUnderLoad),
            (20, Life::Start),
            (30, Life::KillInRecovery),
            (40, Life::Start),
            (50, Life::Ready),
        ];
        let outages = Outages::of(lives);
        assert!(outages.may_be_between(0, 10) && !outages.may_be_between(0, 9) && !outages.may_be_between(41, 99));
        assert_eq!((outages.ready_before(5), outages.ready_before(60)), (0, 50));
        assert_eq!(outages.surely_after(10).map(|outage| outage.up_ns), Some(40));
    }

    #[test]
    fn spans_that_only_meet_touch() {
        let spans = Spans::of(vec![(10, 50), (20, 30)]);
        assert!(spans.touch(50, 60) && spans.touch(0, 10) && !spans.touch(51, 60) && !spans.touch(0, 9));
    }
}
