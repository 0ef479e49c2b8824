//! `millstream group list | describe | reset | delete`.

use std::collections::HashMap;
use std::time::Duration;

use millstream_client::CommittedPosition;
use millstream_protocol::frame::group::{
    GroupInfo, GroupMember, GroupPartition, GroupReset, GroupState, GroupSummary, ResetTo,
};
use millstream_protocol::{Code, PartitionId, Timestamp};
use serde::Serialize;

use super::{Session, can_ask, confirm, legal_name};
use crate::cli::{Group, GroupResetTo};
use crate::context::ServerFlags;
use crate::exit::Failure;
use crate::output::{Align, Output, Paint, Table, count, counted, facts};
use crate::time::{rfc3339, span};

/// Runs one of them.
///
/// # Errors
/// What the server says, or that it cannot be reached.
pub async fn run(command: Group, server: &ServerFlags, output: Output) -> Result<(), Failure> {
    if let Group::Describe { name } | Group::Reset(GroupResetTo { name, .. }) | Group::Delete { name, .. } = &command {
        legal_name("group", name)?;
    }
    if let Group::Reset(GroupResetTo { stream, .. }) | Group::Delete { offsets_of: Some(stream), .. } = &command {
        legal_name("stream", stream)?;
    }
    Session::with(server, async |session| match command {
        Group::List => list(session, output).await,
        Group::Describe { name } => describe(session, &name, output).await,
        Group::Reset(reset) => reset_group(session, &reset, output).await,
        Group::Delete { name, offsets_of: None, yes, .. } => delete(session, &name, yes, output).await,
        Group::Delete { name, offsets_of: Some(stream), partition, yes } => {
            delete_offsets(session, &name, &stream, &partition, yes, output).await
        }
    })
    .await
}

async fn list(session: &Session, output: Output) -> Result<(), Failure> {
    let groups = session.client.list_groups().await.map_err(|error| session.failure(&error))?;
    if groups.is_empty() && !output.json {
        output.note("no groups yet: `millstream consume STREAM --group NAME` makes one");
        return Ok(());
    }
    let views: Vec<SummaryView<'_>> = groups.iter().map(SummaryView::from).collect();
    output.result(&views, |paint| {
        let mut table = Table::new(&[
            ("GROUP", Align::Left),
            ("STATE", Align::Left),
            ("MEMBERS", Align::Right),
            ("LAG", Align::Right),
            ("STREAMS", Align::Left),
        ]);
        for group in &groups {
            table.row([
                group.name.clone(),
                state(group.state).into(),
                count(group.members.into()),
                count(group.lag),
                group.streams.join(", "),
            ]);
        }
        table.render(paint)
    })
}

async fn describe(session: &Session, name: &str, output: Output) -> Result<(), Failure> {
    let info = match session.client.describe_group(name).await {
        Ok(info) => info,
        Err(error) => return Err(session.group_failure(name, &error).await),
    };
    output.result(&InfoView::from(&info), |paint| description(&info, paint))
}

fn description(info: &GroupInfo, paint: Paint) -> String {
    let head = facts(
        paint,
        &[
            ("group", info.name.clone()),
            ("state", state(info.state).into()),
            ("members", count(info.members.len() as u64)),
            ("lag", count(info.lag)),
        ],
    );
    let mut parts = vec![head];
    if !info.members.is_empty() {
        parts.push(members(info, paint));
    }
    if !info.partitions.is_empty() {
        parts.push(partitions(info, paint));
    }
    parts.join("\n\n")
}

fn members(info: &GroupInfo, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left),
        ("INSTANCE", Align::Left),
        ("CLIENT", Align::Left),
        ("SESSION LEFT", Align::Right),
        ("HOLDS", Align::Left),
    ]);
    let names = names(info);
    for member in &info.members {
        let holds = member.holds.iter().map(|at| {
            let stream = names.get(&at.stream).copied().unwrap_or("?");
            format!("{stream}/{}", at.partition)
        });
        table.row([
            number(member.member),
            member.instance.clone().unwrap_or_default(),
            member.client.clone(),
            span(Duration::from_millis(member.session_left_ms.into())),
            holds.collect::<Vec<_>>().join(" "),
        ]);
    }
    table.render(paint)
}

