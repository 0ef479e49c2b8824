//! `millstream demo`: everything at work on real data, compared at each step, and worth showing to somebody.
//!
//! ```text
//! start a server ─► send ─► read back, compare ─► land, read Parquet back, compare ─► measure ─► stop
//! ```
//! Ports are the system's choice and the directory is new, so it runs beside anything. The directory is kept, so that the
//! commands it prints at the end work. Whatever differs ends it with exit 50.

mod compare;
mod measure;
mod report;
mod sample;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_client::{Client, Error, Start};
use millstream_lake::reader::{LandedRow, read_rows};
use millstream_protocol::frame::control::{LakeConfig, StreamConfig};
use millstream_protocol::{Code, Record};
use millstream_server::{Server, ServerConfig};

use self::compare::{Got, Place};
use self::report::{File, Report, Steps};
use self::sample::Flight;
use super::lake::lake_url;
use crate::cli::Demo;
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, count, counted, three_digits};

const STREAM: &str = "flights";
const PARTITIONS: u32 = 4;

/// Why the demo fails.
#[derive(Debug)]
enum Problem {
    /// Something came back otherwise than it was sent.
    Differs(String),
    /// Something did not work.
    Failed(Failure),
}

fn differs(what: String) -> Problem {
    Problem::Differs(what)
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Code(error.code()) };
        Problem::Failed(Failure::new(exit, error.to_string()))
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Problem::Failed(failure)
    }
}

/// Runs it.
///
/// # Errors
/// Exit 50 if anything differs; 70 if the directory cannot be used.
pub async fn run(command: Demo, output: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let dir = new_dir(command.dir.as_deref())?;
    let shown = show(&dir, command.measure, Steps::new(output), output).await;
    let mut report = shown.map_err(|problem| match problem {
        Problem::Differs(what) => Failure::new(Exit::Code(Code::RecordsLost), format!("THE DEMO FAILED: {what}"))
            .adding(&format!("everything is kept in {}", dir.display())),
        Problem::Failed(failure) => failure.adding(&format!("the demo's directory is {}", dir.display())),
    })?;
    if command.remove {
        std::fs::remove_dir_all(&dir)
            .map_err(|error| Failure::local(format!("cannot remove {}: {error}", dir.display())))?;
        report.dir = None;
    }
    report.seconds = started.elapsed().as_secs_f64();
    output.result(&report, |paint| {
        let rates = indented(&report::rates(&report.rates, paint));
        let files = indented(&report::files(&report.files, paint));
        let verdict = paint.green("Everything that was sent came back: from the log and from the lake.");
        let seconds = three_digits(report.seconds);
        let next = report.dir.as_deref();
        let next = next.map_or(String::new(), |dir| format!("\n\n{}", report::next_commands(dir, paint)));
        format!("\n{rates}\n\n{files}\n\n{verdict} ({seconds} s){next}")
    })
}

