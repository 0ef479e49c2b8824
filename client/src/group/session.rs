//! The member's background task: joins, sends heartbeats in time whatever the application does, leaves.
//!
//! A heartbeat waits at the server until there is something new, or until the next one is due. What the application
//! confirms meanwhile goes out at once, with a heartbeat of its own. A lost connection is made again under the same
//! member number; only the server says that a membership is over.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_protocol::Code;
use millstream_protocol::frame::control::Response;
use millstream_protocol::frame::group::{AssignedPartition, StreamPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::member::{Ask, Change, Member, Settings, Verdict, judge};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};

/// A connection that leaves an answer out for so long beyond its time is not used any more, at least.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// The member, between its task and the application.
pub(super) struct Shared {
    member: Mutex<Member>,
    /// Rises with everything that is new for the application.
    changes: AtomicU64,
    news: Notify,
    /// There is something else to say to the server than what is being said.
    wake: Notify,
}

impl Shared {
    pub fn new(member: Member) -> Self {
        Self { member: Mutex::new(member), changes: AtomicU64::new(1), news: Notify::new(), wake: Notify::new() }
    }

    /// A number that rises with everything that is new.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Waits for something new; one waiter at a time.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    pub fn number(&self) -> u64 {
        self.member.lock().number()
    }

    pub fn settings(&self) -> Settings {
        self.member.lock().settings().clone()
    }

    pub fn next_change(&self) -> Option<Change> {
        self.member.lock().next_change()
    }

    pub fn ended(&self) -> Option<Error> {
        self.member.lock().ended().cloned()
    }

    /// Lets go of partitions, and has the server told.
    pub fn release(&self, partitions: &[StreamPartition]) {
        if self.member.lock().released(partitions) {
            self.wake.notify_one();
        }
    }

    /// Gives back what was not begun.
    pub fn unclaim(&self, partitions: &[AssignedPartition]) {
        if self.member.lock().unclaim(partitions) {
            self.wake.notify_one();
        }
    }

    /// The server does not know the member of that number any more.
    pub fn lose(&self, number: u64) {
        let mut member = self.member.lock();
        if member.number() == number && member.ended().is_none() {
            member.lose(random_number());
            drop(member);
            self.tell();
            self.wake.notify_one();
        }
    }

    pub fn leave(&self, for_good: bool) {
        self.member.lock().leave(for_good);
        self.wake.notify_one();
    }

    /// What it would say now.
    pub fn ask(&self) -> Option<Ask> {
        self.member.lock().ask()
    }

    fn tell(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.news.notify_one();
    }
}

/// A member's number: no other one has it.
pub(super) fn random_number() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    u64::from_le_bytes(bytes).max(1)
}

