//! Reads the partitions of one stream for a group's consumer, in the background.
//!
//! Whenever the set changes the stream is opened anew: partitions that stay go on behind what was read ahead of the
//! application, the others begin at the start they came with. All that is told carries the generation under which it was
//! read, so that what has been paused, moved or revoked meanwhile is dropped unseen.
//!
//! A position outside of the log is told with both of its ends before reading goes on at the group's start.
//! Invariant: positions move only where what moved them is told: waiting is given up between frames, never within one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millstream_protocol::frame::control::{PartitionState, Start as WireStart, StreamInfo};
use millstream_protocol::frame::group::StreamPartition;
use millstream_protocol::{Code, Incarnation, Offset, PartitionId};
use tokio::sync::{mpsc, watch};

use crate::backoff::Backoff;
use crate::consumer::intake::{Frame, Intake, Item};
use crate::consumer::position::{Place, Positions};
use crate::consumer::source::{Budget, Source};
use crate::error::{Error, Gap, Result};

/// A partition to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub partition: PartitionId,
    pub generation: u64,
    /// Where this generation begins.
    pub start: WireStart,
}

/// What is told of a partition.
#[derive(Debug)]
pub(super) enum News {
    /// Delivery begins at this offset.
    Began(Offset),
    Frame(Frame),
    Gap(Gap, Error),
    /// The position was outside of the log; delivery goes on at the group's start.
    Reset(Error),
    /// Delivery has ended, until the partition is given, sought or resumed anew.
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Told {
    pub at: StreamPartition,
    pub generation: u64,
    pub news: News,
}

pub(super) struct Reader {
    source: Source,
    name: Arc<str>,
    intake: Intake,
    budget: Budget,
    /// Where a position outside of the log goes.
    policy: WireStart,
    runs: BTreeMap<PartitionId, Run>,
    wanted: watch::Receiver<Vec<Wanted>>,
    told: mpsc::Sender<Told>,
}

/// One generation of a partition.
#[derive(Debug, Clone, Copy)]
struct Run {
    generation: u64,
    /// Whether it began at a position, which may be outside of the log, and not at the group's start.
    is_resettable: bool,
    has_failed: bool,
    /// Whether it was told that the partition is offline, which holds its delivery up until it is not.
    is_offline: bool,
    /// First offset kept and high watermark, as last described.
    ends: (u64, u64),
}

/// Why a round of reading is over.
enum End {
    /// Others are wanted.
    Changed,
    /// Nobody wants any.
    Dropped,
    Lost(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Lost(error)
    }
}

impl Reader {
    pub fn new(
        source: Source,
        budget: Budget,
        policy: WireStart,
        wanted: watch::Receiver<Vec<Wanted>>,
        told: mpsc::Sender<Told>,
    ) -> Self {
        let intake = Intake::new(Positions::new(source.mode, []));
        let name = source.name.as_str().into();
        Self { source, name, intake, budget, policy, runs: BTreeMap::new(), wanted, told }
    }

