//! A member of a group: what it was told, what it works on, and what it asks next. Pure.
//!
//! ```text
//! server ──► list (version `seen`) ──► next_change ──► application: Lost, Revoking, Assigned
//!        ◄── Ask::Heartbeat { seen, applied } ◄────── released
//! ```
//! `working` is what the application may be working on; only [`Member::next_change`] adds to it, and only
//! [`Member::released`], [`Member::unclaim`] and the end of the membership take from it.
//! Invariants
//! - `applied` is the version of a list that has all of `working` in it, under the same assignment epochs. So the server
//!   never hears that a partition is free while the application works on it.
//! - Once a membership has ended nothing of it is told but what was lost with it; the next one has another number.
//!
//! Not here: when a heartbeat is due, what is tried again (`session`); what the application is told (`mod`).

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::control::Request;
use millstream_protocol::frame::group::{
    AssignedPartition, Assignment, GroupHeartbeat, GroupJoin, Membership, StreamPartition,
};

use crate::error::Error;

/// What a member is, whatever its number.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub group: String,
    pub instance: Option<String>,
    pub streams: Vec<String>,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub client: String,
}

/// What to say to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Join(GroupJoin),
    Heartbeat(GroupHeartbeat),
    Leave { group: String, member: u64, for_good: bool },
}

impl Ask {
    pub fn request(&self) -> Request {
        match self.clone() {
            Ask::Join(join) => Request::JoinGroup(join),
            Ask::Heartbeat(heartbeat) => Request::HeartbeatGroup(heartbeat),
            Ask::Leave { group, member, for_good } => Request::LeaveGroup { group, member, for_good },
        }
    }

    /// How long the server may hold the answer back.
    pub fn wait(&self) -> Duration {
        match self {
            Ask::Heartbeat(heartbeat) => Duration::from_millis(heartbeat.wait_ms.into()),
            Ask::Join(_) | Ask::Leave { .. } => Duration::ZERO,
        }
    }
}

/// What the application must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Gone without notice.
    Lost(Vec<StreamPartition>),
    /// To be let go of; the partitions stay its own until they are [`Member::released`].
    Revoking(Vec<StreamPartition>),
    /// Its own from now on.
    Assigned(Vec<AssignedPartition>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Joined,
    Leaving { for_good: bool },
    Left,
}

#[derive(Debug)]
pub(super) struct Member {
    settings: Settings,
    number: u64,
    phase: Phase,
    heartbeat_interval: Duration,
    seen: u32,
    applied: u32,
    list: BTreeMap<StreamPartition, u32>,
    working: BTreeMap<StreamPartition, u32>,
    lost: Vec<StreamPartition>,
    ended: Option<Error>,
}

