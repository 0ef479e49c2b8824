//! `study groups`: what many members of many groups cost a server, and how fast one large group rebalances.
//!
//! First so many groups of so many members over so many connections: the server's memory before and after, and the CPU that
//! their heartbeats take while nothing happens. Then one group of 100 members over 1,000 partitions: a member leaves, and the
//! time runs from that answer until the last of its partitions is in another member's hands; a new member takes its place.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use millstream_client::{Client, Code, StreamConfig, StreamPartition};
use serde::Serialize;
use tokio::sync::mpsc;

use super::members::{LightMember, Told};
use super::times::{Latency, histogram_us};
use crate::failure::Failure;
use crate::record::process::ServerProcess;
use crate::target::flags::TargetFlags;

/// Members that join at one time.
const JOINING_MAX: usize = 64;
/// A group that does not settle within this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Groups {
    /// How many groups
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    groups: u32,
    /// How many members each has
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    members: u32,
    /// Over how many connections all of them come
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Partitions of the stream that they read
    #[arg(long, value_name = "N", default_value_t = 10)]
    partitions: u32,
    /// Over how long the CPU of heartbeats is measured, in seconds
    #[arg(long, value_name = "S", default_value_t = 10)]
    quiet_seconds: u64,
    /// Members of the group that rebalances; 0: none does
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    rebalance_members: u32,
    /// Partitions of its stream
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rebalance_partitions: u32,
    /// How often a member of it leaves
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: u32,
}

/// A run's result.
#[derive(Debug, Serialize)]
pub struct GroupsReport {
    command: &'static str,
    groups: u32,
    members: u64,
    connections: u32,
    /// Until all had joined and every partition had its member.
    joined_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes_after: Option<u64>,
    /// Of one core, while nothing happens but heartbeats; and before there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeats_cpu_percent: Option<f64>,
    rebalance_members: u32,
    rebalance_partitions: u32,
    /// From the answer to the leaving one until the last of its partitions is another's.
    #[serde(skip_serializing_if = "Option::is_none")]
    rebalance: Option<Latency>,
}

/// Runs it.
pub async fn run(client: &Client, target: &TargetFlags, command: &Groups) -> Result<GroupsReport, Failure> {
    let server = target.process()?;
    let quiet = Duration::from_secs(command.quiet_seconds);
    // Numbers of members and names of groups are this run's own.
    let run = std::process::id();
    make_stream(client, "bench-groups", command.partitions).await?;
    let mut connections = Vec::new();
    for _ in 0..command.connections {
        connections.push(target.connect().await?);
    }
    let resident_bytes_before = server.map(ServerProcess::resident_bytes).transpose()?;
    let idle_cpu_percent = match server {
        Some(server) => Some(server.cpu_percent(quiet).await?),
        None => None,
    };
    let since = Instant::now();
    let mut numbers = u64::from(run) << 32;
    let mut parties = Vec::new();
    for group in 0..command.groups {
        parties.push(Party::new(format!("bench-{run}-{group}"), "bench-groups", command.partitions));
        for member in 0..command.members {
            numbers += 1;
            let index = (u64::from(group) * u64::from(command.members) + u64::from(member)) as usize;
            parties[group as usize].expects(numbers, connections[index % connections.len()].clone());
        }
    }
    join_all(&mut parties).await?;
    let joined_seconds = since.elapsed().as_secs_f64();
    let resident_bytes_after = server.map(ServerProcess::resident_bytes).transpose()?;
    let heartbeats_cpu_percent = match server {
        Some(server) => Some(server.cpu_percent(quiet).await?),
        None => None,
    };
    for party in &mut parties {
        party.look()?;
    }
    let rebalance = match command.rebalance_members {
        0 => None,
        _ => Some(rebalance(client, command, &connections, numbers).await?),
    };
    Ok(GroupsReport {
        command: "groups",
        groups: command.groups,
        members: u64::from(command.groups) * u64::from(command.members),
        connections: command.connections,
        joined_seconds,
        resident_bytes_before,
        resident_bytes_after,
        idle_cpu_percent,
        heartbeats_cpu_percent,
        rebalance_members: command.rebalance_members,
        rebalance_partitions: command.rebalance_partitions,
        rebalance,
    })
}

async fn make_stream(client: &Client, name: &str, partitions: u32) -> Result<(), Failure> {
    match client.create_stream(name, partitions, StreamConfig::default()).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Code::StreamExists => {
            let found = client.describe_stream(name).await?.partitions.len();
            if found == partitions as usize {
                return Ok(());
            }
            let text = format!(
                "the stream {name} is there with {found} partitions, wanted are {partitions}: delete it, `millstream stream \
                 delete {name}`"
            );
            Err(Failure { exit: 10, text })
        }
        Err(error) => Err(error.into()),
    }
}