    /// Runs until nobody wants anything any more.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let error = match self.round(&wanted, &mut backoff).await {
                End::Changed => continue,
                End::Dropped => return,
                End::Lost(error) => error,
            };
            let changed = if error.is_retryable() {
                tracing::debug!(stream = %self.name, %error, "a group's stream ended; it will be opened again");
                let pause = backoff.next(error.retry_after());
                tokio::select! {
                    changed = self.wanted.changed() => changed,
                    () = tokio::time::sleep(pause) => Ok(()),
                }
            } else {
                if self.fail_all(&error).await.is_err() {
                    return;
                }
                self.wanted.changed().await
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn round(&mut self, wanted: &[Wanted], backoff: &mut Backoff) -> End {
        match self.read(wanted, backoff).await {
            Ok(()) => End::Changed,
            Err(end) => end,
        }
    }

    /// Reads until the set changes.
    async fn read(&mut self, wanted: &[Wanted], backoff: &mut Backoff) -> Result<(), End> {
        let is_failed = |run: &Run, wanted: &Wanted| run.generation == wanted.generation && run.has_failed;
        if wanted.iter().all(|wanted| self.runs.get(&wanted.partition).is_some_and(|run| is_failed(run, wanted))) {
            return changed(self.wanted.changed().await);
        }
        let (connection, info) = tokio::select! {
            is_changed = self.wanted.changed() => return changed(is_changed),
            described = self.source.describe() => described?,
        };
        for (partition, news) in self.adopt(wanted, &info)? {
            self.tell(partition, news).await?;
        }
        if self.intake.positions.is_done() {
            if self.runs.values().any(|run| run.is_offline) {
                let text = format!("partitions of {:?} are offline: looking again", self.name);
                return Err(End::Lost(Error::local(Code::TimedOut, text)));
            }
            return changed(self.wanted.changed().await);
        }
        let is_begun = |place: &&Place| place.is_new() && !self.runs[&place.partition].is_offline;
        let new: Vec<PartitionId> = self.intake.positions.all().filter(is_begun).map(|place| place.partition).collect();
        let mut reader = tokio::select! {
            is_changed = self.wanted.changed() => return changed(is_changed),
            opened = self.source.open_at(&connection, &mut self.intake.positions) => opened?,
        };
        for partition in new {
            let next = self.intake.positions.next(partition)?;
            self.tell(partition, News::Began(next)).await?;
        }
        loop {
            let incoming = tokio::select! {
                biased;
                is_changed = self.wanted.changed() => return changed(is_changed),
                incoming = self.budget.frame(&mut reader) => incoming?,
            };
            let mut items = VecDeque::new();
            let taken = self.intake.take(incoming, &mut items);
            let mut again = None;
            for item in items {
                again = self.tell_item(item).await?.or(again);
            }
            taken?;
            match again {
                Some(Again::Now) => return Ok(()),
                Some(Again::Later(error)) => return Err(End::Lost(error)),
                None => backoff.reset(),
            }
        }
    }

    /// Takes the set over; gives what is to be told of it.
    fn adopt(&mut self, wanted: &[Wanted], info: &StreamInfo) -> Result<Vec<(PartitionId, News)>> {
        let mut news = Vec::new();
        let mut places: Vec<(PartitionId, Incarnation, WireStart)> = Vec::with_capacity(wanted.len());
        let before = std::mem::take(&mut self.runs);
        let is_kept = |wanted: &Wanted| before.get(&wanted.partition).filter(|run| run.generation == wanted.generation);
        for wanted in wanted {
            let Wanted { partition, generation, mut start } = *wanted;
            let kept = is_kept(wanted).copied();
            let is_position = matches!(start, WireStart::Offset { .. });
            let fresh =
                Run { generation, is_resettable: is_position, has_failed: false, is_offline: false, ends: (0, 0) };
            let mut run = kept.unwrap_or(fresh);
            if !run.has_failed {
                match info.partitions.iter().find(|found| found.partition == partition.0) {
                    None => {
                        run.has_failed = true;
                        let text = format!("stream {:?} has no partition {partition}", self.name);
                        news.push((partition, News::Failed(self.error(partition, Code::UnknownPartition, text))));
                    }
                    Some(found) => {
                        run.ends = (found.log_start, found.high_watermark);
                        let was_offline =
                            std::mem::replace(&mut run.is_offline, found.state == PartitionState::Offline);
                        if run.is_offline && !was_offline {
                            let text = format!(
                                "partition {partition} of {:?} is offline, its log could not be opened: reading goes on when the \
                                 server has it again; `millstream recovery` says why",
                                self.name
                            );
                            news.push((partition, News::Failed(self.error(partition, Code::Internal, text))));
                        }
                        let is_new = !run.is_offline && self.is_new(partition, kept.is_some());
                        if is_new && run.is_resettable && is_outside(start, run.ends) {
                            news.push((partition, News::Reset(self.outside(partition, start, run.ends))));
                            run.is_resettable = false;
                            start = self.policy;
                        }
                        if is_new && !run.is_resettable && is_beyond(start, run.ends) {
                            run.has_failed = true;
                            let text = self.outside(partition, start, run.ends).to_string();
                            let error = self.error(partition, Code::OffsetOutOfRange, text);
                            news.push((partition, News::Failed(error)));
                        } else {
                            places.push((partition, Incarnation(found.incarnation), start));
                        }
                    }
                }
            }
            self.runs.insert(partition, run);
        }
        let kept = |partition: PartitionId| {
            let generation = |runs: &BTreeMap<PartitionId, Run>| runs.get(&partition).map(|run| run.generation);
            generation(&before) == generation(&self.runs)
        };
        self.intake.positions.adopt(places, kept);
        for (partition, run) in &self.runs {
            match run {
                Run { has_failed: true, .. } => {}
                Run { is_offline: true, .. } => drop(self.intake.positions.end(*partition)?),
                _ => self.intake.positions.revive(*partition)?,
            }
        }
        self.source.check(&self.intake.positions, info)?;
        Ok(news)
    }

    /// Whether a partition of the set has not been opened yet, so that its start may be moved.
    fn is_new(&self, partition: PartitionId, is_kept: bool) -> bool {
        let mut places = self.intake.positions.all();
        !is_kept || places.find(|place| place.partition == partition).is_none_or(|place| place.is_new())
    }

    /// Tells what came; says whether the stream must be opened anew for it.
    async fn tell_item(&mut self, item: Item) -> Result<Option<Again>, End> {
        match item {
            Item::Frame(frame) => self.tell(frame.partition, News::Frame(frame)).await.map(|()| None),
            Item::Gap(gap, error) => {
                let error = error.in_stream(&self.name);
                self.tell(gap.partition, News::Gap(gap, error)).await.map(|()| None)
            }
            Item::Failed(error) | Item::Final(error) => {
                let Some(partition) = error.partition() else { return Err(End::Lost(error)) };
                if error.code() == Code::LogTruncated {
                    self.intake.positions.restart(partition, self.policy)?;
                    let (log_start, high_watermark) = self.runs.get(&partition).map_or((0, 0), |run| run.ends);
                    let text = format!(
                        "{error}; the log of partition {partition} of {:?} has offsets {log_start}..{high_watermark}, \
                         reading goes on at the group's start",
                        self.name
                    );
                    let error = self.error(partition, Code::LogTruncated, text);
                    self.tell(partition, News::Reset(error)).await?;
                    return Ok(Some(Again::Now));
                }
                if error.is_retryable() {
                    self.intake.positions.revive(partition)?;
                    return Ok(Some(Again::Later(error)));
                }
                self.fail(partition, error.in_stream(&self.name)).await.map(|()| None)
            }
        }
    }

    async fn fail_all(&mut self, error: &Error) -> Result<(), End> {
        let wanted = self.wanted.borrow().clone();
        for Wanted { partition, generation, .. } in wanted {
            let fresh = Run { generation, is_resettable: false, has_failed: false, is_offline: false, ends: (0, 0) };
            let run = self.runs.entry(partition).or_insert(fresh);
            if run.generation != generation {
                *run = fresh;
            }
            if !run.has_failed {
                let error = self.error(partition, error.code(), error.to_string());
                self.fail(partition, error).await?;
            }
        }
        Ok(())
    }

    async fn fail(&mut self, partition: PartitionId, error: Error) -> Result<(), End> {
        if let Some(run) = self.runs.get_mut(&partition) {
            run.has_failed = true;
        }
        self.tell(partition, News::Failed(error)).await
    }

    async fn tell(&self, partition: PartitionId, news: News) -> Result<(), End> {
        let at = StreamPartition { stream: self.source.id.0, partition: partition.0 };
        let generation = self.runs.get(&partition).map_or(0, |run| run.generation);
        self.told.send(Told { at, generation, news }).await.map_err(|_| End::Dropped)
    }

    fn error(&self, partition: PartitionId, code: Code, text: String) -> Error {
        Error::of_partition(partition, code, text).in_stream(&self.name)
    }

    fn outside(&self, partition: PartitionId, start: WireStart, (log_start, high_watermark): (u64, u64)) -> Error {
        let offset = match start {
            WireStart::Offset { offset, .. } => offset,
            _ => 0,
        };
        let text = format!(
            "offset {offset} of partition {partition} of {:?} is out of range: the log has offsets \
             {log_start}..{high_watermark}, reading goes on at the group's start",
            self.name
        );
        self.error(partition, Code::OffsetOutOfRange, text)
    }
}

/// When to open the stream anew.
enum Again {
    Now,
    Later(Error),
}

fn changed(result: Result<(), watch::error::RecvError>) -> Result<(), End> {
    result.map_err(|_| End::Dropped)
}

/// Whether a position is below what is kept, or above the end. One that knows its batch's epoch is asked of the server: it
/// tells a log that lost its tail.
fn is_outside(start: WireStart, ends: (u64, u64)) -> bool {
    matches!(start, WireStart::Offset { offset, .. } if offset < ends.0) || is_beyond(start, ends)
}

fn is_beyond(start: WireStart, (_, high_watermark): (u64, u64)) -> bool {
    matches!(start, WireStart::Offset { offset, epoch: None } if offset > high_watermark)
}
