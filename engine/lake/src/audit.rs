//! Proves that a lake is complete: compares the manifest, the files and the log.
//!
//! The manifest says which files there are; each is there, with its rows, and no other is. Every Parquet row and every line
//! of an error file names its offset: together they are each offset once, and all of what the log holds between the lake's
//! beginning and its floor. NDJSON rows name no offset: there the log's records are counted by directory and range
//! instead, and compared with the lines of each file.
//!
//! A running lake goes on meanwhile. What it has put last may not be complete, and what it had not landed when the audit began may
//! land: neither is a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Cursor};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_protocol::Offset;
use millstream_protocol::frame::control::{LakeAudit, LakeConfig, LakeFormat};
use millstream_protocol::limits::LAKE_FINDINGS_MAX;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use roaring::RoaringTreemap;

use crate::file::{ErrorLine, line_reader, object};
use crate::json::Parser;
use crate::layout::{INTERNAL, Layout};
use crate::manifest::{self, Entry, EntryFile};
use crate::schema::own_columns;
use crate::store::Store;
use crate::walk::{Item, walk_chunk};
use crate::{LakeError, Source, plan};

/// An audit that finds something while the lake goes on looks again.
const ATTEMPTS: usize = 3;
/// So many objects of which little is read are read at once.
const READS: usize = 32;
/// A request that fails is made again so often: for about six seconds.
const FAILURES_MAX: u32 = 6;

/// A partition to be audited, and where the lake is in it.
#[derive(Clone)]
pub(crate) struct Place {
    pub source: Arc<dyn Source>,
    /// Where the lake began.
    pub start: Offset,
    /// Everything below is said to be in files.
    pub floor: Offset,
}

/// Audits a lake.
pub(crate) async fn audit(store: &Store, config: &LakeConfig, places: Vec<Place>) -> Result<LakeAudit, LakeError> {
    let mut attempt = 1;
    loop {
        let before = entries_count(store).await?;
        let audit = Audit::new(store.clone(), config.clone()).run(&places).await?;
        if audit.complete || attempt == ATTEMPTS || entries_count(store).await? == before {
            return Ok(audit);
        }
        attempt += 1;
    }
}

async fn entries_count(store: &Store) -> Result<usize, LakeError> {
    let directory = format!("{INTERNAL}/manifest");
    Ok(patiently(|| store.list(&directory)).await?.len())
}

struct Audit {
    store: Store,
    config: LakeConfig,
    found: LakeAudit,
}

/// A file of the manifest, and which entry it is of.
struct Expected {
    file: EntryFile,
    /// Whether it may be on its way.
    is_newest: bool,
}

impl Audit {
    fn new(store: Store, config: LakeConfig) -> Audit {
        let found = LakeAudit {
            complete: false,
            files: 0,
            rows: 0,
            bytes: 0,
            rejected: 0,
            lost: 0,
            compared: 0,
            findings: 0,
            named: Vec::new(),
        };
        Audit { store, config, found }
    }

    fn finding(&mut self, text: String) {
        self.found.findings += 1;
        if self.found.named.len() < LAKE_FINDINGS_MAX {
            self.found.named.push(text);
        }
    }

    async fn run(mut self, places: &[Place]) -> Result<LakeAudit, LakeError> {
        let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
        let mut of_place: Vec<Vec<String>> = Vec::new();
        for place in places {
            let files = self.manifest(place).await?;
            of_place.push(files.iter().map(|expected| expected.file.path.clone()).collect());
            for file in files {
                if let Some(twice) = expected.insert(file.file.path.clone(), file) {
                    self.finding(format!("the manifest lists {} twice", twice.file.path));
                }
            }
        }
        // Listed after the manifest was read: what it lists was put before, but for what is on its way.
        let there: BTreeMap<String, u64> = patiently(|| self.store.list("")).await?.into_iter().collect();
        self.strangers(places, &expected, &there).await?;
        for (place, paths) in places.iter().zip(of_place) {
            self.place(place, &paths, &expected, &there).await?;
        }
        self.found.complete = self.found.findings == 0;
        Ok(self.found)
    }

