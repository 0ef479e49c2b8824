//! Decides.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use millstream_protocol::Timestamp;
use millstream_protocol::frame::group::StreamPartition;
use millstream_protocol::limits::{GROUP_MEMBERS_MAX, GROUP_PARTITIONS_MAX, GROUP_STREAMS_MAX, GROUPS_MAX};
use millstream_protocol::names::check_name;

use super::assign::{Owner, assign};
use super::event::{Event, Held, MemberSettings, Removal, StreamCount, Target};
use super::state::{Group, Groups};
use crate::error::BrokerError;

const SESSION_MS: RangeInclusive<u32> = 3_000..=30 * 60 * 1_000;
const REBALANCE_MS: RangeInclusive<u32> = 1_000..=60 * 60 * 1_000;
/// What a member says of itself for people is cut to this.
const CLIENT_BYTES_MAX: usize = 256;

/// What the groups are asked, or told.
#[derive(Debug, Clone)]
pub enum Input {
    /// A member joins, or joins again with the same number.
    Join {
        /// The group; made if it is not there.
        group: String,
        /// The member.
        member: u64,
        /// What it says of itself; its streams are those beside it.
        settings: MemberSettings,
        /// The streams it reads, as they are.
        streams: Vec<StreamCount>,
        /// The time.
        now: Timestamp,
    },
    /// A member works on nothing but what this version of its assignment has.
    Applied {
        /// The group.
        group: String,
        /// The member.
        member: u64,
        /// The version.
        version: u32,
    },
    /// A member leaves.
    Leave {
        /// The group.
        group: String,
        /// The member.
        member: u64,
        /// Also if it is static.
        for_good: bool,
        /// The time.
        now: Timestamp,
    },
    /// Members are dead.
    Expire {
        /// The group's number.
        group: u64,
        /// The members and why; those that are gone already are passed over.
        members: Vec<(u64, Removal)>,
        /// The time.
        now: Timestamp,
    },
    /// A stream was made, has another number of partitions, or is gone.
    StreamChanged {
        /// The groups to look at, by number.
        groups: Vec<u64>,
        /// The stream as it is now.
        stream: StreamCount,
    },
    /// A group is wanted, with or without members.
    Create {
        /// Its name.
        group: String,
        /// The time.
        now: Timestamp,
    },
    /// A group is to go.
    Delete {
        /// Its name.
        group: String,
    },
    /// A group is to go if it has had no members since then.
    Retire {
        /// Its number.
        group: u64,
        /// The time.
        before: Timestamp,
    },
    /// A deleted group's offsets are gone.
    OffsetsRemoved {
        /// Its number.
        group: u64,
    },
}

impl Groups {
    /// Decides.
    ///
    /// # Errors
    /// What is wrong with the input; nothing has changed.
    pub fn step(&self, input: &Input) -> Result<Vec<Event>, BrokerError> {
        match input {
            Input::Join { group, member, settings, streams, now } => self.join(group, *member, settings, streams, *now),
            Input::Applied { group, member, version } => self.applied(group, *member, *version),
            Input::Leave { group, member, for_good, now } => self.leave(group, *member, *for_good, *now),
            Input::Expire { group, members, now } => Ok(self.expire(*group, members, *now)),
            Input::StreamChanged { groups, stream } => {
                let groups = groups.iter().filter_map(|group| self.groups.get(group));
                Ok(groups.flat_map(|group| stream_changed(group, stream)).collect())
            }
            Input::Create { group, now } => match self.names.contains_key(group) {
                true => Ok(Vec::new()),
                false => Ok(vec![self.create(group, *now)?]),
            },
            Input::Delete { group } => {
                let group = self.find(group)?;
                group.check_empty()?;
                Ok(vec![Event::GroupDeleted { id: group.id }])
            }
            Input::Retire { group, before } => {
                let old = |group: &&Group| group.members.is_empty() && group.empty_since_ms <= before.0;
                let old = self.groups.get(group).filter(old);
                Ok(old.map(|group| Event::GroupDeleted { id: group.id }).into_iter().collect())
            }
            Input::OffsetsRemoved { group } => {
                Ok(self.leaving.contains(group).then_some(Event::GroupRemoved { id: *group }).into_iter().collect())
            }
        }
    }

    fn create(&self, name: &str, now: Timestamp) -> Result<Event, BrokerError> {
        check_name(name)?;
        range("the number of groups", self.groups.len() + self.leaving.len() + 1, 1..=GROUPS_MAX)?;
        Ok(Event::GroupCreated { id: self.last_id + 1, name: name.to_owned(), at_ms: now.0 })
    }

