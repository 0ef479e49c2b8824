//! What a command line does: runs loads where they are to be run, and hands the results out.

use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command, CompareFlags, OutputFlags, ScenarioCommand, Study, SweepFlags};
use crate::failure::Failure;
use crate::load::{Load, Place, workloads};
use crate::output::compare::Comparison;
use crate::output::sweep::{Curve, Over, Point, Sweep};
use crate::output::table::{Table, columns};
use crate::output::{hdr, print, report, write};
use crate::record::process::ServerProcess;
use crate::result::{FORMAT, Run};
use crate::scenario::{self, Order};
use crate::study::{commits, groups};
use crate::target::Target as _;
use crate::target::engine::Engine;
use crate::target::flags::TargetFlags;
use crate::target::network::Network;
use crate::target::own_server::OwnServer;

/// Carries it out.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { target, output, command } = cli;
    let runner = Runner { target, interrupt: interrupt(), shows_progress: !output.quiet };
    match command {
        Command::Scenario(scenario) => run_scenario(&runner, &scenario, &output).await,
        Command::Workload(flags) if flags.list => {
            let rows: Vec<Vec<String>> = workloads::all().into_iter().map(|one| vec![one.name, one.about]).collect();
            let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
            print(&names, &columns(&rows).trim_end(), output.json)
        }
        Command::Workload(flags) => {
            let (name, load) = flags.load().map_err(Failure::usage)?;
            one(&runner, name, load, &output).await
        }
        Command::Sweep(flags) => run_sweep(&runner, &flags, &output).await,
        Command::Compare(flags) => compare(&flags, &output),
        Command::Study(study) => run_study(&runner.target, &study, &output).await,
    }
}

/// Where loads are run.
struct Runner {
    target: TargetFlags,
    interrupt: CancellationToken,
    shows_progress: bool,
}

impl Runner {
    /// One load, from the connection to the last of what it made.
    async fn run(&self, name: String, mut load: Load) -> Result<Run, Failure> {
        let target = &self.target;
        let this = ServerProcess::this();
        let order = |load, process| Order {
            name: name.clone(),
            load,
            process,
            interrupt: self.interrupt.clone(),
            shows_progress: self.shows_progress,
        };
        if target.in_process {
            load.place = Place::Engine;
            load.check()?;
            let engine = Engine::open(target).await?;
            let result = Box::pin(scenario::run(&engine, &order(load, Some((this, "this"))))).await;
            engine.close().await;
            return result;
        }
        if target.start_server {
            load.place = Place::OwnServer;
            load.check()?;
            let (server, reached) = OwnServer::start(target).await?;
            let order = order(load, Some((this, "this")));
            let result = over_network(&reached, &order).await;
            let stopped = server.stop().await;
            return result.and_then(|run| stopped.map(|()| run));
        }
        load.check()?;
        let process = target.process()?.map(|process| (process, "server"));
        over_network(target, &order(load, process)).await
    }
}

async fn over_network(target: &TargetFlags, order: &Order) -> Result<Run, Failure> {
    let network = Network::connect(target, &order.load).await?;
    let result = Box::pin(scenario::run(&network, order)).await;
    network.close().await;
    result
}

/// Ctrl-C, or a termination, ends a run with its result; a second one ends the program.
fn interrupt() -> CancellationToken {
    let interrupt = CancellationToken::new();
    let told = interrupt.clone();
    tokio::spawn(async move {
        signal().await;
        told.cancel();
        eprintln!("ending early; once more ends it at once");
        signal().await;
        std::process::exit(130);
    });
    interrupt
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a handler can be set");
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result.expect("a handler can be set"),
    }
}

async fn run_scenario(runner: &Runner, command: &ScenarioCommand, output: &OutputFlags) -> Result<(), Failure> {
    let (name, load, consumers) = command.load();
    if consumers.len() < 2 {
        return one(runner, name, load, output).await;
    }
    let over = Over::consumers(&consumers);
    sweep(runner, &name, &load, &[over], 1, output).await
}