    /// Files that the manifest does not list.
    async fn strangers(
        &mut self,
        places: &[Place],
        expected: &BTreeMap<String, Expected>,
        there: &BTreeMap<String, u64>,
    ) -> Result<(), LakeError> {
        let is_data = |name: &str| {
            !name.starts_with(INTERNAL)
                && !name.contains('#')
                && [".parquet", ".ndjson", ".ndjson.zst", ".ndjson.gz"].iter().any(|ending| name.ends_with(ending))
        };
        let strangers: Vec<&String> =
            there.keys().filter(|name| is_data(name) && !expected.contains_key(*name)).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        // They may be of entries that were written since; and an error file may just have been retried.
        let mut later = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for place in places {
            for entry in self.entries(place).await? {
                gone.extend(entry.retried);
                later.extend(entry.files.into_iter().map(|file| file.path));
            }
        }
        for name in strangers {
            if !later.contains(name) && !gone.contains(name) {
                self.finding(format!("{name} is there and not in the manifest"));
            }
        }
        Ok(())
    }

    async fn entries(&mut self, place: &Place) -> Result<Vec<Entry>, LakeError> {
        let partition = place.source.partition();
        let (store, directory) = (self.store.clone(), manifest::directory(partition));
        let names = patiently(|| store.list(&directory)).await?;
        let mut entries = Vec::with_capacity(names.len());
        let gets = names.into_iter().map(|(name, _)| {
            let store = store.clone();
            async move {
                let object = patiently(|| store.get(&name)).await;
                object.map(|object| (name, object))
            }
        });
        let mut objects: Vec<_> = stream::iter(gets).buffer_unordered(READS).try_collect().await?;
        objects.sort_unstable();
        for (number, (name, object)) in objects.into_iter().enumerate() {
            let wanted = manifest::name(partition, number as u64);
            if name != wanted {
                self.finding(format!("{wanted} is not there, {name} is"));
                break;
            }
            let Some(object) = object else { continue };
            match Entry::decode(&object) {
                Ok(entry) if entry.incarnation == place.source.incarnation().to_string() => entries.push(entry),
                Ok(entry) => {
                    let (theirs, ours) = (entry.incarnation, place.source.incarnation());
                    self.finding(format!("{name} is of another life of the partition: {theirs}, this is {ours}"));
                }
                Err(error) => self.finding(format!("{name} cannot be used: {error}")),
            }
        }
        Ok(entries)
    }

    /// The files of a partition, as its manifest lists them.
    async fn manifest(&mut self, place: &Place) -> Result<Vec<Expected>, LakeError> {
        let entries = self.entries(place).await?;
        let newest = entries.len().saturating_sub(1);
        let mut files = Vec::new();
        let mut retried = BTreeSet::new();
        for (number, entry) in entries.into_iter().enumerate() {
            // The last one is gone only when the entry is complete.
            if let Some(name) = entry.retried {
                if number < newest || patiently(|| self.store.get(&name)).await?.is_none() {
                    retried.insert(name);
                } else {
                    continue;
                }
            }
            files.extend(entry.files.into_iter().map(|file| Expected { file, is_newest: number == newest }));
        }
        files.retain(|expected| !retried.contains(&expected.file.path));
        Ok(files)
    }

