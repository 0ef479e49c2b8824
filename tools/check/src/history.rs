//! What clients and the harness saw, one JSON line per event: its types, its writer, its reader.
//!
//! ```text
//! {"t":1204411,"proc":3,"e":{"invoke":{"at":{"stream":0,"part":2},"values":[3298534883328,3298534883329]}}}
//! ```
//! One file per process (recorder); a *process* is whatever sees one thing after the other: a producer, a consumer, who
//! asks for the tail, who starts and kills the server.
//! Invariants
//! - `t` is nanoseconds of one monotonic clock for all files. An invocation's is not after the moment it was sent, an
//!   answer's not before the moment it came: being off to that side can hide a violation and never invents one.
//! - Values are unique within a history and rise in the order of their producer's sends, so completions name values
//!   instead of calls.
//! - What a consumer got is in the order in which it got it. Else the order of lines does not matter.
//!
//! Not here: what of it is wrong (`log`, `queue`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::value::ValueId;

mod group;
pub mod queue;

pub use group::{CommitOutcome, InGroup, OfGroup};
pub use queue::{InQueue, OfQueue};

/// A partition of a stream; streams are numbered as the harness likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The stream.
    pub stream: u32,
    /// The partition in it.
    #[serde(rename = "part")]
    pub partition: u32,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds of the history's clock.
    #[serde(rename = "t")]
    pub at_ns: u64,
    /// Who saw it.
    #[serde(rename = "proc")]
    pub process: u32,
    /// What.
    #[serde(rename = "e")]
    pub what: What,
}

/// What was done or seen. Produce has an invocation and one completion for each value; everything else is recorded when
/// its answer is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Values are about to be sent, in this order.
    Invoke {
        /// Where to.
        at: Place,
        /// What.
        values: Vec<ValueId>,
    },
    /// Acknowledged, one offset after the other.
    Ok {
        /// Where.
        at: Place,
        /// The offset of the first.
        base_offset: u64,
        /// What.
        values: Vec<ValueId>,
        /// How often each may have been sent again by then without the sender knowing what became of the copy before.
        resends: u16,
    },
    /// These surely did not happen and will not.
    Fail {
        /// Where.
        at: Place,
        /// What.
        values: Vec<ValueId>,
        /// The error's number.
        code: u16,
    },
    /// These may have happened, or may still.
    Info {
        /// Where.
        at: Place,
        /// What.
        values: Vec<ValueId>,
        /// The error's number.
        code: u16,
        /// As with `Ok`.
        resends: u16,
    },
    /// This process begins to read a partition, or moves to another place in it.
    Open {
        /// Where.
        at: Place,
        /// The next offset it wants.
        next: u64,
    },
    /// Records came.
    Fetch {
        /// From where.
        at: Place,
        /// Offset and value, as they came; no value: the payload was not whole.
        records: Vec<(u64, Option<ValueId>)>,
        /// The high watermark in the same answer.
        high_watermark: u64,
    },
    /// The server said that records are missing.
    Gap {
        /// Where.
        at: Place,
        /// The first one missing.
        from: u64,
        /// The next one that comes.
        resume: u64,
        /// Why: the error's number.
        code: u16,
    },
    /// An answer to where a partition begins and ends.
    Tail {
        /// Which.
        at: Place,
        /// When it was asked.
        invoked_ns: u64,
        /// Its first offset.
        start: u64,
        /// Its high watermark.
        high_watermark: u64,
    },
    /// The values of this producer stand once, however often they are sent: it is idempotent, or its records have dedup
    /// ids. A producer is *plain* unless this is said of it.
    Once {
        /// As its values name it.
        producer: u32,
    },
    /// A producer was given its number under the name of another one, which is fenced with that: nothing of the other
    /// one is stored any more.
    Replaced {
        /// The one that is fenced, as its values name it.
        producer: u32,
        /// The one that has its name now.
        by: u32,
    },
    /// Of a consumer group.
    Group(OfGroup),
    /// Queues may deliver these only so long after they were appended, whatever the queues' own delay is.
    Delayed {
        /// Which.
        values: Vec<ValueId>,
        /// In milliseconds.
        delay_ms: u64,
    },
    /// Of a queue.
    Queue(OfQueue),
    /// The server's life.
    Server(Life),
    /// A part of the last read, by a fresh client, of everything there is.
    Final {
        /// Of where.
        at: Place,
        /// As with `Fetch`.
        records: Vec<(u64, Option<ValueId>)>,
    },
    /// The last read of a partition was complete.
    FinalEnd {
        /// Which.
        at: Place,
        /// The log start.
        start: u64,
        /// The high watermark.
        end: u64,
    },
}

/// What became of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Its process was started.
    Start,
    /// It said that it is ready.
    Ready,
    /// It was killed under load.
    KillUnderLoad,
    /// It was killed before it was ready.
    KillInRecovery,
    /// It was asked to stop, and killed before it had.
    KillInShutdown,
    /// It was asked to stop, and did.
    Stop,
}

