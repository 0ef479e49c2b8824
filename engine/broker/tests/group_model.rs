//! The groups' machine against clients that are slow and obviously right: each works on what it was last told, and on what
//! it had before until it has finished that; it confirms late, twice, or never, and goes on working when it is dead.
//! Operations: join (dynamic, static, again with other streams), hear, finish, confirm, leave, expire, a stream with other
//! partitions, restart from events or from a snapshot. After each: of all who believe in a partition, at most one can
//! commit to it; who is in the group can commit to all it works on; a version rises exactly when an assignment
//! changes; joins and leaves move nothing of those that have no part in it. In the end everything is in one hand.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};

use millstream_broker::BrokerError;
use millstream_broker::group::{Event, Groups, Input, MemberSettings, Removal, StreamCount};
use millstream_log::Machine;
use millstream_protocol::frame::group::{GroupState, StreamPartition};
use millstream_protocol::{Code, Timestamp};
use proptest::prelude::*;

const GROUP: &str = "readers";
const STREAMS: u64 = 3;

#[derive(Debug, Clone)]
enum Op {
    /// A new member that reads the streams in the mask, perhaps under one of three instance ids.
    Join(u8, Option<u8>),
    /// The n-th client reads other streams from now on.
    Resubscribe(u8, u8),
    /// The n-th client hears what is assigned to it.
    Hear(u8),
    /// It lets go of what it was told to let go of.
    Finish(u8),
    /// It confirms what it has finished; or, again, something older.
    Confirm(u8, u8),
    Leave(u8, bool),
    /// Sessions end; the clients go on, not knowing.
    Expire(u8, u8),
    Partitions(u8, u8),
    Restart(bool),
    Delete,
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let n = any::<u8>;
    let op = prop_oneof![
        5 => (n(), prop::option::weighted(0.3, 0..3u8)).prop_map(|(mask, instance)| Op::Join(mask, instance)),
        1 => (n(), n()).prop_map(|(n, mask)| Op::Resubscribe(n, mask)),
        8 => n().prop_map(Op::Hear),
        6 => n().prop_map(Op::Finish),
        6 => (n(), 0..3u8).prop_map(|(n, back)| Op::Confirm(n, back)),
        2 => (n(), any::<bool>()).prop_map(|(n, for_good)| Op::Leave(n, for_good)),
        2 => (n(), n()).prop_map(|(n, m)| Op::Expire(n, m)),
        2 => (n(), 0..9u8).prop_map(|(stream, count)| Op::Partitions(stream, count)),
        1 => any::<bool>().prop_map(Op::Restart),
        1 => Just(Op::Delete),
    ];
    prop::collection::vec(op, 1..50)
}

type List = BTreeMap<StreamPartition, u32>;

/// A consumer as it sees itself.
#[derive(Debug, Clone)]
struct Client {
    number: u64,
    settings: MemberSettings,
    /// The newest assignment it heard of.
    told: (u32, List),
    /// What it works on.
    works_on: List,
    /// What it worked on when the partition went away: worth nothing any more, even if one of that number comes again.
    void: BTreeSet<(StreamPartition, u32)>,
    /// The versions it has finished, in order.
    finished: Vec<u32>,
    /// Whether the group still has it; it does not know.
    is_member: bool,
    /// How the group must call it once it has not.
    gone: Code,
}

struct World {
    groups: Groups,
    /// The same, from the events' bytes.
    replayed: Groups,
    group_ids: BTreeSet<u64>,
    streams: BTreeMap<u64, StreamCount>,
    next_stream: u64,
    clients: Vec<Client>,
    /// Whether all clients have always read all streams.
    alike: bool,
}

fn name(stream: u64) -> String {
    format!("s{stream}")
}

impl World {
    fn new(alike: bool) -> Self {
        let streams: BTreeMap<u64, StreamCount> =
            (0..STREAMS).map(|s| (s, StreamCount { name: name(s), id: s + 1, partitions: 2 + s as u32 })).collect();
        let (groups, replayed) = (Groups::default(), Groups::default());
        Self { groups, replayed, group_ids: BTreeSet::new(), streams, next_stream: STREAMS, clients: Vec::new(), alike }
    }

