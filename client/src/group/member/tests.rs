//! The member by example, and two of them against a server that hands partitions over by the rules: whatever the order
//! of heartbeats, answers and what the applications do, no partition is worked on by both.

use proptest::prelude::*;

use super::*;

fn settings() -> Settings {
    Settings {
        group: "g".into(),
        instance: None,
        streams: vec!["rides".into()],
        session_timeout: Duration::from_secs(15),
        rebalance_timeout: Duration::from_secs(60),
        client: "test".into(),
    }
}

fn at(partition: u32) -> StreamPartition {
    StreamPartition { stream: 5, partition }
}

fn held(partition: u32, epoch: u32) -> AssignedPartition {
    AssignedPartition { at: at(partition), epoch }
}

fn told(version: u32, partitions: &[AssignedPartition]) -> Membership {
    let assignment = Some(Assignment { version, partitions: partitions.to_vec() });
    Membership { assignment, heartbeat_interval_ms: 3_000 }
}

fn heartbeat(member: &Member) -> (u32, u32) {
    match member.ask() {
        Some(Ask::Heartbeat(heartbeat)) => (heartbeat.seen, heartbeat.applied),
        other => panic!("no heartbeat: {other:?}"),
    }
}

fn joined(version: u32, partitions: &[AssignedPartition]) -> Member {
    let mut member = Member::new(settings(), 1);
    assert!(matches!(member.ask(), Some(Ask::Join(GroupJoin { member: 1, session_timeout_ms: 15_000, .. }))));
    member.answered(told(version, partitions));
    member
}

#[test]
fn what_is_added_is_confirmed_at_once_and_what_goes_when_it_is_let_go_of() {
    let mut member = joined(7, &[held(0, 3), held(1, 7)]);
    assert_eq!(heartbeat(&member), (7, 7), "it works on nothing yet");
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(0, 3), held(1, 7)])));
    assert_eq!((member.next_change(), heartbeat(&member)), (None, (7, 7)));

    assert!(member.answered(told(9, &[held(1, 7)])));
    assert_eq!(heartbeat(&member), (9, 7), "it still works on partition 0");
    assert_eq!(member.next_change(), Some(Change::Revoking(vec![at(0)])));
    assert_eq!(heartbeat(&member), (9, 7), "told is not let go of");
    assert!(member.released(&[at(0)]), "the server must hear of it");
    assert_eq!((member.next_change(), heartbeat(&member)), (None, (9, 9)));

    assert!(member.answered(told(10, &[held(1, 7), held(2, 10)])));
    assert_eq!(heartbeat(&member), (10, 10), "more is confirmed before it is begun");
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(2, 10)])));
}

#[test]
fn what_came_back_before_it_was_let_go_of_never_went() {
    let mut member = joined(1, &[held(0, 1)]);
    member.next_change();
    member.answered(told(2, &[]));
    member.answered(told(3, &[held(0, 1)]));
    assert_eq!((member.next_change(), heartbeat(&member)), (None, (3, 3)));
    // Under another epoch somebody else had it meanwhile, whatever this member believed.
    member.answered(told(4, &[held(0, 4)]));
    assert_eq!(member.next_change(), Some(Change::Revoking(vec![at(0)])));
    assert_eq!(heartbeat(&member), (4, 3));
    member.released(&[at(0)]);
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(0, 4)])));
    assert_eq!(heartbeat(&member), (4, 4));
}

#[test]
fn an_answer_that_is_overtaken_changes_nothing() {
    let mut member = joined(1, &[held(0, 1)]);
    member.answered(told(3, &[held(1, 3)]));
    assert!(!member.answered(told(2, &[held(0, 1)])));
    assert!(!member.answered(Membership { assignment: None, heartbeat_interval_ms: 3_000 }));
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(1, 3)])));
}

#[test]
fn a_lost_membership_tells_what_went_with_it_and_joins_under_another_number() {
    let mut member = joined(5, &[held(0, 1), held(1, 1)]);
    member.next_change();
    member.answered(told(6, &[held(1, 1)]));
    assert_eq!(member.next_change(), Some(Change::Revoking(vec![at(0)])));
    member.lose(2);
    assert_eq!(member.next_change(), Some(Change::Lost(vec![at(0), at(1)])));
    assert!(matches!(member.ask(), Some(Ask::Join(GroupJoin { member: 2, .. }))));
    assert!(!member.released(&[at(0)]), "nobody waits for it any more");
    // A new group counts from the beginning.
    assert!(member.answered(told(1, &[held(0, 1)])));
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(0, 1)])));
    assert_eq!(heartbeat(&member), (1, 1));
}

