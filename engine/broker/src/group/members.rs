//! Members' side of the shell: join, heartbeat, leave; and what happens by time alone.

use std::collections::BTreeMap;
use std::time::Duration;

use event_listener::EventListener;
use millstream_protocol::Timestamp;
use millstream_protocol::frame::group::{GroupHeartbeat, GroupJoin, Membership};

use super::event::{MemberSettings, Removal, StreamCount};
use super::offsets;
use super::sessions::MemberKey;
use super::state::{Groups, Member};
use super::step::Input;
use crate::broker::Broker;
use crate::error::BrokerError;

/// How long a tick that failed waits for the next.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often groups without members are looked at, at most and at least.
const LOOK_AT_EMPTY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// After a start nothing goes by age for so long: the clock may have been set wrong.
const KEEP_AFTER_START: Duration = Duration::from_secs(60 * 60);

/// What a heartbeat found.
#[derive(Debug)]
pub enum Heartbeat {
    /// Nothing to tell and nothing to do. The listener rings when there is; wait for at most so long, then give the answer.
    Waits {
        /// Rings when the assignment changes.
        listener: EventListener,
        /// The longest wait.
        at_most: Duration,
        /// The answer if nothing comes.
        answer: Membership,
    },
    /// There is a newer assignment, something to confirm, or an error: ask [`Broker::answer_heartbeat`].
    Due,
}

impl Broker {
    /// A member joins a group, or joins again with the same number; its session begins. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::IllegalSetting`], [`BrokerError::UnknownStream`],
    /// [`BrokerError::MemberFenced`]; the log's.
    pub fn join_group(&self, join: &GroupJoin) -> Result<Membership, BrokerError> {
        let streams = join.streams.iter().map(|name| self.stream(name)).collect::<Result<Vec<_>, _>>()?;
        let count = |stream: &std::sync::Arc<crate::Stream>| StreamCount {
            name: stream.name.clone(),
            id: stream.id.0,
            partitions: stream.partitions().len() as u32,
        };
        let settings = MemberSettings {
            instance: join.instance.clone(),
            client: join.client.clone(),
            streams: Vec::new(),
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
        };
        let input = Input::Join {
            group: join.group.clone(),
            member: join.member,
            settings,
            streams: streams.iter().map(count).collect(),
            now: self.log().now(),
        };
        let mut kept: Vec<_> = streams.iter().collect();
        kept.sort_by_key(|stream| stream.id);
        kept.dedup_by_key(|stream| stream.id);
        let _kept: Vec<_> = kept.into_iter().map(|stream| stream.keep_all()).collect();
        // One that is deleted meanwhile was marked before the groups are told: either it is seen here, or it is taken from the
        // group after this.
        self.groups().change(&input, || match streams.iter().find(|stream| stream.is_deleted()) {
            Some(stream) => Err(BrokerError::UnknownStream(stream.name.clone())),
            None => Ok(()),
        })?;
        let (group, membership) = self.groups().read(|groups| {
            let group = groups.find(&join.group)?;
            Ok::<_, BrokerError>((group.id, membership(groups, &join.group, join.member, None)?))
        })??;
        self.groups().sync(group);
        let now = self.groups().now();
        self.groups().live.lock().sessions.heartbeat(MemberKey { group, member: join.member }, now);
        Ok(membership)
    }

    /// A member is alive. Never waits for the disk.
    pub fn heartbeat_group(&self, beat: &GroupHeartbeat) -> Heartbeat {
        let shell = self.groups();
        let mut live = shell.live.lock();
        let found = shell.machine.read(|groups| {
            let group = groups.find(&beat.group).ok()?;
            let member = group.member(beat.member).ok()?;
            let is_due = member.version > beat.seen || member.version < beat.applied;
            let confirms = member.revoking().is_some_and(|oldest| oldest <= beat.applied);
            let session = Duration::from_millis(u64::from(member.settings.session_timeout_ms));
            Some((MemberKey { group: group.id, member: beat.member }, is_due || confirms, session, interval(member)))
        });
        let Some((key, is_due, session, heartbeat_interval_ms)) = found else { return Heartbeat::Due };
        let now = shell.now();
        live.sessions.heartbeat(key, now);
        match live.listen(key) {
            Some(listener) if !is_due => Heartbeat::Waits {
                listener,
                at_most: Duration::from_millis(u64::from(beat.wait_ms)).min(session / 3),
                answer: Membership { assignment: None, heartbeat_interval_ms },
            },
            _ => Heartbeat::Due,
        }
    }

    /// The answer to a heartbeat that is due: takes the confirmation, and gives the assignment if it is newer than the one
    /// seen. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::UnknownMember`], [`BrokerError::MemberFenced`],
    /// [`BrokerError::IllegalSetting`] for a version that was never given; the log's.
    pub fn answer_heartbeat(&self, beat: &GroupHeartbeat) -> Result<Membership, BrokerError> {
        let look = |groups: &Groups| {
            let member = groups.find(&beat.group).and_then(|group| group.member(beat.member));
            let confirms = member.is_ok_and(|member| {
                member.version < beat.applied || member.revoking().is_some_and(|oldest| oldest <= beat.applied)
            });
            (confirms, membership(groups, &beat.group, beat.member, Some(beat.seen)))
        };
        let (confirms, answer) = self.groups().read(look)?;
        if !confirms {
            return answer;
        }
        let (group, member, version) = (beat.group.clone(), beat.member, beat.applied);
        self.groups().change(&Input::Applied { group, member, version }, || Ok(()))?;
        self.groups().read(look)?.1
    }