impl Member {
    /// Of that number, which no other member has.
    pub fn new(settings: Settings, number: u64) -> Self {
        let heartbeat_interval = longest_wait(&settings);
        Self {
            settings,
            number,
            phase: Phase::Joining,
            heartbeat_interval,
            seen: 0,
            applied: 0,
            list: BTreeMap::new(),
            working: BTreeMap::new(),
            lost: Vec::new(),
            ended: None,
        }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often the server wants to hear of it.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// What to say next; `None` once it has left or its membership has ended for good.
    pub fn ask(&self) -> Option<Ask> {
        if self.ended.is_some() {
            return None;
        }
        let Settings { group, instance, streams, session_timeout, rebalance_timeout, client } = self.settings.clone();
        let member = self.number;
        match self.phase {
            Phase::Joining => Some(Ask::Join(GroupJoin {
                group,
                member,
                instance,
                streams,
                session_timeout_ms: millis(session_timeout),
                rebalance_timeout_ms: millis(rebalance_timeout),
                client,
            })),
            Phase::Joined => Some(Ask::Heartbeat(GroupHeartbeat {
                group,
                member,
                seen: self.seen,
                applied: self.applied,
                wait_ms: millis(self.heartbeat_interval),
            })),
            Phase::Leaving { for_good } => Some(Ask::Leave { group, member, for_good }),
            Phase::Left => None,
        }
    }

    /// The server has answered a join or a heartbeat. Says whether there is something new for the application.
    pub fn answered(&mut self, membership: Membership) -> bool {
        if !matches!(self.phase, Phase::Joining | Phase::Joined) {
            return false;
        }
        let is_new = self.phase == Phase::Joining;
        self.phase = Phase::Joined;
        let interval = Duration::from_millis(u64::from(membership.heartbeat_interval_ms.max(1)));
        self.heartbeat_interval = interval.min(longest_wait(&self.settings));
        match membership.assignment {
            // Answers to two heartbeats may come in either order.
            Some(Assignment { version, partitions }) if is_new || version > self.seen => {
                self.seen = version;
                self.list = partitions.into_iter().map(|partition| (partition.at, partition.epoch)).collect();
                self.reckon();
                true
            }
            _ => false,
        }
    }

    /// The membership is over; the next one has the number `next`.
    pub fn lose(&mut self, next: u64) {
        self.lost.extend(std::mem::take(&mut self.working).into_keys());
        self.list.clear();
        (self.seen, self.applied) = (0, 0);
        self.number = next;
        self.phase = match self.phase {
            Phase::Joining | Phase::Joined => Phase::Joining,
            Phase::Leaving { .. } | Phase::Left => Phase::Left,
        };
    }

    /// The membership is over, and there will be no other.
    pub fn end(&mut self, error: Error) {
        self.lose(self.number);
        self.phase = Phase::Left;
        self.ended = Some(error);
    }

    /// It leaves.
    pub fn leave(&mut self, for_good: bool) {
        if matches!(self.phase, Phase::Joining | Phase::Joined) {
            self.phase = Phase::Leaving { for_good };
        }
    }

    /// The server knows that it has left.
    pub fn left(&mut self) {
        self.phase = Phase::Left;
    }

    /// Why the membership has ended for good, if it has.
    pub fn ended(&self) -> Option<&Error> {
        self.ended.as_ref()
    }

    /// What the application is to be told next: what it lost, then what it must let go of, then what it has got. What it
    /// has got counts as worked on from here on.
    pub fn next_change(&mut self) -> Option<Change> {
        if !self.lost.is_empty() {
            return Some(Change::Lost(std::mem::take(&mut self.lost)));
        }
        let unwanted = |(at, epoch): (&StreamPartition, &u32)| (self.list.get(at) != Some(epoch)).then_some(*at);
        let revoking: Vec<StreamPartition> = self.working.iter().filter_map(unwanted).collect();
        if !revoking.is_empty() {
            return Some(Change::Revoking(revoking));
        }
        let fresh = self.list.iter().filter(|(at, _)| !self.working.contains_key(at));
        let assigned: Vec<AssignedPartition> =
            fresh.map(|(at, epoch)| AssignedPartition { at: *at, epoch: *epoch }).collect();
        if assigned.is_empty() {
            return None;
        }
        self.working.extend(assigned.iter().map(|partition| (partition.at, partition.epoch)));
        self.reckon();
        Some(Change::Assigned(assigned))
    }

    /// The application works on these no more. Says whether the server must hear of it.
    pub fn released(&mut self, partitions: &[StreamPartition]) -> bool {
        let before = self.applied;
        for at in partitions {
            self.working.remove(at);
        }
        self.reckon();
        self.applied != before
    }

    /// The application has not begun with these: they will be told again, if they are still its own.
    pub fn unclaim(&mut self, partitions: &[AssignedPartition]) -> bool {
        let same = |partition: &&AssignedPartition| self.working.get(&partition.at) == Some(&partition.epoch);
        let claimed: Vec<StreamPartition> = partitions.iter().filter(same).map(|partition| partition.at).collect();
        self.released(&claimed)
    }

    fn reckon(&mut self) {
        if self.working.iter().all(|(at, epoch)| self.list.get(at) == Some(epoch)) {
            self.applied = self.seen;
        }
    }
}

/// A heartbeat that waits is not alive meanwhile: three fit into a session.
fn longest_wait(settings: &Settings) -> Duration {
    settings.session_timeout / 3
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// What a refused join or heartbeat means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same again, later.
    Again,
    /// This membership is over: join as a new one.
    Rejoin,
    /// It will not become better.
    End,
}

/// Judges a refusal or a failure.
pub(super) fn judge(ask: &Ask, error: &Error) -> Verdict {
    match error.code() {
        Code::UnknownMember | Code::UnknownGroup => Verdict::Rejoin,
        // A version that the server never gave: it has lost what this membership rests on.
        Code::IllegalSetting if matches!(ask, Ask::Heartbeat(_)) => Verdict::Rejoin,
        _ if error.is_retryable() => Verdict::Again,
        _ => Verdict::End,
    }
}

#[cfg(test)]
mod tests;