#[test]
fn a_fenced_member_ends_and_one_that_leaves_asks_for_nothing_else() {
    let mut member = joined(5, &[held(0, 1)]);
    member.next_change();
    member.end(Error::local(Code::Fenced, "another one"));
    assert_eq!((member.ask(), member.next_change()), (None, Some(Change::Lost(vec![at(0)]))));
    assert_eq!(member.ended().map(Error::code), Some(Code::Fenced));

    let mut member = joined(5, &[held(0, 1)]);
    member.leave(true);
    let leave = Ask::Leave { group: "g".into(), member: 1, for_good: true };
    assert_eq!(member.ask(), Some(leave));
    assert!(!member.answered(told(6, &[])), "a late answer to a heartbeat");
    member.left();
    assert_eq!(member.ask(), None);
}

#[test]
fn what_was_claimed_and_not_begun_is_told_again() {
    let mut member = joined(5, &[held(0, 1), held(1, 1)]);
    member.next_change();
    member.answered(told(6, &[held(1, 1)]));
    assert!(member.unclaim(&[held(0, 1), held(1, 1)]));
    assert_eq!(heartbeat(&member), (6, 6));
    assert_eq!(member.next_change(), Some(Change::Assigned(vec![held(1, 1)])));
}

#[test]
fn a_heartbeat_waits_as_the_server_says_and_never_more_than_a_third_of_the_session() {
    let mut member = joined(1, &[]);
    let wait = |member: &Member| member.ask().expect("a heartbeat").wait();
    assert_eq!(wait(&member), Duration::from_secs(3));
    member.answered(Membership { assignment: None, heartbeat_interval_ms: 60_000 });
    assert_eq!(wait(&member), Duration::from_secs(5));
    member.answered(Membership { assignment: None, heartbeat_interval_ms: 0 });
    assert_eq!(wait(&member), Duration::from_millis(1));
}

#[test]
fn refusals_are_told_apart() {
    let member = joined(1, &[]);
    let heartbeat = member.ask().expect("a heartbeat");
    let join = Member::new(settings(), 1).ask().expect("a join");
    let of = |ask: &Ask, code| judge(ask, &Error::from(millstream_protocol::frame::Refusal::new(code, "")));
    for ask in [&heartbeat, &join] {
        let of = |code| of(ask, code);
        assert_eq!([Code::UnknownMember, Code::UnknownGroup].map(of), [Verdict::Rejoin; 2]);
        assert_eq!([Code::ShuttingDown, Code::Throttled, Code::TimedOut].map(of), [Verdict::Again; 3]);
        assert_eq!([Code::Fenced, Code::UnknownStream, Code::NotAllowed].map(of), [Verdict::End; 3]);
        assert_eq!(judge(ask, &Error::lost("gone", "reset")), Verdict::Again);
        assert_eq!(judge(ask, &Error::unreachable("h:1", "nobody")), Verdict::Again);
    }
    let illegal = [&heartbeat, &join].map(|ask| of(ask, Code::IllegalSetting));
    assert_eq!(illegal, [Verdict::Rejoin, Verdict::End], "a version never given; a setting out of range");
}

const PARTITIONS: u32 = 5;

/// A server as it should be: a partition is held by one member; it goes on when its holder has confirmed a list
/// without it.
#[derive(Default)]
struct Server {
    version: u32,
    /// Who is meant to have it, who has it under which epoch.
    target: [usize; PARTITIONS as usize],
    holder: [Option<(usize, u32)>; PARTITIONS as usize],
    /// The version of the first list that its holder was told with it, and of the first one without it again.
    told: [Option<u32>; PARTITIONS as usize],
    revoked: [Option<u32>; PARTITIONS as usize],
    /// The newest list told to each member, by version; and what each has confirmed.
    lists: [BTreeMap<u32, Vec<AssignedPartition>>; 2],
}

impl Server {
    fn list(&mut self, member: usize) -> Assignment {
        let meant = (0..PARTITIONS).filter(|p| self.target[*p as usize] == member);
        let mine: Vec<AssignedPartition> = meant
            .filter_map(|p| match self.holder[p as usize] {
                Some((holder, epoch)) if holder == member => Some(held(p, epoch)),
                _ => None,
            })
            .collect();
        let last = self.lists[member].last_key_value().map(|(version, list)| (*version, list.clone()));
        let version = match last {
            Some((version, list)) if list == mine => version,
            _ => {
                self.version += 1;
                self.lists[member].insert(self.version, mine.clone());
                for p in 0..PARTITIONS as usize {
                    let is_listed = mine.iter().any(|partition| partition.at == at(p as u32));
                    match self.holder[p] {
                        Some((holder, _)) if holder != member => {}
                        _ if is_listed => {
                            self.told[p].get_or_insert(self.version);
                            self.revoked[p] = None;
                        }
                        _ if self.told[p].is_some() => drop(self.revoked[p].get_or_insert(self.version)),
                        _ => {}
                    }
                }
                self.version
            }
        };
        Assignment { version, partitions: mine }
    }