    /// A member leaves; a static one only if `for_good`, otherwise its session runs on. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::UnknownMember`], [`BrokerError::MemberFenced`]; the log's.
    pub fn leave_group(&self, group: &str, member: u64, for_good: bool) -> Result<(), BrokerError> {
        let (group, now) = (group.to_owned(), self.log().now());
        self.groups().change(&Input::Leave { group, member, for_good, now }, || Ok(()))
    }

    /// Removes members that are dead, and groups that have had no members for too long. Returns how long nothing more is to
    /// be done, if nothing rings ([`listen_to_groups`](Self::listen_to_groups)). Blocks; errors are logged, and tried again.
    pub fn tick_groups(&self) -> Duration {
        let shell = self.groups();
        let mut dead: BTreeMap<u64, Vec<(u64, Removal)>> = BTreeMap::new();
        for (key, reason) in shell.live.lock().sessions.expired(shell.now()) {
            dead.entry(key.group).or_default().push((key.member, reason));
        }
        let mut has_failed = false;
        for (group, members) in dead {
            let input = Input::Expire { group, members, now: self.log().now() };
            if let Err(error) = shell.change(&input, || Ok(())) {
                tracing::warn!(group, %error, "dead members were not removed: it is tried again");
                has_failed = true;
            }
            // Also if another has removed them just now: what is dead must not stay due.
            shell.sync(group);
        }
        let look_again = self.retire_groups();
        if has_failed {
            return TRY_AGAIN;
        }
        let now = shell.now();
        let next = shell.live.lock().sessions.next_deadline();
        let next = next.into_iter().chain(look_again).min().map_or(LOOK_AT_EMPTY.1, |next| next.saturating_sub(now));
        next.min(LOOK_AT_EMPTY.1)
    }

    /// Rings when [`tick_groups`](Self::tick_groups) has something to do earlier than it said. Listen, tick, then wait.
    pub fn listen_to_groups(&self) -> EventListener {
        self.groups().earlier.listen()
    }

    /// Deletes groups that have had no members and no commits for the retention; returns when to look again.
    fn retire_groups(&self) -> Option<Duration> {
        let shell = self.groups();
        let retention = self.config().offsets_retention?;
        let now = shell.now();
        let due = *shell.live.lock().look_at_empty.get_or_insert(now + retention.min(KEEP_AFTER_START));
        if due > now {
            return Some(due);
        }
        let before =
            Timestamp(self.log().now().0.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX)));
        let mut old: BTreeMap<u64, String> = shell.machine.read(|groups| {
            let old = groups.iter().filter(|group| group.members.is_empty() && group.empty_since_ms <= before.0);
            old.map(|group| (group.id, group.name.clone())).collect()
        });
        if !old.is_empty() {
            // Who commits without being a member is in use as well.
            self.for_each_commit(|_, _, group, committed| {
                if committed.is_ok_and(|committed| committed.committed_ms > before.0) {
                    old.remove(&group);
                }
            });
        }
        for (group, name) in old {
            match shell.change(&Input::Retire { group, before }, || Ok(())) {
                Ok(()) => {
                    tracing::info!(
                        group = name,
                        "a group without members was deleted with its offsets: they were too old"
                    );
                    self.remove_offsets(group);
                }
                Err(error) => tracing::warn!(group = name, %error, "an old group was not deleted: it is tried again"),
            }
        }
        let again = shell.now() + (retention / 4).clamp(LOOK_AT_EMPTY.0, LOOK_AT_EMPTY.1);
        shell.live.lock().look_at_empty = Some(again);
        Some(again)
    }
}

/// Five heartbeats in a session: one lost packet more or less is no death.
fn interval(member: &Member) -> u32 {
    member.settings.session_timeout_ms / 5
}

fn membership(groups: &Groups, group: &str, number: u64, seen: Option<u32>) -> Result<Membership, BrokerError> {
    let group = groups.find(group)?;
    let member = group.member(number)?;
    let is_newer = seen.is_none_or(|seen| member.version > seen);
    Ok(Membership {
        assignment: is_newer.then(|| group.assignment(number, member)),
        heartbeat_interval_ms: interval(member),
    })
}

impl Broker {
    /// Every committed offset of every group, in the partitions that are online.
    pub(super) fn for_each_commit(
        &self,
        mut see: impl FnMut(&crate::Stream, &millstream_log::Partition, u64, Result<offsets::Committed, String>),
    ) {
        for stream in self.streams() {
            for partition in stream.online() {
                match partition.state_read(offsets::all) {
                    Ok(commits) => commits.into_iter().for_each(|(group, found)| see(&stream, partition, group, found)),
                    Err(error) => {
                        tracing::warn!(stream = stream.name, partition = %partition.id(), %error, "offsets cannot be read");
                    }
                }
            }
        }
    }
}