/// The one clock of a history: the machine's monotonic one, from an origin that the processes of a run share.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin_ns: u64,
}

impl Clock {
    /// A clock that stands at 0.
    pub fn start() -> Self {
        Self { origin_ns: machine_ns() }
    }

    /// The clock of another process on this machine, by its [`origin_ns`](Self::origin_ns).
    pub fn of_origin(origin_ns: u64) -> Self {
        Self { origin_ns }
    }

    /// What another process needs to go by the same clock.
    pub fn origin_ns(self) -> u64 {
        self.origin_ns
    }

    /// Nanoseconds since its start.
    pub fn now_ns(self) -> u64 {
        machine_ns().saturating_sub(self.origin_ns)
    }
}

/// The same for all processes until the machine starts anew.
fn machine_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let parts = u64::try_from(now.tv_sec).ok().zip(u64::try_from(now.tv_nsec).ok());
    parts.map_or(0, |(seconds, ns)| seconds.saturating_mul(1_000_000_000).saturating_add(ns))
}

/// Writes one process's events to a file of its own.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    process: u32,
    clock: Clock,
    out: BufWriter<File>,
    /// The first write that failed; nothing is written behind it.
    failed: Option<io::Error>,
}

impl Recorder {
    /// Makes `process-NNNN.jsonl` in that directory.
    ///
    /// # Errors
    /// The file cannot be made, or is there already.
    pub fn create(dir: &Path, process: u32, clock: Clock) -> Result<Self, HistoryError> {
        let path = Self::path(dir, process);
        match File::create_new(&path) {
            Ok(file) => Ok(Self { path, process, clock, out: BufWriter::new(file), failed: None }),
            Err(source) => Err(HistoryError::Io { path, source }),
        }
    }

    /// Where a process's file is.
    pub fn path(dir: &Path, process: u32) -> PathBuf {
        dir.join(format!("process-{process:04}.jsonl"))
    }

    /// The clock it goes by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Writes an event of now. A failure is kept for [`finish`](Self::finish).
    pub fn record(&mut self, what: What) {
        self.record_at(self.clock.now_ns(), what);
    }

    /// Writes an event of another time.
    pub fn record_at(&mut self, at_ns: u64, what: What) {
        if self.failed.is_none() {
            let event = Event { at_ns, process: self.process, what };
            let written = serde_json::to_writer(&mut self.out, &event).map_err(io::Error::from);
            self.failed = written.and_then(|()| self.out.write_all(b"\n")).err();
        }
    }

    /// Hands what is buffered to the system, so that it is there even if this process is killed.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn flush(&mut self) -> Result<(), HistoryError> {
        let done = self.failed.take().map_or_else(|| self.out.flush(), Err);
        done.map_err(|source| HistoryError::Io { path: self.path.clone(), source })
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// Something could not be written, now or before: the history is not whole.
    pub fn finish(mut self) -> Result<PathBuf, HistoryError> {
        match self.failed.map_or_else(|| self.out.flush(), Err) {
            Ok(()) => Ok(self.path),
            Err(source) => Err(HistoryError::Io { path: self.path, source }),
        }
    }
}

/// Why a history cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it.
    #[error("{}:{line}: not an event of a history: {reason}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Whole,
    /// Whoever wrote it was killed: a last line without its end was never acted on.
    Killed,
}

/// Hands every event of a file to `take`, in the file's order.
///
/// # Errors
/// The file cannot be read, or a line is not an event; what came before it was taken.
pub fn read(path: &Path, take: impl FnMut(Event)) -> Result<(), HistoryError> {
    read_until_end(path, Ending::Whole, take)
}

/// As [`read`], of a process that was killed: a last line without its end is passed over.
///
/// # Errors
/// As [`read`].
pub fn read_killed(path: &Path, take: impl FnMut(Event)) -> Result<(), HistoryError> {
    read_until_end(path, Ending::Killed, take)
}

