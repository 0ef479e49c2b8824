//! What a lake keeps in each partition's durable state, under `lake/<id>`.
//!
//! ```text
//! u8 version (1) · rkyv archive of `StateV1`
//! ```
//! The position, the counters, the schema as of the last write, and the intent while there is one: a file that has been
//! decided and may or may not have been put. One blob, so that it changes as a whole.

use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId};
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::LakeError;
use crate::schema::{Schema, StoredNode};

const VERSION: u8 = 1;

/// A file that has been decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The partition's epoch when it was decided: the writer's.
    pub epoch: Epoch,
    /// The first offset.
    pub first: Offset,
    /// The last offset.
    pub last: Offset,
    /// The file's name under the lake's URL.
    pub name: String,
}

/// A lake's state in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeState {
    /// Which life of the partition this is about.
    pub incarnation: Incarnation,
    /// Everything below is in files.
    pub landed_end: Offset,
    /// Files put.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Records in error files.
    pub rejected: u64,
    /// Offsets that were in no log when their turn came.
    pub lost: u64,
    /// The schema of the intent, or of the last file.
    pub schema: Schema,
    /// What is being put.
    pub intent: Option<Intent>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StateV1 {
    incarnation: u64,
    landed_end: u64,
    files: u64,
    rows: u64,
    rejected: u64,
    lost: u64,
    schema_version: u32,
    schema_rest: bool,
    schema: Vec<StoredNode>,
    intent: Option<IntentV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct IntentV1 {
    epoch: u32,
    first: u64,
    last: u64,
    name: String,
}

impl LakeState {
    /// The state of a lake that begins at `start`.
    pub fn new(incarnation: Incarnation, start: Offset) -> Self {
        let schema = Schema::default();
        Self { incarnation, landed_end: start, files: 0, rows: 0, rejected: 0, lost: 0, schema, intent: None }
    }

    /// The blob.
    pub fn encode(&self) -> Vec<u8> {
        let stored = StateV1 {
            incarnation: self.incarnation.0,
            landed_end: self.landed_end.0,
            files: self.files,
            rows: self.rows,
            rejected: self.rejected,
            lost: self.lost,
            schema_version: self.schema.version,
            schema_rest: self.schema.rest,
            schema: self.schema.to_stored(),
            intent: self.intent.as_ref().map(|intent| IntentV1 {
                epoch: intent.epoch.0,
                first: intent.first.0,
                last: intent.last.0,
                name: intent.name.clone(),
            }),
        };
        let archive = rkyv::to_bytes::<rancor::Error>(&stored).expect("flat types always archive");
        let mut out = Vec::with_capacity(1 + archive.len());
        out.push(VERSION);
        out.extend_from_slice(&archive);
        out
    }

    /// Reads a blob of the partition with that incarnation.
    pub fn decode(blob: &[u8], partition: PartitionId, incarnation: Incarnation) -> Result<Self, LakeError> {
        let unusable = |reason: String| LakeError::State { partition, reason };
        let archive = match blob.split_first() {
            Some((&VERSION, archive)) => archive,
            Some((version, _)) => {
                return Err(unusable(format!(
                    "it has version {version}, this program knows {VERSION}: use a newer program"
                )));
            }
            None => return Err(unusable("it is empty".into())),
        };
        let stored = rkyv::from_bytes::<StateV1, rancor::Error>(archive)
            .map_err(|error| unusable(format!("it is no valid archive: {error}")))?;
        if stored.incarnation != incarnation.0 {
            let theirs = Incarnation(stored.incarnation);
            return Err(unusable(format!("it is of another life of the partition ({theirs}, this is {incarnation})")));
        }
        let schema = Schema::from_stored(stored.schema_version, stored.schema_rest, &stored.schema)
            .map_err(|error| unusable(error.to_string()))?;
        let intent = stored.intent.map(|intent| Intent {
            epoch: Epoch(intent.epoch),
            first: Offset(intent.first),
            last: Offset(intent.last),
            name: intent.name,
        });
        if let Some(intent) = &intent
            && (intent.first.0 != stored.landed_end || intent.last < intent.first)
        {
            let (first, last, end) = (intent.first, intent.last, stored.landed_end);
            return Err(unusable(format!("its intent {first}..={last} does not follow its position {end}")));
        }
        Ok(Self {
            incarnation,
            landed_end: Offset(stored.landed_end),
            files: stored.files,
            rows: stored.rows,
            rejected: stored.rejected,
            lost: stored.lost,
            schema,
            intent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(3);
    const INCARNATION: Incarnation = Incarnation(7);

    fn example() -> LakeState {
        let intent = Intent { epoch: Epoch(2), first: Offset(40), last: Offset(99), name: "f.parquet".into() };
        LakeState { files: 1, rows: 38, rejected: 2, intent: Some(intent), ..LakeState::new(INCARNATION, Offset(40)) }
    }

    #[test]
    fn a_state_comes_back_as_it_was_written() {
        let state = example();
        assert_eq!(LakeState::decode(&state.encode(), PARTITION, INCARNATION).ok(), Some(state));
    }

    #[test]
    fn cut_newer_foreign_and_contradicting_states_are_refused() {
        let blob = example().encode();
        for length in 0..blob.len() {
            assert!(LakeState::decode(&blob[..length], PARTITION, INCARNATION).is_err(), "{length} bytes");
        }
        let newer = [&[VERSION + 1], &blob[1..]].concat();
        assert!(LakeState::decode(&newer, PARTITION, INCARNATION).is_err());
        assert!(LakeState::decode(&blob, PARTITION, Incarnation(8)).is_err());
        let contradicting = LakeState { landed_end: Offset(41), ..example() }.encode();
        assert!(LakeState::decode(&contradicting, PARTITION, INCARNATION).is_err());
    }
}
