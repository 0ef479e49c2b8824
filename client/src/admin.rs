//! Admin calls: one request, one answer.
//!
//! A request that only asks, or that changes nothing when repeated, is sent once more over a new connection if the
//! first one was lost. Creating and deleting are not: their outcome is unknown then, and the error says so.

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::frame::control::{
    CreateMode, LakeAudit, LakeConfig, LakePreview, LakeRetry, LakeStatus, NextSequence, RecoveryInfo, Request,
    Response, StreamConfig, StreamInfo, StreamSummary,
};
use millstream_protocol::frame::group::{
    CommittedOffset, GroupInfo, GroupReset, GroupSummary, OffsetCommit, ResetTo, StreamPartition,
};
use millstream_protocol::{Code, Epoch, Offset, PartitionId, ProducerId, StreamId};

use crate::client::Client;
use crate::connection::Connection;
use crate::consumer::Position;
use crate::error::{Error, Result};
use crate::group::{CommitOutcome, GroupPosition};

/// Whether a request may be sent again when its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Harmless,
    Never,
}

/// What a group has committed in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedPosition {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to read; `None`: nothing is committed.
    pub next: Option<Offset>,
    /// Epoch of the batch before it, as committed.
    pub epoch: Option<Epoch>,
    /// What was committed along with it; empty unless another client wrote it.
    pub metadata: String,
}

impl From<CommittedOffset> for CommittedPosition {
    fn from(committed: CommittedOffset) -> Self {
        let CommittedOffset { at, offset, batch_epoch, metadata } = committed;
        let (next, epoch) = (offset.map(Offset), batch_epoch.map(Epoch));
        Self { partition: PartitionId(at.partition), next, epoch, metadata }
    }
}

/// Takes the answer that belongs to a request; another one is the server's fault.
macro_rules! expected {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            other => Err(Error::protocol(format_args!("an unexpected answer: {other:?}"))),
        }
    };
}

pub(crate) use expected;

/// A wait on the wire.
fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

impl Client {
    /// Makes a stream.
    ///
    /// # Errors
    /// [`Code::StreamExists`], [`Code::IllegalName`], [`Code::IllegalSetting`]; [`Code::ConnectionLost`]: it may have
    /// been made, ask with [`describe_stream`](Self::describe_stream).
    pub async fn create_stream(&self, name: &str, partitions: u32, config: StreamConfig) -> Result<StreamInfo> {
        self.create(name, partitions, config, CreateMode::Explicit).await
    }

    /// Makes a stream that a program found missing; the server's settings may forbid that.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream); [`Code::NotAllowed`] where the server forbids it.
    pub async fn create_stream_automatically(
        &self,
        name: &str,
        partitions: u32,
        config: StreamConfig,
    ) -> Result<StreamInfo> {
        self.create(name, partitions, config, CreateMode::Automatic).await
    }

    async fn create(&self, name: &str, partitions: u32, config: StreamConfig, mode: CreateMode) -> Result<StreamInfo> {
        let request = Request::CreateStream { name: name.to_owned(), partitions, config, mode };
        expected!(self.request(request, Repeat::Never).await?, Response::Stream(info) => info)
    }

