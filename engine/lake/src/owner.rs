//! Whose a directory is: `_millstream/owner.json`, put there, create-only, by the first lake that lands in it.
//!
//! Two lakes whose files hold different ranges would not meet at any file's name, and every record would be there twice. They
//! meet here: the second one stops before it has put anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_protocol::LakeId;
use serde::{Deserialize, Serialize};

use crate::Source;

/// The object's name under the lake's URL.
pub const OWNER_NAME: &str = "_millstream/owner.json";

/// Which lake a directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    lake: String,
    lake_id: u64,
    stream: String,
    /// By partition: lake numbers begin anew in another data directory, incarnations do not.
    incarnations: BTreeMap<u32, String>,
}

impl Owner {
    /// This lake.
    pub fn new(lake: &str, id: LakeId, stream: &str, sources: &[Arc<dyn Source>]) -> Self {
        let incarnations = sources.iter().map(|source| (source.partition().0, source.incarnation().to_string()));
        Self { lake: lake.into(), lake_id: id.0, stream: stream.into(), incarnations: incarnations.collect() }
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).expect("strings and numbers always serialise");
        out.push(b'\n');
        out
    }

    /// Whether the object that is there says the same lake; if not, what it says. A partition that is not in both does not
    /// count: it may have been offline at one of the two starts.
    pub fn is_in(&self, object: &[u8]) -> Result<(), String> {
        let theirs: Owner =
            serde_json::from_slice(object).map_err(|error| format!("it does not name an owner: {error}"))?;
        let mut shared = self.incarnations.iter().filter_map(|(at, mine)| Some((mine, theirs.incarnations.get(at)?)));
        let same_stream = self.stream == theirs.stream && shared.all(|(mine, theirs)| mine == theirs);
        if same_stream && self.lake == theirs.lake && self.lake_id == theirs.lake_id {
            return Ok(());
        }
        let another = if same_stream { "" } else { ", or an earlier or another one of that name" };
        Err(format!("the directory belongs to the lake {:?} of the stream {:?}{another}", theirs.lake, theirs.stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(lake_id: u64, incarnations: &[(u32, &str)]) -> Owner {
        let incarnations = incarnations.iter().map(|(at, life)| (*at, (*life).to_owned())).collect();
        Owner { lake: "l".into(), lake_id, stream: "s".into(), incarnations }
    }

    #[test]
    fn only_the_same_lake_on_the_same_life_of_the_stream_is_the_owner() {
        let there = owner(1, &[(0, "a"), (1, "b")]).encode();
        assert_eq!(owner(1, &[(0, "a"), (1, "b")]).is_in(&there), Ok(()));
        assert_eq!(owner(1, &[(1, "b"), (2, "c")]).is_in(&there), Ok(()), "partition 0 is offline");
        for other in [owner(2, &[(0, "a")]), owner(1, &[(0, "a"), (1, "x")])] {
            assert!(other.is_in(&there).is_err());
        }
        assert!(owner(1, &[]).is_in(b"hello").is_err());
    }
}
