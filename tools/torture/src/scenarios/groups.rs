//! Kills members of a group every second, and the server twice, under a steady load of real events; in the end every record
//! was worked on by a member that held its partition, and committed.
//!
//! Members are processes that write down what they work on and commit it afterwards. One is killed and another one started
//! every second; sessions are short. At the end nobody is killed any more, the group works off what is left and leaves.
//! Judged by what the members wrote: L11, L13 and the rest; by the bound of redeliveries: what was worked on and not committed
//! under a hold may be worked on once more by who holds the partition next; and by the time until the server gives a dead
//! member's partitions to another one: its session, and two seconds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{self, Clock, InGroup, OfGroup, Place, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_check::verdict::{Check, Verdict};
use millstream_client::{Client, LocalServer, StreamConfig};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::children::{Children, Killed, Told};
use crate::cli;
use crate::failure::Failure;
use crate::group::{Data, Handovers, Poll, Seen, seen};
use crate::last_read;
use crate::load::{Books, Feed, HARNESS, LAST_READER, Lives, PATIENCE, patiently};
use crate::report::{Tally, grouped, others};
use crate::run_dir::RunDir;
use crate::scenarios::killer::{Killer, SHUTDOWN_US_MAX};
use crate::scenarios::{Keep, ended_early, judged};
use crate::server_process::{Program, ServerProcess};

const STREAM: &str = "flights";
const GROUP: &str = "torture";
/// Who sends, and who asks how far the group is.
const PRODUCER: u32 = 1;
const ASKER: u32 = 2;
/// Events a second: the year of flights lasts for about a minute.
const RATE: u64 = 5_000;
const SESSION: Duration = Duration::from_secs(3);
/// What a hand-over may take beyond the session.
const SLACK: Duration = Duration::from_secs(2);
const ROUND: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A server that is idle for longer has lost its client: members are heard of more often.
const SETTINGS: &[&str] = &["idle_timeout=3 s"];
/// How long the group may take to work off what is left.
const QUIET: Duration = Duration::from_secs(60);
/// Forks of the seed.
const KILLER: u64 = 1 << 32;
const CHOICES: u64 = KILLER + 1;

/// A run that was judged.
#[derive(Debug)]
pub struct Report {
    seconds: u32,
    real: bool,
    verdict: Verdict,
    tally: Tally,
    members_killed: usize,
    handovers: Handovers,
    again: String,
    seed: u64,
    kept: Option<PathBuf>,
}

/// What a run leaves beside its history.
struct Done {
    killed: Vec<Killed>,
    polls: Vec<Poll>,
}

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or the server, a member or the producer did what ends a run at once. What there is was kept then.
pub async fn run(mut options: cli::Groups) -> Result<Report, Failure> {
    options.run.settle_seed();
    let program = Program::find(options.run.server.as_deref())?;
    let data = Arc::new(match &options.data {
        Some(path) => Data::read(path)?,
        None => Data::made_up(),
    });
    let mut dir = RunDir::make(options.run.keep_dir.as_deref())?;
    let clock = Clock::start();
    let killer = Killer {
        seeded: Seeded::new(options.run.seed()).fork(KILLER),
        recorder: Recorder::create(&dir.history(), HARNESS, clock)?,
        tally: Tally::default(),
        settings: SETTINGS,
        shutdown_us_max: SHUTDOWN_US_MAX,
        lives: Lives::default(),
        program,
        dir: &dir,
    };
    let mut torture = Torture { options: &options, killer, clock, data };
    let ended = Box::pin(torture.run()).await;
    let Killer { tally, recorder, .. } = torture.killer;
    let written = recorder.finish();
    let ended = ended.and_then(|done| written.map(|_| done).map_err(Failure::from));
    let of_rounds = (tally.cycles, options.seconds);
    let Done { killed, polls } = ended.map_err(|why| ended_early(why, &mut dir, of_rounds, &options.again()))?;
    let handovers = handovers(&dir, &killed, &polls)?;
    let keep = if options.run.keep_dir.is_some() { Keep::Always } else { Keep::IfBad };
    let processes = killed.iter().map(|killed| killed.process).collect();
    let (verdict, kept) = judged(&mut dir, processes, keep).await?;
    let mut report = Report {
        seconds: options.seconds,
        real: options.data.is_some(),
        verdict,
        tally,
        members_killed: killed.len(),
        handovers,
        again: options.again(),
        seed: options.run.seed(),
        kept,
    };
    if report.exit() != 0 && report.kept.is_none() {
        dir.keep();
        report.kept = Some(dir.path().to_owned());
    }
    Ok(report)
}

fn handovers(dir: &RunDir, killed: &[Killed], polls: &[Poll]) -> Result<Handovers, Failure> {
    let failed = |error: std::io::Error| Failure::run(format!("{}: {error}", dir.history().display()));
    let mut seen = Seen::default();
    for entry in std::fs::read_dir(dir.history()).map_err(failed)? {
        history::read_killed(&entry.map_err(failed)?.path(), |event| seen.push(&event))?;
    }
    Ok(seen.handovers(killed, polls))
}

