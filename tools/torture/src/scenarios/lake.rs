//! Kills the server again and again while a lake lands what producers write; each record lands once, where it belongs.
//!
//! Files are small and their directories change often, so that there is always a round under way: an intent, a manifest
//! entry, puts, a checkpoint. A cycle: load for 50 to 900 ms, then one of `kill`'s; in three of ten cycles the next
//! server is killed as well, in its first 400 ms, in which it takes up what it finds. Then the audit must say complete,
//! while a trickle of load goes on. Every tenth cycle, and in the end, everything up to then is flushed, and read and
//! judged here without the lake's help. The store is a directory, or an S3 server in this process, of which a share of
//! all requests fails in a dozen ways.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{Clock, Recorder};
use millstream_check::seeded::Seeded;
use millstream_client::{ByteSize, Client, Code, Error, LakeAudit, LakeConfig, LakeFormat, LocalServer, StreamConfig};
use tokio::time::Instant;

use crate::cli::{self, LakeStoreKind};
use crate::failure::Failure;
use crate::lake::{
    Asked, Findings, LakeStore, Landed, Layout, Maker, Pace, Producers, Reading, Sent, Truth, read_back, truth,
};
use crate::load::{HARNESS, Lives, PATIENCE, patiently};
use crate::report::{Tally, grouped};
use crate::run_dir::RunDir;
use crate::scenarios::ended_early;
use crate::scenarios::killer::Killer;
use crate::server_process::Program;

const STREAM: &str = "torture";
const LAKE: &str = "torture";
const LOAD_MS: std::ops::RangeInclusive<u64> = 50..=900;
const AGAIN_PERCENT: u64 = 30;
/// What a start finds is taken up in about this time.
const TAKING_UP_MS: std::ops::RangeInclusive<u64> = 0..=400;
/// A stop lands first what was read.
const SHUTDOWN_US_MAX: u64 = 300_000;
const READ_EVERY: u32 = 10;
const SEGMENT: ByteSize = ByteSize::mib(1);
const ROLL_BYTES: u64 = 1 << 20;
const ROLL_AGE_MS: std::ops::RangeInclusive<u64> = 200..=500;
/// Fewer than there are directories at times: some are closed to make room.
const OPEN_FILES_PER_PARTITION: u32 = 6;
/// Flushes and audits of a store that fails take their time.
const FLUSH_TIME: Duration = Duration::from_secs(120);
const AUDIT_TIME: Duration = Duration::from_secs(300);
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Forks of the seed.
const KILLER: u64 = 1 << 32;
const RECORDS: u64 = KILLER + 1;
const SETTINGS: u64 = KILLER + 2;

/// A run that was judged.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    judged: Judged,
    audits: u64,
    asked: Asked,
    again: String,
    seed: u64,
    kept: Option<PathBuf>,
}

/// What the last look at everything said.
#[derive(Debug, Default)]
struct Judged {
    acked: u64,
    unknown: u64,
    landed: Landed,
    findings: Findings,
    /// What the last audit found.
    audited: u64,
}

impl Judged {
    fn is_good(&self) -> bool {
        self.findings.is_empty() && self.audited == 0
    }
}

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or an audit before the last was not complete, or the server or a client did what ends a run at
/// once.
pub async fn run(mut options: cli::Lake) -> Result<Report, Failure> {
    options.run.settle_seed();
    let layout = Layout::parse(&options.layout)?;
    let mut dir = RunDir::make(options.run.keep_dir.as_deref())?;
    let seed = options.run.seed();
    let store = match options.store {
        LakeStoreKind::Local => LakeStore::directory(dir.path().join("lake")),
        LakeStoreKind::S3 => LakeStore::s3(seed, options.faults).await?,
    };
    let program = Program::find(options.run.server.as_deref())?.with_environment(store.environment());
    let killer = Killer {
        seeded: Seeded::new(seed).fork(KILLER),
        recorder: Recorder::create(&dir.history(), HARNESS, Clock::start())?,
        tally: Tally::default(),
        settings: &[],
        shutdown_us_max: SHUTDOWN_US_MAX,
        lives: Lives::default(),
        program,
        dir: &dir,
    };
    let maker = Maker::new(Seeded::new(seed).fork(RECORDS), layout);
    let mut torture = Torture { options: &options, killer, maker, store: Arc::new(store), audits: 0 };
    let ended = Box::pin(torture.run()).await;
    let Torture { killer: Killer { tally, recorder, .. }, audits, store, .. } = torture;
    let ended = ended.and_then(|judged| recorder.finish().map(|_| judged).map_err(Failure::from));
    let judged = ended.map_err(|why| ended_early(why, &mut dir, (tally.cycles, options.cycles), &options.again()))?;
    judged.findings.named.iter().for_each(|finding| eprintln!("{finding}"));
    let kept = (!judged.is_good() || options.run.keep_dir.is_some()).then(|| dir.path().to_owned());
    if kept.is_some() {
        dir.keep();
    }
    Ok(Report { tally, judged, audits, asked: store.asked(), again: options.again(), seed, kept })
}

