//! A group member's settings, checked when it is built.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::limits::GROUP_STREAMS_MAX;
use millstream_protocol::names::check_name;

use super::GroupConsumer;
use super::member::{Member, Settings};
use super::session::{self, Shared};
use crate::client::Client;
use crate::consumer::Start;
use crate::error::{Error, Result};

const SESSION: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(30 * 60);
const REBALANCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);

/// When a [`GroupConsumer`] commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// By itself: what the application is done with, every so often, before partitions go and at
    /// [`close`](GroupConsumer::close). It is done with what it was given when it asks for the next one.
    Automatic {
        /// How often; at least 10 ms count.
        interval: Duration,
    },
    /// When the application says so.
    Manual,
}

impl Default for Commit {
    /// Automatic, every 5 s.
    fn default() -> Self {
        Commit::Automatic { interval: Duration::from_secs(5) }
    }
}

/// Settings of a [`GroupConsumer`]; made by [`Client::group`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct GroupConsumerBuilder {
    pub(super) client: Client,
    group: String,
    streams: Vec<String>,
    instance: Option<String>,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    pub(super) start: Start,
    pub(super) commit: Commit,
    pub(super) prefetch_bytes: u32,
    reconnect_timeout: Duration,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            client,
            group,
            streams: Vec::new(),
            instance: None,
            session_timeout: Duration::from_secs(15),
            rebalance_timeout: Duration::from_secs(60),
            start: Start::Earliest,
            commit: Commit::default(),
            prefetch_bytes: 8 << 20,
            reconnect_timeout: Duration::from_secs(120),
        }
    }

    /// Reads this stream; may be called several times.
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.streams.push(stream.into());
        self
    }

    /// Reads these streams; at most 100. Members of a group may read different ones: each partition goes to a member that
    /// reads its stream.
    pub fn streams<S: Into<String>>(mut self, streams: impl IntoIterator<Item = S>) -> Self {
        self.streams.extend(streams.into_iter().map(Into::into));
        self
    }

    /// Makes it a static member of that name (as a stream's: 1–128 of a-z 0-9 . _ -): one that comes back under it within the
    /// session gets its partitions back, and nobody else is disturbed. Two at a time cannot be: the later one takes over,
    /// the earlier one ends with [`Code::Fenced`].
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// How long after its last heartbeat a member is taken for dead, and its partitions go to others; 3 s to 30 min, default
    /// 15 s. Heartbeats are sent in the background about five times as often, whatever the application does.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How long the application may take to let go of partitions, from [`GroupEvent::Revoking`](super::GroupEvent::Revoking)
    /// being due to its next call; 1 s to 1 h, default 60 s. A member that takes longer loses all it has.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.rebalance_timeout = timeout;
        self
    }

    /// Where to begin in a partition in which the group has committed nothing; default [`Start::Earliest`]. Also where
    /// reading goes on when a position turns out to lie outside of the log; that is always told first, as an error item.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// When to commit; default automatically, every 5 s.
    pub fn commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// How many bytes of batches to read ahead of the application, over all partitions together; default 8 MiB. It may be
    /// exceeded by what the transport holds (1 MiB a stream), and a single larger frame passes.
    pub fn prefetch_bytes(mut self, bytes: u32) -> Self {
        self.prefetch_bytes = bytes;
        self
    }

    /// How long to go on trying after the server was lost; default 120 s.
    pub fn reconnect_timeout(mut self, timeout: Duration) -> Self {
        self.reconnect_timeout = timeout;
        self
    }

    /// Joins the group. The first [`Assigned`](super::GroupEvent::Assigned) comes once other members have let go of what is
    /// meant for this one.
    ///
    /// # Errors
    /// [`Code::IllegalName`], [`Code::IllegalSetting`]: what was set; [`Code::UnknownStream`]; [`Code::NotAllowed`]; those of
    /// the connection.
    pub async fn build(self) -> Result<GroupConsumer> {
        let settings = self.settings()?;
        let server_id = self.client.connection().await?.server_id();
        let mut member = Member::new(settings, session::random_number());
        session::join(&self.client, &mut member).await?;
        let shared = Arc::new(Shared::new(member));
        let task = tokio::spawn(session::run(Arc::clone(&shared), self.client.clone(), self.reconnect_timeout));
        Ok(GroupConsumer::new(self, server_id, shared, task))
    }

    fn settings(&self) -> Result<Settings> {
        let illegal = |text: String| Err(Error::local(Code::IllegalSetting, text));
        check_name(&self.group)
            .map_err(|error| Error::local(Code::IllegalName, format!("illegal group name: {error}")))?;
        let mut streams = self.streams.clone();
        streams.sort_unstable();
        streams.dedup();
        if streams.is_empty() || streams.len() > GROUP_STREAMS_MAX {
            let count = streams.len();
            return illegal(format!("{count} streams for a member of {:?}: name 1 to {GROUP_STREAMS_MAX}", self.group));
        }
        for (name, span, range) in
            [("session", self.session_timeout, SESSION), ("rebalance", self.rebalance_timeout, REBALANCE)]
        {
            if !range.contains(&span) {
                let (low, high) = range.into_inner();
                return illegal(format!("a {name} timeout of {span:?} is out of range: {low:?} to {high:?}"));
            }
        }
        Ok(Settings {
            group: self.group.clone(),
            instance: self.instance.clone(),
            streams,
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout,
            client: self.client.config().name.clone(),
        })
    }
}
