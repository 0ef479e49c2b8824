//! What people would pick instead: other servers on the same machine, driven as well as they can be.
//!
//! | file | what it is |
//! | --- | --- |
//! | `redis.rs`, `redis/` | Redis Streams, and its protocol |
//! | `nats.rs`, `nats/` | NATS JetStream, and its protocol |
//! | `wire.rs` | a connection, and requests with a number of them unanswered |
//! | `run.rs` | producers and consumers side by side, until all is acknowledged |
//! | `process.rs` | a server as a child process |
//!
//! The clients are written for this: they know the shortest way to ask, count answers where they lie, and send many requests
//! with one system call, over loopback TCP without TLS. All of that favours the peer. Servers run with the settings that
//! [`Peer::describe`] names, everything else as their vendors ship it.
//!
//! A peer takes part only if its server is installed: [`Error::NotInstalled`] and [`Error::Unsupported`] are reasons to go on
//! without it, and to say so.
//!
//! ```no_run
//! # use millstream_benches::peers::{Error, Kind, Load, Peer, SyncPolicy};
//! # async fn f(directory: &std::path::Path) -> Result<(), Error> {
//! let peer = Peer::start(Kind::RedisStreams, SyncPolicy::Always, directory).await?;
//! let load = Load { records: 100_000, record_bytes: 1 << 10, producers: 4, in_flight: 256 };
//! println!("{}: {:?}", peer.describe(), peer.produce(&load).await?);
//! # Ok(()) }
//! ```

mod nats;
mod process;
mod redis;
mod run;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use process::{Directory, Process, Program};

/// The longest that one run may take: a peer that answers no more must not hold up a bench for ever.
pub const RUN_MAX: Duration = Duration::from_secs(10 * 60);

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Redis Streams with an append-only file; consumer groups are its queues.
    RedisStreams,
    /// NATS JetStream on files; a durable pull consumer is its queue.
    JetStream,
}

/// When a peer syncs what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncPolicy {
    /// Before each answer, as a `synced` stream.
    Always,
    /// By itself now and then, after the answer: Redis every second, NATS at its default interval. A loss of power takes what
    /// was acknowledged since.
    Periodic,
}

/// How much is produced, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Records, of all producers together.
    pub records: u64,
    /// Bytes of each.
    pub record_bytes: usize,
    /// Producers, each with a connection of its own; at least one runs.
    pub producers: usize,
    /// Records that a producer has sent and that are not acknowledged: at most so many. 256 to 1,024 gets most out of both peers.
    pub in_flight: u64,
}

/// A running peer. Dropping it kills the server and deletes its files.
pub struct Peer {
    kind: Kind,
    sync: SyncPolicy,
    version: String,
    process: Process,
    /// Each run has a stream of its own.
    runs: AtomicU64,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 2] = [Kind::RedisStreams, Kind::JetStream];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::RedisStreams => "Redis Streams",
            Kind::JetStream => "NATS JetStream",
        }
    }

    const fn program(self) -> &'static Program {
        match self {
            Kind::RedisStreams => &redis::SERVER,
            Kind::JetStream => &nats::SERVER,
        }
    }
}

impl Peer {
    /// Starts its server, with its files in a new directory in `directory`, which should be on the disk that is measured.
    /// Waits until it takes connections.
    ///
    /// # Errors
    /// [`Error::NotInstalled`]; [`Error::Unsupported`] if this version cannot sync so; [`Error::Start`].
    pub async fn start(kind: Kind, sync: SyncPolicy, directory: &Path) -> Result<Self, Error> {
        let program = kind.program();
        let Some(version) = program.version()? else { return Err(Error::NotInstalled(program.name)) };
        let directory = Directory::new(directory, program.name)?;
        let process = match kind {
            Kind::RedisStreams => redis::start(sync, directory).await?,
            Kind::JetStream => nats::start(sync, directory, &version).await?,
        };
        Ok(Self { kind, sync, version, process, runs: AtomicU64::new(0) })
    }

    /// What people call it.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its server's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When it syncs.
    pub fn sync(&self) -> SyncPolicy {
        self.sync
    }