    /// A partition's files, by offset, against its log.
    async fn place(
        &mut self,
        place: &Place,
        paths: &[String],
        expected: &BTreeMap<String, Expected>,
        there: &BTreeMap<String, u64>,
    ) -> Result<(), LakeError> {
        let partition = place.source.partition();
        let mut offsets = RoaringTreemap::new();
        let mut lines: HashMap<String, u64> = HashMap::new();
        let mut rows_missing = 0;
        let (mut parts, mut wholes) = (Vec::new(), Vec::new());
        for Expected { file, is_newest } in paths.iter().filter_map(|path| expected.get(path)) {
            match there.get(&file.path) {
                Some(size) if file.path.ends_with(".parquet") => parts.push((file.clone(), *size)),
                Some(size) => wholes.push((file.clone(), *size)),
                None if !is_newest || file.last < place.floor.0 => {
                    rows_missing += file.rows;
                    self.finding(format!("{} is missing: {} rows of partition {partition}", file.path, file.rows));
                }
                None => {}
            }
        }
        let store = self.store.clone();
        let read = |(file, size): (EntryFile, u64)| {
            let store = store.clone();
            async move {
                let read = patiently(|| read_file(&store, &file, size)).await;
                (file, size, read)
            }
        };
        // What is read as a whole may be large: one at a time.
        let mut reads =
            stream::iter(parts).map(read).buffer_unordered(READS).chain(stream::iter(wholes).map(read).buffered(1));
        while let Some((file, size, read)) = reads.next().await {
            let Read { rows, offsets: found, findings } = read?;
            findings.into_iter().for_each(|text| self.finding(text));
            if !file.errors && !file.path.ends_with(".parquet") {
                lines.insert(file.path.clone(), rows);
            }
            if rows != file.rows {
                let intended = file.rows;
                self.finding(format!("{} has {rows} rows, the manifest says {intended}", file.path));
            }
            for range in found {
                if range.start < file.first || range.end > file.last + 1 {
                    let (first, last) = (file.first, file.last);
                    self.finding(format!("{} has the offset {}, outside {first}..={last}", file.path, range.start));
                }
                if offsets.insert_range(range.clone()) != range.end - range.start {
                    let (from, to) = (range.start, range.end - 1);
                    self.finding(format!(
                        "{}: an offset in {from}..={to} of partition {partition} is in another file, too",
                        file.path
                    ));
                }
            }
            if file.errors {
                self.found.rejected += rows;
                self.found.lost += file.lost;
            } else {
                self.found.files += 1;
                self.found.rows += rows;
                self.found.bytes += size;
            }
        }
        if let Some(max) = offsets.max()
            && max >= place.source.high_watermark().0
        {
            self.finding(format!("offset {max} of partition {partition} has landed, and the log ends before it"));
        }
        self.log(place, offsets, expected, paths, lines, rows_missing).await
    }

    /// What the log still has, against what has landed.
    async fn log(
        &mut self,
        place: &Place,
        offsets: RoaringTreemap,
        expected: &BTreeMap<String, Expected>,
        paths: &[String],
        lines: HashMap<String, u64>,
        rows_missing: u64,
    ) -> Result<(), LakeError> {
        let partition = place.source.partition();
        if self.config.format == LakeFormat::Parquet {
            let place = place.clone();
            let (compared, missing) = blocking(move || missing(&place, &offsets)).await??;
            self.found.compared += compared;
            // The same finding as that their files are missing.
            if missing.iter().map(|(_, _, count)| count).sum::<u64>() == rows_missing {
                return Ok(());
            }
            for (first, last, count) in missing {
                self.finding(format!("{count} records of partition {partition} in {first}..={last} have not landed"));
            }
            return Ok(());
        }
        let ranges = paths.iter().filter_map(|path| expected.get(path)).filter(|expected| !expected.file.errors);
        let ranges: Vec<(String, u64, u64)> =
            ranges.map(|expected| (expected.file.path.clone(), expected.file.first, expected.file.last)).collect();
        let layout = Layout::parse(&self.config.layout).map_err(|error| LakeError::Bug(error.to_string()))?;
        let place = place.clone();
        let counted = blocking(move || count_by_file(&place, layout, &ranges, &offsets)).await??;
        self.found.compared += counted.compared;
        for (path, count) in counted.by_file {
            let landed = lines.get(&path).copied().unwrap_or_default();
            if landed != count {
                self.finding(format!("{path} has {landed} lines, the log has {count} records for it"));
            }
        }
        for text in counted.missing {
            self.finding(text);
        }
        Ok(())
    }
}

/// What was read of a file.
#[derive(Default)]
struct Read {
    rows: u64,
    /// The offsets that it names; those of NDJSON rows are not in it.
    offsets: Vec<Range<u64>>,
    findings: Vec<String>,
}

impl Read {
    /// Of a file that cannot be read.
    fn failed(file: &EntryFile, why: &dyn std::fmt::Display) -> Read {
        Read { findings: vec![format!("{} cannot be read: {why}", file.path)], ..Read::default() }
    }
}