async fn join_all(parties: &mut [Party]) -> Result<(), Failure> {
    use futures::{StreamExt, TryStreamExt};
    let joins = parties.iter_mut().map(Party::join);
    futures::stream::iter(joins).buffer_unordered(JOINING_MAX).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// One member after the other leaves, and a new one comes.
async fn rebalance(
    client: &Client,
    command: &Groups,
    connections: &[Client],
    mut numbers: u64,
) -> Result<Latency, Failure> {
    let stream = "bench-rebalance";
    make_stream(client, stream, command.rebalance_partitions).await?;
    let mut party = Party::new(format!("bench-{}-large", std::process::id()), stream, command.rebalance_partitions);
    for index in 0..command.rebalance_members {
        numbers += 1;
        party.expects(numbers, connections[index as usize % connections.len()].clone());
    }
    party.join().await?;
    let mut times_us = histogram_us();
    for round in 0..command.rounds {
        let leaver = party.members.swap_remove(round as usize % party.members.len());
        let (number, connection) = (leaver.number, connections[round as usize % connections.len()].clone());
        let left_at = leaver.leave().await?;
        party.holders.retain(|_, holder| *holder != number);
        let settled_at = if party.members.is_empty() { left_at } else { party.settled().await? };
        let took = settled_at.saturating_duration_since(left_at);
        times_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
        numbers += 1;
        party.expects(numbers, connection);
        party.join().await?;
    }
    Ok(Latency::from(&times_us))
}

/// One group: its members, and who was told what.
struct Party {
    group: String,
    stream: &'static str,
    partitions: u32,
    expected: Vec<(u64, Client)>,
    members: Vec<LightMember>,
    holders: HashMap<StreamPartition, u64>,
    told: mpsc::UnboundedReceiver<Result<Told, Failure>>,
    teller: mpsc::UnboundedSender<Result<Told, Failure>>,
}

impl Party {
    fn new(group: String, stream: &'static str, partitions: u32) -> Self {
        let (teller, told) = mpsc::unbounded_channel();
        let (expected, members, holders) = Default::default();
        Self { group, stream, partitions, expected, members, holders, told, teller }
    }

    fn expects(&mut self, number: u64, client: Client) {
        self.expected.push((number, client));
    }

    /// Has all that are expected join, and waits until every partition has its member and the load is even.
    async fn join(&mut self) -> Result<(), Failure> {
        for (number, client) in std::mem::take(&mut self.expected) {
            let (group, teller) = (self.group.clone(), self.teller.clone());
            self.members.push(LightMember::join(&client, group, number, self.stream, teller).await?);
        }
        self.settled().await.map(drop)
    }

    /// Waits until every partition has one holder of those who are members, and no member has two more than another; gives
    /// when the last of that was told.
    async fn settled(&mut self) -> Result<Instant, Failure> {
        let mut last = Instant::now();
        while !self.is_settled() {
            let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
            let told = told.map_err(|_| self.hangs())?;
            last = self.take(told.ok_or_else(|| self.hangs())??);
        }
        Ok(last)
    }

    /// An error of a member that came meanwhile.
    fn look(&mut self) -> Result<(), Failure> {
        while let Ok(told) = self.told.try_recv() {
            self.take(told?);
        }
        Ok(())
    }

    fn take(&mut self, Told { member, at, partitions }: Told) -> Instant {
        // One who has left may have been told something before.
        if self.members.iter().any(|one| one.number == member) {
            self.holders.retain(|_, holder| *holder != member);
            self.holders.extend(partitions.into_iter().map(|at| (at, member)));
        }
        at
    }

    fn is_settled(&self) -> bool {
        if self.holders.len() < self.partitions as usize {
            return false;
        }
        let mut loads: HashMap<u64, usize> = self.members.iter().map(|member| (member.number, 0)).collect();
        for holder in self.holders.values() {
            *loads.entry(*holder).or_default() += 1;
        }
        let (least, most) = (loads.values().min().copied(), loads.values().max().copied());
        most.unwrap_or(0) <= least.unwrap_or(0) + 1
    }

    fn hangs(&self) -> Failure {
        let (held, members) = (self.holders.len(), self.members.len());
        let loads: HashSet<u64> = self.holders.values().copied().collect();
        let text = format!(
            "the group {} did not settle within {PATIENCE:?}: of {} partitions {held} are held, by {} of {members} members",
            self.group,
            self.partitions,
            loads.len()
        );
        Failure { exit: 20, text }
    }
}

impl fmt::Display for GroupsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { groups, members, connections, joined_seconds, .. } = self;
        write!(f, "groups: {groups} groups, {members} members over {connections} connections, joined in ")?;
        write!(f, "{joined_seconds:.2} s")?;
        if let (Some(before), Some(after)) = (self.resident_bytes_before, self.resident_bytes_after) {
            let more = after.saturating_sub(before) as f64;
            let mb = |bytes: u64| bytes as f64 / 1e6;
            write!(f, "\n  server memory: {:.1} MB before, {:.1} MB after, ", mb(before), mb(after))?;
            write!(f, "{:.0} bytes a member", more / (*members).max(1) as f64)?;
        }
        if let (Some(idle), Some(beating)) = (self.idle_cpu_percent, self.heartbeats_cpu_percent) {
            write!(f, "\n  server CPU: {idle:.1} % of a core before, {beating:.1} % with their heartbeats")?;
        }
        if let Some(rebalance) = &self.rebalance {
            let (members, partitions) = (self.rebalance_members, self.rebalance_partitions);
            write!(
                f,
                "\n  one of {members} members over {partitions} partitions leaves; the others have them after, ms: "
            )?;
            write!(f, "{rebalance}")?;
        }
        Ok(())
    }
}
