//! What the demo shows: steps as they are done, then figures, files and the next commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::measure::{Rate, Rates};
use crate::output::{Align, Output, Paint, Table, bytes, count, counted, three_digits};

/// A landed file.
#[derive(Debug, Clone, Serialize)]
pub struct File {
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
}

/// Everything, for machines.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing differs: there is no report otherwise.
    pub ok: bool,
    pub records: u64,
    pub bytes: u64,
    pub partitions: u32,
    pub keys: usize,
    pub rates: Rates,
    pub files: Vec<File>,
    pub rows: u64,
    /// Where it all is; absent if it was removed.
    pub dir: Option<PathBuf>,
    pub seconds: f64,
}

/// The figures as a table.
pub fn rates(rates: &Rates, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("RECORDS/S", Align::Right),
        ("MB/S", Align::Right),
        ("ACK P50", Align::Right),
        ("ACK P99", Align::Right),
        ("", Align::Left),
    ]);
    let ms = |ms: Option<f64>| ms.map_or(String::new(), |ms| format!("{} ms", three_digits(ms)));
    let mut row = |name: &str, rate: &Rate, note: &str| {
        table.row([
            name.into(),
            count(rate.records_per_second as u64),
            three_digits(rate.bytes_per_second / 1e6),
            ms(rate.ack_p50_ms),
            ms(rate.ack_p99_ms),
            format!("{} in {} s{note}", counted(rate.records, "record"), three_digits(rate.seconds)),
        ]);
    };
    row("produce", &rates.produce, ", each on disk before its ack");
    row("consume", &rates.consume, ", and compared");
    row("one by one", &rates.one_at_a_time, ", each sent after the ack before");
    table.render(paint)
}

/// The files as a table.
pub fn files(files: &[File], paint: Paint) -> String {
    let mut table = Table::new(&[("LANDED FILE", Align::Left), ("ROWS", Align::Right), ("SIZE", Align::Right)]);
    for file in files {
        table.row([file.name.clone(), count(file.rows), bytes(file.bytes)]);
    }
    table.render(paint)
}

/// What to try next on what the demo left.
pub fn next_commands(dir: &Path, paint: Paint) -> String {
    let program = program();
    let (data, lake) = (dir.join("data"), dir.join("lake"));
    let (data, lake, dir) = (data.display(), lake.display(), dir.display());
    let commands = [
        (format!("{program} serve --data-dir {data}"), "serve it again"),
        (format!("{program} consume flights --count 3 --data-dir {data}"), "then, elsewhere: look at it"),
        (format!("{program} produce flights FILE --key carrier --data-dir {data}"), "add to it"),
        (
            format!(
                "duckdb -c \"select carrier, count(*) as flights, round(avg(dep_delay), 1) as delay from '{lake}/*.parquet' group by all order by delay\""
            ),
            "ask the lake",
        ),
        (format!("rm -r {dir}"), "when done"),
    ];
    let lines = commands.map(|(command, why)| format!("  {}\n    {command}", paint.dim(&format!("# {why}"))));
    format!("{}\n{}", paint.bold("Next"), lines.join("\n"))
}

/// How this program is called: by cargo, by name, or by its path.
fn program() -> String {
    if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        let release = if cfg!(debug_assertions) { "" } else { "--release " };
        return format!("cargo run {release}--");
    }
    std::env::args().next().unwrap_or_else(|| "millstream".into())
}

/// Shows each step when it is done.
pub struct Steps {
    output: Output,
}

impl Steps {
    /// Shows nothing where machines read.
    pub fn new(output: Output) -> Self {
        Self { output }
    }

    /// A line for people.
    pub fn line(&self, line: &str) -> Result<(), crate::exit::Failure> {
        if self.output.json { Ok(()) } else { self.output.line(line) }
    }

    /// A step that went well.
    pub fn done(&self, name: &str, text: &str) -> Result<(), crate::exit::Failure> {
        self.line(&format!("  {} {name:<10} {text}", self.output.out.green("✔")))
    }

    /// Something moves while a step takes its time; ends when dropped.
    pub fn working(&self, what: &str) -> Working {
        let bar = self.output.bar(None);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Working(bar)
    }
}

/// A spinner.
pub struct Working(indicatif::ProgressBar);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
