//! Load through the real client: producers that pipeline, follow-up readers, someone who asks where partitions end.
//!
//! Each worker has a recorder and choices of its own. A worker that meets what must not happen ends with a
//! [`Failure`]; refusals and lost connections are what this is about, and only recorded.
//! Consumers share the producers' connections: an idle connection would notice a killed server only at its next sign of
//! life, after up to 10 s.

mod books;
pub mod consumer;
mod feed;
mod ledger;
mod named;
mod plan;
mod producer;
mod repeating;
mod watcher;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{Clock, Recorder};
use millstream_check::seeded::Seeded;
use millstream_client::{Client, Error, LocalServer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::last_read::Ends;
use repeating::Dedup;

pub use books::{Books, Counted, Lives};
pub use feed::{Feed, Source};
pub use ledger::Ledger;

/// Process 0 of a history is whoever kills the server.
pub const HARNESS: u32 = 0;
const FIRST_PRODUCER: u32 = 1;
const FIRST_CONSUMER: u32 = 1_001;
const WATCHER: u32 = 2_001;
/// Who reads everything at the end.
pub const LAST_READER: u32 = 3_001;
/// Producers that have more than one life, or a name: their numbers are far from the others'.
const REPEATING: u32 = 100_001;
const FIRST_NAMED: u32 = 200_001;

/// How long a worker goes on trying to get back to a server.
pub const PATIENCE: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// A server that is killed within a handshake never answers it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What producers promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Two of three are idempotent.
    Any,
    /// Every record stands once. Beside the others: one producer that forgets and repeats, and one name with one producer
    /// after the other.
    Exact {
        /// A canary without: the records stand twice now and then.
        idempotent: bool,
    },
}

/// What the load is made of.
pub struct LoadSettings {
    pub mix: Mix,
    pub lives: Lives,
    pub producers: u32,
    pub streams: Vec<String>,
    pub history: PathBuf,
    pub clock: Clock,
    pub seeded: Seeded,
}

/// Workers at work.
pub struct Load {
    producers: JoinSet<Result<(), Failure>>,
    consumers: JoinSet<Result<(), Failure>>,
    stop: watch::Sender<bool>,
    ends: watch::Sender<Option<Arc<Ends>>>,
    books: Arc<Books>,
}

impl Load {
    /// Starts it against a server that is ready.
    pub async fn start(server: &LocalServer, settings: LoadSettings) -> Result<Self, Failure> {
        let (stop, stopped) = watch::channel(false);
        let (ends, ends_known) = watch::channel(None);
        let books = Arc::new(Books::new(settings.lives.clone()));
        let recorder = |process| Recorder::create(&settings.history, process, settings.clock);
        let mut clients = Vec::new();
        let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
        for slot in 0..settings.producers {
            let client = connect(server, slot).await?;
            let stream = slot % settings.streams.len() as u32;
            let worker = producer::Worker {
                client: client.clone(),
                stream,
                name: settings.streams[stream as usize].clone(),
                slot,
                slots: settings.producers,
                mix: settings.mix,
                seeded: settings.seeded.fork(u64::from(FIRST_PRODUCER + slot)),
                recorder: recorder(FIRST_PRODUCER + slot)?,
                stop: stopped.clone(),
                books: Arc::clone(&books),
            };
            producers.spawn(worker.run());
            clients.push(client);
        }
        for (stream, name) in (0..).zip(&settings.streams) {
            for kind in [consumer::Kind::Follower, consumer::Kind::Seeker] {
                let process = FIRST_CONSUMER + 2 * stream + kind as u32;
                let worker = consumer::Worker {
                    // Of a producer of this stream, where there is one: it is never idle for long.
                    client: clients[stream as usize % clients.len()].clone(),
                    kind,
                    stream,
                    name: name.clone(),
                    process,
                    seeded: settings.seeded.fork(u64::from(process)),
                    recorder: recorder(process)?,
                    ends: ends_known.clone(),
                };
                consumers.spawn(worker.run());
            }
        }
        if let Mix::Exact { idempotent } = settings.mix {
            let (stream, name) = (0, settings.streams[0].clone());
            let worker = repeating::Worker {
                server: server.clone(),
                stream,
                name: name.clone(),
                slot: settings.producers,
                number: REPEATING,
                dedup: if idempotent { Dedup::ByValue } else { Dedup::No },
                seeded: settings.seeded.fork(u64::from(REPEATING)),
                recorder: recorder(REPEATING)?,
                stop: stopped.clone(),
                books: Arc::clone(&books),
            };
            producers.spawn(worker.run());
            let worker = named::Worker {
                server: server.clone(),
                stream,
                name,
                slot: settings.producers + 1,
                number: FIRST_NAMED,
                history: settings.history.clone(),
                clock: settings.clock,
                seeded: settings.seeded.fork(u64::from(FIRST_NAMED)),
                stop: stopped.clone(),
                books: Arc::clone(&books),
            };
            // Without idempotence there is no name to fight for.
            if idempotent {
                producers.spawn(worker.run());
            }
        }
        let watcher = watcher::Watcher {
            client: clients[0].clone(),
            streams: settings.streams.clone(),
            seeded: settings.seeded.fork(u64::from(WATCHER)),
            recorder: recorder(WATCHER)?,
            stop: stopped,
        };
        producers.spawn(watcher.run());
        Ok(Self { producers, consumers, stop, ends, books })
    }