struct Torture<'a> {
    options: &'a cli::Lake,
    killer: Killer<'a>,
    maker: Maker,
    store: Arc<LakeStore>,
    /// Those that were complete.
    audits: u64,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<Judged, Failure> {
        let seeded = Seeded::new(self.options.run.seed());
        let mut server = self.killer.start("127.0.0.1:0").await?;
        let address = server.address()?;
        self.make(&address, &mut seeded.fork(SETTINGS)).await?;
        let mut producers = Producers::start(&address, STREAM, self.options.producers, &self.maker, &seeded).await?;
        for cycle in 1..=self.options.cycles {
            producers.next_ack().await?;
            tokio::time::sleep(Duration::from_millis(self.killer.seeded.of(LOAD_MS))).await;
            server = self.killer.cycle(server, &address.address).await?;
            if self.killer.seeded.percent(AGAIN_PERCENT) {
                tokio::time::sleep(Duration::from_millis(self.killer.seeded.of(TAKING_UP_MS))).await;
                server = self.killer.kill_and_start(server, &address.address).await?;
            }
            producers.set_pace(Pace::Trickle);
            complete(&self.audit(&address).await?)?;
            self.audits += 1;
            self.killer.tally.cycles = cycle;
            if cycle % READ_EVERY == 0 {
                let (landed, findings) = self.read(&address, &producers.sent()).await?;
                eprintln!(
                    "cycle {cycle} of {}: {}, {} rows in {} files",
                    self.options.cycles,
                    self.killer.tally.progress(producers.acked()),
                    grouped(landed.rows),
                    grouped(landed.files)
                );
                good(&findings)?;
                complete(&self.audit(&address).await?)?;
                self.audits += 1;
            }
            producers.set_pace(Pace::Full);
        }
        producers.next_ack().await?;
        let sent = producers.stop().await?;
        self.flush(&address).await?;
        if self.options.forget {
            self.forget()?;
        }
        let (landed, findings) = self.read(&address, &sent).await?;
        let audit = self.audit(&address).await?;
        self.audits += u64::from(audit.complete);
        audit.named.iter().take(5).for_each(|finding| eprintln!("the audit: {finding}"));
        let differs = (audit.files, audit.rows, audit.rejected) != (landed.files, landed.rows, landed.rejected);
        if audit.complete && differs {
            return Err(Failure::run(format!("the audit counted otherwise than was read: {audit:?}, {landed:?}")));
        }
        self.killer.stop(server).await?;
        let acked = sent.acked.len() as u64;
        Ok(Judged { acked, unknown: sent.unknown, landed, findings, audited: audit.findings })
    }

    async fn make(&self, address: &LocalServer, seeded: &mut Seeded) -> Result<(), Failure> {
        let client = connect(address).await?;
        let config = StreamConfig { segment_bytes: SEGMENT.0, ..StreamConfig::default() };
        let created = client.create_stream(STREAM, self.options.partitions, config).await;
        created.map_err(|error| Failure::run(format!("the stream cannot be made: {error}")))?;
        let roll_age_ms = seeded.of(ROLL_AGE_MS);
        let config = LakeConfig {
            format: match self.options.format {
                cli::LakeFormat::Parquet => LakeFormat::Parquet,
                cli::LakeFormat::Ndjson => LakeFormat::Ndjson,
            },
            layout: self.options.layout.clone(),
            roll_bytes: ROLL_BYTES,
            roll_age_ms,
            max_age_ms: roll_age_ms,
            open_files: OPEN_FILES_PER_PARTITION * self.options.partitions,
            ..LakeConfig::new(LAKE, STREAM, self.store.url())
        };
        let since = Instant::now();
        loop {
            match client.create_lake(config.clone()).await {
                Ok(_) => break,
                // Added by an attempt whose answer did not come.
                Err(error) if error.code() == Code::LakeExists => break,
                Err(error) if may_pass(&error) && since.elapsed() < PATIENCE => tokio::time::sleep(TRY_AGAIN).await,
                Err(error) => return Err(Failure::run(format!("the lake cannot be made: {error}"))),
            }
        }
        client.close().await;
        Ok(())
    }

    /// What an audit says, once the lake has its store and that answers.
    async fn audit(&self, address: &LocalServer) -> Result<LakeAudit, Failure> {
        let client = connect(address).await?;
        self.store.faults_while(Reading::All);
        let audit = lasting("the lake cannot be audited", || client.audit_lake(LAKE, AUDIT_TIME)).await?;
        self.store.faults_while(Reading::Little);
        client.close().await;
        Ok(audit)
    }

    async fn flush(&self, address: &LocalServer) -> Result<(), Failure> {
        let client = connect(address).await?;
        lasting("the lake cannot be flushed", || client.flush_lake(LAKE, FLUSH_TIME)).await?;
        client.close().await;
        Ok(())
    }

    /// Flushes, reads all that has landed, and holds it against what the log has had before the flush.
    async fn read(&self, address: &LocalServer, sent: &Sent) -> Result<(Landed, Findings), Failure> {
        let client = connect(address).await?;
        let truth: Truth = truth(&client, STREAM).await?;
        client.close().await;
        if let Some((partition, numbers)) = self.beyond(sent, &truth) {
            return Err(Failure::run(format!(
                "the log of partition {partition} ends at {numbers}, below what was acked"
            )));
        }
        if !self.options.forget {
            self.flush(address).await?;
        }
        let (store, maker, sent) = (Arc::clone(&self.store), self.maker.clone(), sent.clone());
        let read = tokio::task::spawn_blocking(move || read_back(&store, &maker, &truth, &sent)).await;
        read.map_err(|error| Failure::run(format!("the reader panicked: {error}")))?
    }

    /// A partition that ends before something that was acknowledged in it.
    fn beyond(&self, sent: &Sent, truth: &Truth) -> Option<(u32, usize)> {
        let end = |partition: &u32| truth.get(partition).map_or(0, Vec::len);
        let lost = sent.acked.keys().find(|(partition, offset)| *offset >= end(partition) as u64);
        lost.map(|(partition, _)| (*partition, end(partition)))
    }

    /// Deletes a data file behind the lake's back.
    fn forget(&self) -> Result<(), Failure> {
        let names = self.store.names()?;
        let is_data = |name: &&String| !name.starts_with('_') && !name.starts_with("errors/") && !name.contains('#');
        let data: Vec<&String> = names.iter().filter(is_data).collect();
        let middle = data.get(data.len() / 2).ok_or_else(|| Failure::run("there is no file to forget"))?;
        eprintln!("forgetting {middle}");
        self.store.forget(middle)
    }
}