/// Drives the member until it has left, or can be no member any more.
pub(super) async fn run(shared: Arc<Shared>, client: Client, reconnect_timeout: Duration) {
    let mut trouble = Trouble { backoff: Backoff::default(), since: None };
    while let Some(ask) = shared.ask() {
        let (session, number) = {
            let member = shared.member.lock();
            (member.settings().session_timeout, member.number())
        };
        let sent = Instant::now();
        let answer = tokio::select! {
            biased;
            () = shared.wake.notified() => continue,
            answer = say(&client, &ask, session) => answer,
        };
        let pause = match answer.and_then(|response| shared.heard(number, &ask, response)) {
            Ok(Heard::Left) => return,
            Ok(Heard::News) => {
                trouble = Trouble { backoff: Backoff::default(), since: None };
                continue;
            }
            Ok(Heard::Nothing) => {
                trouble = Trouble { backoff: Backoff::default(), since: None };
                let interval = shared.member.lock().heartbeat_interval();
                interval.saturating_sub(sent.elapsed())
            }
            Err(error) => match shared.failed(number, &ask, error, &mut trouble, reconnect_timeout) {
                // A member that waits too long is dead.
                Some(pause) => pause.min(session / 6),
                None => return,
            },
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What fails, and since when.
struct Trouble {
    backoff: Backoff,
    since: Option<Instant>,
}

enum Heard {
    /// The application has something to do, or there is something to say at once.
    News,
    Nothing,
    Left,
}

impl Shared {
    fn heard(&self, number: u64, ask: &Ask, response: Response) -> Result<Heard> {
        let mut member = self.member.lock();
        match (ask, response) {
            (Ask::Leave { .. }, Response::Done) => {
                member.left();
                Ok(Heard::Left)
            }
            // Of a membership that is over.
            (Ask::Join(_) | Ask::Heartbeat(_), Response::Membership(_)) if member.number() != number => Ok(Heard::News),
            (Ask::Join(_) | Ask::Heartbeat(_), Response::Membership(membership)) => {
                let is_join = matches!(ask, Ask::Join(_));
                let is_news = member.answered(membership);
                drop(member);
                if is_news {
                    self.tell();
                }
                Ok(if is_news || is_join { Heard::News } else { Heard::Nothing })
            }
            (_, other) => Err(Error::protocol(format_args!("an unexpected answer: {other:?}"))),
        }
    }

    /// How long to wait before the next try; `None`: there is none.
    fn failed(
        &self,
        number: u64,
        ask: &Ask,
        error: Error,
        trouble: &mut Trouble,
        reconnect_timeout: Duration,
    ) -> Option<Duration> {
        let since = *trouble.since.get_or_insert_with(Instant::now);
        let is_over = since.elapsed() >= reconnect_timeout;
        let pause = trouble.backoff.next(error.retry_after());
        let mut member = self.member.lock();
        match judge(ask, &error) {
            Verdict::Again if !is_over => {
                tracing::debug!(%error, "a member's request failed; it will be sent again");
                Some(pause)
            }
            // It is out, whatever the server thinks.
            _ if matches!(ask, Ask::Leave { .. }) => {
                member.left();
                None
            }
            Verdict::Rejoin if !is_over => {
                if member.number() == number {
                    tracing::info!(%error, "the membership is over; it joins again");
                    member.lose(random_number());
                    drop(member);
                    self.tell();
                }
                Some(pause)
            }
            Verdict::Again | Verdict::Rejoin | Verdict::End => {
                member.end(error);
                drop(member);
                self.tell();
                None
            }
        }
    }
}

/// Says it, and waits for the answer. A connection that does not answer is given up for another one.
pub(super) async fn say(client: &Client, ask: &Ask, session: Duration) -> Result<Response> {
    let connection = client.connection().await?;
    let patience = ask.wait() + (session / 3).max(SILENCE_MIN);
    let request = ask.request();
    match tokio::time::timeout(patience, connection.control().request(&request)).await {
        Ok(answer) => answer,
        Err(_) => {
            client.abandon(&connection).await;
            Err(Error::lost(format!("the server did not answer within {patience:?}"), "silence"))
        }
    }
}

/// The first join, before there is a task: who builds a consumer is told why it cannot be.
pub(super) async fn join(client: &Client, member: &mut Member) -> Result<()> {
    let ask = member.ask().expect("a new member joins");
    match say(client, &ask, client.config().request_timeout).await? {
        Response::Membership(membership) => {
            member.answered(membership);
            Ok(())
        }
        other => Err(Error::protocol(format_args!("an unexpected answer: {other:?}"))),
    }
}

/// The error of a partition that this consumer does not hold.
pub(super) fn not_held(stream: &Arc<str>, partition: millstream_protocol::PartitionId) -> Error {
    let text = format!(
        "partition {partition} of {stream:?} is not held by this consumer (any more): it may be with another member now"
    );
    Error::of_partition(partition, Code::StaleEpoch, text).in_stream(stream)
}

/// Never, where there is nothing to wait for.
pub(super) async fn or_never<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
