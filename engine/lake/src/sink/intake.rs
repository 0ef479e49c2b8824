//! Reads records once and brings each to its directory's open file; closes files that are full, or have to make room.
//!
//! There is one way in ([`Intake::take`]) for the records of the log, for those of a round that is redone, and for those of an
//! error file that is tried again; they differ in which files they find ([`Target`]). Blocks; knows no clock but what it is told.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream_log::{Clock, LogError};
use millstream_protocol::frame::control::LakeColumns;
use millstream_protocol::{Offset, Timestamp};

use crate::Source;
use crate::budget::Budget;
use crate::file::{BuildError, Encoder, ErrorFile, FileContext, Pushed, Row, Spool, object};
use crate::json::Parser;
use crate::layout::{ERRORS, Layout};
use crate::plan::{self, Due};
use crate::schema::Schema;
use crate::state::{Intent, Landed, Round};
use crate::walk::{Item, walk_chunk};

/// A file's size and memory are looked at again after so many bytes of records, or rows.
const LOOK_BYTES: usize = 128 << 10;
const LOOK_ROWS: u64 = 512;
/// A file that holds less memory than this has nothing to give back.
const SHRINK_BYTES: usize = 256 << 10;
/// Reading pauses when so many files are closed, or so much was read, to see to other things.
const CLOSED_MAX: usize = 64;
const STEP_BYTES: u64 = 32 << 20;

/// When files end.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub roll_bytes: u64,
    pub roll_rows: u64,
    pub age: Duration,
    pub max_age: Duration,
    /// Files that the lake's partitions have open together.
    pub open_files: Arc<Budget>,
    /// So many each partition may have in any case: one that has many makes room for others only when it opens more.
    pub open_files_share: usize,
    pub budget: Arc<Budget>,
}

/// A file that is complete, and not put.
#[derive(Debug)]
pub(super) struct ClosedFile {
    pub intent: Intent,
    pub spool: Arc<Spool>,
    pub schema: Option<Schema>,
    /// When its newest record was appended.
    pub newest: Timestamp,
    /// When its oldest record was appended.
    pub oldest: Timestamp,
    /// Rows that are really in it: fewer than intended if records were lost before a redo.
    pub rows: u64,
}

enum Content {
    Data(Encoder),
    Errors(Box<ErrorFile>),
}

struct OpenFile {
    content: Content,
    first: Option<Offset>,
    last: Offset,
    rows: u64,
    oldest: Timestamp,
    newest: Timestamp,
    due: Due,
    /// When it was last written to: a count of writes.
    touched: u64,
    /// How much had been read when it began.
    began: u64,
    memory: usize,
    unseen_bytes: usize,
    unseen_rows: u64,
    /// In a redo, what it is to become.
    intent: Option<Intent>,
}

impl OpenFile {
    /// Notes what was written to it. Whether it is time to look at its size.
    #[allow(clippy::too_many_arguments, reason = "one record's facts, on the path of each of them")]
    fn note(
        &mut self,
        first: Offset,
        last: Offset,
        rows: u64,
        appended: Timestamp,
        size: usize,
        writes: u64,
        roll_rows: u64,
    ) -> bool {
        self.first.get_or_insert(first);
        self.last = self.last.max(last);
        self.rows += rows;
        self.touched = writes;
        self.newest = self.newest.max(appended);
        self.oldest = self.oldest.min(appended);
        self.unseen_bytes += size;
        self.unseen_rows += 1;
        self.rows >= roll_rows || self.unseen_bytes >= LOOK_BYTES || self.unseen_rows >= LOOK_ROWS
    }

    fn written(&self) -> u64 {
        match &self.content {
            Content::Data(encoder) => encoder.written(),
            Content::Errors(file) => file.written(),
        }
    }
}

/// Which files records find.
enum Target {
    /// Those of their directories, which are opened and closed as need be.
    Directories(HashMap<String, OpenFile>),
    /// Those of a round that is redone, by directory.
    Intents(HashMap<String, Vec<OpenFile>>),
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is a row.
    Row,
    /// It has landed, or is no part of the round that is redone.
    Elsewhere,
    /// It is no row, and why.
    Misfit(String),
}

/// How a step of reading ended.
pub(super) struct Step {
    /// Whether it came to the high watermark, as it was at the beginning.
    pub caught_up: bool,
    /// What broke it off.
    pub error: Option<LogError>,
}

