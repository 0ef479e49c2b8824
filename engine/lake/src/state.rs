//! What a lake keeps in each partition's durable state, under `lake/<id>`.
//!
//! ```text
//! u8 version (2) · rkyv archive of `StateV2`
//! ```
//! A floor (everything below is in files), what has landed above it by directory, the counters, the schema, and the intents
//! while there are some: files that have been decided and may or may not have been put. One blob, so that it changes as a whole.

use std::collections::BTreeMap;

use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId};
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::LakeError;
use crate::layout::ERRORS;
use crate::schema::{Schema, StoredNode};

const VERSION: u8 = 2;

/// A file that has been decided: all records of that directory from the first to the last offset that are not in another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The partition's epoch when it was decided: the writer's.
    pub epoch: Epoch,
    /// The directory; `errors` for an error file.
    pub directory: String,
    /// The first record's offset.
    pub first: Offset,
    /// The last record's offset.
    pub last: Offset,
    /// Rows; in an error file the records in it.
    pub rows: u64,
    /// In an error file, the offsets that were lost.
    pub lost: u64,
    /// The file's name under the lake's URL.
    pub name: String,
    /// Its schema, by version; 0 if it has none.
    pub schema: u32,
}

impl Intent {
    /// Whether it is an error file.
    pub fn is_errors(&self) -> bool {
        self.directory == ERRORS
    }
}

/// The files of one manifest entry, which are put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// The files.
    pub intents: Vec<Intent>,
    /// Their schemas, each once.
    pub schemas: Vec<Schema>,
    /// The error file whose records these are, instead of the log's: it goes when they are there.
    pub retried: Option<String>,
}

/// What of a partition is in files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Landed {
    /// Everything below is.
    pub floor: Offset,
    /// By directory, what of it is although it lies above the floor: everything below this offset.
    pub above: BTreeMap<String, Offset>,
}

impl Landed {
    /// Everything below `floor`.
    pub fn below(floor: Offset) -> Self {
        Self { floor, above: BTreeMap::new() }
    }

    /// Whether a record of that directory is.
    pub fn has(&self, directory: &str, offset: Offset) -> bool {
        offset < self.floor || self.above.get(directory).is_some_and(|landed| offset < *landed)
    }

    /// Raises the floor; what lies above it no more is forgotten.
    pub fn raise(&mut self, floor: Offset) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.above.retain(|_, end| *end > floor);
    }
}

/// A lake's state in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeState {
    /// Which life of the partition this is about.
    pub incarnation: Incarnation,
    /// Where the lake began.
    pub start: Offset,
    /// What is in files.
    pub landed: Landed,
    /// The number of the next manifest entry.
    pub entry: u64,
    /// Files put.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in error files.
    pub rejected: u64,
    /// Offsets that were in no log when their turn came.
    pub lost: u64,
    /// The lake's schema when this was written.
    pub schema: Schema,
    /// What is being put.
    pub round: Option<Round>,
}

#[derive(Archive, Serialize, Deserialize)]
struct SchemaV2 {
    version: u32,
    full: bool,
    declared: bool,
    nodes: Vec<StoredNode>,
}