fn partitions(info: &GroupInfo, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("STREAM", Align::Left),
        ("PARTITION", Align::Right),
        ("COMMITTED", Align::Right),
        ("FIRST OFFSET", Align::Right),
        ("NEXT OFFSET", Align::Right),
        ("LAG", Align::Right),
        ("MEMBER", Align::Left),
        ("COMMITTED AT", Align::Left),
    ]);
    for partition in &info.partitions {
        table.row([
            partition.stream.clone(),
            partition.at.partition.to_string(),
            partition.committed.map_or("-".into(), count),
            count(partition.log_start),
            count(partition.high_watermark),
            count(partition.lag),
            partition.member.map_or("-".into(), number),
            partition.committed.map_or(String::new(), |_| rfc3339(Timestamp(partition.committed_ms))),
        ]);
    }
    table.render(paint)
}

async fn reset_group(session: &Session, command: &GroupResetTo, output: Output) -> Result<(), Failure> {
    let GroupResetTo { name, stream, partition, to, dry_run } = command;
    let named: Vec<PartitionId> = partition.iter().copied().map(PartitionId).collect();
    let before = match session.client.fetch_offsets(name, stream, &named).await {
        Ok(before) => before,
        // The reset makes it.
        Err(error) if error.code() == Code::UnknownGroup => Vec::new(),
        Err(error) => return Err(session.stream_failure(stream, &error).await),
    };
    let reset = GroupReset {
        group: name.clone(),
        stream: stream.clone(),
        partitions: partition.clone(),
        to: to.0,
        dry_run: *dry_run,
    };
    let after = match session.client.reset_group(reset).await {
        Ok(after) => after,
        Err(error) if error.code() == Code::UnknownStream => return Err(session.stream_failure(stream, &error).await),
        Err(error) if error.code() == Code::OffsetOutOfRange && matches!(to.0, ResetTo::Offset(_)) => {
            let failure = session.failure(&error);
            return Err(failure
                .or_try("--to earliest or latest")
                .or_try(format!("millstream stream describe {stream}")));
        }
        Err(error) => return Err(session.group_failure(name, &error).await),
    };
    let before: HashMap<PartitionId, u64> =
        before.iter().filter_map(|found| Some((found.partition, found.next?.0))).collect();
    let moved = |found: &CommittedPosition| MoveView {
        partition: found.partition.0,
        before: before.get(&found.partition).copied(),
        after: found.next.map(|next| next.0),
    };
    let partitions: Vec<MoveView> = after.iter().map(moved).collect();
    output.result(&ResetView { group: name, stream, dry_run: *dry_run, partitions: &partitions }, |paint| {
        let mut table = Table::new(&[("PARTITION", Align::Right), ("BEFORE", Align::Right), ("AFTER", Align::Right)]);
        let shown = |offset: Option<u64>| offset.map_or("-".into(), count);
        for moved in &partitions {
            table.row([moved.partition.to_string(), shown(moved.before), shown(moved.after)]);
        }
        let head = if *dry_run { "would move" } else { "moved" };
        let head = format!("{head} group '{name}' in {} of '{stream}'", counted(partitions.len() as u64, "partition"));
        format!("{head}\n\n{}", table.render(paint))
    })
}

async fn delete(session: &Session, name: &str, yes: bool, output: Output) -> Result<(), Failure> {
    if !yes && can_ask() {
        let info = match session.client.describe_group(name).await {
            Ok(info) => info,
            Err(error) => return Err(session.group_failure(name, &error).await),
        };
        let committed = info.partitions.iter().filter(|partition| partition.committed.is_some()).count();
        let offsets = counted(committed as u64, "partition");
        confirm(&format!("Delete group '{name}' and its offsets in {offsets}? [y/N] "))?;
    }
    if let Err(error) = session.client.delete_group(name).await {
        return Err(session.group_failure(name, &error).await);
    }
    output.result(&serde_json::json!({ "deleted": name }), |_| format!("deleted group '{name}'"))
}