    /// All streams, by name.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_streams(&self) -> Result<Vec<StreamSummary>> {
        expected!(self.request(Request::ListStreams, Repeat::Harmless).await?, Response::Streams(streams) => streams)
    }

    /// What the server's start had to do: bytes read, torn tails cut, damage found.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn describe_recovery(&self) -> Result<RecoveryInfo> {
        expected!(self.request(Request::DescribeRecovery, Repeat::Harmless).await?, Response::Recovery(info) => info)
    }

    /// One stream with its partitions.
    ///
    /// # Errors
    /// [`Code::UnknownStream`].
    pub async fn describe_stream(&self, name: &str) -> Result<StreamInfo> {
        let request = Request::DescribeStream { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Stream(info) => info)
    }

    /// A stream that was there before, over this connection and no other: whoever asks goes on to use it. If it is
    /// not there any more, it was deleted.
    pub(crate) async fn describe_over(&self, connection: &Connection, name: &str) -> Result<StreamInfo> {
        let request = Request::DescribeStream { name: name.to_owned() };
        let answer = tokio::time::timeout(self.config().request_timeout, connection.control().request(&request));
        let timed_out = |_| Error::timed_out("the server did not answer in time");
        match answer.await.map_err(timed_out)? {
            Err(error) if error.code() == Code::UnknownStream => Err(Error::local(
                Code::StreamDeleted,
                format!("the stream {name:?} was deleted: nothing is left of it"),
            )),
            answer => expected!(answer?, Response::Stream(info) => info),
        }
    }

    /// A producer's number and epoch. One that is asked for twice costs nothing but a number.
    pub(crate) async fn init_producer(&self, name: Option<String>) -> Result<(ProducerId, u32)> {
        let answer = self.request(Request::InitProducer { name }, Repeat::Harmless).await;
        let unsupported = |error: Error| match error.code() {
            Code::Unsupported => Error::local_from(
                Code::Unsupported,
                "this server does not know idempotent producers: use a newer server, or `.idempotent(false)`, with which \
                 a batch may be stored twice after a lost connection",
                error,
            ),
            _ => error,
        };
        expected!(answer.map_err(unsupported)?, Response::Producer { id, epoch } => (ProducerId(id), epoch))
    }

    /// Raises a producer's epoch, over this connection and no other; says where it goes on.
    pub(crate) async fn bump_producer(
        &self,
        connection: &Connection,
        (id, epoch): (ProducerId, u32),
        stream: StreamId,
    ) -> Result<(u32, Vec<NextSequence>)> {
        let request = Request::BumpProducer { id: id.0, epoch, stream: stream.0 };
        let answer = tokio::time::timeout(self.config().request_timeout, connection.control().request(&request));
        let timed_out = |_| Error::timed_out("the server did not raise the producer's epoch in time");
        let answer = answer.await.map_err(timed_out)??;
        expected!(answer, Response::ProducerBumped { epoch, partitions } => (epoch, partitions))
    }

    /// Deletes a stream and its records.
    ///
    /// # Errors
    /// [`Code::UnknownStream`]; [`Code::StreamInUse`] by a lake; [`Code::ConnectionLost`]: it may have been deleted.
    pub async fn delete_stream(&self, name: &str) -> Result<()> {
        let request = Request::DeleteStream { name: name.to_owned() };
        expected!(self.request(request, Repeat::Never).await?, Response::Done => ())
    }

    /// Forgets a partition's records below `offset`; gives the new log start, which may be lower: only whole
    /// segments go.
    ///
    /// # Errors
    /// [`Code::UnknownStream`], [`Code::UnknownPartition`], [`Code::OffsetOutOfRange`].
    pub async fn delete_before(&self, stream: &str, partition: PartitionId, offset: Offset) -> Result<Offset> {
        let request = Request::DeleteBefore { stream: stream.to_owned(), partition: partition.0, offset: offset.0 };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Offset(offset) => Offset(offset))
    }

    /// Adds a lake to a stream.
    ///
    /// # Errors
    /// [`Code::LakeExists`], [`Code::IllegalLake`], [`Code::IllegalSetting`], [`Code::UnknownStream`], [`Code::LakeUnavailable`];
    /// [`Code::ConnectionLost`]: it may have been added.
    pub async fn create_lake(&self, config: LakeConfig) -> Result<LakeConfig> {
        let request = Request::CreateLake { config };
        expected!(self.request(request, Repeat::Never).await?, Response::Lake(config) => config)
    }

    /// All lakes, by name; the text of declared schemas is left out, [`lake_status`](Self::lake_status) has it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_lakes(&self) -> Result<Vec<LakeConfig>> {
        expected!(self.request(Request::ListLakes, Repeat::Harmless).await?, Response::Lakes(lakes) => lakes)
    }

    /// How far a lake is, and what holds it up.
    ///
    /// # Errors
    /// [`Code::UnknownLake`].
    pub async fn lake_status(&self, name: &str) -> Result<LakeStatus> {
        let request = Request::LakeStatus { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::LakeStatus(status) => status)
    }

    /// Lands what was produced before this call, and waits for it.
    ///
    /// # Errors
    /// [`Code::UnknownLake`]; [`Code::TimedOut`]: the lake goes on landing it; [`Code::LakeUnavailable`].
    pub async fn flush_lake(&self, name: &str, timeout: Duration) -> Result<LakeStatus> {
        let request = Request::FlushLake { name: name.to_owned(), timeout_ms: millis(timeout) };
        let patience = self.config().request_timeout.saturating_add(timeout);
        let answer = self.request_within(request, Repeat::Harmless, patience).await?;
        expected!(answer, Response::LakeStatus(status) => status)
    }

    /// What a lake would do with the newest records of its stream (1 to 10,000 of them): columns, example paths, what would be
    /// rejected. Nothing is written.
    ///
    /// # Errors
    /// As [`create_lake`](Self::create_lake), but for what only the store could say.
    pub async fn preview_lake(&self, config: LakeConfig, records: u32) -> Result<LakePreview> {
        let request = Request::PreviewLake { config, records };
        expected!(self.request(request, Repeat::Harmless).await?, Response::LakePreview(preview) => preview)
    }

    /// Gives a lake another declared schema: the text of a schema file, which may only add to the old one, or loosen it.
    ///
    /// # Errors
    /// [`Code::UnknownLake`]; [`Code::IllegalLake`]: the schema does not parse, or takes something away.
    pub async fn alter_lake(&self, name: &str, schema: impl Into<String>) -> Result<LakeConfig> {
        let request = Request::AlterLake { name: name.to_owned(), schema: schema.into() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Lake(config) => config)
    }

    /// Tries again to land what is in a lake's error prefix, and waits for it.
    ///
    /// # Errors
    /// [`Code::UnknownLake`]; [`Code::TimedOut`]: the lake goes on with it; [`Code::LakeUnavailable`].
    pub async fn retry_lake_errors(&self, name: &str, timeout: Duration) -> Result<LakeRetry> {
        let request = Request::RetryLakeErrors { name: name.to_owned(), timeout_ms: millis(timeout) };
        let patience = self.config().request_timeout.saturating_add(timeout);
        let answer = self.request_within(request, Repeat::Harmless, patience).await?;
        expected!(answer, Response::LakeRetry(retry) => retry)
    }

    /// Compares a lake's manifest, its files and the log: whether each offset has landed, once.
    ///
    /// # Errors
    /// [`Code::UnknownLake`]; [`Code::TimedOut`]; [`Code::LakeUnavailable`].
    pub async fn audit_lake(&self, name: &str, timeout: Duration) -> Result<LakeAudit> {
        let request = Request::AuditLake { name: name.to_owned(), timeout_ms: millis(timeout) };
        let patience = self.config().request_timeout.saturating_add(timeout);
        let answer = self.request_within(request, Repeat::Harmless, patience).await?;
        expected!(answer, Response::LakeAudit(audit) => audit)
    }

    /// Removes a lake; its files stay.
    ///
    /// # Errors
    /// [`Code::UnknownLake`]; [`Code::ConnectionLost`]: it may have been removed.
    pub async fn remove_lake(&self, name: &str) -> Result<()> {
        let request = Request::RemoveLake { name: name.to_owned() };
        expected!(self.request(request, Repeat::Never).await?, Response::Done => ())
    }

    /// All consumer groups, by name, with their lag.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_groups(&self) -> Result<Vec<GroupSummary>> {
        expected!(self.request(Request::ListGroups, Repeat::Harmless).await?, Response::Groups(groups) => groups)
    }

    /// One group: its members, what they hold, and how far it is in each partition.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`].
    pub async fn describe_group(&self, name: &str) -> Result<GroupInfo> {
        let request = Request::DescribeGroup { name: name.to_owned() };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Group(group) => group)
    }

    /// Moves the offsets of a group without members, in one stream; makes the group if it is not there. Gives them as they
    /// are then, or with `dry_run` as they would be.
    ///
    /// # Errors
    /// [`Code::GroupNotEmpty`]: it has members, stop them first; [`Code::UnknownStream`], [`Code::UnknownPartition`];
    /// [`Code::OffsetOutOfRange`]: [`ResetTo::Offset`] outside of the log, nothing was moved;
    /// [`Code::ConnectionLost`]: it may have been done, a shift is not to be repeated without a look.
    pub async fn reset_group(&self, reset: GroupReset) -> Result<Vec<CommittedPosition>> {
        let is_repeatable = reset.dry_run || !matches!(reset.to, ResetTo::Shift(_));
        let repeat = if is_repeatable { Repeat::Harmless } else { Repeat::Never };
        let answer = self.request(Request::ResetGroup(reset), repeat).await?;
        expected!(answer, Response::Offsets(offsets) => offsets.into_iter().map(CommittedPosition::from).collect())
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`]; [`Code::GroupNotEmpty`]: it has members, stop them first; [`Code::ConnectionLost`]: it may
    /// have been deleted.
    pub async fn delete_group(&self, name: &str) -> Result<()> {
        let request = Request::DeleteGroup { name: name.to_owned() };
        expected!(self.request(request, Repeat::Never).await?, Response::Done => ())
    }

    /// Deletes what a group without members has committed in a stream: in these partitions, or in all if none is named.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`], [`Code::UnknownStream`], [`Code::UnknownPartition`]; [`Code::GroupNotEmpty`]: it has members,
    /// stop them first.
    pub async fn delete_offsets(&self, group: &str, stream: &str, partitions: &[PartitionId]) -> Result<()> {
        let partitions = partitions.iter().map(|partition| partition.0).collect();
        let request = Request::DeleteOffsets { group: group.to_owned(), stream: stream.to_owned(), partitions };
        expected!(self.request(request, Repeat::Harmless).await?, Response::Done => ())
    }

    /// Commits positions in a stream for a group without members, from outside. Each partition for itself: what became of
    /// each is in its [`CommitOutcome`], in the order given.
    ///
    /// # Errors
    /// [`Code::UnknownStream`]; [`Code::UnknownGroup`]: [`reset_group`](Self::reset_group) makes one;
    /// [`Code::GroupNotEmpty`]: it has members, only they commit; those of the connection. Of one partition:
    /// [`Code::CommitPastEnd`], [`Code::UnknownPartition`].
    pub async fn commit_offsets(
        &self,
        group: &str,
        stream: &str,
        positions: &[Position],
    ) -> Result<Vec<CommitOutcome>> {
        let id = self.describe_stream(stream).await?.id;
        let name: Arc<str> = stream.into();
        let commit = |position: &Position| OffsetCommit {
            at: StreamPartition { stream: id, partition: position.partition.0 },
            epoch: 0,
            offset: position.next.0,
            batch_epoch: position.epoch.map(|epoch| epoch.0),
            metadata: String::new(),
        };
        let commits = positions.iter().map(commit).collect();
        let results = crate::group::commit::send(self, group, None, commits, self.config().request_timeout).await?;
        let outcome = |(position, (_, result)): (&Position, (OffsetCommit, Result<()>))| {
            let Position { partition, next, epoch } = *position;
            let stream = Arc::clone(&name);
            let result = result.map_err(|error| error.in_stream(&name));
            CommitOutcome { position: GroupPosition { stream, partition, next, epoch }, result }
        };
        Ok(positions.iter().zip(results).map(outcome).collect())
    }

    /// What a group has committed in a stream: in these partitions, or in all if none is named.
    ///
    /// # Errors
    /// [`Code::UnknownGroup`], [`Code::UnknownStream`], [`Code::UnknownPartition`]; those of the connection.
    pub async fn fetch_offsets(
        &self,
        group: &str,
        stream: &str,
        partitions: &[PartitionId],
    ) -> Result<Vec<CommittedPosition>> {
        let info = self.describe_stream(stream).await?;
        let at = |partition| StreamPartition { stream: info.id, partition };
        let places: Vec<StreamPartition> = if partitions.is_empty() {
            info.partitions.iter().map(|partition| at(partition.partition)).collect()
        } else {
            partitions.iter().map(|partition| at(partition.0)).collect()
        };
        let offsets = crate::group::commit::fetch(self, group, &places, self.config().request_timeout).await?;
        Ok(offsets.into_iter().map(CommittedPosition::from).collect())
    }

    /// One request on the control stream as it is, and its answer: what the other calls are made of. For tools that need to
    /// be many members of groups at once over one connection; both types change with the protocol. It is sent once.
    ///
    /// # Errors
    /// Those of the request; those of the connection.
    pub async fn call(&self, request: Request) -> Result<Response> {
        self.request(request, Repeat::Never).await
    }

    pub(crate) async fn request(&self, request: Request, repeat: Repeat) -> Result<Response> {
        self.request_within(request, repeat, self.config().request_timeout).await
    }

    async fn request_within(&self, request: Request, repeat: Repeat, patience: Duration) -> Result<Response> {
        let answer = async {
            let first = self.connection().await?.control().request(&request).await;
            match first {
                Err(error) if repeat == Repeat::Harmless && was_lost(&error) => {
                    self.connection().await?.control().request(&request).await
                }
                answer => answer,
            }
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::timed_out(format!(
                "the server did not answer within {patience:?}: look whether the request had its effect, then try again"
            ))),
        }
    }
}

fn was_lost(error: &Error) -> bool {
    error.code() == Code::ConnectionLost && !error.is_unreachable()
}