#[derive(Archive, Serialize, Deserialize)]
struct IntentV2 {
    epoch: u32,
    directory: String,
    first: u64,
    last: u64,
    rows: u64,
    lost: u64,
    name: String,
    schema: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct RoundV2 {
    intents: Vec<IntentV2>,
    schemas: Vec<SchemaV2>,
    retried: Option<String>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StateV2 {
    incarnation: u64,
    start: u64,
    floor: u64,
    above: Vec<(String, u64)>,
    entry: u64,
    files: u64,
    rows: u64,
    bytes: u64,
    rejected: u64,
    lost: u64,
    schema: SchemaV2,
    round: Option<RoundV2>,
}

impl SchemaV2 {
    fn of(schema: &Schema) -> Self {
        let (version, full, declared) = (schema.version, schema.full, schema.declared);
        Self { version, full, declared, nodes: schema.to_stored() }
    }

    fn read(&self) -> Result<Schema, String> {
        Schema::from_stored(self.version, (self.full, self.declared), &self.nodes).map_err(|error| error.to_string())
    }
}

impl IntentV2 {
    fn of(intent: &Intent) -> Self {
        Self {
            epoch: intent.epoch.0,
            directory: intent.directory.clone(),
            first: intent.first.0,
            last: intent.last.0,
            rows: intent.rows,
            lost: intent.lost,
            name: intent.name.clone(),
            schema: intent.schema,
        }
    }

    fn read(self) -> Intent {
        Intent {
            epoch: Epoch(self.epoch),
            directory: self.directory,
            first: Offset(self.first),
            last: Offset(self.last),
            rows: self.rows,
            lost: self.lost,
            name: self.name,
            schema: self.schema,
        }
    }
}

impl LakeState {
    /// The state of a lake that begins at `start`.
    pub fn new(incarnation: Incarnation, start: Offset) -> Self {
        Self {
            incarnation,
            start,
            landed: Landed::below(start),
            entry: 0,
            files: 0,
            rows: 0,
            bytes: 0,
            rejected: 0,
            lost: 0,
            schema: Schema::default(),
            round: None,
        }
    }

    /// The end of all that has landed or is decided.
    pub fn decided_end(&self) -> Offset {
        let above = self.landed.above.values().copied().max().unwrap_or_default();
        let from_log = self.round.iter().filter(|round| round.retried.is_none());
        let intents = from_log.flat_map(|round| &round.intents).map(|intent| intent.last.next()).max();
        self.landed.floor.max(above).max(intents.unwrap_or_default())
    }

    /// The blob.
    pub fn encode(&self) -> Vec<u8> {
        let stored = StateV2 {
            incarnation: self.incarnation.0,
            start: self.start.0,
            floor: self.landed.floor.0,
            above: self.landed.above.iter().map(|(directory, end)| (directory.clone(), end.0)).collect(),
            entry: self.entry,
            files: self.files,
            rows: self.rows,
            bytes: self.bytes,
            rejected: self.rejected,
            lost: self.lost,
            schema: SchemaV2::of(&self.schema),
            round: self.round.as_ref().map(|round| RoundV2 {
                intents: round.intents.iter().map(IntentV2::of).collect(),
                schemas: round.schemas.iter().map(SchemaV2::of).collect(),
                retried: round.retried.clone(),
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
                let advice = if *version < VERSION { "remove the lake and add it anew" } else { "use a newer program" };
                return Err(unusable(format!("it has version {version}, this program knows {VERSION}: {advice}")));
            }
            None => return Err(unusable("it is empty".into())),
        };
        let stored = rkyv::from_bytes::<StateV2, rancor::Error>(archive)
            .map_err(|error| unusable(format!("it is no valid archive: {error}")))?;
        if stored.incarnation != incarnation.0 {
            let theirs = Incarnation(stored.incarnation);
            return Err(unusable(format!("it is of another life of the partition ({theirs}, this is {incarnation})")));
        }
        let schema = stored.schema.read().map_err(unusable)?;
        let round = match stored.round {
            None => None,
            Some(round) => {
                let schemas: Result<Vec<Schema>, String> = round.schemas.iter().map(SchemaV2::read).collect();
                let intents: Vec<Intent> = round.intents.into_iter().map(IntentV2::read).collect();
                Some(Round { intents, schemas: schemas.map_err(unusable)?, retried: round.retried })
            }
        };
        if let Some(round) = &round {
            for Intent { first, last, schema, .. } in &round.intents {
                let floor = stored.floor;
                if last < first || (round.retried.is_none() && first.0 < floor) {
                    return Err(unusable(format!("its intent {first}..={last} does not follow its floor {floor}")));
                }
                if *schema != 0 && !round.schemas.iter().any(|known| known.version == *schema) {
                    return Err(unusable(format!("its intent {first}..={last} has an unknown schema {schema}")));
                }
            }
        }
        Ok(Self {
            incarnation,
            start: Offset(stored.start),
            landed: Landed {
                floor: Offset(stored.floor),
                above: stored.above.into_iter().map(|(directory, end)| (directory, Offset(end))).collect(),
            },
            entry: stored.entry,
            files: stored.files,
            rows: stored.rows,
            bytes: stored.bytes,
            rejected: stored.rejected,
            lost: stored.lost,
            schema,
            round,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(3);
    const INCARNATION: Incarnation = Incarnation(7);

    fn example() -> LakeState {
        let intent = Intent {
            epoch: Epoch(2),
            directory: "a=1".into(),
            first: Offset(40),
            last: Offset(99),
            rows: 38,
            lost: 0,
            name: "a=1/f.parquet".into(),
            schema: 4,
        };
        let mut schema = Schema::default();
        schema.version = 4;
        let round = Round { intents: vec![intent], schemas: vec![schema], retried: None };
        let landed = Landed { floor: Offset(40), above: BTreeMap::from([("a=2".to_owned(), Offset(70))]) };
        LakeState {
            files: 1,
            rows: 38,
            rejected: 2,
            landed,
            round: Some(round),
            ..LakeState::new(INCARNATION, Offset(40))
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was_written() {
        let state = example();
        assert_eq!(LakeState::decode(&state.encode(), PARTITION, INCARNATION).expect("its own blob"), state);
        assert_eq!(state.decided_end(), Offset(100));
    }

    #[test]
    fn what_is_not_a_state_of_this_partition_is_refused() {
        let blob = example().encode();
        let says = |blob: &[u8], incarnation| {
            LakeState::decode(blob, PARTITION, incarnation).expect_err("refused").to_string()
        };
        assert!(says(&[], INCARNATION).contains("empty"));
        assert!(says(&[&[1], &blob[1..]].concat(), INCARNATION).contains("add it anew"));
        assert!(says(&[&[9], &blob[1..]].concat(), INCARNATION).contains("newer program"));
        assert!(says(&blob, Incarnation(8)).contains("another life"));
        assert!(says(&blob[..blob.len() / 2], INCARNATION).contains("no valid archive"));
        let mut late = example();
        late.landed.floor = Offset(41);
        assert!(says(&late.encode(), INCARNATION).contains("does not follow"));
        let mut unknown = example();
        unknown.round.as_mut().expect("a round").schemas.clear();
        assert!(says(&unknown.encode(), INCARNATION).contains("unknown schema"));
    }
}
