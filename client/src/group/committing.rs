//! When a group's consumer commits, and what becomes of it.

use std::time::{Duration, Instant};

use millstream_protocol::Code;
use millstream_protocol::frame::group::OffsetCommit;
use tokio::task::JoinHandle;

use super::commit::{self, Committed};
use super::{Commit, GroupConsumer, joined};
use crate::error::Result;

/// No automatic commit is sooner than this after the last one.
const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl GroupConsumer {
    pub(super) async fn commit_if_due(&mut self) {
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
    pub(super) fn start_commit(&mut self) {
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
    pub(super) async fn finish_commit(&mut self) {
        if let Some(task) = &mut self.committing {
            let done = joined(task.await);
            self.finished_commit(done);
        }
    }

    /// A commit in the background has ended. What failed of it is told as an item, unless the membership tells it anyway.
    pub(super) fn finished_commit(&mut self, done: Result<Vec<Committed>>) {
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

    pub(super) async fn send_commits(&mut self, commits: Vec<OffsetCommit>) -> Result<Vec<Committed>> {
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

/// How often, if it is automatic.
pub(super) fn interval(commit: Commit) -> Option<Duration> {
    match commit {
        Commit::Automatic { interval } => Some(interval.max(COMMIT_INTERVAL_MIN)),
        Commit::Manual => None,
    }
}
