//! What the groups' machine needs around it: its log, the sessions, who waits for a change, and the counters.
//!
//! ```text
//! input ─► step, apply (under the log's lock) ─► durable ─► sync: sessions noted, those whose assignment changed woken
//! ```
//! Locks: what is live, then the machine; never the other way round. Whoever is woken reads durably before it answers.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::{Event as Bell, EventListener};
use millstream_log::{LogError, StateLog, Stopwatch};
use parking_lot::Mutex;

use super::event::{Event, Removal};
use super::sessions::{MemberKey, Sessions};
use super::state::Groups;
use super::step::Input;
use crate::error::BrokerError;

/// What has happened in the groups since the start, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupStats {
    /// Groups.
    pub groups: u64,
    /// Members of all groups.
    pub members: u64,
    /// Changes of an assignment.
    pub rebalances: u64,
    /// Members whose session ended, or that did not let go in time.
    pub members_expired: u64,
    /// Offsets committed.
    pub commits: u64,
    /// Commits refused.
    pub commits_refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    rebalances: AtomicU64,
    members_expired: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) commits_refused: AtomicU64,
}

/// The groups, running.
pub(crate) struct GroupShell {
    pub(super) machine: StateLog<Groups>,
    pub(super) counters: Counters,
    started: Stopwatch,
    pub(super) live: Mutex<Live>,
    /// Rings when a deadline has become earlier than all there were.
    pub(super) earlier: Bell,
}

/// What is known of members while the broker runs.
#[derive(Default)]
pub(super) struct Live {
    pub sessions: Sessions,
    waiting: HashMap<u64, HashMap<u64, Waiting>>,
    /// When groups without members are looked at next, if they go by age.
    pub look_at_empty: Option<Duration>,
}

struct Waiting {
    /// The version of the assignment that was last noted.
    version: u32,
    changed: Arc<Bell>,
}

impl GroupShell {
    /// Every member's session begins now.
    pub fn new(machine: StateLog<Groups>) -> Self {
        let shell = Self {
            machine,
            counters: Counters::default(),
            started: Stopwatch::start(),
            live: Mutex::default(),
            earlier: Bell::new(),
        };
        let groups: Vec<u64> = shell.machine.read(|groups| groups.iter().map(|group| group.id).collect());
        groups.into_iter().for_each(|group| shell.sync(group));
        shell
    }

    /// Monotonic time.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Carries out an input; what it did is durable when this returns. `check` is asked first, under the same lock. Blocks.
    pub fn change(&self, input: &Input, check: impl Fn() -> Result<(), BrokerError>) -> Result<(), BrokerError> {
        let events = RefCell::new(Done::default());
        self.machine.update(|groups| {
            check()?;
            let proposed = groups.step(input)?;
            *events.borrow_mut() = Done::of(&proposed);
            Ok::<_, BrokerError>(proposed)
        })?;
        let done = events.into_inner();
        self.counters.rebalances.fetch_add(done.rebalances, Ordering::Relaxed);
        self.counters.members_expired.fetch_add(done.expired, Ordering::Relaxed);
        done.groups.into_iter().for_each(|group| self.sync(group));
        Ok(())
    }

    /// Looks at the groups, and returns what it saw once that is durable. Blocks while changes are in flight.
    pub fn read<R>(&self, look: impl Fn(&Groups) -> R) -> Result<R, BrokerError> {
        let seen = self.machine.read_durable(look);
        seen.ok_or_else(|| self.machine.failure().unwrap_or(LogError::Closed).into())
    }

    /// Brings sessions and waiters in line with a group's state.
    pub fn sync(&self, group: u64) {
        let mut live = self.live.lock();
        let now = self.now();
        let before = live.sessions.next_deadline();
        let Live { sessions, waiting, .. } = &mut *live;
        self.machine.read(|groups| {
            let state = groups.group(group);
            let known = waiting.entry(group).or_default();
            known.retain(|member, waiting| {
                let stays = state.is_some_and(|state| state.members.contains_key(member));
                if !stays {
                    sessions.end(MemberKey { group, member: *member });
                    waiting.changed.notify(usize::MAX);
                }
                stays
            });
            for (number, member) in state.into_iter().flat_map(|state| state.members()) {
                let ms = |ms: u32| Duration::from_millis(u64::from(ms));
                let (session, rebalance) =
                    (ms(member.settings.session_timeout_ms), ms(member.settings.rebalance_timeout_ms));
                sessions.note(MemberKey { group, member: number }, session, rebalance, member.revoking(), now);
                let waiting =
                    known.entry(number).or_insert_with(|| Waiting { version: member.version, changed: Arc::default() });
                if std::mem::replace(&mut waiting.version, member.version) != member.version {
                    waiting.changed.notify(usize::MAX);
                }
            }
        });
        if live.waiting.get(&group).is_some_and(HashMap::is_empty) {
            live.waiting.remove(&group);
        }
        let after = live.sessions.next_deadline();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.earlier.notify(usize::MAX);
        }
    }

    /// Snapshots the state, so that the next start need not replay it.
    pub fn close(&self) {
        self.machine.close();
    }

    pub fn stats(&self) -> GroupStats {
        let (groups, members) = self
            .machine
            .read(|groups| (groups.len() as u64, groups.iter().map(|group| group.members().len() as u64).sum()));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GroupStats {
            groups,
            members,
            rebalances: count(&self.counters.rebalances),
            members_expired: count(&self.counters.members_expired),
            commits: count(&self.counters.commits),
            commits_refused: count(&self.counters.commits_refused),
        }
    }
}

impl Live {
    /// What rings when a member's assignment changes, or the member is no more.
    pub fn listen(&self, key: MemberKey) -> Option<EventListener> {
        Some(self.waiting.get(&key.group)?.get(&key.member)?.changed.listen())
    }
}

/// What an input has done.
#[derive(Debug, Default)]
struct Done {
    groups: BTreeSet<u64>,
    rebalances: u64,
    expired: u64,
}

impl Done {
    fn of(events: &[Event]) -> Self {
        let mut done = Done::default();
        for event in events {
            let group = match event {
                Event::GroupCreated { id, .. } | Event::GroupDeleted { id } | Event::GroupRemoved { id } => *id,
                Event::MemberJoined { group, .. }
                | Event::MemberReplaced { group, .. }
                | Event::StreamChanged { group, .. } => *group,
                Event::MemberRemoved { group, reason, .. } => {
                    done.expired += u64::from(*reason != Removal::Left);
                    *group
                }
                Event::Assigned { group, .. } => {
                    done.rebalances += 1;
                    *group
                }
            };
            done.groups.insert(group);
        }
        done
    }
}
