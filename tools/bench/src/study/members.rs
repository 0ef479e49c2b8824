//! Light members of groups: no records, only the membership; many on one connection.
//!
//! A member confirms each assignment at once: it has nothing in hand. What it is told goes to whoever measures.

use std::time::{Duration, Instant};

use millstream_client::{Client, StreamPartition};
use millstream_protocol::frame::control::{Request, Response};
use millstream_protocol::frame::group::{Assignment, GroupHeartbeat, GroupJoin, Membership};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// A member of which the session ends after this, unless another is given.
pub const SESSION: Duration = Duration::from_secs(15);
const REBALANCE: Duration = Duration::from_secs(60);

/// What a member was told, and when.
#[derive(Debug)]
pub struct Told {
    pub member: u64,
    pub at: Instant,
    pub partitions: Vec<StreamPartition>,
}

/// A member with its task, which sends heartbeats until this is dropped.
#[derive(Debug)]
pub struct LightMember {
    pub number: u64,
    client: Client,
    group: String,
    task: JoinHandle<()>,
}

impl Drop for LightMember {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LightMember {
    /// Joins. An error of a heartbeat goes to `told` and ends it.
    pub async fn join(
        client: &Client,
        group: String,
        number: u64,
        stream: &str,
        told: mpsc::UnboundedSender<Result<Told, Failure>>,
    ) -> Result<Self, Failure> {
        let join = GroupJoin {
            group: group.clone(),
            member: number,
            instance: None,
            streams: vec![stream.to_owned()],
            session_timeout_ms: ms(SESSION),
            rebalance_timeout_ms: ms(REBALANCE),
            client: "millstream-bench".to_owned(),
        };
        let membership = membership(client.call(Request::JoinGroup(join)).await?)?;
        let beats = Beats { client: client.clone(), group: group.clone(), number, told };
        let task = tokio::spawn(beats.run(membership));
        Ok(Self { number, client: client.clone(), group, task })
    }

    /// Leaves; gives when that was answered.
    pub async fn leave(self) -> Result<Instant, Failure> {
        self.task.abort();
        let request = Request::LeaveGroup { group: self.group.clone(), member: self.number, for_good: true };
        self.client.call(request).await?;
        Ok(Instant::now())
    }
}

struct Beats {
    client: Client,
    group: String,
    number: u64,
    told: mpsc::UnboundedSender<Result<Told, Failure>>,
}

impl Beats {
    async fn run(self, mut membership: Membership) {
        let mut seen = 0;
        loop {
            if let Some(Assignment { version, partitions }) = membership.assignment {
                seen = version;
                let partitions = partitions.into_iter().map(|partition| partition.at).collect();
                let told = Told { member: self.number, at: Instant::now(), partitions };
                if self.told.send(Ok(told)).is_err() {
                    return;
                }
            }
            let heartbeat = GroupHeartbeat {
                group: self.group.clone(),
                member: self.number,
                seen,
                applied: seen,
                wait_ms: membership.heartbeat_interval_ms.min(ms(SESSION) / 3),
            };
            let answer = self.client.call(Request::HeartbeatGroup(heartbeat)).await;
            membership = match answer.map_err(Failure::from).and_then(self::membership) {
                Ok(membership) => membership,
                Err(error) => {
                    // Nobody may be waiting any more.
                    let _ = self.told.send(Err(error));
                    return;
                }
            };
        }
    }
}

fn membership(answer: Response) -> Result<Membership, Failure> {
    match answer {
        Response::Membership(membership) => Ok(membership),
        other => Err(Failure { exit: 50, text: format!("an unexpected answer to a member: {other:?}") }),
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
