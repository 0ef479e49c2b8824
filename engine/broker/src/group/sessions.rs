//! Who is alive. Pure: times come in as durations on a monotonic clock, members that are dead come out.
//!
//! A member is dead when its session has ended (so long after its last heartbeat), or when it has not let go of what was
//! taken from it within its rebalance timeout. None of this is stored: after a restart every session begins anew.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::event::Removal;

/// A member of a group, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberKey {
    /// The group.
    pub group: u64,
    /// The member.
    pub member: u64,
}

#[derive(Debug)]
struct Session {
    timeout: Duration,
    rebalance_timeout: Duration,
    seen: Duration,
    /// What it is to let go of, by its assignment's version, and since when.
    revoking: Option<(u32, Duration)>,
}

impl Session {
    fn ends(&self) -> Duration {
        self.seen + self.timeout
    }

    fn must_let_go(&self) -> Option<Duration> {
        self.revoking.map(|(_, since)| since + self.rebalance_timeout)
    }

    fn deadline(&self) -> Duration {
        self.must_let_go().map_or(self.ends(), |must| must.min(self.ends()))
    }
}

/// The sessions of all members.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: HashMap<MemberKey, Session>,
    deadlines: BTreeSet<(Duration, MemberKey)>,
}

impl Sessions {
    /// A member is there with these settings; a new one's session begins now. `revoking` is the oldest version of its
    /// assignment that took something from it which it still holds: its time to let go begins when that changes.
    pub fn note(
        &mut self,
        key: MemberKey,
        timeout: Duration,
        rebalance_timeout: Duration,
        revoking: Option<u32>,
        now: Duration,
    ) {
        self.change(key, |session| {
            let session = session.unwrap_or(Session { timeout, rebalance_timeout, seen: now, revoking: None });
            let since =
                session.revoking.filter(|(version, _)| Some(*version) == revoking).map_or(now, |(_, since)| since);
            Session {
                timeout,
                rebalance_timeout,
                seen: session.seen,
                revoking: revoking.map(|version| (version, since)),
            }
        });
    }

    /// A member gave a sign of life. Whether it is known.
    pub fn heartbeat(&mut self, key: MemberKey, now: Duration) -> bool {
        let known = self.sessions.contains_key(&key);
        if known {
            self.change(key, |session| {
                let session = session.expect("it is known");
                Session { seen: session.seen.max(now), ..session }
            });
        }
        known
    }

    /// A member is no more.
    pub fn end(&mut self, key: MemberKey) {
        if let Some(session) = self.sessions.remove(&key) {
            self.deadlines.remove(&(session.deadline(), key));
        }
    }

    /// Members that are dead, and why, those that died first coming first.
    pub fn expired(&self, now: Duration) -> Vec<(MemberKey, Removal)> {
        let dead = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        let why = |session: &Session| match session.ends() <= now {
            true => Removal::SessionEnded,
            false => Removal::RebalanceTimedOut,
        };
        dead.map(|(_, key)| (*key, why(&self.sessions[key]))).collect()
    }

    /// When the next member will be dead, if nothing comes from it.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How long a member's session still runs without a heartbeat.
    pub fn left(&self, key: MemberKey, now: Duration) -> Duration {
        self.sessions.get(&key).map_or(Duration::ZERO, |session| session.ends().saturating_sub(now))
    }

    fn change(&mut self, key: MemberKey, change: impl FnOnce(Option<Session>) -> Session) {
        let before = self.sessions.remove(&key);
        if let Some(session) = &before {
            self.deadlines.remove(&(session.deadline(), key));
        }
        let session = change(before);
        self.deadlines.insert((session.deadline(), key));
        self.sessions.insert(key, session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(member: u64) -> MemberKey {
        MemberKey { group: 1, member }
    }

    #[test]
    fn a_session_ends_so_long_after_the_last_heartbeat() {
        let mut sessions = Sessions::default();
        sessions.note(key(1), 3 * SECOND, 60 * SECOND, None, Duration::ZERO);
        sessions.note(key(2), 9 * SECOND, 60 * SECOND, None, Duration::ZERO);
        assert_eq!(sessions.next_deadline(), Some(3 * SECOND));
        assert!(sessions.heartbeat(key(1), 2 * SECOND));
        // An older sign of life that comes later takes nothing back; nor does being noted again.
        assert!(sessions.heartbeat(key(1), SECOND));
        sessions.note(key(1), 3 * SECOND, 60 * SECOND, None, 4 * SECOND);
        assert_eq!(sessions.left(key(1), 4 * SECOND), SECOND);
        assert_eq!(sessions.expired(4 * SECOND), []);
        assert_eq!(sessions.expired(5 * SECOND), [(key(1), Removal::SessionEnded)]);
        sessions.end(key(1));
        assert!(!sessions.heartbeat(key(1), 5 * SECOND));
        assert_eq!(sessions.next_deadline(), Some(9 * SECOND));
    }

    #[test]
    fn who_does_not_let_go_in_time_is_dead_although_it_is_alive() {
        let mut sessions = Sessions::default();
        sessions.note(key(1), 30 * SECOND, 5 * SECOND, None, Duration::ZERO);
        sessions.note(key(1), 30 * SECOND, 5 * SECOND, Some(7), SECOND);
        // The same debt does not begin anew; a later one does.
        sessions.note(key(1), 30 * SECOND, 5 * SECOND, Some(7), 4 * SECOND);
        assert_eq!(sessions.expired(6 * SECOND), [(key(1), Removal::RebalanceTimedOut)]);
        sessions.note(key(1), 30 * SECOND, 5 * SECOND, Some(9), 5 * SECOND);
        assert_eq!(sessions.next_deadline(), Some(10 * SECOND));
        sessions.note(key(1), 30 * SECOND, 5 * SECOND, None, 9 * SECOND);
        assert_eq!(sessions.next_deadline(), Some(30 * SECOND));
    }
}
