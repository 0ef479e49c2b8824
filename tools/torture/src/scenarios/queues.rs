//! Kills receivers of queues and the server every few seconds, under a steady load; in the end every message met
//! its fate in every queue: it was acknowledged or lies with the dead, and whatever was said and seen of it was right.
//!
//! One stream, six queues on it (`queue::plan`): unordered and FIFO, with a filter, with delays, with and without dead
//! letters, one that is made later and replays what is there. Processes of receivers compete for each: some ask, some have
//! messages pushed. They ack, nack, release, reject, extend, forget, and say things too late. Queues are paused for moments,
//! and the dead brought back. At the end nobody is killed any more, and the queues are worked off.
//! Judged by what everybody wrote: Q1 to Q6 and Q8 to Q12, and the log's promises.
//! Not here: purges and seeks, which settle up to where only the server knows (the model of the state machine has them).

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_check::history::{self, Clock, InQueue, OfQueue, Recorder, What};
use millstream_check::log::Rules;
use millstream_check::seeded::Seeded;
use millstream_check::verdict::{Check, Verdict};
use millstream_client::{Client, LocalServer, QueueStart, StreamConfig};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::children::{Children, Killed, Told};
use crate::cli;
use crate::failure::Failure;
use crate::last_read;
use crate::load::consumer::seen;
use crate::load::{Books, Feed, HARNESS, LAST_READER, Lives, outcome, patiently};
use crate::queue::letters::{self, Follower};
use crate::queue::operator::Operator;
use crate::queue::orders::Orders;
use crate::queue::plan::{self, DEAD, Plan, STREAM};
use crate::queue::watcher::Watcher;
use crate::report::{Tally, grouped, others};
use crate::run_dir::RunDir;
use crate::scenarios::killer::{Killer, SHUTDOWN_US_MAX};
use crate::scenarios::{Keep, ended_early, judged_by};
use crate::server_process::{Program, ServerProcess};

/// Processes of the history.
const FIRST_PRODUCER: u32 = 1;
const WATCHER: u32 = 2_001;
const OPERATOR: u32 = 2_002;
const FIRST_FOLLOWER: u32 = 2_101;
const LETTERS: u32 = 3_002;
/// Forks of the seed.
const KILLER: u64 = 1 << 32;
const CHOICES: u64 = KILLER + 1;
/// Messages a second, of all producers together.
const RATE: u64 = 600;
const ROUND: Duration = Duration::from_secs(1);
/// Rounds between two deaths of the server.
const SERVER_DIES_AFTER: std::ops::RangeInclusive<u64> = 2..=6;
/// Rounds between two deaths of receivers.
const RECEIVERS_DIE_AFTER: std::ops::RangeInclusive<u64> = 1..=4;
/// So long a server goes on delivering to a receiver that was killed.
const SETTINGS: &[&str] = &["idle_timeout=2 s"];
const GONE_AFTER: Duration = Duration::from_secs(4);
/// Two cores for everybody: what is due may wait for its turn, and a receiver for its connection.
const LATE: Duration = Duration::from_secs(5);
/// How long the queues may take to become empty.
const QUIET: Duration = Duration::from_secs(120);

/// A run that was judged.
#[derive(Debug)]
pub struct Report {
    seconds: u32,
    verdict: Verdict,
    tally: Tally,
    receivers_killed: usize,
    redrives: u64,
    again: String,
    seed: u64,
    kept: Option<PathBuf>,
}

/// What a run leaves beside its history.
struct Done {
    killed: Vec<Killed>,
    redrives: u64,
}