/// See the module.
pub(super) struct Intake {
    context: Arc<FileContext>,
    limits: Limits,
    layout: Layout,
    parser: Parser,
    directory: String,
    target: Target,
    /// Files that are complete.
    pub closed: Vec<ClosedFile>,
    /// The next offset to be read.
    pub position: Offset,
    /// Whether some of what was read was lost.
    pub lost_some: bool,
    read_bytes: u64,
    writes: u64,
    newest_read: Option<Timestamp>,
    now: (Timestamp, Instant),
    is_behind: bool,
}

impl Intake {
    /// Reads on at `position`.
    pub fn new(context: Arc<FileContext>, layout: Layout, limits: Limits, position: Offset) -> Intake {
        Intake {
            context,
            limits,
            layout,
            parser: Parser::default(),
            directory: String::new(),
            target: Target::Directories(HashMap::new()),
            closed: Vec::new(),
            position,
            lost_some: false,
            read_bytes: 0,
            writes: 0,
            newest_read: None,
            now: (Timestamp(0), Instant::now()),
            is_behind: true,
        }
    }

    /// Builds the files of a round again: give it the round's records, then [`finish`](Self::finish).
    pub fn redo(
        context: Arc<FileContext>,
        layout: Layout,
        limits: Limits,
        round: &Round,
    ) -> Result<Intake, BuildError> {
        let mut intake = Intake::new(context, layout, limits, Offset::ZERO);
        let mut files: HashMap<String, Vec<OpenFile>> = HashMap::new();
        for intent in &round.intents {
            let content = if intent.is_errors() {
                Content::Errors(Box::new(ErrorFile::create(&intake.context)?))
            } else {
                let schema = round.schemas.iter().find(|schema| schema.version == intent.schema);
                Content::Data(intake.context.open(schema)?)
            };
            let file = OpenFile { intent: Some(intent.clone()), ..intake.empty(content, Timestamp(0)) };
            files.entry(intent.directory.clone()).or_default().push(file);
        }
        intake.target = Target::Intents(files);
        Ok(intake)
    }

    fn empty(&self, content: Content, appended: Timestamp) -> OpenFile {
        let (now, at) = self.now;
        let due = Due::new(appended, now, at, self.is_behind, self.limits.age, self.limits.max_age);
        OpenFile {
            content,
            first: None,
            last: Offset::ZERO,
            rows: 0,
            oldest: appended,
            newest: appended,
            due,
            touched: 0,
            began: self.read_bytes,
            memory: 0,
            unseen_bytes: 0,
            unseen_rows: 0,
            intent: None,
        }
    }

    /// Reads on for a while: to the high watermark, or until there is something else to do.
    pub fn read(
        &mut self,
        source: &dyn Source,
        landed: &Landed,
        clock: &dyn Clock,
        stop: &AtomicBool,
    ) -> Result<Step, BuildError> {
        let target = source.high_watermark();
        let began = self.read_bytes;
        while self.position < target && self.closed.len() < CLOSED_MAX && !stop.load(Ordering::Relaxed) {
            if self.read_bytes - began >= STEP_BYTES {
                break;
            }
            self.now = (clock.append_time(), Instant::now());
            if let Err(error) = self.read_chunk(source, landed, target)? {
                return Ok(Step { caught_up: false, error: Some(error) });
            }
        }
        let caught_up = self.position >= target;
        // From here on a record that was appended long ago is a late one, not one of a backlog.
        self.is_behind = !caught_up;
        Ok(Step { caught_up, error: None })
    }