    /// What members hold, have confirmed, and are meant to have decides who gets what is free.
    fn settle(&mut self) {
        for p in 0..PARTITIONS as usize {
            if self.holder[p].is_none() {
                self.version += 1;
                self.holder[p] = Some((self.target[p], self.version));
            }
        }
    }

    fn heard(&mut self, member: usize, heartbeat: &GroupHeartbeat) -> Membership {
        for p in 0..PARTITIONS as usize {
            let is_mine = matches!(self.holder[p], Some((holder, _)) if holder == member);
            let is_free = match (self.told[p], self.revoked[p]) {
                (None, _) => true,
                (Some(_), Some(version)) => heartbeat.applied >= version,
                (Some(_), None) => false,
            };
            if is_mine && self.target[p] != member && is_free {
                (self.holder[p], self.told[p], self.revoked[p]) = (None, None, None);
            }
        }
        self.settle();
        let assignment = self.list(member);
        let assignment = (assignment.version > heartbeat.seen).then_some(assignment);
        Membership { assignment, heartbeat_interval_ms: 1_000 }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Retarget {
        partition: u32,
        member: usize,
    },
    /// A heartbeat goes out; its answer comes with a later `Answer`, in any order.
    Beat(usize),
    Answer {
        member: usize,
        which: u16,
    },
    /// The application looks for changes; it lets go only with `Confirm`.
    Look(usize),
    Confirm(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..PARTITIONS, 0..2_usize).prop_map(|(partition, member)| Step::Retarget { partition, member }),
        4 => (0..2_usize).prop_map(Step::Beat),
        4 => (0..2_usize, any::<u16>()).prop_map(|(member, which)| Step::Answer { member, which }),
        3 => (0..2_usize).prop_map(Step::Look),
        3 => (0..2_usize).prop_map(Step::Confirm),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_partition_is_worked_on_by_two(steps in prop::collection::vec(step(), 1..120)) {
        let mut server = Server::default();
        server.settle();
        let mut members = [Member::new(settings(), 1), Member::new(settings(), 2)];
        for (index, member) in members.iter_mut().enumerate() {
            let assignment = Some(server.list(index));
            member.answered(Membership { assignment, heartbeat_interval_ms: 1_000 });
        }
        let mut answers: [Vec<Membership>; 2] = Default::default();
        let mut revoking: [Vec<StreamPartition>; 2] = Default::default();
        // And in the end all comes to rest.
        let rest = (0..8).flat_map(|_| {
            (0..2).flat_map(move |m| [Step::Look(m), Step::Confirm(m), Step::Beat(m), Step::Answer { member: m, which: 0 }])
        });
        let drain = (0..120).flat_map(|_| (0..2).map(|member| Step::Answer { member, which: 0 }));
        for step in steps.into_iter().chain(drain).chain(rest) {
            match step {
                Step::Retarget { partition, member } => server.target[partition as usize] = member,
                Step::Beat(member) => {
                    if let Some(Ask::Heartbeat(heartbeat)) = members[member].ask() {
                        answers[member].push(server.heard(member, &heartbeat));
                    }
                }
                Step::Answer { member, which } => {
                    if !answers[member].is_empty() {
                        let at = usize::from(which) % answers[member].len();
                        let answer = answers[member].swap_remove(at);
                        members[member].answered(answer);
                    }
                }
                Step::Look(member) => {
                    if revoking[member].is_empty()
                        && let Some(Change::Revoking(partitions)) = members[member].next_change()
                    {
                        revoking[member] = partitions;
                    }
                }
                Step::Confirm(member) => {
                    let partitions = std::mem::take(&mut revoking[member]);
                    members[member].released(&partitions);
                }
            }
            for at in members[0].working.keys() {
                prop_assert!(!members[1].working.contains_key(at), "{at:?} is worked on by both");
            }
        }
        for p in 0..PARTITIONS {
            let target = server.target[p as usize];
            prop_assert!(members[target].working.contains_key(&at(p)), "partition {p} has not come to {target}");
        }
    }
}
