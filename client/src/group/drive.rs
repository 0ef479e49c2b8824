//! What happens in a call for an event: the membership first, then what was read, then waiting for either.
//!
//! All state changes between waits, so that a call that is dropped while it waits has taken nothing.

use std::sync::Arc;

use millstream_protocol::frame::control::ConsumeMode;
use millstream_protocol::frame::group::{AssignedPartition, StreamPartition};
use tokio::sync::watch;

use super::commit::{self, Found};
use super::committing::interval;
use super::event::{GroupBatch, GroupEvent, GroupRecord, NamedPartition};
use super::member::Change;
use super::reader::{News, Reader, Told};
use super::session::{not_held, or_never};
use super::{Commit, Finding, GroupConsumer, ReaderHandle, Revoking, joined};
use crate::consumer::source::{ITEMS_MAX, Source};
use crate::error::Result;

/// What the application takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    Record,
    Batch,
}

impl GroupConsumer {
    pub(super) async fn event(&mut self, grain: Grain) -> Option<Result<GroupEvent>> {
        self.holdings.settle();
        self.confirm().await;
        loop {
            if let Some(error) = self.complaints.pop_front() {
                return Some(Err(error));
            }
            if self.is_over {
                return None;
            }
            match self.look() {
                Some(Ok(event)) => return Some(Ok(event)),
                Some(Err(error)) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
                None => {}
            }
            if self.finding.as_ref().is_some_and(|finding| finding.task.is_finished())
                && let Some(Finding { partitions, task }) = self.finding.take()
                && let Some(event) = self.found(partitions, joined(task.await))
            {
                return Some(Ok(event));
            }
            self.commit_if_due().await;
            if let Some(item) = self.take(grain) {
                return Some(item);
            }
            if let Some(told) = self.waiting.pop_front() {
                self.file(told);
                continue;
            }
            let commit_at = interval(self.commit).filter(|_| self.committing.is_none()).map(|_| self.commit_at);
            tokio::select! {
                biased;
                () = self.shared.news() => {}
                told = self.told.recv() => if let Some(told) = told {
                    self.waiting.push_back(told);
                },
                found = or_never(self.finding.as_mut().map(|finding| &mut finding.task)) => {
                    let partitions = self.finding.take().map_or_else(Vec::new, |finding| finding.partitions);
                    if let Some(event) = self.found(partitions, joined(found)) {
                        return Some(Ok(event));
                    }
                },
                done = or_never(self.committing.as_mut()) => self.finished_commit(joined(done)),
                () = or_never(commit_at.map(|at| tokio::time::sleep_until(at.into()))) => {}
            }
        }
    }

    /// What happened to the membership, if anything did.
    fn look(&mut self) -> Option<Result<GroupEvent>> {
        let changes = self.shared.changes();
        if changes == self.looked_at && (!self.look || self.finding.is_some()) {
            return None;
        }
        self.looked_at = changes;
        // What is looked up may be out of date: what of it is still there is told again.
        if let Some(Finding { partitions, task }) = self.finding.take() {
            task.abort();
            self.shared.unclaim(&partitions);
        }
        while let Some(change) = self.shared.next_change() {
            self.look = true;
            match change {
                Change::Lost(partitions) => {
                    self.revoking = None;
                    let names = self.holdings.remove(&partitions);
                    self.refresh();
                    if !names.is_empty() {
                        return Some(Ok(GroupEvent::Lost(names)));
                    }
                }
                Change::Revoking(partitions) => {
                    let names = self.holdings.names(&partitions);
                    self.holdings.stop(&partitions);
                    self.refresh();
                    let number = self.shared.number();
                    self.revoking = Some(Revoking { partitions, number, is_committed: false });
                    return Some(Ok(GroupEvent::Revoking(names)));
                }
                Change::Assigned(partitions) => {
                    self.assigned_as = self.shared.number();
                    let find = commit::find(
                        self.client.clone(),
                        self.group.clone(),
                        self.streams.clone(),
                        self.names.clone(),
                        partitions.clone(),
                    );
                    self.finding = Some(Finding { partitions, task: tokio::spawn(find) });
                    return None;
                }
            }
        }
        self.look = false;
        self.shared.ended().map(Err)
    }

