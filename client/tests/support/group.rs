//! A group's coordinator that does what a test tells it: it remembers who joined, gives each member the list that the
//! test has set, and judges commits by who holds what.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::Response;
use millstream_protocol::frame::group::{
    AssignedPartition, Assignment, CommitResult, CommittedOffset, GroupHeartbeat, GroupJoin, Membership, OffsetCommit,
    StreamPartition,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often members are to say that they live.
const INTERVAL_MS: u32 = 200;

#[derive(Default)]
pub struct Coordinator {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    version: u32,
    joins: Vec<GroupJoin>,
    members: HashMap<u64, Member>,
    /// What the next to join get.
    prepared: Vec<AssignedPartition>,
    committed: BTreeMap<StreamPartition, OffsetCommit>,
    commits: Vec<OffsetCommit>,
    /// Heartbeats are answered with it.
    refuse: Option<Code>,
    /// What is committed there cannot be read.
    unreadable: Option<u32>,
    /// Heartbeats get no answer.
    is_silent: bool,
}

struct Member {
    list: Assignment,
    applied: u32,
    left: bool,
}

/// A partition of the one stream.
pub fn at(partition: u32) -> StreamPartition {
    StreamPartition { stream: 5, partition }
}

pub fn held(partition: u32, epoch: u32) -> AssignedPartition {
    AssignedPartition { at: at(partition), epoch }
}

impl Coordinator {
    /// What who joins next is given.
    pub fn prepare(&self, partitions: &[AssignedPartition]) {
        self.inner.lock().prepared = partitions.to_vec();
    }

    /// The only member is given another list; answers its version.
    pub fn assign(&self, partitions: &[AssignedPartition]) -> u32 {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let version = inner.version;
        let member = inner.members.values_mut().find(|member| !member.left).expect("a member");
        member.list = Assignment { version, partitions: partitions.to_vec() };
        drop(inner);
        self.changed.notify_waiters();
        version
    }

    /// All members are forgotten, as if their sessions had ended.
    pub fn forget(&self) {
        self.inner.lock().members.clear();
        self.changed.notify_waiters();
    }

    pub fn refuse(&self, code: Option<Code>) {
        self.inner.lock().refuse = code;
        self.changed.notify_waiters();
    }

    pub fn silence(&self, is_silent: bool) {
        self.inner.lock().is_silent = is_silent;
    }

    pub fn unreadable(&self, partition: Option<u32>) {
        self.inner.lock().unreadable = partition;
    }

    pub fn set_committed(&self, partition: u32, offset: u64, batch_epoch: Option<u32>) {
        let at = at(partition);
        let commit = OffsetCommit { at, epoch: 0, offset, batch_epoch, metadata: String::new() };
        self.inner.lock().committed.insert(at, commit);
    }

    pub fn committed(&self, partition: u32) -> Option<(u64, Option<u32>)> {
        self.inner.lock().committed.get(&at(partition)).map(|commit| (commit.offset, commit.batch_epoch))
    }

    pub fn commits(&self) -> usize {
        self.inner.lock().commits.len()
    }

    pub fn joins(&self) -> Vec<GroupJoin> {
        self.inner.lock().joins.clone()
    }

    /// What the member that is there has confirmed.
    pub fn applied(&self) -> Option<u32> {
        self.inner.lock().members.values().find(|member| !member.left).map(|member| member.applied)
    }

    pub fn has_left(&self) -> bool {
        self.inner.lock().members.values().all(|member| member.left)
    }

    pub(super) fn join(&self, join: GroupJoin) -> Result<Response, Refusal> {
        let mut inner = self.inner.lock();
        inner.joins.push(join.clone());
        if !inner.members.contains_key(&join.member) {
            inner.version += 1;
            let list = Assignment { version: inner.version, partitions: inner.prepared.clone() };
            inner.members.insert(join.member, Member { list, applied: 0, left: false });
        }
        let assignment = Some(inner.members[&join.member].list.clone());
        Ok(Response::Membership(Membership { assignment, heartbeat_interval_ms: INTERVAL_MS }))
    }

    pub(super) async fn heartbeat(&self, heartbeat: GroupHeartbeat) -> Result<Response, Refusal> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(heartbeat.wait_ms.into());
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_late = tokio::time::Instant::now() >= deadline;
            let is_silent = {
                let mut inner = self.inner.lock();
                if let Some(code) = inner.refuse {
                    return Err(Refusal::new(code, format!("scripted: {code}")));
                }
                let is_silent = inner.is_silent;
                let Some(member) = inner.members.get_mut(&heartbeat.member).filter(|member| !member.left) else {
                    return Err(Refusal::new(Code::UnknownMember, "no such member"));
                };
                member.applied = heartbeat.applied;
                let is_new = member.list.version > heartbeat.seen;
                if !is_silent && (is_new || is_late) {
                    let assignment = is_new.then(|| member.list.clone());
                    return Ok(Response::Membership(Membership { assignment, heartbeat_interval_ms: INTERVAL_MS }));
                }
                is_silent
            };
            if is_silent {
                std::future::pending::<()>().await;
            }
            let _ = tokio::time::timeout_at(deadline, changed).await;
        }
    }

    pub(super) fn leave(&self, member: u64) -> Result<Response, Refusal> {
        if let Some(member) = self.inner.lock().members.get_mut(&member) {
            member.left = true;
        }
        Ok(Response::Done)
    }

    pub(super) fn commit(&self, member: Option<u64>, commits: &[OffsetCommit]) -> Result<Response, Refusal> {
        let mut inner = self.inner.lock();
        let list = match member {
            None => None,
            Some(number) => match inner.members.get(&number) {
                Some(member) => Some(member.list.partitions.clone()),
                None => return Err(Refusal::new(Code::UnknownMember, "no such member")),
            },
        };
        let mut results = Vec::new();
        for commit in commits {
            let (at, epoch) = (commit.at, commit.epoch);
            // What is being revoked is not in the list any more, and still held: epochs below 100 are.
            let is_held =
                list.as_ref().is_none_or(|list| list.contains(&AssignedPartition { at, epoch }) || epoch < 100);
            let (code, text) = match is_held {
                true => (0, String::new()),
                false => (Code::StaleEpoch.number(), format!("partition {} is with another member", at.partition)),
            };
            if is_held {
                inner.commits.push(commit.clone());
                inner.committed.insert(at, commit.clone());
            }
            results.push(CommitResult { at, code, text });
        }
        Ok(Response::Committed(results))
    }

    pub(super) fn fetch(&self, partitions: &[StreamPartition]) -> Result<Response, Refusal> {
        let inner = self.inner.lock();
        if partitions.iter().any(|at| inner.unreadable == Some(at.partition)) {
            return Err(Refusal::new(Code::Internal, "scripted: its state cannot be read"));
        }
        let offset = |at: &StreamPartition| {
            let found = inner.committed.get(at);
            CommittedOffset {
                at: *at,
                offset: found.map(|commit| commit.offset),
                batch_epoch: found.and_then(|commit| commit.batch_epoch),
                metadata: String::new(),
            }
        };
        Ok(Response::Offsets(partitions.iter().map(offset).collect()))
    }
}