async fn read_file(store: &Store, file: &EntryFile, size: u64) -> Result<Read, LakeError> {
    if file.path.ends_with(".parquet") {
        return parquet_file(store, file, size).await;
    }
    let object = store.get(&file.path).await?.unwrap_or_default();
    if file.errors { Ok(error_file(file, &object)) } else { lines_file(file, object).await }
}

fn error_file(file: &EntryFile, object: &[u8]) -> Read {
    let mut read = Read::default();
    for line in serde_json::Deserializer::from_slice(object).into_iter::<ErrorLine>() {
        match line {
            Ok(line) => {
                read.rows += if line.is_gap() { 0 } else { line.records() };
                read.offsets.push(line.offset..line.offset + line.records());
                if line.reason.is_empty() {
                    let text = format!("{}: offset {} is there without a reason", file.path, line.offset);
                    read.findings.push(text);
                }
            }
            Err(error) => {
                read.findings.push(format!("{} does not decode: {error}", file.path));
                break;
            }
        }
    }
    read
}

async fn lines_file(file: &EntryFile, object: Bytes) -> Result<Read, LakeError> {
    let name = file.path.clone();
    let counted = blocking(move || -> std::io::Result<u64> {
        let mut reader = BufReader::with_capacity(256 << 10, line_reader(&name, &object)?);
        let mut lines = 0;
        loop {
            let buffer = reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(lines);
            }
            lines += memchr::memchr_iter(b'\n', buffer).count() as u64;
            let length = buffer.len();
            reader.consume(length);
        }
    });
    Ok(match counted.await? {
        Ok(rows) => Read { rows, ..Read::default() },
        Err(error) => Read::failed(file, &error),
    })
}

/// The offsets in a Parquet file, without reading anything else of it.
async fn parquet_file(store: &Store, file: &EntryFile, size: u64) -> Result<Read, LakeError> {
    let metadata = match store.parquet_metadata(&file.path, size).await? {
        Ok(metadata) => metadata,
        Err(why) => return Ok(Read::failed(file, &why)),
    };
    let columns = metadata.file_metadata().schema_descr();
    let column = (0..columns.num_columns()).find(|at| columns.column(*at).name() == own_columns()[1]);
    let Some(column) = column else { return Ok(Read::failed(file, &"it has no column of offsets")) };
    let mut segments = Vec::new();
    for group in metadata.row_groups() {
        let (start, length) = group.column(column).byte_range();
        segments.push((start, store.get_range(&file.path, start..start + length).await?));
    }
    let segments = Segments { size, segments };
    Ok(match blocking(move || offsets(segments, metadata, column)).await? {
        Ok((rows, offsets)) => Read { rows, offsets, ..Read::default() },
        Err(error) => Read::failed(file, &error),
    })
}

/// Asks again while the store does not answer: an audit asks so often that one of its requests fails for sure where
/// some do.
async fn patiently<T, F: Future<Output = Result<T, LakeError>>>(ask: impl Fn() -> F) -> Result<T, LakeError> {
    let mut failures = 0;
    loop {
        match ask().await {
            Err(LakeError::Unavailable { .. }) if failures < FAILURES_MAX => {
                failures += 1;
                tokio::time::sleep(plan::backoff(failures)).await;
            }
            done => return done,
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LakeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LakeError::Bug(error.to_string()))
}

/// The parts of a file that were read.
struct Segments {
    size: u64,
    segments: Vec<(u64, Bytes)>,
}

impl Segments {
    fn at(&self, start: u64) -> Result<Bytes, ParquetError> {
        let found = self.segments.iter().find(|(at, bytes)| (*at..*at + bytes.len() as u64).contains(&start));
        found
            .map(|(at, bytes)| bytes.slice((start - at) as usize..))
            .ok_or_else(|| ParquetError::EOF(format!("the bytes at {start} were not read")))
    }
}

impl Length for Segments {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Segments {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        self.at(start).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.at(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} were not read")));
        }
        Ok(bytes.slice(..length))
    }
}

