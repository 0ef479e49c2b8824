//! What members of consumer groups, and who asks about them, did and saw.
//!
//! ```text
//! {"t":9,"proc":4,"e":{"group":{"group":0,"member":17,"did":{"assigned":{"at":{"stream":0,"part":2},"epoch":3}}}}}
//! ```
//! A *member* here is one life in a group: a consumer that was fenced and joined again has another number. One process
//! records what its members do, in the order in which they do it, and writes a line out before it acts on it: a member that
//! is killed has then not done anything that is not on record.
//! Not here: what of it is wrong (`log::group`).

use serde::{Deserialize, Serialize};

use super::Place;
use crate::value::ValueId;

/// Something of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfGroup {
    /// Which group; numbered as the harness likes.
    pub group: u32,
    /// Which member; 0: somebody who is none.
    pub member: u64,
    /// What.
    #[serde(rename = "did")]
    pub what: InGroup,
}

/// What was done or seen in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InGroup {
    /// The member reads all partitions of these streams, or those of them that it is given.
    Joined {
        /// The streams.
        streams: Vec<u32>,
    },
    /// The member was told that it holds a partition.
    Assigned {
        /// Which.
        at: Place,
        /// The assignment epoch under which it does.
        epoch: u32,
    },
    /// The member was told to let go of a partition and has finished with it. Recorded before it confirms that.
    Revoked {
        /// Which.
        at: Place,
        /// The epoch under which it held it.
        epoch: u32,
    },
    /// The member learned that it holds a partition no more: it is a member no longer.
    Lost {
        /// Which.
        at: Place,
        /// The epoch under which it held it.
        epoch: u32,
    },
    /// The member works on records: what is recorded here and committed counts as done.
    Delivered {
        /// Of which partition.
        at: Place,
        /// The epoch under which it holds it.
        epoch: u32,
        /// Offset and value, as they came; no value: the payload was not whole.
        records: Vec<(u64, Option<ValueId>)>,
    },
    /// A commit is about to be sent.
    Commit {
        /// Of which partition.
        at: Place,
        /// The epoch it carries.
        epoch: u32,
        /// The next offset to read.
        offset: u64,
    },
    /// What became of it.
    CommitDone {
        /// Of which partition.
        at: Place,
        /// The epoch it carried.
        epoch: u32,
        /// The next offset to read.
        offset: u64,
        /// When it was sent.
        invoked_ns: u64,
        /// What became of it.
        outcome: CommitOutcome,
    },
    /// An answer to how far the group is.
    Committed {
        /// In which partition.
        at: Place,
        /// The next offset to read; none: nothing is committed.
        offset: Option<u64>,
        /// When it was asked.
        invoked_ns: u64,
    },
    /// The group's offset was moved by hand, while it had no members: what was committed before does not bind any more.
    Reset {
        /// In which partition.
        at: Place,
        /// Where to.
        offset: u64,
        /// When it was asked for.
        invoked_ns: u64,
    },
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitOutcome {
    /// It is durable.
    Ok,
    /// It surely did not happen.
    Refused {
        /// The error's number.
        code: u16,
    },
    /// It may have happened.
    Unknown {
        /// The error's number.
        code: u16,
    },
}

impl InGroup {
    /// The partition it is about; a join is about none.
    pub fn at(&self) -> Option<Place> {
        match self {
            Self::Joined { .. } => None,
            Self::Assigned { at, .. }
            | Self::Revoked { at, .. }
            | Self::Lost { at, .. }
            | Self::Delivered { at, .. }
            | Self::Commit { at, .. }
            | Self::CommitDone { at, .. }
            | Self::Committed { at, .. }
            | Self::Reset { at, .. } => Some(*at),
        }
    }
}
