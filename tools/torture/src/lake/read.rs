//! Reads all that has landed, and holds it against the log and what producers know: without the manifest, the audit and
//! the lake's positions.
//!
//! Each offset of each partition must be there once, as a row or in the error prefix as its record demands, with the
//! record that the log has there, in the directory that the record belongs to. NDJSON rows name no offset: there the
//! record's number, which stands once in the log, leads to it.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use millstream_check::value::ValueId;
use millstream_client::{Client, Record, Start};
use millstream_lake::reader::{normalised, read_rows};
use serde_json::{Map, Value};

use super::records::{Fate, number_in};
use super::{LakeStore, Maker, Sent};
use crate::failure::Failure;

/// So many findings are put into words.
const NAMED_MAX: usize = 20;
const ERRORS: &str = "errors";

/// By partition: the records' numbers, one offset after the other from 0.
pub type Truth = BTreeMap<u32, Vec<ValueId>>;

/// What is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Records that are nowhere.
    pub missing: u64,
    /// Records that are there once more.
    pub twice: u64,
    /// Rows that are not what the log has there, or not where they belong.
    pub wrong: u64,
    /// Objects that nobody knows.
    pub strange: u64,
    pub named: Vec<String>,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Landed {
    pub files: u64,
    pub rows: u64,
    pub rejected: u64,
    /// What a kill in the middle of a probe leaves behind, under a name that nobody reads. (What it leaves of a put is removed by
    /// the next start, and is strange if it is not.)
    pub leftovers: u64,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.missing + self.twice + self.wrong + self.strange == 0
    }

    fn name(&mut self, text: impl FnOnce() -> String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(text());
        }
    }

    fn wrong(&mut self, text: impl FnOnce() -> String) {
        self.wrong += 1;
        self.name(text);
    }
}

/// Reads the stream: what its partitions hold, up to where they end now.
pub async fn truth(client: &Client, stream: &str) -> Result<Truth, Failure> {
    let failed = |error: millstream_client::Error| Failure::run(format!("the log cannot be read: {error}"));
    let mut consumer = client.consumer(stream).start(Start::Earliest).bounded().build().await.map_err(failed)?;
    let mut truth = Truth::new();
    while let Some(batch) = consumer.next_batch().await {
        let batch = batch.map_err(failed)?;
        let numbers = truth.entry(batch.partition.0).or_default();
        for found in batch.records().map_err(failed)? {
            let found = found.map_err(failed)?;
            let (partition, offset, next) = (batch.partition, found.offset.0, numbers.len() as u64);
            if offset != next {
                return Err(Failure::run(format!("the log of partition {partition} has {offset} behind {next}")));
            }
            let number = number_of(&found.record);
            let number =
                number.ok_or_else(|| Failure::run(format!("partition {partition} has no number at {offset}")))?;
            numbers.push(number);
        }
    }
    Ok(truth)
}

fn number_of(record: &Record) -> Option<ValueId> {
    let value = record.value.as_deref();
    let row = value.and_then(|value| serde_json::from_slice::<Map<String, Value>>(value).ok());
    match row {
        Some(row) => row.get("n").and_then(Value::as_u64).map(ValueId),
        None => value.or(record.key.as_deref()).and_then(number_in),
    }
}

/// Reads the store. What lies behind the truth's end may have landed since, and is judged for itself. Blocks.
pub fn read_back(store: &LakeStore, maker: &Maker, truth: &Truth, sent: &Sent) -> Result<(Landed, Findings), Failure> {
    let mut reading = Reading {
        maker,
        truth,
        places: HashMap::new(),
        seen: truth.iter().map(|(partition, numbers)| (*partition, vec![0; numbers.len()])).collect(),
        landed: Landed::default(),
        findings: Findings::default(),
    };
    reading.log(sent);
    for name in store.names()? {
        reading.object(store, &name)?;
    }
    Ok(reading.finish())
}

struct Reading<'a> {
    maker: &'a Maker,
    truth: &'a Truth,
    /// Where each record stands in the log.
    places: HashMap<ValueId, (u32, u64)>,
    /// By partition and offset: how often it was found.
    seen: BTreeMap<u32, Vec<u8>>,
    landed: Landed,
    findings: Findings,
}

/// A data file's name.
struct FileName<'a> {
    directory: &'a str,
    partition: u32,
    first: u64,
    last: u64,
    ending: &'a str,
}