    /// Reads a round's records again.
    pub fn read_again(
        &mut self,
        source: &dyn Source,
        round: &Round,
        stop: &AtomicBool,
    ) -> Result<Result<(), LogError>, BuildError> {
        let first = round.intents.iter().map(|intent| intent.first).min().unwrap_or_default();
        let end = round.intents.iter().map(|intent| intent.last.next()).max().unwrap_or_default();
        // Whatever has landed of this range is in files that this round does not have.
        let landed = Landed::below(first);
        self.position = first;
        while self.position < end && !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.read_chunk(source, &landed, end)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn read_chunk(
        &mut self,
        source: &dyn Source,
        landed: &Landed,
        target: Offset,
    ) -> Result<Result<(), LogError>, BuildError> {
        let mut failed = None;
        let from = self.position;
        let mut parser = std::mem::take(&mut self.parser);
        let walked = walk_chunk(source, from, target, &mut |item| {
            if failed.is_none() {
                failed = self.item(&mut parser, item, landed).err();
            }
            let full = self.closed.len() >= CLOSED_MAX;
            if failed.is_some() || full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.parser = parser;
        if let Some(error) = failed {
            return Err(error);
        }
        // A chunk may end in batches that lie before its beginning; it never ends before a boundary it showed.
        Ok(walked.map(|next| self.position = self.position.max(next)))
    }

    fn item(&mut self, parser: &mut Parser, item: Item<'_>, landed: &Landed) -> Result<(), BuildError> {
        match item {
            Item::Record { offset, appended, record } => {
                self.newest_read = Some(appended);
                let row = Row {
                    offset,
                    timestamp: record.timestamp,
                    key: record.key,
                    value: record.value,
                    headers: record.headers().collect(),
                };
                self.take(parser, &row, appended, landed)
            }
            Item::Broken { first, end, appended, reason, batch } => {
                let partition = self.context.partition;
                tracing::warn!(%partition, %first, %end, reason, "a stored batch goes to the lake's error file");
                self.errors(first, end, appended, landed, |file, first| {
                    file.broken(first, end, appended, &reason, &batch)
                })
            }
            Item::Lost { first, end, reason } => {
                let partition = self.context.partition;
                tracing::warn!(%partition, %first, %end, reason, "the lake goes on behind a gap");
                self.lost_some = true;
                let now = self.now.0;
                self.errors(first, end, now, landed, |file, first| file.lost(first, end, &reason))
            }
            Item::Boundary { next } => {
                self.position = next;
                Ok(())
            }
        }
    }

    /// Brings a record to its file; one that is no row into the error file.
    fn take(
        &mut self,
        parser: &mut Parser,
        row: &Row<'_>,
        appended: Timestamp,
        landed: &Landed,
    ) -> Result<(), BuildError> {
        match self.take_only(parser, row, appended, landed)? {
            Taken::Row | Taken::Elsewhere => Ok(()),
            Taken::Misfit(reason) => self
                .errors(row.offset, row.offset.next(), appended, landed, |file, _| file.record(row, appended, &reason)),
        }
    }

    /// Brings a record to its file, or says why it is no row.
    pub fn take_only(
        &mut self,
        parser: &mut Parser,
        row: &Row<'_>,
        appended: Timestamp,
        landed: &Landed,
    ) -> Result<Taken, BuildError> {
        let size = row.key.map_or(0, <[u8]>::len) + row.value.map_or(0, <[u8]>::len);
        self.read_bytes += size as u64;
        let is_raw = self.context.is_raw();
        let json = if is_raw && !self.layout.reads_json() {
            None
        } else {
            match object(parser, row.value) {
                Ok(json) => Some(json),
                Err(_) if is_raw => None,
                Err(reason) => return Ok(Taken::Misfit(reason.to_string())),
            }
        };
        let mut directory = std::mem::take(&mut self.directory);
        self.layout.render(json.as_ref(), row.timestamp, appended, &mut directory);
        let pushed = self.push(&directory, row, json.as_ref(), appended, landed, size);
        self.directory = directory;
        pushed
    }

    fn push(
        &mut self,
        directory: &str,
        row: &Row<'_>,
        json: Option<&crate::json::Json<'_>>,
        appended: Timestamp,
        landed: &Landed,
        size: usize,
    ) -> Result<Taken, BuildError> {
        if landed.has(directory, row.offset) {
            return Ok(Taken::Elsewhere);
        }
        self.writes += 1;
        let (writes, roll_rows) = (self.writes, self.limits.roll_rows);
        loop {
            let Some(file) = self.file(directory, row.offset, appended)? else { return Ok(Taken::Elsewhere) };
            let Content::Data(encoder) = &mut file.content else {
                return Err(BuildError::Encode(format!("a row in the directory {directory:?}")));
            };
            match encoder.push(row, json)? {
                Pushed::Taken => {}
                Pushed::Misfit(reason) => return Ok(Taken::Misfit(reason)),
                Pushed::Drifts => {
                    self.close(directory)?;
                    continue;
                }
            }
            if file.note(row.offset, row.offset, 1, appended, size, writes, roll_rows) {
                self.look(directory, row.offset, appended)?;
            }
            return Ok(Taken::Row);
        }
    }

    /// Writes offsets that are no rows into the error file: those of `first..end` that are not in one already.
    fn errors(
        &mut self,
        first: Offset,
        end: Offset,
        appended: Timestamp,
        landed: &Landed,
        write: impl FnOnce(&mut ErrorFile, Offset) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let first = landed.above.get(ERRORS).map_or(first, |end| first.max(*end));
        if first >= end {
            return Ok(());
        }
        self.writes += 1;
        let writes = self.writes;
        let Some(file) = self.file(ERRORS, first, appended)? else { return Ok(()) };
        let Content::Errors(errors) = &mut file.content else {
            return Err(BuildError::Encode("rows in the directory of errors".into()));
        };
        let before = errors.rejected;
        write(errors, first)?;
        let rows = errors.rejected - before;
        file.note(first, Offset(end.0 - 1), rows, appended, 0, writes, u64::MAX);
        self.look(ERRORS, first, appended)
    }

    /// The open file for an offset of a directory; none if a redo has no use for it.
    fn file(
        &mut self,
        directory: &str,
        offset: Offset,
        appended: Timestamp,
    ) -> Result<Option<&mut OpenFile>, BuildError> {
        if let Target::Directories(files) = &self.target
            && !files.contains_key(directory)
        {
            if self.limits.open_files.is_full() && files.len() >= self.limits.open_files_share {
                self.make_room()?;
            }
            let content = if directory == ERRORS {
                Content::Errors(Box::new(ErrorFile::create(&self.context)?))
            } else {
                let declared = matches!(self.context.columns, LakeColumns::Declared(_));
                let schema = declared.then(|| self.context.schema.lock().settled().clone());
                Content::Data(self.context.open(schema.as_ref())?)
            };
            let file = self.empty(content, appended);
            if let Target::Directories(files) = &mut self.target {
                files.insert(directory.to_owned(), file);
                self.limits.open_files.change(0, 1);
            }
        }
        Ok(match &mut self.target {
            Target::Directories(files) => files.get_mut(directory),
            Target::Intents(files) => files.get_mut(directory).and_then(|files| {
                let in_range = |intent: &Intent| (intent.first..=intent.last).contains(&offset);
                files.iter_mut().find(|file| file.intent.as_ref().is_some_and(in_range))
            }),
        })
    }

    /// Looks at a file's size and memory: closes it if it is full, gives memory back if too much is held.
    fn look(&mut self, directory: &str, offset: Offset, appended: Timestamp) -> Result<(), BuildError> {
        let (roll_bytes, roll_rows) = (self.limits.roll_bytes, self.limits.roll_rows);
        let budget = Arc::clone(&self.limits.budget);
        let Some(file) = self.file(directory, offset, appended)? else { return Ok(()) };
        (file.unseen_bytes, file.unseen_rows) = (0, 0);
        let memory = match &file.content {
            Content::Data(encoder) => encoder.memory(),
            Content::Errors(_) => 0,
        };
        budget.change(std::mem::replace(&mut file.memory, memory), memory);
        if file.intent.is_none() && (file.rows >= roll_rows || file.written() >= roll_bytes) {
            self.close(directory)
        } else if budget.is_exceeded() {
            self.shrink()
        } else {
            Ok(())
        }
    }

    /// Gives back the memory of the files that hold most, until enough is free.
    fn shrink(&mut self) -> Result<(), BuildError> {
        let budget = Arc::clone(&self.limits.budget);
        let mut files: Vec<&mut OpenFile> = match &mut self.target {
            Target::Directories(files) => files.values_mut().collect(),
            Target::Intents(files) => files.values_mut().flatten().collect(),
        };
        files.sort_unstable_by_key(|file| std::cmp::Reverse(file.memory));
        for file in files.into_iter().take_while(|file| file.memory >= SHRINK_BYTES) {
            if let Content::Data(encoder) = &mut file.content {
                encoder.shrink()?;
                let memory = encoder.memory();
                budget.change(std::mem::replace(&mut file.memory, memory), memory);
            }
            if budget.is_relieved() {
                break;
            }
        }
        Ok(())
    }

    /// Closes the quarter of the files that was not written to for longest.
    fn make_room(&mut self) -> Result<(), BuildError> {
        let Target::Directories(files) = &self.target else { return Ok(()) };
        let mut touched: Vec<(u64, &String)> = files.iter().map(|(name, file)| (file.touched, name)).collect();
        touched.sort_unstable();
        let oldest = touched.len().div_ceil(4);
        let names: Vec<String> = touched.into_iter().take(oldest).map(|(_, name)| name.clone()).collect();
        names.iter().try_for_each(|name| self.close(name))
    }

    /// Completes a directory's file.
    fn close(&mut self, directory: &str) -> Result<(), BuildError> {
        if let Target::Directories(files) = &mut self.target
            && let Some(file) = files.remove(directory)
        {
            self.limits.open_files.change(1, 0);
            let closed = self.complete(directory, file)?;
            self.closed.extend(closed);
        }
        Ok(())
    }

    /// `None` if nothing is in it.
    fn complete(&self, directory: &str, mut file: OpenFile) -> Result<Option<ClosedFile>, BuildError> {
        self.limits.budget.change(std::mem::take(&mut file.memory), 0);
        let Some(first) = file.first else { return Ok(None) };
        let (partition, last) = (self.context.partition, file.last);
        let (newest, oldest, rows) = (file.newest, file.oldest, file.rows);
        let intent = file.intent.take().unwrap_or_else(|| {
            let extension = if directory == ERRORS { "ndjson" } else { self.context.extension() };
            Intent {
                epoch: self.context.epoch,
                directory: directory.to_owned(),
                first,
                last,
                rows,
                lost: 0,
                name: plan::file_name(directory, partition, first, last, extension),
                schema: 0,
            }
        });
        let (intent, spool, schema) = match file.content {
            Content::Errors(errors) => {
                let lost = errors.lost;
                (Intent { lost, ..intent }, errors.finish()?, None)
            }
            Content::Data(encoder) => {
                let (spool, schema) = encoder.finish(&self.context.proof_entries(&intent))?;
                let version = schema.as_ref().map_or(0, |schema| schema.version);
                (Intent { schema: version, ..intent }, spool, schema)
            }
        };
        Ok(Some(ClosedFile { intent, spool: Arc::new(spool), schema, newest, oldest, rows }))
    }

    /// Closes every file that `ends` says.
    fn close_where(&mut self, ends: impl Fn(&OpenFile) -> bool) -> Result<(), BuildError> {
        let Target::Directories(files) = &self.target else { return Ok(()) };
        let mut ending: Vec<(u64, String)> =
            files.iter().filter(|(_, file)| ends(file)).map(|(name, file)| (file.touched, name.clone())).collect();
        ending.sort_unstable();
        ending.iter().try_for_each(|(_, name)| self.close(name))
    }

    /// Closes what ends now: by age, for a flush up to `flush_to`, or because it holds the floor too far back.
    pub fn close_due(&mut self, now: Instant, flush_to: Offset, landed: &Landed) -> Result<(), BuildError> {
        let (read, floor) = (self.read_bytes, self.floor());
        let too_many_above = landed.above.len() > plan::ABOVE_MAX;
        // A flush closes files once, when all of what it asks for is in them.
        let flush_to = if self.position >= flush_to { flush_to } else { Offset::ZERO };
        self.close_where(|file| {
            let first = file.first.unwrap_or(Offset(u64::MAX));
            file.due.is_over(file.written(), now)
                || first < flush_to
                || read - file.began > plan::REREAD_BYTES_MAX
                || (too_many_above && first.0 <= floor.0 + 10_000)
        })
    }

    /// Closes everything.
    pub fn close_all(&mut self) -> Result<(), BuildError> {
        self.close_where(|_| true)
    }

    /// Completes a redo: the files of the round, in its order.
    pub fn finish_redo(&mut self, round: &Round) -> Result<Vec<ClosedFile>, BuildError> {
        let Target::Intents(files) = &mut self.target else { return Ok(Vec::new()) };
        let mut files = std::mem::take(files);
        let mut out = Vec::new();
        for intent in &round.intents {
            let of_directory = files.get_mut(&intent.directory);
            let file = of_directory.filter(|files| !files.is_empty()).map(|files| files.remove(0));
            let Some(mut file) = file else { continue };
            file.first = Some(intent.first);
            out.extend(self.complete(&intent.directory, file)?);
        }
        Ok(out)
    }

    /// The first offset that is in no complete file.
    pub fn floor(&self) -> Offset {
        match &self.target {
            Target::Directories(files) => {
                files.values().filter_map(|file| file.first).min().unwrap_or(self.position).min(self.position)
            }
            Target::Intents(_) => Offset::ZERO,
        }
    }

    /// Rows in open files, how many these are, and when the oldest record that waits was appended.
    pub fn open(&self) -> (u64, usize, Option<Timestamp>) {
        let Target::Directories(files) = &self.target else { return (0, 0, None) };
        let used = || files.values().filter(|file| file.first.is_some());
        let oldest = used().map(|file| file.oldest).chain(self.closed.iter().map(|file| file.oldest)).min();
        (used().map(|file| file.rows).sum(), used().count(), oldest)
    }

    /// When the newest record that was read was appended.
    pub fn newest_read(&self) -> Option<Timestamp> {
        self.newest_read
    }

    /// When to look at the ages again.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let Target::Directories(files) = &self.target else { return None };
        files.values().filter(|file| file.first.is_some()).map(|file| file.due.next(now)).min()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let held: usize = match &self.target {
            Target::Directories(files) => {
                self.limits.open_files.change(files.len(), 0);
                files.values().map(|file| file.memory).sum()
            }
            Target::Intents(files) => files.values().flatten().map(|file| file.memory).sum(),
        };
        self.limits.budget.change(held, 0);
    }
}