struct Torture<'a> {
    options: &'a cli::Groups,
    killer: Killer<'a>,
    clock: Clock,
    data: Arc<Data>,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<Done, Failure> {
        let mut server = self.killer.start("127.0.0.1:0").await?;
        let address = server.address()?;
        let client = connect(&address).await?;
        let failed = |error: millstream_client::Error| Failure::run(format!("a stream cannot be made: {error}"));
        client.create_stream(STREAM, self.options.partitions, StreamConfig::default()).await.map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let (history, clock) = (self.killer.dir.history(), self.clock);
        let recorder = |process| Recorder::create(&history, process, clock);
        let books = Arc::new(Books::new(self.killer.lives.clone()));
        let feed = Feed {
            client: client.clone(),
            stream: (0, STREAM.to_owned()),
            source: self.data.clone(),
            rate: RATE,
            recorder: recorder(PRODUCER)?,
            books: Arc::clone(&books),
            stop: stopped.clone(),
        };
        let mut feed = tokio::spawn(feed.run());
        let (asked_enough, enough) = watch::channel(false);
        let asker = Asker { client: connect(&address).await?, recorder: recorder(ASKER)?, enough, polls: Vec::new() };
        let asker = tokio::spawn(asker.run());
        let session_ms = SESSION.as_millis().to_string();
        let mut args = vec!["--group", GROUP, "--stream", STREAM, "--session-ms", &session_ms];
        args.extend(self.options.commit_first.then_some("--commit-first"));
        let args = args.into_iter().map(OsString::from).collect();
        let told = Told::all(&address, self.killer.dir.history(), self.clock, self.options.run.seed());
        let mut members = Children::new("member", args, told, self.killer.dir.path().join("members.log"));
        for _ in 0..self.options.members {
            members.start()?;
        }
        server = self.rounds(server, &address, &mut members, &mut feed).await?;
        stop.send_replace(true);
        ended(feed.await)?;
        self.quiet(&client, &address, &mut members).await?;
        members.leave().await?;
        asked_enough.send_replace(true);
        let polls = ended(asker.await)?;
        let reader = recorder(LAST_READER)?;
        last_read::read_all(&address, &[STREAM.to_owned()], seen, reader).await?;
        self.killer.stop(server).await?;
        Ok(Done { killed: members.killed().to_vec(), polls })
    }

    /// A kill and a start each second; of the server twice.
    async fn rounds(
        &mut self,
        mut server: ServerProcess,
        address: &LocalServer,
        members: &mut Children,
        feed: &mut tokio::task::JoinHandle<Result<(), Failure>>,
    ) -> Result<ServerProcess, Failure> {
        let rounds = self.options.seconds;
        let mut choices = Seeded::new(self.options.run.seed()).fork(CHOICES);
        let third = u64::from(rounds / 3).max(1);
        let server_dies = [choices.of(1..=third), third + choices.of(1..=third)];
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        for round in 1..=rounds {
            tokio::select! {
                _ = tick.tick() => {}
                ended = &mut *feed => return Err(ended_feed(ended)),
            }
            tokio::time::sleep(Duration::from_millis(choices.of(0..=300))).await;
            members.kill_one(&mut choices).await?;
            members.start()?;
            if server_dies.contains(&u64::from(round)) {
                server = self.killer.kill_and_start(server, &address.address).await?;
            }
            members.look()?;
            self.killer.tally.cycles = round;
        }
        Ok(server)
    }

    /// Nobody dies any more: the group works off what is left.
    async fn quiet(&self, client: &Client, address: &LocalServer, members: &mut Children) -> Result<(), Failure> {
        let ends = last_read::ends(address, &[STREAM.to_owned()]).await?;
        let since = Instant::now();
        loop {
            members.look()?;
            let committed = committed(client).await?;
            let is_behind = |(at, end): &(&Place, &u64)| committed.get(&at.partition).is_none_or(|at| at < *end);
            let behind: Vec<_> = ends.iter().filter(|(_, end)| **end > 0).filter(is_behind).collect();
            if behind.is_empty() {
                return Ok(());
            }
            if since.elapsed() > QUIET {
                let (alive, committed) = (members.alive(), format!("{committed:?}"));
                return Err(Failure::run(format!(
                    "{alive} members did not come to the end within {QUIET:?}: {behind:?} is left, committed is {committed}"
                )));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

async fn connect(address: &LocalServer) -> Result<Client, Failure> {
    let attempt = || Client::connect(&address.address, &address.fingerprint);
    patiently("a client cannot connect", attempt).await
}

async fn committed(client: &Client) -> Result<BTreeMap<u32, u64>, Failure> {
    let info = patiently("the group cannot be described", || client.describe_group(GROUP)).await?;
    Ok(info.partitions.into_iter().filter_map(|p| p.committed.map(|offset| (p.at.partition, offset))).collect())
}

/// What a task gave.
fn ended<T>(task: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    task.unwrap_or_else(|error| Err(Failure::run(format!("a task panicked: {error}"))))
}

fn ended_feed(task: Result<Result<(), Failure>, tokio::task::JoinError>) -> Failure {
    ended(task).err().unwrap_or_else(|| Failure::run("the producer ended before it was told to"))
}

/// Who asks again and again who holds what and how far the group is.
struct Asker {
    client: Client,
    recorder: Recorder,
    enough: watch::Receiver<bool>,
    polls: Vec<Poll>,
}

impl Asker {
    async fn run(mut self) -> Result<Vec<Poll>, Failure> {
        while !*self.enough.borrow() {
            let invoked_ns = self.recorder.clock().now_ns();
            match tokio::time::timeout(PATIENCE, self.client.describe_group(GROUP)).await {
                Ok(Ok(info)) => {
                    let at_ns = self.recorder.clock().now_ns();
                    for partition in &info.partitions {
                        let at = Place { stream: 0, partition: partition.at.partition };
                        let what = InGroup::Committed { at, offset: partition.committed, invoked_ns };
                        self.recorder.record_at(at_ns, What::Group(OfGroup { group: 0, member: 0, what }));
                    }
                    let holder = |p: &millstream_client::GroupPartition| Some((p.at.partition, p.member?));
                    let holders = info.partitions.iter().filter_map(holder).collect();
                    self.polls.push(Poll { invoked_ns, at_ns, holders });
                }
                // It is not there before its first member; the server is away now and then.
                Ok(Err(error)) if error.is_retryable() || error.code() == millstream_client::Code::UnknownGroup => {}
                Ok(Err(error)) => return Err(Failure::run(format!("the group cannot be described: {error}"))),
                Err(_) => return Err(Failure::run("the group cannot be described: no answer came")),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        self.recorder.finish()?;
        Ok(self.polls)
    }
}

impl Report {
    /// Why it is bad, apart from what the checkers found.
    fn faults(&self) -> Vec<String> {
        let counts = self.verdict.counts();
        let bound = SESSION + SLACK;
        let mut faults = Vec::new();
        if counts.redelivered > counts.uncommitted {
            faults.push(format!("{} redelivered of {} uncommitted", counts.redelivered, counts.uncommitted));
        }
        let Handovers { noticed, handed_over, never } = &self.handovers;
        let late = noticed.iter().chain(handed_over).filter(|time| **time > bound).count();
        if late > 0 {
            faults.push(format!("{late} hand-overs took more than {bound:?}"));
        }
        if *never > 0 {
            faults.push(format!("{never} partitions of killed members were never handed over"));
        }
        if counts.delivered == 0 || handed_over.is_empty() {
            faults.push("nothing was worked on, or nothing changed hands".to_owned());
        }
        faults
    }

    /// The program's exit code.
    pub fn exit(&self) -> u8 {
        u8::from(!self.verdict.is_good() || !self.faults().is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, handovers, .. } = self;
        let (counts, of) = (verdict.counts(), |check| grouped(verdict.count(check)));
        write!(f, "{} {} s: ", if self.exit() == 0 { "PASS" } else { "FAIL" }, self.seconds)?;
        let events = if self.real { "real events" } else { "made-up events" };
        write!(f, "{} {events} acked, {} lost, ", grouped(counts.acked), of(Check::LostWrite))?;
        write!(f, "{} duplicates, {} reordered, ", of(Check::Duplicate), of(Check::Reorder))?;
        write!(f, "{} missed, {} faults of the group, ", of(Check::Unseen), of(Check::Group))?;
        write!(f, "{} skipped or repeated under one hold, ", of(Check::Position))?;
        let told = [Check::LostWrite, Check::Duplicate, Check::Reorder, Check::Unseen, Check::Group, Check::Position];
        others(f, verdict, &told)?;
        write!(f, "{} delivered, ", grouped(counts.delivered))?;
        write!(f, "{} of them again (bound {}), ", grouped(counts.redelivered), grouped(counts.uncommitted))?;
        write!(f, "{} commits, {} refused; ", grouped(counts.commits), grouped(counts.commits_refused))?;
        let (killed, server) = (self.members_killed, self.tally.kills_told());
        write!(f, "{killed} members killed; server: {server}; ")?;
        let max = |times: &[Duration]| times.iter().max().map_or(0, Duration::as_millis);
        let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_millis() / (times.len() as u128).max(1);
        let Handovers { noticed, handed_over, .. } = handovers;
        write!(f, "{} partitions noticed after at most {} ms, ", noticed.len(), max(noticed))?;
        write!(f, "{} handed over after at most {} ms, ", handed_over.len(), max(handed_over))?;
        write!(f, "{} on average (session {} ms), ", mean(handed_over), SESSION.as_millis())?;
        write!(f, "seed {}", self.seed)?;
        for fault in self.faults() {
            write!(f, "; {fault}")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "; kept in {}", kept.display())?;
        }
        if self.exit() != 0 {
            write!(f, "; again: {}", self.again)?;
        }
        Ok(())
    }
}