fn good(findings: &Findings) -> Result<(), Failure> {
    if findings.is_empty() {
        return Ok(());
    }
    let Findings { missing, twice, wrong, strange, named } = findings;
    let named = named.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    Err(Failure::run(format!("{missing} missing, {twice} twice, {wrong} wrong, {strange} strange: {named}")))
}

fn complete(audit: &LakeAudit) -> Result<(), Failure> {
    if audit.complete {
        return Ok(());
    }
    let named = audit.named.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    Err(Failure::run(format!("an audit is not complete, {} findings: {named}", audit.findings)))
}

async fn connect(address: &LocalServer) -> Result<Client, Failure> {
    let attempt = || Client::connect(&address.address, &address.fingerprint);
    patiently("a client cannot connect", attempt).await
}

/// What a store that fails may do.
fn may_pass(error: &Error) -> bool {
    error.is_retryable() || matches!(error.code(), Code::LakeUnavailable | Code::ConnectionLost)
}

/// Asks again while the store fails.
async fn lasting<T, F: Future<Output = Result<T, Error>>>(what: &str, attempt: impl Fn() -> F) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if may_pass(&error) && since.elapsed() < PATIENCE => tokio::time::sleep(TRY_AGAIN).await,
            Err(error) => return Err(Failure::run(format!("{what}: {error}"))),
        }
    }
}

impl Report {
    /// The program's exit code.
    pub fn exit(&self) -> u8 {
        u8::from(!self.judged.is_good())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, judged, .. } = self;
        let Judged { acked, unknown, landed, findings, audited } = judged;
        write!(f, "{} {} cycles: ", if judged.is_good() { "PASS" } else { "FAIL" }, tally.cycles)?;
        write!(f, "{} records acked, {} unknown, ", grouped(*acked), grouped(*unknown))?;
        write!(f, "{} files, {} rows, ", grouped(landed.files), grouped(landed.rows))?;
        write!(f, "{} rejected, ", grouped(landed.rejected))?;
        write!(f, "{} missing, {} twice, ", grouped(findings.missing), grouped(findings.twice))?;
        write!(f, "{} wrong, {} strange objects, ", grouped(findings.wrong), grouped(findings.strange))?;
        write!(f, "{} leftovers; ", grouped(landed.leftovers))?;
        write!(f, "{} audits complete, ", grouped(self.audits))?;
        if *audited > 0 {
            write!(f, "the last one with {} findings, ", grouped(*audited))?;
        }
        let Asked { requests, faulty, puts, faulty_puts } = self.asked;
        if requests > 0 {
            write!(f, "{} faults injected in {} requests, ", grouped(faulty), grouped(requests))?;
            write!(f, "{} of them in {} puts; ", grouped(faulty_puts), grouped(puts))?;
        }
        write!(f, "{}, seed {}", tally.kills_told(), self.seed)?;
        if let Some(kept) = &self.kept {
            write!(f, "; kept in {}", kept.display())?;
        }
        if !judged.is_good() {
            write!(f, "; again: {}", self.again)?;
        }
        Ok(())
    }
}