    fn step(&mut self, input: Input) -> Result<Vec<Event>, BrokerError> {
        let before = self.lists();
        let events = self.groups.step(&input)?;
        assert_eq!(self.groups.step(&input).unwrap(), events, "the same question, the same answer");
        for event in &events {
            self.groups.apply(event);
            self.replayed.apply(&Groups::decode_event(&Groups::encode_event(event)).unwrap());
            if let Event::GroupCreated { id, .. } = event {
                assert!(self.group_ids.insert(*id), "a group's number was given before");
            }
        }
        for (number, (version, list)) in self.lists() {
            if let Some((old_version, old)) = before.get(&number) {
                assert_eq!(version > *old_version, list != *old, "a version rises with a change, and only then");
                assert!(version >= *old_version);
            }
        }
        Ok(events)
    }

    /// What each member is assigned, by its number.
    fn lists(&self) -> BTreeMap<u64, (u32, List)> {
        let Ok(group) = self.groups.find(GROUP) else { return BTreeMap::new() };
        let list = |(number, member)| {
            let assignment = group.assignment(number, member);
            let list = assignment.partitions.iter().map(|held| (held.at, held.epoch)).collect();
            (number, (assignment.version, list))
        };
        group.members().map(list).collect()
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Join(mask, instance) => self.join(mask, instance),
            Op::Resubscribe(n, mask) if !self.alike => self.resubscribe(n, mask),
            Op::Resubscribe(..) => {}
            Op::Hear(n) => self.with(n, Self::hear),
            Op::Finish(n) => self.with(n, Self::finish),
            Op::Confirm(n, back) => self.with(n, |world, n| world.confirm(n, usize::from(back))),
            Op::Leave(n, for_good) => self.with(n, |world, n| world.leave(n, for_good)),
            Op::Expire(n, m) => self.expire(n, m),
            Op::Partitions(stream, count) => {
                // Whoever joins while a stream is gone does not read it.
                let least = u32::from(self.alike);
                self.partitions(u64::from(stream) % STREAMS, u32::from(count).max(least));
            }
            Op::Restart(from_snapshot) => {
                let state = match from_snapshot {
                    true => Groups::decode_snapshot(&self.groups.encode_snapshot()).unwrap(),
                    false => self.replayed.clone(),
                };
                assert_eq!(state, self.groups);
                self.groups = state;
            }
            Op::Delete => match self.groups.step(&Input::Delete { group: GROUP.into() }) {
                Ok(events) => {
                    assert!(self.lists().is_empty());
                    // With the group goes what it remembers of those it had.
                    self.clients.iter_mut().for_each(|client| client.gone = Code::UnknownMember);
                    for event in &events {
                        self.groups.apply(event);
                        self.replayed.apply(event);
                    }
                }
                Err(error) if error.code() == Code::GroupNotEmpty => assert!(!self.lists().is_empty()),
                Err(error) => assert_eq!(error.code(), Code::UnknownGroup),
            },
        }
        self.check();
    }

    fn with(&mut self, n: u8, act: impl Fn(&mut Self, usize)) {
        if !self.clients.is_empty() {
            act(self, usize::from(n) % self.clients.len());
        }
    }

    fn settings(&self, mask: u8, instance: Option<u8>) -> (MemberSettings, Vec<StreamCount>) {
        let mask = if self.alike { 0xff } else { mask };
        let reads = |stream: &u64| mask & (1 << stream) != 0;
        // A stream that is gone cannot be subscribed to.
        let streams: Vec<StreamCount> = self
            .streams
            .iter()
            .filter(|(s, stream)| reads(s) && stream.partitions > 0)
            .map(|(_, s)| s.clone())
            .collect();
        let settings = MemberSettings {
            instance: instance.map(|instance| format!("i{instance}")),
            client: "a test".into(),
            streams: streams.iter().map(|stream| stream.name.clone()).collect(),
            session_timeout_ms: 3_000,
            rebalance_timeout_ms: 1_000,
        };
        (settings, streams)
    }

    fn join(&mut self, mask: u8, instance: Option<u8>) {
        let (settings, streams) = self.settings(mask, instance);
        let number = self.clients.len() as u64 + 1;
        let input = Input::Join {
            group: GROUP.into(),
            member: number,
            settings: settings.clone(),
            streams: streams.clone(),
            now: Timestamp(7),
        };
        let before = self.lists();
        let targets = self.targets();
        let result = self.step(input.clone());
        if streams.is_empty() {
            assert_eq!(result.unwrap_err().code(), Code::IllegalSetting);
            return;
        }
        result.unwrap();
        assert_eq!(self.step(input).unwrap(), [], "joining again changes nothing");
        let same = |client: &&mut Client| {
            client.is_member && client.settings.instance.is_some() && client.settings.instance == settings.instance
        };
        let old = self.clients.iter_mut().find(same).map(|old| {
            (old.is_member, old.gone) = (false, Code::Fenced);
            (old.number, old.settings.streams.clone())
        });
        let after = self.lists();
        match old {
            Some((old, reads)) if reads == settings.streams => {
                // Same place, other epochs; the others may only gain what the old one was letting go of.
                let places = |list: &List| list.keys().copied().collect::<BTreeSet<_>>();
                assert!(places(&after[&number].1).is_superset(&places(&before[&old].1)));
                assert!(before[&old].1.iter().all(|(at, epoch)| after[&number].1[at] > *epoch));
                for (other, (_, list)) in after.iter().filter(|(other, _)| **other != number) {
                    assert!(places(list).is_superset(&places(&before[other].1)), "{other} lost something");
                }
            }
            None if self.alike => {
                for (at, target) in self.targets() {
                    let unmoved = targets.get(&at) == Some(&target);
                    assert!(unmoved || target == number, "what moves at a join goes to the one who joins");
                }
            }
            _ => {}
        }
        self.clients.push(Client {
            number,
            settings,
            told: (0, List::new()),
            works_on: List::new(),
            void: BTreeSet::new(),
            finished: Vec::new(),
            is_member: true,
            gone: Code::UnknownMember,
        });
        let at = self.clients.len() - 1;
        self.hear(at);
    }

    fn targets(&self) -> BTreeMap<StreamPartition, u64> {
        let Ok(group) = self.groups.find(GROUP) else { return BTreeMap::new() };
        let mut targets = BTreeMap::new();
        for (stream, seats) in group.streams() {
            for (seat, partition) in seats.seats().iter().zip(0..) {
                seat.target.map(|target| targets.insert(StreamPartition { stream, partition }, target));
            }
        }
        targets
    }

    fn resubscribe(&mut self, n: u8, mask: u8) {
        self.with(n, |world, n| {
            let instance = None;
            let (settings, streams) = world.settings(mask, instance);
            let client = &world.clients[n];
            let settings = MemberSettings { instance: client.settings.instance.clone(), ..settings };
            if streams.is_empty() || !client.is_member {
                return;
            }
            let (member, now) = (client.number, Timestamp(8));
            let input = Input::Join { group: GROUP.into(), member, settings: settings.clone(), streams, now };
            world.step(input).unwrap();
            world.clients[n].settings = settings;
        });
    }

    /// A heartbeat: the newest assignment, or the word that it is no member any more; then it stops.
    fn hear(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let found = self.groups.find(GROUP).and_then(|group| {
            let member = group.member(client.number)?;
            Ok(group.assignment(client.number, member))
        });
        match found {
            Ok(assignment) => {
                assert!(client.is_member);
                let list: List = assignment.partitions.iter().map(|held| (held.at, held.epoch)).collect();
                // Work on what is new begins at once; what is no more in the list is finished first.
                client.works_on.extend(list.iter().map(|(at, epoch)| (*at, *epoch)));
                client.told = (assignment.version, list);
            }
            Err(error) => {
                assert!(!client.is_member);
                let deleted = error.code() == Code::UnknownGroup;
                assert!(deleted || error.code() == client.gone, "{error}");
                client.works_on.clear();
            }
        }
    }

    fn finish(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.works_on.retain(|at, _| client.told.1.contains_key(at));
        client.finished.push(client.told.0);
    }

    fn confirm(&mut self, n: usize, back: usize) {
        let client = &self.clients[n];
        let Some(version) = client.finished.iter().rev().nth(back).copied() else { return };
        let (member, is_member) = (client.number, client.is_member);
        let result = self.step(Input::Applied { group: GROUP.into(), member, version });
        assert_eq!(result.is_ok(), is_member);
        if is_member {
            let beyond = self.lists()[&member].0 + 1;
            let lie = self.step(Input::Applied { group: GROUP.into(), member, version: beyond });
            assert_eq!(lie.unwrap_err().code(), Code::IllegalSetting);
        }
    }

    fn leave(&mut self, n: usize, for_good: bool) {
        let client = &self.clients[n];
        let (member, is_member) = (client.number, client.is_member);
        let stays = client.settings.instance.is_some() && !for_good;
        let before = self.lists();
        let result = self.step(Input::Leave { group: GROUP.into(), member, for_good, now: Timestamp(9) });
        assert_eq!(result.is_ok(), is_member);
        if is_member && !stays {
            let client = &mut self.clients[n];
            client.is_member = false;
            client.works_on.clear();
            self.check_nobody_lost(&before);
        }
    }

    fn expire(&mut self, n: u8, m: u8) {
        let Ok(id) = self.groups.find(GROUP).map(|group| group.id) else { return };
        let count = self.clients.len();
        let dead = [usize::from(n) % count, usize::from(m) % count];
        let members = dead.iter().map(|n| (self.clients[*n].number, Removal::SessionEnded)).collect();
        let before = self.lists();
        self.step(Input::Expire { group: id, members, now: Timestamp(10) }).unwrap();
        // They go on working, as they do not know.
        dead.iter().for_each(|n| self.clients[*n].is_member = false);
        self.check_nobody_lost(&before);
    }

    /// Who stays when others go gets more, never less.
    fn check_nobody_lost(&self, before: &BTreeMap<u64, (u32, List)>) {
        if self.alike {
            for (number, (_, list)) in self.lists() {
                assert!(before[&number].1.keys().all(|at| list.contains_key(at)), "{number} lost something");
            }
        }
    }

    fn partitions(&mut self, s: u64, count: u32) {
        let stream = self.streams.get_mut(&s).unwrap();
        if stream.partitions == 0 && count > 0 {
            // Made again: another stream of the same name.
            self.next_stream += 1;
            stream.id = self.next_stream;
        }
        stream.partitions = count;
        let stream = stream.clone();
        for client in &mut self.clients {
            let gone = |at: &StreamPartition| at.stream == stream.id && at.partition >= count;
            client.void.extend(client.works_on.iter().filter(|(at, _)| gone(at)).map(|(at, epoch)| (*at, *epoch)));
            client.works_on.retain(|at, _| !gone(at));
            client.told.1.retain(|at, _| !gone(at));
        }
        let groups = self.groups.iter().map(|group| group.id).collect();
        self.step(Input::StreamChanged { groups, stream }).unwrap();
    }

    fn check(&self) {
        let mut holders: BTreeMap<StreamPartition, u64> = BTreeMap::new();
        let mut workers: BTreeMap<StreamPartition, u64> = BTreeMap::new();
        for client in &self.clients {
            for (at, epoch) in &client.works_on {
                let committed = self.groups.check_commit(GROUP, Some(client.number), *at, *epoch);
                assert_eq!(committed.is_ok(), client.is_member, "{client:?}: {at:?} {epoch} {committed:?}");
                if committed.is_ok() {
                    let other = holders.insert(*at, client.number);
                    assert_eq!(other, None, "two may commit to {at:?}");
                }
                if client.is_member {
                    assert_eq!(workers.insert(*at, client.number), None, "two work on {at:?}");
                }
            }
            for (at, epoch) in &client.void {
                assert!(self.groups.check_commit(GROUP, Some(client.number), *at, *epoch).is_err());
            }
            for (at, epoch) in &client.told.1 {
                for wrong in [epoch + 1, 0] {
                    assert!(self.groups.check_commit(GROUP, Some(client.number), *at, wrong).is_err());
                }
            }
        }
        assert_eq!(self.replayed, self.groups);
        if let Ok(group) = self.groups.find(GROUP) {
            let members: BTreeSet<u64> = group.members().map(|(number, _)| number).collect();
            let believed: BTreeSet<u64> = self.clients.iter().filter(|c| c.is_member).map(|c| c.number).collect();
            assert_eq!(members, believed);
        }
    }

    /// All hear, finish and confirm, until nothing changes: then each partition that is read is in one hand.
    fn settle(&mut self) {
        for _ in 0..4 {
            for n in 0..self.clients.len() {
                self.hear(n);
                self.finish(n);
                if self.clients[n].is_member {
                    self.confirm(n, 0);
                }
                self.check();
            }
        }
        let members: Vec<&Client> = self.clients.iter().filter(|client| client.is_member).collect();
        for stream in self.streams.values() {
            let is_read = members.iter().any(|client| client.settings.streams.contains(&stream.name));
            for partition in 0..stream.partitions {
                let at = StreamPartition { stream: stream.id, partition };
                let owners = members.iter().filter(|client| client.works_on.contains_key(&at)).count();
                assert_eq!(owners, usize::from(is_read), "{at:?}");
            }
        }
        if let Ok(group) = self.groups.find(GROUP) {
            let expected = if members.is_empty() { GroupState::Empty } else { GroupState::Stable };
            assert_eq!(group.state(), expected);
            assert!(group.members().all(|(_, member)| member.revoking().is_none()));
            // Streams that nobody reads, and of which nobody has anything in hand, are forgotten.
            let read = |name: &String| members.iter().any(|client| client.settings.streams.contains(name));
            assert!(group.streams().all(|(_, stream)| read(&stream.name)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn members_that_read_the_same_hand_over_without_two_owners(operations in operations()) {
        let mut world = World::new(true);
        operations.iter().for_each(|op| world.run(op));
        world.settle();
    }

    #[test]
    fn members_that_read_different_streams_hand_over_without_two_owners(operations in operations()) {
        let mut world = World::new(false);
        operations.iter().for_each(|op| world.run(op));
        world.settle();
    }
}

/// By hand: `cargo test --release -p millstream-broker --test group_model -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long it takes; run it in release"]
fn how_long_a_step_takes_when_one_of_many_leaves() {
    for (members, partitions) in [(100, 1_000), (1_000, 50_000)] {
        let mut groups = Groups::default();
        let stream = StreamCount { name: "s".into(), id: 1, partitions };
        let settings = MemberSettings {
            instance: None,
            client: String::new(),
            streams: vec!["s".into()],
            session_timeout_ms: 3_000,
            rebalance_timeout_ms: 1_000,
        };
        let mut run = |input: Input| {
            let started = std::time::Instant::now();
            let events = groups.step(&input).unwrap();
            let step = started.elapsed();
            let bytes: usize = events.iter().map(|event| Groups::encode_event(event).len()).sum();
            events.iter().for_each(|event| groups.apply(event));
            (step, started.elapsed(), bytes)
        };
        let mut slowest = std::time::Duration::ZERO;
        for member in 1..=members {
            let (streams, settings, group) = (vec![stream.clone()], settings.clone(), GROUP.to_owned());
            let (_, all, _) = run(Input::Join { group, member, settings, streams, now: Timestamp(1) });
            slowest = slowest.max(all);
        }
        let (step, all, bytes) =
            run(Input::Leave { group: GROUP.into(), member: 17, for_good: true, now: Timestamp(2) });
        println!(
            "{members} members, {partitions} partitions: one leaves: step {step:?}, with apply {all:?}, {bytes} bytes of \
             events; slowest join {slowest:?}"
        );
    }
}