    fn join(
        &self,
        name: &str,
        member: u64,
        settings: &MemberSettings,
        streams: &[StreamCount],
        now: Timestamp,
    ) -> Result<Vec<Event>, BrokerError> {
        check_name(name)?;
        if let Some(instance) = &settings.instance {
            check_name(instance)?;
        }
        range("session_timeout_ms", settings.session_timeout_ms, SESSION_MS)?;
        range("rebalance_timeout_ms", settings.rebalance_timeout_ms, REBALANCE_MS)?;
        let mut streams = streams.to_vec();
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        streams.dedup_by(|a, b| a.name == b.name);
        range("the number of streams of a member", streams.len(), 1..=GROUP_STREAMS_MAX)?;
        let settings = MemberSettings {
            streams: streams.iter().map(|stream| stream.name.clone()).collect(),
            client: settings.client[..settings.client.floor_char_boundary(CLIENT_BYTES_MAX)].to_owned(),
            ..settings.clone()
        };

        let mut draft = match self.find(name) {
            Ok(group) => Draft::of(group),
            Err(_) => Draft::new(self.create(name, now)?),
        };
        let group = &draft.group;
        let (id, version) = (group.id, next(group.version));
        if group.fenced.contains(&member) {
            return Err(BrokerError::MemberFenced { group: name.to_owned(), member });
        }
        let before = |number: u64| {
            let mut others = group.members.iter().filter(|(other, _)| **other != number);
            others.find(|(_, other)| settings.instance.is_some() && other.settings.instance == settings.instance)
        };
        let event = match (group.members.get(&member), before(member)) {
            (Some(known), _) => {
                if known.settings.instance != settings.instance {
                    return Err(BrokerError::IllegalSetting {
                        setting: "the instance id of a member that is there",
                        value: format!("{:?}", settings.instance),
                        legal: format!("what it joined with, {:?}, or a new member number", known.settings.instance),
                    });
                }
                let is_known = |stream: &StreamCount| group.streams.contains_key(&stream.id);
                if *known.settings == settings && streams.iter().all(is_known) {
                    return Ok(Vec::new());
                }
                Event::MemberJoined { group: id, member, settings, streams, version }
            }
            (None, Some((old, _))) => {
                let (old, epoch) = (*old, next(group.epoch));
                Event::MemberReplaced { group: id, old, member, settings, streams, version, epoch }
            }
            (None, None) => {
                range("the number of members of a group", group.members.len() + 1, 1..=GROUP_MEMBERS_MAX)?;
                Event::MemberJoined { group: id, member, settings, streams, version }
            }
        };
        draft.emit(event);
        range("the number of partitions that a group reads", draft.group.partitions(), 0..=GROUP_PARTITIONS_MAX)?;
        draft.assign();
        Ok(draft.events)
    }

    fn applied(&self, name: &str, number: u64, version: u32) -> Result<Vec<Event>, BrokerError> {
        let group = self.find(name)?;
        let member = group.member(number)?;
        range("the applied version", version, 0..=member.version)?;
        if member.revoking().is_none_or(|oldest| oldest > version) {
            return Ok(Vec::new());
        }
        let mut holds = Vec::new();
        for (at, seat) in group.seats() {
            if let Some(hold) = seat.hold
                && hold.member == number
                && hold.revoked.is_some_and(|revoked| revoked <= version)
            {
                holds.push(Held { at, member: seat.target });
            }
        }
        let (version, epoch) = (next(group.version), next(group.epoch));
        Ok(vec![Event::Assigned { group: group.id, version, epoch, targets: Vec::new(), holds }])
    }

    fn leave(&self, name: &str, number: u64, for_good: bool, now: Timestamp) -> Result<Vec<Event>, BrokerError> {
        let group = self.find(name)?;
        let member = group.member(number)?;
        match member.settings.instance.is_some() && !for_good {
            true => Ok(Vec::new()),
            false => Ok(self.expire(group.id, &[(number, Removal::Left)], now)),
        }
    }

    fn expire(&self, group: u64, members: &[(u64, Removal)], now: Timestamp) -> Vec<Event> {
        let Some(group) = self.groups.get(&group) else { return Vec::new() };
        let mut draft = Draft::of(group);
        for (member, reason) in members {
            if draft.group.members.contains_key(member) {
                let (member, reason) = (*member, *reason);
                draft.emit(Event::MemberRemoved { group: group.id, member, reason, at_ms: now.0 });
            }
        }
        if !draft.events.is_empty() {
            draft.assign();
        }
        draft.events
    }
}