impl<'a> FileName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (directory, own) = name.rsplit_once('/').unwrap_or(("", name));
        let (stem, ending) = own.split_once('.')?;
        let mut numbers = stem.splitn(3, '-');
        let mut next = |digits: usize| {
            let text = numbers.next()?;
            (text.len() == digits).then(|| text.parse::<u64>().ok()).flatten()
        };
        let (partition, first, last) = (next(5)?, next(20)?, next(20)?);
        Some(Self { directory, partition: u32::try_from(partition).ok()?, first, last, ending })
    }
}

impl Reading<'_> {
    /// The log holds what was acknowledged, where it was, and each record once.
    fn log(&mut self, sent: &Sent) {
        for (partition, numbers) in self.truth {
            for (offset, number) in (0..).zip(numbers) {
                if let Some(other) = self.places.insert(*number, (*partition, offset)) {
                    self.findings.wrong(|| format!("{number} is in the log at {other:?} and at {partition}, {offset}"));
                }
            }
        }
        for ((partition, offset), number) in &sent.acked {
            let Some(found) = self.truth.get(partition).and_then(|numbers| numbers.get(*offset as usize)) else {
                continue;
            };
            if found != number {
                self.findings.wrong(|| {
                    format!("{number} was acknowledged at {offset} of partition {partition}, the log has {found} there")
                });
            }
        }
    }

    fn object(&mut self, store: &LakeStore, name: &str) -> Result<(), Failure> {
        let is_own = name == "_millstream/owner.json"
            || name.strip_prefix("_millstream/manifest/").is_some_and(|name| name.ends_with(".json"));
        if is_own {
            return Ok(());
        }
        if name.starts_with("_millstream-probe-") {
            self.landed.leftovers += 1;
            return Ok(());
        }
        match FileName::parse(name) {
            Some(file) if file.directory == ERRORS && file.ending == "ndjson" => {
                self.error_file(name, &file, &store.bytes(name)?);
            }
            Some(file) if file.ending == "parquet" => {
                self.landed.files += 1;
                self.parquet_file(name, &file, &store.bytes(name)?)?;
            }
            Some(file) if file.ending == "ndjson.zst" => {
                self.landed.files += 1;
                self.lines_file(name, &file, &store.bytes(name)?);
            }
            _ => {
                self.findings.strange += 1;
                self.findings.name(|| format!("{name} is there, and nobody knows why"));
            }
        }
        Ok(())
    }

    fn parquet_file(&mut self, name: &str, file: &FileName<'_>, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::run(format!("a copy of {name} cannot be written: {error}"));
        let mut copy = tempfile::NamedTempFile::new().map_err(failed)?;
        copy.write_all(bytes).map_err(failed)?;
        let rows = match read_rows(copy.path()) {
            Ok(rows) => rows,
            Err(error) => {
                self.findings.wrong(|| format!("{name}: {error}"));
                return Ok(());
            }
        };
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    self.findings.wrong(|| format!("{name}: {error}"));
                    break;
                }
            };
            let (partition, offset) = (row.partition.0, row.offset.0);
            let Some(number) = row.fields.get("n").and_then(Value::as_u64).map(ValueId) else {
                self.findings.wrong(|| format!("{name} has a row without a number at offset {offset}"));
                continue;
            };
            if row.timestamp != Some(self.maker.make(number).record.timestamp) {
                self.findings.wrong(|| format!("{name}: {number} has the time {:?}", row.timestamp));
            }
            self.row(name, file, number, (partition, offset), &row.fields);
        }
        Ok(())
    }

    fn lines_file(&mut self, name: &str, file: &FileName<'_>, bytes: &[u8]) {
        let lines = match zstd::Decoder::new(bytes) {
            Ok(lines) => BufReader::new(lines).lines(),
            Err(error) => return self.findings.wrong(|| format!("{name} does not decompress: {error}")),
        };
        for line in lines {
            let fields = line
                .map_err(|error| error.to_string())
                .and_then(|line| serde_json::from_str::<Map<String, Value>>(&line).map_err(|error| error.to_string()));
            let fields = match fields {
                Ok(fields) => fields,
                Err(error) => return self.findings.wrong(|| format!("{name} does not decode: {error}")),
            };
            let Some(number) = fields.get("n").and_then(Value::as_u64).map(ValueId) else {
                self.findings.wrong(|| format!("{name} has a line without a number"));
                continue;
            };
            // One that is not in the log as it was read has come since.
            let place = self.places.get(&number).copied().unwrap_or((file.partition, u64::MAX));
            self.row(name, file, number, place, &fields);
        }
    }

    fn row(
        &mut self,
        name: &str,
        file: &FileName<'_>,
        number: ValueId,
        place: (u32, u64),
        fields: &Map<String, Value>,
    ) {
        self.landed.rows += 1;
        match self.maker.make(number).fate {
            Fate::Rejected => self.findings.wrong(|| format!("{name}: {number} cannot be a row")),
            Fate::Row { directory, .. } if directory != file.directory => {
                self.findings.wrong(|| format!("{name}: {number} belongs into {directory:?}"));
            }
            Fate::Row { fields: expected, .. } => {
                if let Err(what) = same_fields(&expected, fields) {
                    self.findings.wrong(|| format!("{name}: {number} came out otherwise: {what}"));
                }
            }
        }
        self.found(name, file, number, place);
    }

    fn error_file(&mut self, name: &str, file: &FileName<'_>, bytes: &[u8]) {
        for line in serde_json::Deserializer::from_slice(bytes).into_iter::<Map<String, Value>>() {
            let line = match line {
                Ok(line) => line,
                Err(error) => return self.findings.wrong(|| format!("{name} does not decode: {error}")),
            };
            self.landed.rejected += 1;
            let decoded = |field: &str| {
                let text = line.get(field).and_then(Value::as_str)?;
                STANDARD.decode(text).ok().map(Bytes::from)
            };
            let number = |field: &str| line.get(field).and_then(Value::as_u64);
            let (key, value) = (decoded("key_base64"), decoded("value_base64"));
            let record = Record { key, value, ..Record::default() };
            let place = number("partition").and_then(|partition| u32::try_from(partition).ok()).zip(number("offset"));
            let (Some(id), Some(place)) = (number_of(&record), place) else {
                self.findings.wrong(|| format!("{name} has a line that names no record: {line:?}"));
                continue;
            };
            let made = self.maker.make(id);
            if made.fate != Fate::Rejected || (&made.record.key, &made.record.value) != (&record.key, &record.value) {
                let reason = line.get("reason");
                self.findings.wrong(|| format!("{name}: {id} can land, or is another one: {reason:?}"));
            }
            if line.get("reason").and_then(Value::as_str).is_none_or(str::is_empty) {
                self.findings.wrong(|| format!("{name}: {id} is there without a reason"));
            }
            self.found(name, file, id, place);
        }
    }

    fn found(&mut self, name: &str, file: &FileName<'_>, number: ValueId, (partition, offset): (u32, u64)) {
        let is_known = offset != u64::MAX;
        if partition != file.partition || (is_known && !(file.first..=file.last).contains(&offset)) {
            self.findings.wrong(|| format!("{name}: {number} is of partition {partition}, offset {offset}"));
        }
        let numbers = self.truth.get(&partition);
        let Some(expected) = numbers.and_then(|numbers| numbers.get(usize::try_from(offset).ok()?)) else { return };
        if *expected != number {
            self.findings.wrong(|| {
                format!("{name} has {number} at offset {offset} of partition {partition}, the log has {expected} there")
            });
        }
        if let Some(seen) = self.seen.get_mut(&partition).and_then(|seen| seen.get_mut(offset as usize)) {
            *seen = seen.saturating_add(1);
            if *seen > 1 {
                self.findings.twice += 1;
                self.findings.name(|| format!("{name} has offset {offset} of partition {partition} once more"));
            }
        }
    }

    fn finish(mut self) -> (Landed, Findings) {
        for (partition, seen) in &self.seen {
            for (offset, _) in seen.iter().enumerate().filter(|(_, seen)| **seen == 0) {
                self.findings.missing += 1;
                self.findings.name(|| format!("offset {offset} of partition {partition} has not landed"));
            }
        }
        (self.landed, self.findings)
    }
}