/// The rows of a file, and their offsets as ranges.
fn offsets(
    segments: Segments,
    metadata: parquet::file::metadata::ParquetMetaData,
    column: usize,
) -> Result<(u64, Vec<Range<u64>>), ParquetError> {
    let mask = ProjectionMask::leaves(metadata.file_metadata().schema_descr(), [column]);
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(segments, metadata);
    let reader = builder.with_projection(mask).with_batch_size(8_192).build()?;
    let (mut rows, mut ranges) = (0, Vec::<Range<u64>>::new());
    for batch in reader {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        let column = batch.column(0).as_primitive_opt::<Int64Type>();
        let column = column.ok_or_else(|| ParquetError::General("its offsets have another type".into()))?;
        for offset in column.values() {
            let offset = offset.unsigned_abs();
            match ranges.last_mut() {
                Some(range) if range.end == offset => range.end += 1,
                _ => ranges.push(offset..offset + 1),
            }
        }
    }
    Ok((rows, ranges))
}

/// Ranges of records that the log has and no file: first, last, how many.
type Missing = Vec<(u64, u64, u64)>;

/// How many records were compared, and which are missing.
fn missing(place: &Place, offsets: &RoaringTreemap) -> Result<(u64, Missing), LakeError> {
    let (mut compared, mut missing) = (0, Missing::new());
    walk(place, &mut |offset, _, _| {
        compared += 1;
        if !offsets.contains(offset) {
            match missing.last_mut() {
                Some((_, last, count)) if *last + 1 == offset => (*last, *count) = (offset, *count + 1),
                _ => missing.push((offset, offset, 1)),
            }
        }
    })?;
    Ok((compared, missing))
}

struct Counted {
    compared: u64,
    by_file: BTreeMap<String, u64>,
    missing: Vec<String>,
}

/// The log's records by the file that should have them; only of files whose whole range the log still has.
fn count_by_file(
    place: &Place,
    mut layout: Layout,
    ranges: &[(String, u64, u64)],
    errors: &RoaringTreemap,
) -> Result<Counted, LakeError> {
    let log_start = place.source.log_start().0.max(place.start.0);
    let mut counted = Counted { compared: 0, by_file: BTreeMap::new(), missing: Vec::new() };
    let mut by_directory: HashMap<&str, Vec<&(String, u64, u64)>> = HashMap::new();
    for range in ranges {
        let directory = range.0.rsplit_once('/').map_or("", |(directory, _)| directory);
        by_directory.entry(directory).or_default().push(range);
        if range.1 >= log_start && range.2 < place.floor.0 {
            counted.by_file.insert(range.0.clone(), 0);
        }
    }
    let (mut parser, mut directory) = (Parser::default(), String::new());
    let partition = place.source.partition();
    walk(place, &mut |offset, appended, record| {
        counted.compared += 1;
        let Ok(json) = object(&mut parser, record.value) else {
            if !errors.contains(offset) {
                counted
                    .missing
                    .push(format!("offset {offset} of partition {partition} is no JSON object and in no error file"));
            }
            return;
        };
        layout.render(Some(&json), record.timestamp, appended, &mut directory);
        let files = by_directory.get(directory.as_str()).into_iter().flatten();
        let mut covering = files.filter(|(_, first, last)| (*first..=*last).contains(&offset));
        match (covering.next(), covering.next()) {
            (Some((path, ..)), None) => {
                if let Some(count) = counted.by_file.get_mut(path) {
                    *count += 1;
                }
            }
            (None, _) => {
                counted.missing.push(format!("offset {offset} of partition {partition} is in no file of {directory:?}"))
            }
            (Some((path, ..)), Some((other, ..))) => {
                counted.missing.push(format!("offset {offset} of partition {partition} is in {path} and in {other}"));
            }
        }
    })?;
    Ok(counted)
}

/// Shows every record of the log that is said to have landed.
fn walk(
    place: &Place,
    visit: &mut dyn FnMut(u64, millstream_protocol::Timestamp, &millstream_protocol::batch::RecordRef<'_>),
) -> Result<(), LakeError> {
    let mut at = place.start.max(place.source.log_start());
    while at < place.floor {
        at = walk_chunk(&*place.source, at, place.floor, &mut |item| {
            if let Item::Record { offset, appended, record } = item {
                visit(offset.0, appended, &record);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}