async fn one(runner: &Runner, name: String, load: Load, output: &OutputFlags) -> Result<(), Failure> {
    let run = runner.run(name, load).await?;
    print(&run, &Table(&run), output.json)?;
    if let Some(path) = &output.report {
        write(path, &report::of_run(&run))?;
    }
    if let Some(dir) = &output.hdr {
        hdr::write(dir, &run)?;
    }
    judge(&run)
}

/// A run that is not right fails, whatever it measured.
fn judge(run: &Run) -> Result<(), Failure> {
    if run.correct {
        return Ok(());
    }
    let wrong = run.verification.iter().filter(|one| one.mismatches > 0);
    let examples: Vec<String> =
        wrong.flat_map(|one| one.examples.iter().map(|example| format!("{}: {example}", one.subscriber))).collect();
    let what = if examples.is_empty() { run.notes.join("; ") } else { examples.join("\n  ") };
    Err(Failure::data(format!("what was read is not what was sent:\n  {what}")))
}

async fn run_sweep(runner: &Runner, flags: &SweepFlags, output: &OutputFlags) -> Result<(), Failure> {
    let (name, load, _) = flags.scenario.load();
    sweep(runner, &name, &load, &flags.over, flags.rounds, output).await
}

async fn sweep(
    runner: &Runner,
    name: &str,
    load: &Load,
    overs: &[Over],
    rounds: u32,
    output: &OutputFlags,
) -> Result<(), Failure> {
    let mut curves = Vec::new();
    // What is wrong with a value is said before anything runs.
    for over in overs {
        for value in over.values() {
            over.set(load, value)?.check()?;
        }
    }
    'all: for over in overs {
        let mut points = Vec::new();
        for value in over.values() {
            let mut runs = Vec::new();
            for round in 0..rounds {
                if runner.interrupt.is_cancelled() {
                    break 'all;
                }
                let run = runner.run(format!("{name} {}={value}", over.setting()), over.set(load, value)?).await?;
                judge(&run)?;
                if let Some(dir) = &output.hdr {
                    hdr::write(&dir.join(format!("{}-{value}-{round}", over.setting())), &run)?;
                }
                runs.push(run);
            }
            points.push(Point { value: value.clone(), runs });
        }
        curves.push(Curve { over: over.setting().to_owned(), points });
    }
    let sweep = Sweep { format: FORMAT, name: name.to_owned(), settings: load.clone(), rounds, curves };
    print(&sweep, &sweep, output.json)?;
    match &output.report {
        Some(path) => write(path, &report::of_sweep(&sweep)),
        None => Ok(()),
    }
}

fn compare(flags: &CompareFlags, output: &OutputFlags) -> Result<(), Failure> {
    let comparison = Comparison::read(&flags.before, &flags.after)?;
    print(&comparison, &comparison, output.json)?;
    match &output.report {
        Some(path) => write(path, &report::of_comparison(&comparison)),
        None => Ok(()),
    }
}

async fn run_study(target: &TargetFlags, study: &Study, output: &OutputFlags) -> Result<(), Failure> {
    if target.in_process {
        return Err(Failure::usage("a study needs a server, --in-process has none: use --start-server"));
    }
    let (server, target) = match target.start_server {
        true => OwnServer::start(target).await.map(|(server, reached)| (Some(server), reached))?,
        false => (None, target.clone()),
    };
    let client = target.connect().await?;
    let printed = match study {
        Study::Groups(command) => {
            let report = Box::pin(groups::run(&client, &target, command)).await;
            report.and_then(|report| print(&report, &report, output.json))
        }
        Study::Commits(command) => {
            let report = Box::pin(commits::run(&client, command)).await;
            report.and_then(|report| print(&report, &report, output.json))
        }
    };
    client.close().await;
    if let Some(server) = server {
        server.stop().await?;
    }
    printed
}
