//! Consumer groups: who is in them, who works on which partition, how far each group is. A pure machine, [`Groups`], and
//! pure [`Sessions`] beside it.
//!
//! | input | events |
//! | --- | --- |
//! | `Join` | `GroupCreated`, `MemberJoined` or `MemberReplaced`, `Assigned` |
//! | `Applied` | `Assigned`: what the member let go of goes on |
//! | `Leave`, `Expire` | `MemberRemoved`, `Assigned` |
//! | `StreamChanged` | `StreamChanged`, `Assigned` |
//! | `Create`, `Delete`, `Retire` | `GroupCreated`, `GroupDeleted`; once its offsets are gone `GroupRemoved` |
//!
//! A partition of a group has a *target*, the member it is meant for ([`assign`]), and at most one *holder*, the member that
//! may work on it, under an assignment epoch. When the target changes, the partition goes from the holder's assignment; it
//! stays the holder's until that one has confirmed the version that took it, has left, or is dead. Only then does it
//! go to its target, under a new epoch. A commit is taken from the holder under its epoch, and from nobody else.
//!
//! Invariants
//! - A group's number is given once. A partition has at most one holder, by its type; epochs of its holds rise.
//! - A member's version rises with every change of its assignment, and with nothing else that matters to it.
//! - Members that neither gain nor lose partitions see no change.
//!
//! Not here: time and waiting (the shell's), where offsets are kept ([`offsets`]). Proof: `tests/group_model.rs`,
//! `tests/assignment.rs`.

pub mod assign;
mod commits;
mod encoding;
mod event;
mod members;
pub mod offsets;
mod overview;
mod sessions;
mod shell;
mod state;
mod step;
mod streams;

pub use event::{Event, Held, MemberSettings, Removal, StreamCount, Target};
pub use members::Heartbeat;
pub use sessions::{MemberKey, Sessions};
pub(crate) use shell::GroupShell;
pub use shell::GroupStats;
pub use state::{Group, GroupStream, Groups, Hold, Member, Seat};
pub use step::Input;
