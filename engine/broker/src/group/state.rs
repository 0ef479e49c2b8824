//! The state, and the only door to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use millstream_protocol::frame::group::{AssignedPartition, Assignment, GroupState, StreamPartition};

use super::event::{Event, MemberSettings, StreamCount};
use crate::error::BrokerError;

/// Members that were replaced and are remembered in a group: the oldest goes, and is then unknown.
pub(super) const FENCED_MAX: usize = 64;

/// All groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// The last number given out.
    pub(super) last_id: u64,
    pub(super) groups: BTreeMap<u64, Group>,
    pub(super) names: BTreeMap<String, u64>,
    /// Deleted groups whose offsets may still be there.
    pub(super) leaving: BTreeSet<u64>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The version of the newest assignment of any of its members.
    pub version: u32,
    /// The newest assignment epoch.
    pub epoch: u32,
    /// When its last member went, or it was made, Unix ms.
    pub empty_since_ms: i64,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) streams: BTreeMap<u64, GroupStream>,
    pub(super) fenced: VecDeque<u64>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it said of itself.
    pub settings: Arc<MemberSettings>,
    /// The version of its newest assignment.
    pub version: u32,
    /// How many of the partitions it holds were taken from its assignment, by the version that did so.
    pub(super) revoked: BTreeMap<u32, u32>,
}

/// A stream that members read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStream {
    /// Its name.
    pub name: String,
    pub(super) seats: Vec<Seat>,
}

/// A partition's place in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seat {
    /// The member it is meant for.
    pub target: Option<u64>,
    /// The member that may work on it.
    pub hold: Option<Hold>,
}

/// That a member may work on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The member.
    pub member: u64,
    /// The assignment epoch.
    pub epoch: u32,
    /// It is to let go: the first version of its assignment that does not have the partition any more.
    pub revoked: Option<u32>,
}

impl Groups {
    /// The group of that name.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`].
    pub fn find(&self, name: &str) -> Result<&Group, BrokerError> {
        let id = self.names.get(name);
        id.and_then(|id| self.groups.get(id)).ok_or_else(|| BrokerError::UnknownGroup(name.to_owned()))
    }

    /// The group of that number.
    pub fn group(&self, id: u64) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// All groups, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// All groups, by name.
    pub fn by_name(&self) -> impl Iterator<Item = &Group> {
        self.names.values().filter_map(|id| self.groups.get(id))
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Deleted groups whose offsets may still be there.
    pub fn leaving(&self) -> impl Iterator<Item = u64> {
        self.leaving.iter().copied()
    }

    /// Whether an offset may be committed: by the member that holds the partition under that epoch, or, while the group has
    /// no members, by anyone.
    ///
    /// # Errors
    /// [`BrokerError::UnknownGroup`], [`BrokerError::GroupNotEmpty`], [`BrokerError::UnknownMember`],
    /// [`BrokerError::MemberFenced`], [`BrokerError::StaleEpoch`].
    pub fn check_commit(
        &self,
        group: &str,
        member: Option<u64>,
        at: StreamPartition,
        epoch: u32,
    ) -> Result<&Group, BrokerError> {
        let group = self.find(group)?;
        let Some(member) = member else {
            group.check_empty()?;
            return Ok(group);
        };
        group.member(member)?;
        let hold = group.seat(at).and_then(|seat| seat.hold);
        match hold {
            Some(hold) if hold.member == member && hold.epoch == epoch => Ok(group),
            held => Err(BrokerError::StaleEpoch {
                group: group.name.clone(),
                stream: at.stream,
                partition: at.partition,
                epoch,
                held: held.map_or_else(|| "by nobody".to_owned(), |hold| hold.describe(member)),
            }),
        }
    }

    /// Changes the state.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::GroupCreated { id, name, at_ms } => {
                self.last_id = self.last_id.max(*id);
                self.names.insert(name.clone(), *id);
                self.groups.insert(*id, Group::new(*id, name.clone(), *at_ms));
            }
            Event::GroupDeleted { id } => {
                if let Some(group) = self.groups.remove(id) {
                    self.names.remove(&group.name);
                }
                self.leaving.insert(*id);
            }
            Event::GroupRemoved { id } => drop(self.leaving.remove(id)),
            Event::MemberJoined { group, .. }
            | Event::MemberReplaced { group, .. }
            | Event::MemberRemoved { group, .. }
            | Event::StreamChanged { group, .. }
            | Event::Assigned { group, .. } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.apply(event);
                }
            }
        }
    }
}

impl Hold {
    fn describe(&self, asking: u64) -> String {
        let who = if self.member == asking { "by this member" } else { "by another member" };
        format!("{who} under epoch {}", self.epoch)
    }
}

impl GroupStream {
    /// Its partitions, in order.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }
}

impl Member {
    /// The oldest version of its assignment that took something from it that it has not let go of yet.
    pub fn revoking(&self) -> Option<u32> {
        self.revoked.keys().next().copied()
    }