    /// A line for people: name, version, what an acknowledgement means, settings.
    pub fn describe(&self) -> String {
        let settings = match self.kind {
            Kind::RedisStreams => redis::settings(self.sync),
            Kind::JetStream => nats::settings(self.sync),
        };
        let ack = match self.sync {
            SyncPolicy::Always => "synced before the ack",
            SyncPolicy::Periodic => "not synced before the ack",
        };
        format!("{} {}, {ack} ({settings}; loopback TCP without TLS)", self.name(), self.version)
    }

    /// Produces records into one new stream; the time from the first send until all are acknowledged. Connections are made
    /// before, and the stream is deleted afterwards.
    ///
    /// # Errors
    /// What the server refuses; [`Error::Late`].
    pub async fn produce(&self, load: &Load) -> Result<Duration, Error> {
        let stream = self.next_stream();
        let run = async {
            match self.kind {
                Kind::RedisStreams => redis::produce(self.process.address, &stream, load).await,
                Kind::JetStream => nats::produce(self.process.address, &stream, load).await,
            }
        };
        in_time(run).await
    }

    /// A work queue from end to end: producers send jobs while `consumers` compete for them, 100 at a time, and acknowledge
    /// each by itself. The time from the first send until every job was acknowledged, exactly once: that is checked.
    ///
    /// # Errors
    /// What the server refuses; [`Error::Unaccounted`]; [`Error::Late`].
    pub async fn queue(&self, load: &Load, consumers: usize) -> Result<Duration, Error> {
        let stream = self.next_stream();
        let run = async {
            match self.kind {
                Kind::RedisStreams => redis::queue(self.process.address, &stream, load, consumers.max(1)).await,
                Kind::JetStream => nats::queue(self.process.address, &stream, load, consumers.max(1)).await,
            }
        };
        in_time(run).await
    }

    /// Produces `count` records over one connection, each once the one before is acknowledged; the time of each.
    ///
    /// # Errors
    /// What the server refuses; [`Error::Late`].
    pub async fn round_trips(&self, count: u64, record_bytes: usize) -> Result<Vec<Duration>, Error> {
        let stream = self.next_stream();
        let run = async {
            match self.kind {
                Kind::RedisStreams => redis::round_trips(self.process.address, &stream, count, record_bytes).await,
                Kind::JetStream => nats::round_trips(self.process.address, &stream, count, record_bytes).await,
            }
        };
        in_time(run).await
    }

    fn next_stream(&self) -> String {
        format!("run-{}", self.runs.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.describe()).finish()
    }
}

async fn in_time<T>(run: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let start = Instant::now();
    tokio::time::timeout(RUN_MAX, run).await.unwrap_or_else(|_| Err(Error::Late(start.elapsed())))
}

/// A payload. No peer compresses, so what it says is all the same.
fn payload(record_bytes: usize) -> Vec<u8> {
    vec![b'r'; record_bytes]
}

/// Why there is no figure.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// That command is not there.
    NotInstalled(&'static str),
    /// This version of the server cannot do what was asked.
    Unsupported(String),
    /// The server did not start: its last words.
    Start(String),
    /// It refused a request: its words.
    Refused(String),
    /// It said what its protocol does not have.
    Malformed(String),
    /// Jobs or answers are missing, or there are too many.
    Unaccounted(String),
    /// It closed a connection.
    Closed,
    /// A run took longer than [`RUN_MAX`].
    Late(Duration),
    /// A socket, a file or a process.
    Io(std::io::Error),
}

impl Error {
    /// Whether the peer is not to be had here, so that a bench goes on without it.
    pub fn is_absence(&self) -> bool {
        matches!(self, Error::NotInstalled(_) | Error::Unsupported(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotInstalled(name) => write!(f, "{name} is not installed"),
            Error::Unsupported(text) | Error::Start(text) | Error::Malformed(text) | Error::Unaccounted(text) => {
                f.write_str(text)
            }
            Error::Refused(text) => write!(f, "the server refused: {text}"),
            Error::Closed => f.write_str("the server closed the connection"),
            Error::Late(after) => write!(f, "not done after {} s", after.as_secs()),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error)
    }
}