fn stream_changed(group: &Group, stream: &StreamCount) -> Vec<Event> {
    let known = group.streams.get(&stream.id).map_or(0, |known| known.seats.len());
    // One that nobody reads any more may still be in somebody's hands.
    if known == stream.partitions as usize || (known == 0 && !group.reads(&stream.name)) {
        return Vec::new();
    }
    let mut draft = Draft::of(group);
    let version = next(group.version);
    draft.emit(Event::StreamChanged { group: group.id, stream: stream.clone(), version });
    if draft.group.partitions() > GROUP_PARTITIONS_MAX {
        // A member may hold them all: what does not fit is not read until one joins with less.
        return Vec::new();
    }
    draft.assign();
    draft.events
}

/// A copy of a group on which events are tried as they are proposed, so that each is decided on what the ones before it
/// made.
struct Draft {
    group: Group,
    events: Vec<Event>,
}

impl Draft {
    fn of(group: &Group) -> Self {
        Self { group: group.clone(), events: Vec::new() }
    }

    fn new(created: Event) -> Self {
        let Event::GroupCreated { id, name, at_ms } = &created else { unreachable!("a group begins by being made") };
        Self { group: Group::new(*id, name.clone(), *at_ms), events: vec![created] }
    }

    fn emit(&mut self, event: Event) {
        self.group.apply(&event);
        self.events.push(event);
    }

    /// Decides anew whom each partition is meant for, and gives those that nobody works on to whom they are meant for.
    fn assign(&mut self) {
        let group = &self.group;
        let numbers: Vec<u64> = group.members.keys().copied().collect();
        let indexes: HashMap<u64, u32> = numbers.iter().zip(0..).map(|(number, index)| (*number, index)).collect();
        let streams: HashMap<&str, u32> = group.streams.values().map(|s| s.name.as_str()).zip(0..).collect();
        let reads = group.members.values().map(|member| {
            let reads = member.settings.streams.iter().filter_map(|name| streams.get(name.as_str()).copied());
            let mut reads: Vec<u32> = reads.collect();
            reads.sort_unstable();
            reads
        });
        let reads: Vec<Vec<u32>> = reads.collect();
        let owners = group.streams.values().map(|stream| {
            let owner = |seat: &super::state::Seat| Owner {
                member: seat.target.and_then(|target| indexes.get(&target).copied()),
                settled: seat.target.is_some() && seat.target == seat.hold.map(|hold| hold.member),
            };
            stream.seats.iter().map(owner).collect()
        });
        let owners: Vec<Vec<Owner>> = owners.collect();
        let placed = assign(&reads, &owners);

        let (mut targets, mut holds) = (Vec::new(), Vec::new());
        for ((at, seat), placed) in group.seats().zip(placed.iter().flatten()) {
            let member = placed.map(|index| numbers[index as usize]);
            if member != seat.target {
                targets.push(Target { at, member });
            }
            if seat.hold.is_none() && member.is_some() {
                holds.push(Held { at, member });
            }
        }
        if targets.is_empty() && holds.is_empty() {
            return;
        }
        let epoch = if holds.is_empty() { group.epoch } else { next(group.epoch) };
        self.emit(Event::Assigned { group: group.id, version: next(group.version), epoch, targets, holds });
    }
}

impl Group {
    /// All places, by stream and partition.
    pub(super) fn seats(&self) -> impl Iterator<Item = (StreamPartition, &super::state::Seat)> {
        self.streams.iter().flat_map(|(stream, seats)| {
            let at = |partition: u32| StreamPartition { stream: *stream, partition };
            seats.seats.iter().zip(0..).map(move |(seat, partition)| (at(partition), seat))
        })
    }
}

/// The number after a version or an epoch: a group that changed a thousand times a second would get there after 50 days of
/// nothing else, and its members then join under a new name.
fn next(number: u32) -> u32 {
    number.checked_add(1).expect("a group changes fewer than four thousand million times")
}

fn range<T: PartialOrd + std::fmt::Display>(
    setting: &'static str,
    value: T,
    legal: RangeInclusive<T>,
) -> Result<(), BrokerError> {
    if legal.contains(&value) {
        return Ok(());
    }
    let legal = format!("{} to {}", legal.start(), legal.end());
    Err(BrokerError::IllegalSetting { setting, value: value.to_string(), legal })
}
