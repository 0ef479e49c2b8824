//! The groups' events and snapshots as bytes: rkyv archives under a version byte.

use std::collections::BTreeMap;

use millstream_log::Machine;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::event::{Event, MemberSettings};
use super::state::{Group, GroupStream, Groups, Hold, Member, Seat};

const VERSION: u8 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct MemberImage {
    number: u64,
    settings: MemberSettings,
    version: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct HoldImage {
    member: u64,
    epoch: u32,
    revoked: Option<u32>,
}

#[derive(Archive, Serialize, Deserialize)]
struct SeatImage {
    target: Option<u64>,
    hold: Option<HoldImage>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StreamImage {
    id: u64,
    name: String,
    seats: Vec<SeatImage>,
}

#[derive(Archive, Serialize, Deserialize)]
struct GroupImage {
    id: u64,
    name: String,
    version: u32,
    epoch: u32,
    empty_since_ms: i64,
    members: Vec<MemberImage>,
    streams: Vec<StreamImage>,
    fenced: Vec<u64>,
}

#[derive(Archive, Serialize, Deserialize)]
struct Image {
    last_id: u64,
    groups: Vec<GroupImage>,
    leaving: Vec<u64>,
}

impl From<&Group> for GroupImage {
    fn from(group: &Group) -> Self {
        let members = group.members.iter().map(|(number, member)| MemberImage {
            number: *number,
            settings: (*member.settings).clone(),
            version: member.version,
        });
        let seat = |seat: &Seat| SeatImage {
            target: seat.target,
            hold: seat.hold.map(|hold| HoldImage { member: hold.member, epoch: hold.epoch, revoked: hold.revoked }),
        };
        let streams = group.streams.iter().map(|(id, stream)| StreamImage {
            id: *id,
            name: stream.name.clone(),
            seats: stream.seats.iter().map(seat).collect(),
        });
        Self {
            id: group.id,
            name: group.name.clone(),
            version: group.version,
            epoch: group.epoch,
            empty_since_ms: group.empty_since_ms,
            members: members.collect(),
            streams: streams.collect(),
            fenced: group.fenced.iter().copied().collect(),
        }
    }
}

impl From<GroupImage> for Group {
    fn from(image: GroupImage) -> Self {
        let members = image.members.into_iter();
        let mut members: BTreeMap<u64, Member> =
            members.map(|member| (member.number, Member::new(&member.settings, member.version))).collect();
        let mut streams = BTreeMap::new();
        for stream in image.streams {
            let seats = stream.seats.into_iter().map(|seat| {
                let hold = seat.hold.map(|hold| {
                    if let (Some(revoked), Some(member)) = (hold.revoked, members.get_mut(&hold.member)) {
                        member.note_revoked(revoked);
                    }
                    Hold { member: hold.member, epoch: hold.epoch, revoked: hold.revoked }
                });
                Seat { target: seat.target, hold }
            });
            let seats = seats.collect();
            streams.insert(stream.id, GroupStream { name: stream.name, seats });
        }
        Group {
            id: image.id,
            name: image.name,
            version: image.version,
            epoch: image.epoch,
            empty_since_ms: image.empty_since_ms,
            members,
            streams,
            fenced: image.fenced.into_iter().collect(),
        }
    }
}

impl Machine for Groups {
    type Event = Event;

    fn apply(&mut self, event: &Event) {
        Groups::apply(self, event);
    }

    fn encode_event(event: &Event) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Error>(event).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_event(bytes: &[u8]) -> Result<Event, String> {
        rkyv::from_bytes::<Event, rancor::Error>(versioned(bytes)?).map_err(|error| error.to_string())
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let image = Image {
            last_id: self.last_id,
            groups: self.groups.values().map(GroupImage::from).collect(),
            leaving: self.leaving.iter().copied().collect(),
        };
        let archive = rkyv::to_bytes::<rancor::Error>(&image).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<Self, String> {
        let image = rkyv::from_bytes::<Image, rancor::Error>(versioned(bytes)?).map_err(|error| error.to_string())?;
        let names = image.groups.iter().map(|group| (group.name.clone(), group.id)).collect();
        let groups = image.groups.into_iter().map(|group| (group.id, Group::from(group))).collect();
        Ok(Groups { last_id: image.last_id, groups, names, leaving: image.leaving.into_iter().collect() })
    }
}

fn versioned(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((&VERSION, archive)) => Ok(archive),
        Some((version, _)) => Err(format!("version {version} is newer than this program")),
        None => Err("no bytes".to_owned()),
    }
}
