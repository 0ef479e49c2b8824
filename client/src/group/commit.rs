//! Requests of a group's consumer that are not about its membership: commits, and what was committed before.
//!
//! All of them can be repeated: they are, over lost connections, for as long as the caller has patience.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::group::{
    AssignedPartition, CommitResult, CommittedOffset, OffsetCommit, StreamPartition,
};
use millstream_protocol::limits::OFFSETS_PER_REQUEST_MAX;
use millstream_protocol::{Code, Epoch, Offset};

use super::holdings::Spot;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};

/// How long one try may take; then the connection may be to blame.
const TRY: Duration = Duration::from_secs(10);

/// Asks until there is an answer, or a refusal that no repetition helps.
async fn ask(client: &Client, request: &Request, patience: Duration) -> Result<Response> {
    let mut last = None;
    let asked = async {
        let mut backoff = Backoff::default();
        loop {
            let tried = async { client.connection().await?.control().request(request).await };
            let error = match tokio::time::timeout(TRY, tried).await {
                Ok(Err(error)) if error.is_retryable() => error,
                Ok(answer) => return answer,
                Err(_) => Error::timed_out(format!("the server did not answer within {TRY:?}")),
            };
            let pause = backoff.next(error.retry_after());
            last = Some(error);
            tokio::time::sleep(pause).await;
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(last.unwrap_or_else(|| Error::timed_out(format!("the server did not answer within {patience:?}"))))
        }
    }
}

/// A commit that was sent, and what became of it.
pub(crate) type Committed = (OffsetCommit, Result<()>);

/// Commits; one result for each, in their order.
///
/// # Errors
/// Of the request as a whole: [`Code::UnknownMember`], [`Code::UnknownGroup`], [`Code::GroupNotEmpty`], those of the
/// connection. What was committed before it stays.
pub(crate) async fn send(
    client: &Client,
    group: &str,
    member: Option<u64>,
    commits: Vec<OffsetCommit>,
    patience: Duration,
) -> Result<Vec<Committed>> {
    let mut all = Vec::with_capacity(commits.len());
    for commits in commits.chunks(OFFSETS_PER_REQUEST_MAX) {
        let request = Request::CommitOffsets { group: group.to_owned(), member, commits: commits.to_vec() };
        let results = match ask(client, &request, patience).await? {
            Response::Committed(results) if results.iter().map(|r| r.at).eq(commits.iter().map(|c| c.at)) => results,
            other => return Err(Error::protocol(format_args!("an unexpected answer: {other:?}"))),
        };
        all.extend(commits.iter().cloned().zip(results.into_iter().map(judged)));
    }
    Ok(all)
}

fn judged(result: CommitResult) -> Result<()> {
    match result.code {
        0 => Ok(()),
        code => Err(Error::of_partition(
            millstream_protocol::PartitionId(result.at.partition),
            Code::from_number(code),
            result.text,
        )),
    }
}

/// What is committed, in the order asked.
///
/// # Errors
/// [`Code::UnknownGroup`]; those of the connection.
pub(crate) async fn fetch(
    client: &Client,
    group: &str,
    partitions: &[StreamPartition],
    patience: Duration,
) -> Result<Vec<CommittedOffset>> {
    let mut all = Vec::with_capacity(partitions.len());
    for partitions in partitions.chunks(OFFSETS_PER_REQUEST_MAX) {
        let request = Request::FetchOffsets { group: group.to_owned(), partitions: partitions.to_vec() };
        match ask(client, &request, patience).await? {
            Response::Offsets(offsets) if offsets.iter().map(|o| &o.at).eq(partitions) => all.extend(offsets),
            other => return Err(Error::protocol(format_args!("an unexpected answer: {other:?}"))),
        }
    }
    Ok(all)
}

/// A partition that has come, with all that is needed to begin with it.
#[derive(Debug)]
pub(super) struct Found {
    pub partition: AssignedPartition,
    pub stream: Arc<str>,
    pub committed: Option<Spot>,
}

/// Finds the streams' names and the committed offsets of partitions that have come, or of some of them. Goes on until it
/// has them: the assignment may be ahead of what this client knows, or the server away.
///
/// # Errors
/// What no repetition helps, for none of them.
pub(super) async fn find(
    client: Client,
    group: String,
    streams: Vec<String>,
    mut names: HashMap<u64, Arc<str>>,
    partitions: Vec<AssignedPartition>,
) -> Result<Vec<Found>> {
    let patience = client.config().request_timeout;
    let mut backoff = Backoff::default();
    loop {
        match try_find(&client, &group, &streams, &mut names, &partitions, patience).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) if error.is_retryable() => {}
            Err(error) => {
                // Who asks again at once after an error must not keep the server busy.
                tokio::time::sleep(backoff.next(Some(Duration::from_secs(1)))).await;
                return Err(error);
            }
        }
        tokio::time::sleep(backoff.next(None)).await;
    }
}

/// `None` where a stream has no name yet.
async fn try_find(
    client: &Client,
    group: &str,
    streams: &[String],
    names: &mut HashMap<u64, Arc<str>>,
    partitions: &[AssignedPartition],
    patience: Duration,
) -> Result<Option<Vec<Found>>> {
    if partitions.iter().any(|partition| !names.contains_key(&partition.at.stream)) {
        for stream in streams {
            match client.describe_stream(stream).await {
                Ok(info) => drop(names.insert(info.id, stream.as_str().into())),
                Err(error) if error.code() == Code::UnknownStream => {}
                Err(error) => return Err(error),
            }
        }
    }
    let offsets = match fetch(client, group, &places(partitions), patience).await {
        Ok(offsets) => offsets,
        Err(error) if error.is_retryable() || partitions.len() == 1 => return Err(error),
        // One that cannot be read does not hold up the others.
        Err(error) => {
            let one_by_one =
                partitions.iter().map(async |partition| fetch(client, group, &[partition.at], patience).await);
            let found = futures::future::join_all(one_by_one).await;
            let found: Vec<CommittedOffset> = found.into_iter().flatten().flatten().collect();
            if found.is_empty() {
                return Err(error);
            }
            found
        }
    };
    let found = offsets.into_iter().filter_map(|offset| {
        let partition = partitions.iter().find(|partition| partition.at == offset.at)?;
        Some((partition, offset))
    });
    let found = found.map(|(partition, offset)| {
        let stream = Arc::clone(names.get(&partition.at.stream)?);
        let epoch = offset.batch_epoch.map(Epoch);
        let committed = offset.offset.map(|next| Spot { next: Offset(next), epoch });
        Some(Found { partition: *partition, stream, committed })
    });
    Ok(found.collect())
}

fn places(partitions: &[AssignedPartition]) -> Vec<StreamPartition> {
    partitions.iter().map(|partition| partition.at).collect()
}