    pub(super) fn new(settings: &MemberSettings, version: u32) -> Self {
        Self { settings: Arc::new(settings.clone()), version, revoked: BTreeMap::new() }
    }

    pub(super) fn note_revoked(&mut self, version: u32) {
        *self.revoked.entry(version).or_default() += 1;
    }

    fn forget_revoked(&mut self, version: u32) {
        if let Some(count) = self.revoked.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                self.revoked.remove(&version);
            }
        }
    }
}

impl Group {
    pub(super) fn new(id: u64, name: String, at_ms: i64) -> Self {
        Self {
            id,
            name,
            version: 0,
            epoch: 0,
            empty_since_ms: at_ms,
            members: BTreeMap::new(),
            streams: BTreeMap::new(),
            fenced: VecDeque::new(),
        }
    }

    /// Its members, by number.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (u64, &Member)> {
        self.members.iter().map(|(number, member)| (*number, member))
    }

    /// The streams that its members read, by number.
    pub fn streams(&self) -> impl Iterator<Item = (u64, &GroupStream)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    /// A member.
    ///
    /// # Errors
    /// [`BrokerError::MemberFenced`], [`BrokerError::UnknownMember`].
    pub fn member(&self, number: u64) -> Result<&Member, BrokerError> {
        if let Some(member) = self.members.get(&number) {
            return Ok(member);
        }
        Err(match self.fenced.contains(&number) {
            true => BrokerError::MemberFenced { group: self.name.clone(), member: number },
            false => BrokerError::UnknownMember { group: self.name.clone(), member: number },
        })
    }

    /// Whether it has no members.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotEmpty`].
    pub fn check_empty(&self) -> Result<(), BrokerError> {
        match self.members.len() {
            0 => Ok(()),
            members => Err(BrokerError::GroupNotEmpty { group: self.name.clone(), members }),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> GroupState {
        let is_settled = |seat: &Seat| seat.target == seat.hold.map(|hold| hold.member);
        match self.members.is_empty() {
            true => GroupState::Empty,
            false if self.streams.values().flat_map(|stream| &stream.seats).all(is_settled) => GroupState::Stable,
            false => GroupState::Rebalancing,
        }
    }

    /// A partition's place.
    pub fn seat(&self, at: StreamPartition) -> Option<&Seat> {
        self.streams.get(&at.stream)?.seats.get(at.partition as usize)
    }

    /// What a member may work on.
    pub fn assignment(&self, number: u64, member: &Member) -> Assignment {
        let mut partitions = Vec::new();
        for (stream, seats) in &self.streams {
            for (partition, seat) in seats.seats.iter().enumerate() {
                if let Some(hold) = &seat.hold
                    && hold.member == number
                    && hold.revoked.is_none()
                {
                    let at = StreamPartition { stream: *stream, partition: partition as u32 };
                    partitions.push(AssignedPartition { at, epoch: hold.epoch });
                }
            }
        }
        Assignment { version: member.version, partitions }
    }

    /// How many partitions its members' streams have.
    pub fn partitions(&self) -> usize {
        self.streams.values().map(|stream| stream.seats.len()).sum()
    }

    pub(super) fn reads(&self, stream: &str) -> bool {
        let reads =
            |member: &Member| member.settings.streams.binary_search_by(|name| name.as_str().cmp(stream)).is_ok();
        self.members.values().any(reads)
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::GroupCreated { .. } | Event::GroupDeleted { .. } | Event::GroupRemoved { .. } => {}
            Event::MemberJoined { member, settings, streams, version, .. } => {
                self.version = self.version.max(*version);
                match self.members.get_mut(member) {
                    Some(known) => known.settings = Arc::new(settings.clone()),
                    None => drop(self.members.insert(*member, Member::new(settings, *version))),
                }
                streams.iter().for_each(|stream| self.add_stream(stream));
                self.tidy();
            }
            Event::MemberReplaced { old, member, settings, streams, version, epoch, .. } => {
                (self.version, self.epoch) = (*version, *epoch);
                self.members.remove(old);
                self.members.insert(*member, Member::new(settings, *version));
                self.fence(*old);
                streams.iter().for_each(|stream| self.add_stream(stream));
                self.hand_over(*old, *member, settings, *epoch);
                self.tidy();
            }
            Event::MemberRemoved { member, at_ms, .. } => {
                self.members.remove(member);
                for seat in self.streams.values_mut().flat_map(|stream| &mut stream.seats) {
                    seat.target = seat.target.filter(|target| target != member);
                    seat.hold = seat.hold.filter(|hold| hold.member != *member);
                }
                if self.members.is_empty() {
                    self.empty_since_ms = *at_ms;
                }
                self.tidy();
            }
            Event::StreamChanged { stream, version, .. } => {
                self.version = self.version.max(*version);
                self.change_stream(stream, *version);
            }
            Event::Assigned { version, epoch, targets, holds, .. } => {
                (self.version, self.epoch) = (*version, *epoch);
                for target in targets {
                    self.set_target(target.at, target.member, *version);
                }
                for held in holds {
                    self.set_hold(held.at, held.member.map(|member| (member, *epoch)), *version);
                }
                self.tidy();
            }
        }
    }

    fn fence(&mut self, member: u64) {
        self.fenced.push_back(member);
        if self.fenced.len() > FENCED_MAX {
            self.fenced.pop_front();
        }
    }

    /// What `old` was meant to have, and has, of the streams that `new` reads is `new`'s; the rest is free.
    fn hand_over(&mut self, old: u64, new: u64, settings: &MemberSettings, epoch: u32) {
        for stream in self.streams.values_mut() {
            let heir = settings.streams.contains(&stream.name).then_some(new);
            for seat in &mut stream.seats {
                if seat.target == Some(old) {
                    seat.target = heir;
                }
                if let Some(hold) = seat.hold.filter(|hold| hold.member == old) {
                    // What it was to let go of is not told to the new one: it is free at once.
                    let heir = heir.filter(|_| hold.revoked.is_none());
                    seat.hold = heir.map(|member| Hold { member, epoch, revoked: None });
                }
            }
        }
    }

    fn add_stream(&mut self, stream: &StreamCount) {
        // One name, one stream: an older one of that name is deleted, and its own event on the way.
        let known = |(id, known): (&u64, &GroupStream)| (*id != stream.id && known.name == stream.name).then_some(*id);
        if let Some(older) = self.streams.iter().find_map(known) {
            let version = self.version;
            self.change_stream(&StreamCount { id: older, partitions: 0, ..stream.clone() }, version);
        }
        self.streams.entry(stream.id).or_insert_with(|| GroupStream {
            name: stream.name.clone(),
            seats: vec![Seat::default(); stream.partitions as usize],
        });
    }

    /// A stream has another number of partitions, or is gone. What its members held of what is gone is theirs no more.
    fn change_stream(&mut self, stream: &StreamCount, version: u32) {
        if stream.partitions > 0 {
            self.add_stream(stream);
        }
        let Some(known) = self.streams.get_mut(&stream.id) else { return };
        let count = stream.partitions as usize;
        let gone = known.seats.get(count..).unwrap_or_default();
        let holds: Vec<Hold> = gone.iter().filter_map(|seat| seat.hold).collect();
        known.seats.resize(count, Seat::default());
        if count == 0 {
            self.streams.remove(&stream.id);
        }
        for hold in holds {
            if let Some(member) = self.members.get_mut(&hold.member) {
                match hold.revoked {
                    Some(revoked) => member.forget_revoked(revoked),
                    None => member.version = version,
                }
            }
        }
    }

    fn set_target(&mut self, at: StreamPartition, target: Option<u64>, version: u32) {
        let Some(seat) = seat_mut(&mut self.streams, at) else { return };
        seat.target = target;
        let Some(hold) = &mut seat.hold else { return };
        let Some(holder) = self.members.get_mut(&hold.member) else { return };
        match hold.revoked {
            None if target != Some(hold.member) => {
                hold.revoked = Some(version);
                holder.note_revoked(version);
                holder.version = version;
            }
            // It comes back before it was let go of.
            Some(revoked) if target == Some(hold.member) => {
                hold.revoked = None;
                holder.forget_revoked(revoked);
                holder.version = version;
            }
            _ => {}
        }
    }

    fn set_hold(&mut self, at: StreamPartition, held: Option<(u64, u32)>, version: u32) {
        let Some(seat) = seat_mut(&mut self.streams, at) else { return };
        if let Some(hold) = seat.hold.take()
            && let Some(revoked) = hold.revoked
            && let Some(holder) = self.members.get_mut(&hold.member)
        {
            holder.forget_revoked(revoked);
        }
        if let Some((member, epoch)) = held
            && let Some(holder) = self.members.get_mut(&member)
        {
            seat.hold = Some(Hold { member, epoch, revoked: None });
            holder.version = version;
        }
    }

    /// A stream that nobody reads stays until nobody works on it any more.
    fn tidy(&mut self) {
        let idle = |stream: &GroupStream| stream.seats.iter().all(|seat| seat.hold.is_none());
        let unread = |(_, stream): &(&u64, &GroupStream)| idle(stream) && !self.reads(&stream.name);
        let unread: Vec<u64> = self.streams.iter().filter(unread).map(|(id, _)| *id).collect();
        unread.iter().for_each(|id| drop(self.streams.remove(id)));
    }
}

fn seat_mut(streams: &mut BTreeMap<u64, GroupStream>, at: StreamPartition) -> Option<&mut Seat> {
    streams.get_mut(&at.stream)?.seats.get_mut(at.partition as usize)
}
