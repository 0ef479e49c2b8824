//! Consuming as a member of a group: partitions come and go, positions are kept by the server.
//!
//! ```text
//! session (task) ◄──► server: join, heartbeats, leave      reader (a task a stream) ◄── server: batches
//!    └─ member (pure) ──► changes ──┐                          └──► told ──┐
//!                                   └──► GroupConsumer::next ◄─────────────┘
//!                      (drive, committing) └─ holdings (pure): delivered, processed, committed
//! ```
//! All that the application sees happens in its own calls; the tasks keep the session and read ahead.

mod builder;
pub(crate) mod commit;
mod committing;
mod drive;
mod event;
mod holdings;
mod member;
mod reader;
mod session;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_protocol::frame::control::Start as WireStart;
use millstream_protocol::frame::group::{AssignedPartition, OffsetCommit, StreamPartition};
use millstream_protocol::{Offset, StreamId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::consumer::Start;
use crate::consumer::shelf::Shelf;
use crate::consumer::source::{Budget, ITEMS_MAX};
use crate::error::{Error, Result};
use commit::{Committed, Found};
use committing::interval;
use drive::Grain;
use holdings::Holdings;
use member::Ask;
use reader::{Told, Wanted};
use session::{Shared, not_held};

pub use builder::{Commit, GroupConsumerBuilder};
pub use event::{CommitOutcome, GroupBatch, GroupEvent, GroupPosition, GroupRecord, NamedPartition};

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
/// - [`Error::partition`] is some, with the code [`OffsetOutOfRange`](crate::Code::OffsetOutOfRange) or
///   [`LogTruncated`](crate::Code::LogTruncated): the position was outside of the log, its text names both ends; delivery
///   goes on at the group's start.
/// - [`Error::partition`] is some, with another code: this partition's delivery has ended until it is assigned anew or
///   [sought](Self::seek), or an automatic commit of it failed ([`Code::StaleEpoch`](crate::Code::StaleEpoch), …). The
///   others go on.
/// - Otherwise an automatic commit failed as a whole, or the membership has ended, with `None` after it:
///   [`Code::Fenced`](crate::Code::Fenced) (another member took over its instance id), or the server cannot be reached.
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
    /// [`Code::StaleEpoch`](crate::Code::StaleEpoch): the partition is not held any more, another member may have it;
    /// [`Code::UnknownMember`](crate::Code::UnknownMember): the membership is over, what was held is being
    /// [`Lost`](GroupEvent::Lost). Those of the connection, once the client's request timeout is over: whether it is durable is unknown then, and it may be repeated.
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
    /// Of the request as a whole: [`Code::UnknownMember`](crate::Code::UnknownMember), those of the connection. What became
    /// of each is in its [`CommitOutcome`], in the order given.
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
    /// [`Code::StaleEpoch`](crate::Code::StaleEpoch): one of them is not held by this consumer. Nothing is paused then.
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
    /// [`Code::StaleEpoch`](crate::Code::StaleEpoch): one of them is not held by this consumer. Nothing is resumed then.
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
    /// [`Code::StaleEpoch`](crate::Code::StaleEpoch): it is not held by this consumer.
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

/// A task's result; a panic in it goes on here.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