    /// What has come was looked up.
    fn found(&mut self, partitions: Vec<AssignedPartition>, found: Result<Vec<Found>>) -> Option<GroupEvent> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.complaints.push_back(error);
                self.shared.unclaim(&partitions);
                self.look = true;
                return None;
            }
        };
        self.look = true;
        let places: Vec<StreamPartition> = found.iter().map(|found| found.partition.at).collect();
        // What could not be found with the others is tried again, without them.
        let missing = partitions.into_iter().filter(|partition| !places.contains(&partition.at));
        self.shared.unclaim(&missing.collect::<Vec<_>>());
        for Found { partition, stream, committed } in found {
            self.names.insert(partition.at.stream, Arc::clone(&stream));
            self.holdings.take_up(partition.at, stream, partition.epoch, committed, self.start);
        }
        self.refresh();
        Some(GroupEvent::Assigned(self.holdings.names(&places)))
    }

    /// Lets go of what the application was told to let go of: it is done with it.
    async fn confirm(&mut self) {
        while let Some(revoking) = &mut self.revoking {
            // The membership ended meanwhile: what went with it is told as lost.
            if revoking.number != self.shared.number() {
                self.revoking = None;
                return;
            }
            let is_committed = std::mem::replace(&mut revoking.is_committed, true);
            if self.committing.is_some() {
                if let Some(revoking) = &mut self.revoking {
                    revoking.is_committed = is_committed;
                }
                self.finish_commit().await;
            } else if !is_committed && matches!(self.commit, Commit::Automatic { .. }) {
                self.start_commit();
            } else if let Some(Revoking { partitions, .. }) = self.revoking.take() {
                self.holdings.remove(&partitions);
                self.shared.release(&partitions);
                self.look = true;
            }
        }
    }

    /// The next record or batch of what is on the shelf.
    fn take(&mut self, grain: Grain) -> Option<Result<GroupEvent>> {
        let (at, _, stream) = self.on_shelf.as_ref()?;
        let (at, holdings) = (*at, &mut self.holdings);
        let taken = match grain {
            Grain::Record => self.shelf.record(|reached| holdings.reached(at, reached)).map(|record| {
                record
                    .map(|record| GroupEvent::Record(GroupRecord::new(Arc::clone(stream), record)))
                    .map_err(|error| error.in_stream(stream))
            }),
            Grain::Batch => self.shelf.batch(|reached| holdings.reached(at, reached)).map(|batch| {
                let stream = Arc::clone(stream);
                Ok(GroupEvent::Batch(GroupBatch { stream, batch }))
            }),
        };
        if taken.is_none() {
            self.on_shelf = None;
            // What was behind the last record of a batch is done with it.
            self.holdings.settle();
        }
        taken
    }

    /// Takes what a reader told, unless it is out of date.
    fn file(&mut self, told: Told) {
        let Told { at, generation, news } = told;
        if !self.holdings.is_current(at, generation) {
            return;
        }
        match news {
            News::Began(next) => self.holdings.began(at, next),
            News::Frame(frame) => {
                if let Some(stream) = self.holdings.stream(at).cloned() {
                    self.holdings.saw(at, frame.high_watermark);
                    self.on_shelf = Some((at, generation, stream));
                    self.shelf.put(frame);
                }
            }
            News::Gap(gap, error) => {
                self.holdings.skipped(at, gap.resume);
                self.complaints.push_back(error);
            }
            News::Reset(error) => {
                self.holdings.reset(at, self.start);
                self.complaints.push_back(error);
            }
            News::Failed(error) => self.complaints.push_back(error),
        }
    }

    /// Has the readers read what is wanted now, and drops what is not: its bytes are free for the rest.
    pub(super) fn refresh(&mut self) {
        let mut wanted = self.holdings.wanted();
        self.readers.retain(|stream, _| wanted.contains_key(stream));
        for (stream, (name, partitions)) in std::mem::take(&mut wanted) {
            match self.readers.get(&stream) {
                Some(reader) => {
                    reader.wanted.send_if_modified(|before| {
                        let is_new = *before != partitions;
                        *before = partitions;
                        is_new
                    });
                }
                None => {
                    let source = Source {
                        client: self.client.clone(),
                        name: name.to_string(),
                        id: stream,
                        server_id: self.server_id,
                        mode: ConsumeMode::Follow,
                    };
                    let (sender, receiver) = watch::channel(partitions);
                    let reader = Reader::new(source, self.budget.clone(), self.start, receiver, self.teller.clone());
                    let task = tokio::spawn(reader.run());
                    self.readers.insert(stream, ReaderHandle { wanted: sender, task });
                }
            }
        }
        if self.on_shelf.as_ref().is_some_and(|(at, generation, _)| !self.holdings.is_current(*at, *generation)) {
            self.on_shelf = None;
            self.shelf.clear();
        }
        while self.waiting.len() < ITEMS_MAX
            && let Ok(told) = self.told.try_recv()
        {
            self.waiting.push_back(told);
        }
        self.waiting.retain(|told| self.holdings.is_current(told.at, told.generation));
    }

    pub(super) fn find_all(&self, partitions: &[NamedPartition]) -> Result<Vec<StreamPartition>> {
        let find = |wanted: &NamedPartition| {
            self.holdings.find(wanted).ok_or_else(|| not_held(&wanted.stream, wanted.partition))
        };
        partitions.iter().map(find).collect()
    }
}