    /// How many records were acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.counted().acked
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        self.books.counted()
    }

    /// Waits until a record is acknowledged from now on.
    ///
    /// # Errors
    /// None was within the workers' patience, or a worker failed meanwhile.
    pub async fn next_ack(&mut self) -> Result<(), Failure> {
        let before = self.acked();
        let mut acked = self.books.acked.subscribe();
        let ack = tokio::time::timeout(PATIENCE, acked.wait_for(|acked| *acked > before));
        tokio::select! {
            acked = ack => match acked {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(Failure::run("all producers ended")),
                Err(_) => Err(Failure::run(format!("nothing was acknowledged within {PATIENCE:?} of a start"))),
            },
            failure = ended(&mut self.producers) => Err(failure),
            failure = ended(&mut self.consumers) => Err(failure),
        }
    }

    /// Stops sending, and waits until every record has its outcome.
    pub async fn stop_sending(&mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        while let Some(worker) = self.producers.join_next().await {
            outcome(worker)?;
        }
        Ok(())
    }

    /// Waits until who follows has come to these ends.
    pub async fn catch_up(mut self, ends: Ends) -> Result<(), Failure> {
        self.ends.send_replace(Some(Arc::new(ends)));
        while let Some(worker) = self.consumers.join_next().await {
            outcome(worker)?;
        }
        Ok(())
    }
}

/// The first worker that ends while it should work.
async fn ended(workers: &mut JoinSet<Result<(), Failure>>) -> Failure {
    match workers.join_next().await {
        Some(worker) => outcome(worker).err().unwrap_or_else(|| Failure::run("a worker ended before it was told to")),
        None => Failure::run("no worker is left"),
    }
}

/// What a worker ended with.
pub fn outcome(worker: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    worker.unwrap_or_else(|error| Err(Failure::run(format!("a worker panicked: {error}"))))
}

async fn connect(server: &LocalServer, slot: u32) -> Result<Client, Failure> {
    let attempt = || {
        let builder = Client::builder(&server.address)
            .fingerprint(&server.fingerprint)
            .connect_timeout(CONNECT_TIMEOUT)
            .name(format!("torture-{slot}"));
        builder.connect()
    };
    patiently("a client cannot connect", attempt).await
}

/// Tries again while the server is away.
pub async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if error.is_retryable() && since.elapsed() < PATIENCE => tokio::time::sleep(TRY_AGAIN).await,
            Err(error) => return Err(Failure::run(format!("{what}: {error}"))),
        }
    }
}