async fn delete_offsets(
    session: &Session,
    name: &str,
    stream: &str,
    partitions: &[u32],
    yes: bool,
    output: Output,
) -> Result<(), Failure> {
    if !yes && can_ask() {
        confirm(&format!("Delete the offsets of group '{name}' in '{stream}'? [y/N] "))?;
    }
    let named: Vec<PartitionId> = partitions.iter().copied().map(PartitionId).collect();
    match session.client.delete_offsets(name, stream, &named).await {
        Ok(()) => {}
        Err(error) if error.code() == Code::UnknownStream => return Err(session.stream_failure(stream, &error).await),
        Err(error) => return Err(session.group_failure(name, &error).await),
    }
    let view = serde_json::json!({ "group": name, "stream": stream, "partitions": partitions });
    output.result(&view, |_| match partitions.len() as u64 {
        0 => format!("deleted the offsets of group '{name}' in '{stream}'"),
        n => format!("deleted the offsets of group '{name}' in {} of '{stream}'", counted(n, "partition")),
    })
}

fn state(state: GroupState) -> &'static str {
    match state {
        GroupState::Empty => "empty",
        GroupState::Stable => "stable",
        GroupState::Rebalancing => "rebalancing",
    }
}

/// A member's number, as short as it can be told from others.
fn number(member: u64) -> String {
    format!("{member:016x}")
}

/// The streams' names by number.
fn names(info: &GroupInfo) -> HashMap<u64, &str> {
    info.partitions.iter().map(|partition| (partition.at.stream, partition.stream.as_str())).collect()
}

#[derive(Serialize)]
struct SummaryView<'a> {
    name: &'a str,
    state: &'static str,
    members: u32,
    lag: u64,
    streams: &'a [String],
}

impl<'a> From<&'a GroupSummary> for SummaryView<'a> {
    fn from(group: &'a GroupSummary) -> Self {
        let GroupSummary { name, members, streams, lag, .. } = group;
        Self { name, state: state(group.state), members: *members, lag: *lag, streams }
    }
}

#[derive(Serialize)]
struct InfoView<'a> {
    name: &'a str,
    state: &'static str,
    version: u32,
    lag: u64,
    members: Vec<MemberView<'a>>,
    partitions: Vec<PartitionView<'a>>,
}

#[derive(Serialize)]
struct MemberView<'a> {
    member: String,
    instance: Option<&'a str>,
    client: &'a str,
    streams: &'a [String],
    session_left_ms: u32,
    holds: Vec<HoldView<'a>>,
}

#[derive(Serialize)]
struct HoldView<'a> {
    stream: Option<&'a str>,
    partition: u32,
}

#[derive(Serialize)]
struct PartitionView<'a> {
    stream: &'a str,
    partition: u32,
    member: Option<String>,
    committed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_ms: Option<i64>,
    log_start: u64,
    high_watermark: u64,
    lag: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
}

impl<'a> From<&'a GroupInfo> for InfoView<'a> {
    fn from(info: &'a GroupInfo) -> Self {
        let names = names(info);
        let member = |member: &'a GroupMember| MemberView {
            member: number(member.member),
            instance: member.instance.as_deref(),
            client: &member.client,
            streams: &member.streams,
            session_left_ms: member.session_left_ms,
            holds: member
                .holds
                .iter()
                .map(|at| HoldView { stream: names.get(&at.stream).copied(), partition: at.partition })
                .collect(),
        };
        Self {
            name: &info.name,
            state: state(info.state),
            version: info.version,
            lag: info.lag,
            members: info.members.iter().map(member).collect(),
            partitions: info.partitions.iter().map(PartitionView::from).collect(),
        }
    }
}

impl<'a> From<&'a GroupPartition> for PartitionView<'a> {
    fn from(partition: &'a GroupPartition) -> Self {
        Self {
            stream: &partition.stream,
            partition: partition.at.partition,
            member: partition.member.map(number),
            committed: partition.committed,
            committed_ms: partition.committed.map(|_| partition.committed_ms),
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            lag: partition.lag,
            metadata: &partition.metadata,
        }
    }
}

#[derive(Serialize)]
struct ResetView<'a> {
    group: &'a str,
    stream: &'a str,
    dry_run: bool,
    partitions: &'a [MoveView],
}

#[derive(Serialize)]
struct MoveView {
    partition: u32,
    before: Option<u64>,
    after: Option<u64>,
}