/// Whether a row says what its record said: in columns, or what does not fit them in `_rest`.
fn same_fields(expected: &Map<String, Value>, found: &Map<String, Value>) -> Result<(), String> {
    let rest = match found.get("_rest").and_then(Value::as_str) {
        None => Map::new(),
        Some(rest) => serde_json::from_str(rest).map_err(|error| format!("its _rest is no object: {error}"))?,
    };
    for (name, expected) in expected {
        let found = rest.get(name).or(found.get(name)).unwrap_or(&Value::Null);
        if !same(expected, found) {
            return Err(format!("{name} was {expected}, and is {found}"));
        }
    }
    let known = |name: &str| name == "_rest" || expected.contains_key(name);
    match found.iter().chain(&rest).find(|(name, value)| !known(name) && !value.is_null()) {
        Some((name, value)) => Err(format!("{name} is {value}, and was not there")),
        None => Ok(()),
    }
}

/// A column of mixed types is text: strings as they are, all else as its JSON.
fn same(expected: &Value, found: &Value) -> bool {
    if normalised(expected) == normalised(found) {
        return true;
    }
    let text = found.as_str().filter(|_| !expected.is_string());
    let parsed = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    parsed.is_some_and(|parsed| normalised(expected) == normalised(&parsed))
}

#[cfg(test)]
mod tests {
    use millstream_check::seeded::Seeded;