/// Runs it and judges it.
///
/// # Errors
/// It could not begin; or the server, a receiver or a producer did what ends a run at once. What there is was kept then.
pub async fn run(mut options: cli::Queues) -> Result<Report, Failure> {
    options.run.settle_seed();
    let program = Program::find(options.run.server.as_deref())?;
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
    let mut torture = Torture { options: &options, killer, clock, queues: plan::queues() };
    let ended = Box::pin(torture.run()).await;
    let Killer { tally, mut recorder, .. } = torture.killer;
    let ended = ended.and_then(|done| bury(&dir, &done.killed, &mut recorder).map(|()| done));
    let written = recorder.finish();
    let ended = ended.and_then(|done| written.map(|_| done).map_err(Failure::from));
    let of_rounds = (tally.cycles, options.seconds);
    let Done { killed, redrives } = ended.map_err(|why| ended_early(why, &mut dir, of_rounds, &options.again()))?;
    let keep = if options.run.keep_dir.is_some() { Keep::Always } else { Keep::IfBad };
    let processes = killed.iter().map(|killed| killed.process).collect();
    let rules = Rules { late_ns: ns(LATE), ..Rules::default() };
    let (verdict, kept) = judged_by(&mut dir, processes, keep, rules).await?;
    let mut report = Report {
        seconds: options.seconds,
        verdict,
        tally,
        receivers_killed: killed.len(),
        redrives,
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

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Tells of the receivers that were killed that they are gone, which they could not do themselves.
fn bury(dir: &RunDir, killed: &[Killed], recorder: &mut Recorder) -> Result<(), Failure> {
    for Killed { process, before_ns, after_ns } in killed {
        let mut there = std::collections::BTreeSet::new();
        history::read_killed(&Recorder::path(&dir.history(), *process), |event| {
            if let What::Queue(OfQueue { queue, receiver, what }) = event.what {
                match what {
                    InQueue::Opened => drop(there.insert((queue, receiver))),
                    InQueue::Gone { .. } => drop(there.remove(&(queue, receiver))),
                    _ => {}
                }
            }
        })?;
        for (queue, receiver) in there {
            let what = InQueue::Gone { since_ns: *before_ns };
            recorder.record_at(after_ns + ns(GONE_AFTER), What::Queue(OfQueue { queue, receiver, what }));
        }
    }
    Ok(())
}

struct Torture<'a> {
    options: &'a cli::Queues,
    killer: Killer<'a>,
    clock: Clock,
    queues: Vec<Plan>,
}

/// Who is at work beside the receivers.
struct Workers {
    producers: JoinSet<Result<(), Failure>>,
    followers: JoinSet<Result<(), Failure>>,
    operator: JoinHandle<Result<u64, Failure>>,
    watcher: JoinHandle<Result<(), Failure>>,
    /// Nothing is sent any more, and nobody meddles.
    stop: watch::Sender<bool>,
    /// Nobody is killed any more either.
    quiet: watch::Sender<bool>,
    /// The queues are empty.
    empty: watch::Sender<bool>,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<Done, Failure> {
        let mut server = self.killer.start("127.0.0.1:0").await?;
        let address = server.address()?;
        let client = connect(&address).await?;
        self.make(&client).await?;
        let mut workers = self.workers(&address).await?;
        let told = Told::all(&address, self.killer.dir.history(), self.clock, self.options.run.seed());
        let args = self.options.ack_first.then(|| OsString::from("--ack-first")).into_iter().collect();
        let mut receivers = Children::new("receiver", args, told, self.killer.dir.path().join("receivers.log"));
        for _ in 0..self.options.receivers {
            receivers.start()?;
        }
        server = self.rounds(server, &address, &client, &mut receivers, &mut workers).await?;
        workers.stop.send_replace(true);
        while let Some(producer) = workers.producers.join_next().await {
            outcome(producer)?;
        }
        let redrives = ended(workers.operator.await)?;
        workers.quiet.send_replace(true);
        while !workers.watcher.is_finished() {
            receivers.look()?;
            tokio::time::sleep(ROUND / 10).await;
        }
        ended(workers.watcher.await)?;
        receivers.leave().await?;
        workers.empty.send_replace(true);
        while let Some(follower) = workers.followers.join_next().await {
            outcome(follower)?;
        }
        self.last_read(&client, &address).await?;
        self.killer.stop(server).await?;
        Ok(Done { killed: receivers.killed().to_vec(), redrives })
    }

    /// The streams, and the queues that are there from the beginning.
    async fn make(&mut self, client: &Client) -> Result<(), Failure> {
        let failed = |error: millstream_client::Error| Failure::run(format!("a stream cannot be made: {error}"));
        client.create_stream(STREAM, self.options.partitions, StreamConfig::default()).await.map_err(failed)?;
        for dead in DEAD {
            client.create_stream(dead, 2, StreamConfig::default()).await.map_err(failed)?;
        }
        for queue in (0..self.queues.len() as u32).filter(|queue| *queue != plan::REPLAY) {
            self.make_queue(client, queue).await?;
        }
        Ok(())
    }

    async fn make_queue(&mut self, client: &Client, queue: u32) -> Result<(), Failure> {
        let plan = &self.queues[queue as usize];
        let failed = |error| Failure::run(format!("the queue {:?} cannot be made: {error}", plan.name));
        let made = client.create_queue(plan.name, STREAM, plan.config.clone(), QueueStart::Earliest).await;
        let starts = made.map_err(failed)?.rule_from;
        let what = InQueue::Created { stream: 0, starts, settings: plan.promises() };
        self.killer.recorder.record(What::Queue(OfQueue { queue, receiver: 0, what }));
        Ok(())
    }

    async fn workers(&self, address: &LocalServer) -> Result<Workers, Failure> {
        let (history, clock) = (self.killer.dir.history(), self.clock);
        let recorder = |process| Recorder::create(&history, process, clock);
        let seeded = Seeded::new(self.options.run.seed());
        let (stop, stopped) = watch::channel(false);
        let (quiet, is_quiet) = watch::channel(false);
        let (empty, is_empty) = watch::channel(false);
        let books = Arc::new(Books::new(self.killer.lives.clone()));
        let mut producers = JoinSet::new();
        for process in FIRST_PRODUCER..FIRST_PRODUCER + self.options.producers {
            let feed = Feed {
                client: connect(address).await?,
                stream: (0, STREAM.to_owned()),
                source: Arc::new(Orders { producer: process, seeded: seeded.fork(process.into()) }),
                rate: (RATE / u64::from(self.options.producers)).max(1),
                recorder: recorder(process)?,
                books: Arc::clone(&books),
                stop: stopped.clone(),
            };
            producers.spawn(feed.run());
        }
        let client = connect(address).await?;
        let mut followers = JoinSet::new();
        for (process, stream) in (FIRST_FOLLOWER..).zip(DEAD) {
            let (client, queues, recorder) = (client.clone(), self.queues.clone(), recorder(process)?);
            followers.spawn(Follower { client, stream, queues, recorder, stop: is_empty.clone() }.run());
        }
        let operator = Operator {
            client: client.clone(),
            queues: self.queues.clone(),
            recorder: recorder(OPERATOR)?,
            seeded: seeded.fork(OPERATOR.into()),
            stop: stopped,
        };
        let watcher = Watcher {
            client,
            queues: self.queues.clone(),
            recorder: recorder(WATCHER)?,
            quiet: is_quiet,
            patience: QUIET,
        };
        let (operator, watcher) = (tokio::spawn(operator.run()), tokio::spawn(watcher.run()));
        Ok(Workers { producers, followers, operator, watcher, stop, quiet, empty })
    }

    /// A kill and a start every few seconds: of receivers, and of the server.
    async fn rounds(
        &mut self,
        mut server: ServerProcess,
        address: &LocalServer,
        client: &Client,
        receivers: &mut Children,
        workers: &mut Workers,
    ) -> Result<ServerProcess, Failure> {
        let rounds = self.options.seconds;
        let mut choices = Seeded::new(self.options.run.seed()).fork(CHOICES);
        let mut server_dies_in = choices.of(SERVER_DIES_AFTER);
        let mut receivers_die_in = choices.of(RECEIVERS_DIE_AFTER);
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        for round in 1..=rounds {
            tokio::select! {
                _ = tick.tick() => {}
                Some(producer) = workers.producers.join_next() => {
                    outcome(producer)?;
                    return Err(Failure::run("a producer ended before it was told to"));
                }
                Some(follower) = workers.followers.join_next() => {
                    outcome(follower)?;
                    return Err(Failure::run("a reader of dead letters ended before it was told to"));
                }
            }
            if workers.operator.is_finished() || workers.watcher.is_finished() {
                workers.stop.send_replace(true);
                ended((&mut workers.operator).await)?;
                ended((&mut workers.watcher).await)?;
                return Err(Failure::run("whoever asks or meddles ended before being told to"));
            }
            tokio::time::sleep(Duration::from_millis(choices.of(0..=300))).await;
            receivers_die_in -= 1;
            if receivers_die_in == 0 {
                receivers_die_in = choices.of(RECEIVERS_DIE_AFTER);
                receivers.kill_one(&mut choices).await?;
                receivers.start()?;
            }
            if round == rounds / 3 + 1 {
                self.make_queue(client, plan::REPLAY).await?;
            }
            server_dies_in -= 1;
            if server_dies_in == 0 {
                server_dies_in = choices.of(SERVER_DIES_AFTER);
                server = self.killer.cycle(server, &address.address).await?;
            }
            receivers.look()?;
            self.killer.tally.cycles = round;
        }
        Ok(server)
    }

    /// Everything that lies in the streams, read so late that whoever died is among the dead.
    async fn last_read(&self, client: &Client, address: &LocalServer) -> Result<(), Failure> {
        let since = Instant::now();
        let recorder = |process| Recorder::create(&self.killer.dir.history(), process, self.clock);
        last_read::read_all(address, &[STREAM.to_owned()], seen, recorder(LAST_READER)?).await?;
        // As the checker wants it: a lease that nobody knows of may have been the last one.
        tokio::time::sleep_until(since + 2 * plan::VISIBILITY_MAX + LATE + ROUND).await;
        let mut letters = recorder(LETTERS)?;
        letters::read_all(client, &self.queues, &mut letters).await?;
        letters.finish()?;
        Ok(())
    }
}

async fn connect(address: &LocalServer) -> Result<Client, Failure> {
    let attempt = || Client::connect(&address.address, &address.fingerprint);
    patiently("a client cannot connect", attempt).await
}

/// What a task gave.
fn ended<T>(task: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    task.unwrap_or_else(|error| Err(Failure::run(format!("a task panicked: {error}"))))
}

impl Report {
    /// Why it is bad, apart from what the checkers found.
    fn faults(&self) -> Vec<&'static str> {
        let counts = self.verdict.counts();
        let of = [
            (counts.received == 0 || counts.settled == 0, "nothing was worked on"),
            (counts.received_again == 0, "nothing was delivered twice"),
            (counts.dead_letters == 0, "nothing died"),
        ];
        of.into_iter().filter_map(|(is_so, what)| is_so.then_some(what)).collect()
    }

    /// The program's exit code.
    pub fn exit(&self) -> u8 {
        u8::from(!self.verdict.is_good() || !self.faults().is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, .. } = self;
        let (counts, of) = (verdict.counts(), |check| grouped(verdict.count(check)));
        write!(f, "{} {} s: ", if self.exit() == 0 { "PASS" } else { "FAIL" }, self.seconds)?;
        write!(f, "{} messages acked to producers, {} queues, ", grouped(counts.acked), counts.queues)?;
        write!(f, "{} lost, {} delivered after their ack, ", of(Check::LostMessage), of(Check::Ghost))?;
        write!(f, "{} leased twice, {} stale receipts taken, ", of(Check::DoubleLease), of(Check::StaleReceipt))?;
        write!(f, "{} wrong counts, {} wrong dead letters, ", of(Check::ReceiveLimit), of(Check::DeadLetter))?;
        write!(f, "{} out of group order, {} against the filter, ", of(Check::GroupOrder), of(Check::Filter))?;
        write!(f, "{} not when due, {} starved, ", of(Check::Due), of(Check::Starvation))?;
        let told = [
            Check::LostMessage,
            Check::Ghost,
            Check::DoubleLease,
            Check::StaleReceipt,
            Check::ReceiveLimit,
            Check::DeadLetter,
            Check::GroupOrder,
            Check::Filter,
            Check::Due,
            Check::Starvation,
        ];
        others(f, verdict, &told)?;
        write!(
            f,
            "{} deliveries, {} of them redeliveries, ",
            grouped(counts.received),
            grouped(counts.received_again)
        )?;
        write!(f, "{} acked ({} after the lease), ", grouped(counts.settled), grouped(counts.settled_late))?;
        write!(f, "{} dead letters, ", grouped(counts.dead_letters))?;
        write!(f, "{} deliveries after {} redrives; ", grouped(counts.redriven), grouped(self.redrives))?;
        write!(f, "{} processes of receivers killed; server: {}, ", self.receivers_killed, self.tally.kills_told())?;
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