fn read_until_end(path: &Path, ending: Ending, mut take: impl FnMut(Event)) -> Result<(), HistoryError> {
    let failed = |source| HistoryError::Io { path: path.to_owned(), source };
    let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text).map_err(failed)? == 0 {
            break;
        }
        let bad = |reason: String| HistoryError::BadLine { path: path.to_owned(), line, reason };
        if text.pop() != Some(b'\n') {
            match ending {
                Ending::Killed => break,
                Ending::Whole => return Err(bad("its end is missing; whoever wrote it did not finish".into())),
            }
        }
        take(serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Place = Place { stream: 0, partition: 2 };

    fn of_group(what: InGroup) -> What {
        What::Group(OfGroup { group: 1, member: 17, what })
    }

    fn commit_done(outcome: CommitOutcome) -> What {
        of_group(InGroup::CommitDone { at: AT, epoch: 3, offset: 9, invoked_ns: 4, outcome })
    }

    fn events() -> Vec<What> {
        let (values, code) = (vec![ValueId::new(3, 0), ValueId::new(3, 1)], 402);
        vec![
            What::Invoke { at: AT, values: values.clone() },
            What::Ok { at: AT, base_offset: 7, values: values.clone(), resends: 1 },
            What::Fail { at: AT, values: values.clone(), code: 203 },
            What::Info { at: AT, values, code, resends: 0 },
            What::Open { at: AT, next: 0 },
            What::Fetch { at: AT, records: vec![(7, Some(ValueId::new(3, 0))), (8, None)], high_watermark: 9 },
            What::Gap { at: AT, from: 1, resume: 2, code: 501 },
            What::Tail { at: AT, invoked_ns: 5, start: 0, high_watermark: 9 },
            What::Once { producer: 3 },
            What::Replaced { producer: 3, by: 4 },
            of_group(InGroup::Joined { streams: vec![0] }),
            of_group(InGroup::Assigned { at: AT, epoch: 3 }),
            of_group(InGroup::Revoked { at: AT, epoch: 3 }),
            of_group(InGroup::Lost { at: AT, epoch: 3 }),
            of_group(InGroup::Delivered { at: AT, epoch: 3, records: vec![(7, Some(ValueId::new(3, 0))), (8, None)] }),
            of_group(InGroup::Commit { at: AT, epoch: 3, offset: 9 }),
            commit_done(CommitOutcome::Ok),
            commit_done(CommitOutcome::Refused { code: 307 }),
            commit_done(CommitOutcome::Unknown { code: 402 }),
            of_group(InGroup::Committed { at: AT, offset: None, invoked_ns: 4 }),
            of_group(InGroup::Reset { at: AT, offset: 0, invoked_ns: 4 }),
            What::Delayed { values: vec![ValueId::new(3, 0)], delay_ms: 500 },
            What::Server(Life::KillInRecovery),
            What::Final { at: AT, records: vec![(7, Some(ValueId::new(3, 0)))] },
            What::FinalEnd { at: AT, start: 0, end: 9 },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = Recorder::create(dir.path(), 12, Clock::start()).expect("made");
        events().into_iter().for_each(|what| recorder.record_at(5, what));
        let mut back = Vec::new();
        read(&recorder.finish().expect("written"), |event| back.push(event)).expect("read");
        let wrote: Vec<Event> = events().into_iter().map(|what| Event { at_ns: 5, process: 12, what }).collect();
        assert_eq!(back, wrote);
    }

    #[test]
    fn a_line_looks_as_the_header_says() {
        let values = vec![ValueId::new(3, 0), ValueId::new(3, 1)];
        let event = Event { at_ns: 1_204_411, process: 3, what: What::Invoke { at: AT, values } };
        let line = r#"{"t":1204411,"proc":3,"e":{"invoke":{"at":{"stream":0,"part":2},"values":[3298534883328,3298534883329]}}}"#;
        assert_eq!(serde_json::to_string(&event).expect("JSON"), line);
        let event = Event { at_ns: 9, process: 4, what: of_group(InGroup::Assigned { at: AT, epoch: 3 }) };
        let line = r#"{"t":9,"proc":4,"e":{"group":{"group":1,"member":17,"did":{"assigned":{"at":{"stream":0,"part":2},"epoch":3}}}}}"#;
        assert_eq!(serde_json::to_string(&event).expect("JSON"), line);
    }

    #[test]
    fn a_line_that_a_kill_cut_off_is_passed_over_where_a_kill_is_known_of_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p.jsonl");
        let good = r#"{"t":1,"proc":1,"e":{"server":"start"}}"#;
        std::fs::write(&path, format!("{good}\n{}", &good[..20])).expect("written");
        let mut taken = 0;
        read_killed(&path, |_| taken += 1).expect("read");
        assert_eq!(taken, 1);
        assert!(read(&path, drop).is_err());
        std::fs::write(&path, format!("{}\n{good}\n", &good[..20])).expect("written");
        assert!(read_killed(&path, drop).is_err(), "within a file nothing is cut off");
    }

    #[test]
    fn two_clocks_of_one_origin_agree() {
        let one = Clock::start();
        let other = Clock::of_origin(one.origin_ns());
        let times = [one.now_ns(), other.now_ns(), one.now_ns()];
        assert!(times.is_sorted() && times[0] < 1_000_000_000, "{times:?}");
    }

    #[test]
    fn a_bad_line_is_named_with_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p.jsonl");
        let good = r#"{"t":1,"proc":1,"e":{"server":"start"}}"#;
        for (text, says) in [
            (format!("{good}\n{{\"t\":1}}\n"), "p.jsonl:2: not an event"),
            (format!("{good}\n\n{good}\n"), "p.jsonl:2: not an event"),
            (format!("{good}\n{good}"), "p.jsonl:2: not an event of a history: its end is missing"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = read(&path, drop).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(read(&dir.path().join("none"), drop).expect_err("refused").to_string().contains("none: "));
    }
}
