//! Consuming as a member of a group: partitions come and go, positions are kept by the server.
//!
//! ```text
//! session (task) ◄──► server: join, heartbeats, leave      reader (a task a stream) ◄── server: batches
//!    └─ member (pure) ──► changes ──┐                          └──► told ──┐
//!                                   └──► GroupConsumer::next ◄─────────────┘
//!                                          └─ holdings (pure): delivered, processed, committed
//! ```
//! All that the application sees happens in its own calls; the tasks keep the session and read ahead.

mod builder;
pub(crate) mod commit;
mod event;
mod holdings;
mod member;
mod reader;
mod session;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_protocol::frame::control::{ConsumeMode, Start as WireStart};
use millstream_protocol::frame::group::{AssignedPartition, OffsetCommit, StreamPartition};
use millstream_protocol::{Code, Offset, StreamId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::consumer::Start;
use crate::consumer::shelf::Shelf;
use crate::consumer::source::{Budget, ITEMS_MAX, Source};
use crate::error::{Error, Result};
use commit::{Committed, Found};
use holdings::Holdings;
use member::{Ask, Change};
use reader::{News, Reader, Told, Wanted};
use session::{Shared, not_held, or_never};

pub use builder::{Commit, GroupConsumerBuilder};
pub use event::{CommitOutcome, GroupBatch, GroupEvent, GroupPosition, GroupRecord, NamedPartition};

/// No automatic commit is sooner than this after the last one.
const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// How long a static member that goes tries to say how far it is.
const FAREWELL: Duration = Duration::from_secs(1);

/// A member of a consumer group. Made by [`Client::group`].
///
/// The partitions of the group's streams are shared out among its members; each is with one of them at a time. When
/// members come, go or die, the fewest possible move, and the others go on undisturbed.
///
/// # Events
/// [`next`](Self::next) gives records and says what happens to the membership; [`next_record`](Self::next_record) only gives
/// records, for a loop that need not know.
/// - [`Assigned`](GroupEvent::Assigned): reading begins at the committed offset, or where nothing is committed at
///   [`GroupConsumerBuilder::start`].
/// - [`Revoking`](GroupEvent::Revoking): nothing more of these partitions comes; what was read ahead is dropped. The
///   application finishes what it has in hand and commits it. Its **next call** for an event confirms (in automatic mode
///   it commits first); only then another member gets them.
/// - [`Lost`](GroupEvent::Lost): they are gone already.
///
/// # Commits
/// What a call has returned counts as processed when the application **asks for the next one** or calls
/// [`commit`](Self::commit): a process that dies with a record in hand gets it again, or another member does. So each record
/// is processed at least once; twice at most what was not committed. Asking and then giving up (a `select!` that takes
/// another branch) counts as asking.
///
/// A position that was found without a commit ([`Start::Latest`], [`Start::Time`]) is committed like one that was reached, so
/// that a restart does not find another one.
///
/// # Alive
/// Heartbeats are sent in the background: they say that the process lives, not that its loop goes round. An
/// application that does not call for a long time keeps its partitions; but when it has to let go of some, it must call
/// within [`GroupConsumerBuilder::rebalance_timeout`], or the server removes it: all its partitions are then
/// [`Lost`](GroupEvent::Lost), and it joins again by itself, as a new member. A lost connection is made again within
/// [`GroupConsumerBuilder::reconnect_timeout`]; no place is lost, and nothing comes twice within one membership.
///
/// # Errors as items
/// An item may be an error, and what follows depends on it:
/// - [`Error::gap`] is some: records are missing; delivery **goes on** behind them.
/// - [`Error::partition`] is some, with the code [`OffsetOutOfRange`](Code::OffsetOutOfRange) or
///   [`LogTruncated`](Code::LogTruncated): the position was outside of the log, its text names both ends; delivery goes on
///   at the group's start.
/// - [`Error::partition`] is some, with another code: this partition's delivery has ended until it is assigned anew or
///   [sought](Self::seek), or an automatic commit of it failed ([`Code::StaleEpoch`], …). The others go on.
/// - Otherwise an automatic commit failed as a whole, or the membership has ended, with `None` after it:
///   [`Code::Fenced`] (another member took over its instance id), or the server cannot be reached.
///
/// # Dropping
/// A consumer that is dropped commits nothing and does not leave: its partitions go on when its session ends. See
/// [`close`](Self::close).
///
/// # Example
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> millstream_client::Result<()> {
/// use millstream_client::GroupEvent;
///
/// let mut consumer = client.group("landing").stream("rides").build().await?;
/// while let Some(event) = consumer.next().await {
///     match event? {
///         GroupEvent::Record(found) => println!("{}/{} {:?}", found.partition, found.offset, found.record.value),
///         GroupEvent::Assigned(partitions) => println!("mine: {partitions:?}"),
///         GroupEvent::Revoking(partitions) => println!("going: {partitions:?}"),
///         GroupEvent::Lost(partitions) => println!("lost: {partitions:?}"),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct GroupConsumer {
    client: Client,
    group: String,
    streams: Vec<String>,
    is_static: bool,
    rebalance_timeout: Duration,
    start: WireStart,
    commit: Commit,
    server_id: u64,
    shared: Arc<Shared>,
    session: JoinHandle<()>,
    /// The member's number when it was given something last.
    assigned_as: u64,
    /// The changes that were looked at.
    looked_at: u64,
    /// Whether there may be more to look at.
    look: bool,
    holdings: Holdings,
    /// What has come and is being looked up.
    finding: Option<Finding>,
    names: HashMap<u64, Arc<str>>,
    revoking: Option<Revoking>,
    readers: BTreeMap<StreamId, ReaderHandle>,
    budget: Budget,
    told: mpsc::Receiver<Told>,
    teller: mpsc::Sender<Told>,
    /// What came while something was dropped: before what is in `told`.
    waiting: VecDeque<Told>,
    shelf: Shelf,
    on_shelf: Option<(StreamPartition, u64, Arc<str>)>,
    committing: Option<JoinHandle<Result<Vec<Committed>>>>,
    /// The member that the commit under way, or the last one, is of.
    committing_as: u64,
    commit_at: Instant,
    /// Errors to be told.
    complaints: VecDeque<Error>,
    is_over: bool,
}

struct Finding {
    partitions: Vec<AssignedPartition>,
    task: JoinHandle<Result<Vec<Found>>>,
}

/// What the application was told to let go of.
struct Revoking {
    partitions: Vec<StreamPartition>,
    /// Of this member.
    number: u64,
    is_committed: bool,
}

struct ReaderHandle {
    wanted: watch::Sender<Vec<Wanted>>,
    task: JoinHandle<()>,
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the application takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grain {
    Record,
    Batch,
}

impl GroupConsumer {
    fn new(builder: GroupConsumerBuilder, server_id: u64, shared: Arc<Shared>, session: JoinHandle<()>) -> Self {
        let settings = shared.settings();
        let (teller, told) = mpsc::channel(ITEMS_MAX);
        Self {
            group: settings.group,
            streams: settings.streams,
            is_static: settings.instance.is_some(),
            rebalance_timeout: settings.rebalance_timeout,
            start: builder.start.wire(),
            commit: builder.commit,
            server_id,
            assigned_as: shared.number(),
            shared,
            session,
            looked_at: 0,
            look: true,
            holdings: Holdings::default(),
            finding: None,
            names: HashMap::new(),
            revoking: None,
            readers: BTreeMap::new(),
            budget: Budget::new(builder.prefetch_bytes),
            told,
            teller,
            waiting: VecDeque::new(),
            shelf: Shelf::default(),
            on_shelf: None,
            committing: None,
            committing_as: 0,
            commit_at: Instant::now() + interval(builder.commit).unwrap_or_default(),
            complaints: VecDeque::new(),
            is_over: false,
            client: builder.client,
        }
    }

    /// The next event, records one by one ([`GroupEvent::Record`]); `None` once the membership has ended. Waits for it.
    ///
    /// It confirms the revocation that the last call told, and counts the record that the last call returned as processed.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken nothing.
    pub async fn next(&mut self) -> Option<Result<GroupEvent>> {
        self.event(Grain::Record).await
    }

    /// As [`next`](Self::next), a whole batch at a time ([`GroupEvent::Batch`]): costs nothing per record. After some calls
    /// of [`next`](Self::next) it gives what is left of their batch.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken nothing.
    pub async fn next_batch(&mut self) -> Option<Result<GroupEvent>> {
        self.event(Grain::Batch).await
    }

    /// The next record; what happens to the membership is confirmed and passed over. With automatic commits that is all a
    /// loop needs.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken no record.
    pub async fn next_record(&mut self) -> Option<Result<GroupRecord>> {
        loop {
            match self.next().await? {
                Ok(GroupEvent::Record(record)) => return Some(Ok(record)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Commits all that was handed out, what the last call returned included, and waits until it is durable.
    ///
    /// # Errors
    /// Of the first partition whose commit failed, which it names; the others are durable.
    /// [`Code::StaleEpoch`]: the partition is not held any more, another member may have it;
    /// [`Code::UnknownMember`]: the membership is over, what was held is being [`Lost`](GroupEvent::Lost). Those of the connection,
    /// once the client's request timeout is over: whether it is durable is unknown then, and it may be repeated.
    pub async fn commit(&mut self) -> Result<()> {
        self.holdings.settle();
        self.finish_commit().await;
        let due = self.holdings.due();
        let mut failed = None;
        for (_, result) in self.send_commits(due).await? {
            if let Err(error) = result {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Commits these positions, and waits until those that can be are durable. They may lie before what was committed, and
    /// nothing else is changed: what was handed out is not committed with them.
    ///
    /// # Errors
    /// Of the request as a whole: [`Code::UnknownMember`], those of the connection. What became of each is in its
    /// [`CommitOutcome`], in the order given.
    pub async fn commit_offsets(&mut self, positions: &[GroupPosition]) -> Result<Vec<CommitOutcome>> {
        self.finish_commit().await;
        let commits: Vec<Option<OffsetCommit>> =
            positions.iter().map(|position| self.holdings.commit_of(position)).collect();
        let mut results = self.send_commits(commits.iter().flatten().cloned().collect()).await?.into_iter();
        let outcome = |(position, commit): (&GroupPosition, &Option<OffsetCommit>)| {
            let result = match commit {
                Some(_) => results.next().map_or(Ok(()), |(_, result)| result),
                None => Err(not_held(&position.stream, position.partition)),
            };
            CommitOutcome { position: position.clone(), result }
        };
        Ok(positions.iter().zip(&commits).map(outcome).collect())
    }

    /// Holds these partitions' delivery up; what was read ahead of them is dropped, and read again later.
    ///
    /// # Errors
    /// [`Code::StaleEpoch`]: one of them is not held by this consumer. Nothing is paused then.
    pub fn pause(&mut self, partitions: &[NamedPartition]) -> Result<()> {
        for at in self.find_all(partitions)? {
            self.holdings.pause(at);
        }
        self.refresh();
        Ok(())
    }

    /// Goes on with partitions that were [paused](Self::pause), where the application was.
    ///
    /// # Errors
    /// [`Code::StaleEpoch`]: one of them is not held by this consumer. Nothing is resumed then.
    pub fn resume(&mut self, partitions: &[NamedPartition]) -> Result<()> {
        for at in self.find_all(partitions)? {
            self.holdings.resume(at);
        }
        self.refresh();
        Ok(())
    }

    /// Goes on elsewhere in a partition; a paused one stays paused. Where it goes counts as handed out: it is what is committed
    /// next. An offset outside of the log is told as an error item, and goes to the group's start.
    ///
    /// # Errors
    /// [`Code::StaleEpoch`]: it is not held by this consumer.
    pub fn seek(&mut self, partition: &NamedPartition, to: Start) -> Result<()> {
        let at = self.find_all(std::slice::from_ref(partition))?[0];
        self.holdings.seek(at, to.wire());
        self.refresh();
        Ok(())
    }

    /// The partitions that it holds, by name; without those that are being revoked.
    pub fn assignment(&self) -> Vec<NamedPartition> {
        self.holdings.all()
    }

    /// The number under which the server knows this member, or knew it when it gave it what came last: after a membership
    /// has ended there is another one.
    pub fn member(&self) -> u64 {
        self.assigned_as
    }

    /// The assignment epoch under which it holds this partition; `None` if it does not. Of two members, the one with the
    /// higher epoch has taken over from the other.
    pub fn epoch(&self, partition: &NamedPartition) -> Option<u32> {
        self.holdings.epoch(self.holdings.find(partition)?)
    }

    /// Where the application is in each partition it holds: behind the last record or batch it took. A partition whose
    /// beginning is still looked up is left out.
    pub fn positions(&self) -> Vec<GroupPosition> {
        self.holdings.positions()
    }

    /// The partition's high watermark when the last batch that came to the application was sent; `None` before, or if it is
    /// not held.
    pub fn high_watermark(&self, partition: &NamedPartition) -> Option<Offset> {
        self.holdings.high_watermark(self.holdings.find(partition)?)
    }

    /// Ends it well: in automatic mode commits, confirms what is being revoked, leaves the group, so that its partitions go
    /// on at once. A static member does not leave: its session runs on, for the one who comes back under its instance id.
    ///
    /// # Errors
    /// The commit failed: as [`commit`](Self::commit). It has left all the same.
    pub async fn close(self) -> Result<()> {
        let for_good = !self.is_static;
        self.end(for_good).await
    }

    /// As [`close`](Self::close), and a static member leaves too.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn close_for_good(self) -> Result<()> {
        self.end(true).await
    }

    async fn end(mut self, for_good: bool) -> Result<()> {
        self.finish_commit().await;
        let committed = match self.commit {
            Commit::Automatic { .. } if !self.is_over => self.commit().await,
            _ => Ok(()),
        };
        self.readers.clear();
        if for_good {
            self.shared.leave(true);
            // After its session nobody waits for it any more.
            let _ = tokio::time::timeout(self.shared.settings().session_timeout, &mut self.session).await;
        } else {
            self.session.abort();
            if let Some(revoking) = self.revoking.take() {
                self.shared.release(&revoking.partitions);
            }
            if let Some(Ask::Heartbeat(heartbeat)) = self.shared.ask() {
                let last =
                    Ask::Heartbeat(millstream_protocol::frame::group::GroupHeartbeat { wait_ms: 0, ..heartbeat });
                // Its session runs on in any case.
                let _ = tokio::time::timeout(FAREWELL, session::say(&self.client, &last, FAREWELL)).await;
            }
        }
        committed
    }
}

/// What happens in a call for an event.
impl GroupConsumer {
    async fn event(&mut self, grain: Grain) -> Option<Result<GroupEvent>> {
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
    fn refresh(&mut self) {
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

    fn find_all(&self, partitions: &[NamedPartition]) -> Result<Vec<StreamPartition>> {
        let find = |wanted: &NamedPartition| {
            self.holdings.find(wanted).ok_or_else(|| not_held(&wanted.stream, wanted.partition))
        };
        partitions.iter().map(find).collect()
    }
}

/// Commits.
impl GroupConsumer {
    async fn commit_if_due(&mut self) {
        if self.committing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish_commit().await;
        }
        if let Some(interval) = interval(self.commit)
            && self.committing.is_none()
        {
            let now = Instant::now();
            if now >= self.commit_at {
                self.start_commit();
                self.commit_at = now + interval;
            }
        }
    }

    /// Commits what is processed, in the background.
    fn start_commit(&mut self) {
        let due = self.holdings.due();
        if due.is_empty() {
            return;
        }
        let (client, group, number) = (self.client.clone(), self.group.clone(), self.shared.number());
        let patience = self.patience();
        self.committing_as = number;
        self.committing =
            Some(tokio::spawn(async move { commit::send(&client, &group, Some(number), due, patience).await }));
    }

    /// Waits for the commit that is under way, if one is.
    async fn finish_commit(&mut self) {
        if let Some(task) = &mut self.committing {
            let done = joined(task.await);
            self.finished_commit(done);
        }
    }

    /// A commit in the background has ended. What failed of it is told as an item, unless the membership tells it anyway.
    fn finished_commit(&mut self, done: Result<Vec<Committed>>) {
        self.committing = None;
        match done {
            Ok(committed) => {
                for (_, result) in self.take_results(committed) {
                    if let Err(error) = result {
                        self.complaints.push_back(error);
                    }
                }
            }
            Err(error) if error.code() == Code::UnknownMember => self.shared.lose(self.committing_as),
            // The next one takes it along, if there is a next one.
            Err(error) if error.is_retryable() && self.revoking.is_none() => {
                tracing::debug!(%error, "an automatic commit failed")
            }
            Err(error) => self.complaints.push_back(error),
        }
    }

    async fn send_commits(&mut self, commits: Vec<OffsetCommit>) -> Result<Vec<Committed>> {
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        let number = self.shared.number();
        match commit::send(&self.client, &self.group, Some(number), commits, self.patience()).await {
            Ok(committed) => Ok(self.take_results(committed)),
            Err(error) => {
                if error.code() == Code::UnknownMember {
                    self.shared.lose(number);
                }
                Err(error)
            }
        }
    }

    /// Notes what is durable, and names the streams of what is not.
    fn take_results(&mut self, committed: Vec<Committed>) -> Vec<Committed> {
        let take = |(commit, result): Committed| {
            let result = match result {
                Ok(()) => {
                    self.holdings.committed(&commit);
                    Ok(())
                }
                Err(error) => Err(match self.holdings.stream(commit.at) {
                    Some(stream) => error.in_stream(stream),
                    None => error,
                }),
            };
            (commit, result)
        };
        committed.into_iter().map(take).collect()
    }

    /// A member that takes longer to let go is removed.
    fn patience(&self) -> Duration {
        self.client.config().request_timeout.min(self.rebalance_timeout)
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.session.abort();
        if let Some(finding) = &self.finding {
            finding.task.abort();
        }
        // A commit that is under way may go through: what it says is true.
    }
}

impl std::fmt::Debug for GroupConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let assignment = self.assignment();
        f.debug_struct("GroupConsumer")
            .field("group", &self.group)
            .field("assignment", &assignment)
            .finish_non_exhaustive()
    }
}

fn interval(commit: Commit) -> Option<Duration> {
    match commit {
        Commit::Automatic { interval } => Some(interval.max(COMMIT_INTERVAL_MIN)),
        Commit::Manual => None,
    }
}

/// A task's result; a panic in it goes on here.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