fn new_dir(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(dir) = named else {
        let made = tempfile::Builder::new().prefix("millstream-demo-").tempdir();
        let failed = |error| Failure::local(format!("cannot make a temporary directory: {error}")).or_try("--dir DIR");
        return made.map(tempfile::TempDir::keep).map_err(failed);
    };
    let failed = |error| Failure::local(format!("cannot use {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(Failure::local(format!("{} is not empty: name a new directory", dir.display())));
    }
    std::path::absolute(dir).map_err(failed)
}

async fn show(dir: &Path, time: Duration, steps: Steps, output: Output) -> Result<Report, Problem> {
    let any_port = ([127, 0, 0, 1], 0).into();
    let config =
        ServerConfig { data_dir: dir.join("data"), listen: any_port, http: Some(any_port), ..ServerConfig::default() };
    let server = Server::start(config).await;
    let server = server.map_err(|error| Failure::new(Exit::Local, format!("the server does not start: {error}")))?;
    let head = output.out.bold("Millstream demo: 5,000 flights out of New York, January 2013");
    steps.line(&format!("{head}\nserver on {}, everything in {}\n", server.address(), dir.display()))?;
    let result = show_on(&server, dir, time, &steps).await;
    let stopped = server.stop().await;
    let report = result?;
    stopped.map_err(|error| Failure::new(Exit::Code(error.code()), format!("the server does not stop: {error}")))?;
    Ok(report)
}

async fn show_on(server: &Server, dir: &Path, time: Duration, steps: &Steps) -> Result<Report, Problem> {
    let flights = sample::flights();
    let client = Client::connect(&server.address().to_string(), server.fingerprint()).await?;
    client.create_stream(STREAM, PARTITIONS, StreamConfig::default()).await?;

    let receipts = send(&client, &flights).await?;
    let (records, size) = (flights.len() as u64, sample::size(&flights));
    let sent = format!(
        "{}, {}, into {PARTITIONS} partitions, each on disk before its ack",
        counted(records, "record"),
        bytes(size)
    );
    steps.done("sent", &sent)?;

    let got = read(&client).await?;
    let keys = compare::read_back(&flights, &receipts, &got).map_err(differs)?;
    let back = format!("each byte for byte where its receipt says; {keys} carriers, each in order");
    steps.done("read back", &back)?;

    let lake_dir = dir.join("lake");
    let files = land(&client, &lake_dir, &flights, &receipts).await?;
    let rows = files.iter().map(|file| file.rows).sum();
    let landed = format!(
        "{} in {} of Parquet, read back, every field as it was sent",
        counted(rows, "row"),
        counted(files.len() as u64, "file")
    );
    steps.done("landed", &landed)?;

    let working = steps.working("measuring …");
    let rates = measure::rates(&client, &flights, time).await?;
    drop(working);
    let moved = rates.produce.records + rates.one_at_a_time.records;
    steps.done("measured", &format!("{} records more, sent and read back, with the same sums", count(moved)))?;

    let dir = Some(dir.to_owned());
    Ok(Report { ok: true, records, bytes: size, partitions: PARTITIONS, keys, rates, files, rows, dir, seconds: 0.0 })
}

/// Sends every flight and returns the receipts, in the flights' order.
async fn send(client: &Client, flights: &[Flight]) -> Result<Vec<Place>, Problem> {
    let producer = client.producer(STREAM).build().await?;
    let mut deliveries = Vec::with_capacity(flights.len());
    for flight in flights {
        let record = Record::new(flight.line.clone()).key(flight.carrier.clone());
        deliveries.push(producer.enqueue(record).await?);
    }
    producer.flush().await?;
    let mut receipts = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let receipt = delivery.await?;
        receipts.push((receipt.partition, receipt.offset));
    }
    producer.close().await?;
    Ok(receipts)
}

async fn read(client: &Client) -> Result<Vec<Got>, Problem> {
    let mut consumer = client.consumer(STREAM).start(Start::Earliest).bounded().build().await?;
    let mut got = Vec::new();
    while let Some(record) = consumer.next().await {
        let record = record?;
        let place = (record.partition, record.offset);
        got.push(Got { place, key: record.record.key, value: record.record.value });
    }
    Ok(got)
}

async fn land(client: &Client, dir: &Path, flights: &[Flight], receipts: &[Place]) -> Result<Vec<File>, Problem> {
    let url = lake_url(&dir.display().to_string())?;
    client.create_lake(LakeConfig::new(STREAM, STREAM, url)).await?;
    let status = client.flush_lake(STREAM, Duration::from_secs(30)).await?;
    let (files, rows) = read_lake(dir).map_err(differs)?;
    compare::landed(flights, receipts, &rows).map_err(differs)?;
    if (status.rows, status.rejected) != (rows.len() as u64, 0) {
        return Err(differs(format!(
            "the lake says {} rows, {} rejected; the files have {}",
            status.rows,
            status.rejected,
            rows.len()
        )));
    }
    Ok(files)
}

/// Reads all Parquet files of a directory.
fn read_lake(dir: &Path) -> Result<(Vec<File>, Vec<LandedRow>), String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", dir.display());
    let mut files = Vec::new();
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let before = rows.len();
        for row in read_rows(&path).map_err(|error| error.to_string())? {
            rows.push(row.map_err(|error| error.to_string())?);
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = entry.metadata().map_err(failed)?.len();
        files.push(File { name, rows: (rows.len() - before) as u64, bytes });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((files, rows))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