    use super::*;
    use crate::lake::Layout;

    /// A store of NDJSON files that holds 200 records of one partition, as a lake would have landed them.
    struct Made {
        root: tempfile::TempDir,
        maker: Maker,
        truth: Truth,
        data: Vec<String>,
    }

    fn made() -> Made {
        let maker = Maker::new(Seeded::new(1), Layout::parse("c={c}").expect("known"));
        let truth: Truth = [(0, (0..200).map(|counter| ValueId::new(1, counter)).collect())].into();
        let root = tempfile::tempdir().expect("a directory");
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (offset, number) in truth[&0].iter().enumerate() {
            let made = maker.make(*number);
            let (directory, line) = match made.fate {
                Fate::Row { directory, fields } => (directory, Value::Object(fields).to_string()),
                Fate::Rejected => {
                    let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
                    let line = serde_json::json!({
                        "partition": 0, "offset": offset, "reason": "why",
                        "key_base64": text(&made.record.key), "value_base64": text(&made.record.value),
                    });
                    (ERRORS.to_owned(), line.to_string())
                }
            };
            *files.entry(directory).or_default() += &format!("{line}\n");
        }
        let mut data = Vec::new();
        for (directory, text) in files {
            let is_errors = directory == ERRORS;
            let name = format!("{directory}/00000-{:020}-{:020}.ndjson{}", 0, 199, if is_errors { "" } else { ".zst" });
            let path = root.path().join(&name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            let bytes =
                if is_errors { text.into_bytes() } else { zstd::encode_all(text.as_bytes(), 1).expect("packed") };
            std::fs::write(&path, bytes).expect("written");
            if !is_errors {
                data.push(name);
            }
        }
        Made { root, maker, truth, data }
    }

    impl Made {
        fn read(&self) -> (Landed, Findings) {
            let store = LakeStore::directory(self.root.path().to_owned());
            read_back(&store, &self.maker, &self.truth, &Sent::default()).expect("readable")
        }
    }

    #[test]
    fn what_landed_once_where_it_belongs_is_good() {
        let (landed, findings) = made().read();
        assert_eq!((landed.rows + landed.rejected, &findings), (200, &Findings::default()));
    }

    #[test]
    fn canaries_each_kind_of_damage_is_found() {
        let lost = made();
        std::fs::remove_file(lost.root.path().join(&lost.data[0])).expect("removed");
        let (_, findings) = lost.read();
        assert!(findings.missing > 0 && findings.twice == 0, "{findings:?}");

        let twice = made();
        let again = twice.data[0].replace("00000000000000000199", "00000000000000000198");
        std::fs::copy(twice.root.path().join(&twice.data[0]), twice.root.path().join(again)).expect("copied");
        assert!(twice.read().1.twice > 0);

        let moved = made();
        let other = moved.root.path().join("c=elsewhere");
        std::fs::rename(moved.root.path().join(&moved.data[0]).parent().expect("it has one"), other).expect("moved");
        assert!(moved.read().1.wrong > 0);

        let strange = made();
        std::fs::write(strange.root.path().join("readme.txt"), "?").expect("written");
        assert_eq!(strange.read().1.strange, 1);
    }

    #[test]
    fn a_row_may_say_in_rest_or_as_text_what_its_record_said() {
        let map = |value: Value| value.as_object().cloned().expect("an object");
        let expected = map(serde_json::json!({ "n": 1, "x": { "a": 1, "b": [2, null] }, "c": 7, "y": null }));
        let good = [
            serde_json::json!({ "n": 1, "x": { "a": 1, "b": [2, null] }, "c": 7 }),
            serde_json::json!({ "n": 1, "x": "{\"a\":1,\"b\":[2,null]}", "c": "7" }),
            serde_json::json!({ "n": 1, "_rest": "{\"x\":{\"a\":1,\"b\":[2,null]},\"c\":7}" }),
        ];
        for found in good {
            assert_eq!(same_fields(&expected, &map(found)), Ok(()));
        }
        let bad = [serde_json::json!({ "n": 1, "c": 7 }), serde_json::json!({ "n": 1, "z": 1 })];
        for found in bad {
            assert!(same_fields(&expected, &map(found)).is_err());
        }
    }
}
