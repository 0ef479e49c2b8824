//! A run for people: a table, and under it what one should know.

use std::fmt;

use super::units;
use crate::result::{Latency, Measured, Run};

/// Shows a run.
pub struct Table<'a>(pub &'a Run);

/// Columns of text, the first left, the others right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (at, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[at] - cell.chars().count());
            line += &if at == 0 { format!(" {cell}{pad}") } else { format!("  {pad}{cell}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The percentiles that a table shows, with their names.
pub fn percentiles(latency: &Latency) -> [(&'static str, f64); 6] {
    [
        ("P50", latency.p50_us),
        ("P90", latency.p90_us),
        ("P99", latency.p99_us),
        ("P99.9", latency.p999_us),
        ("P99.99", latency.p9999_us),
        ("MAX", latency.max_us),
    ]
}

/// What was run, in a line.
pub fn headline(run: &Run) -> String {
    let settings = &run.settings;
    let rate = settings.rate.map_or("flat out".to_owned(), |rate| format!("{} records/s", units::count(rate)));
    let mut who = Vec::new();
    if settings.sends() {
        who.push(format!("{} producer(s) {rate}", settings.producers));
    }
    if settings.subscribers > 1 {
        who.push(format!("{} subscribers", settings.subscribers));
    }
    if settings.subscribers > 0 {
        who.push(format!("{} consumer(s)", settings.consumers));
    }
    if settings.members > 0 {
        who.push(format!("{} members", settings.members));
    }
    if settings.queues > 0 {
        let ordering = if settings.fifo { " FIFO" } else { "" };
        who.push(format!("{}{ordering} queue(s) with {} worker(s)", settings.queues, settings.workers));
    }
    let payload = match &settings.payload {
        crate::load::payload::Payload::File(path) => format!("lines of {}", path.display()),
        _ => format!("{} B", settings.record_size),
    };
    let place = match settings.place {
        crate::load::Place::Server => "",
        crate::load::Place::OwnServer => ", a server in this program",
        crate::load::Place::Engine => ", the engine alone",
    };
    let durability = serde_json::to_value(settings.durability).expect("it serializes");
    format!(
        "{}: {}, {} partition(s), {payload}, {}{place}",
        run.name,
        who.join(", "),
        settings.partitions(),
        durability.as_str().unwrap_or_default()
    )
}

fn row(measured: &Measured) -> Vec<String> {
    let mut row = vec![
        measured.name.clone(),
        units::commas(measured.records_per_second.round() as u64),
        units::bytes(measured.bytes_per_second) + "/s",
    ];
    if let Some(latency) = &measured.latency {
        row.extend(percentiles(latency).map(|(_, us)| units::time(us)));
    }
    row
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = self.0;
        writeln!(f, "{}", headline(run))?;
        let mut rows = vec![
            ["", "RECORDS/S", "BYTES/S", "P50", "P90", "P99", "P99.9", "P99.99", "MAX"].map(str::to_owned).to_vec(),
        ];
        rows.extend(run.meters.iter().map(row));
        write!(f, "\n{}\n", columns(&rows))?;
        let records: Vec<String> = run
            .meters
            .iter()
            .map(|measured| format!("{} {}", measured.name, units::commas(measured.records)))
            .collect();
        writeln!(f, "  {:.2} s; records: {}", run.seconds, records.join(", "))?;
        if let Some(mean) = run.batches.bytes.checked_div(run.batches.acked) {
            write!(f, "  {} batches of {} on average", units::commas(run.batches.acked), units::bytes(mean as f64))?;
            match run.batches.resent {
                0 => writeln!(f)?,
                resent => writeln!(f, "; {resent} were sent again, the connection was lost on the way")?,
            }
        }
        if let Some(process) = &run.process {
            let of = if process.of == "this" { "this process, load and all" } else { "server" };
            let (cpu, memory) = (process.cpu_percent, units::bytes(process.resident_bytes_max as f64));
            writeln!(f, "  {of}: {cpu:.0} % of a core, at most {memory} resident")?;
        }
        if let Some(lake) = &run.lake {
            let (rows, files, bytes) = (units::commas(lake.rows), lake.files, units::bytes(lake.bytes as f64));
            let lag = units::commas(lake.lag_records_max);
            write!(f, "  lake: {rows} rows in {files} files, {bytes}; at most {lag} records behind, ")?;
            writeln!(
                f,
                "caught up after {:.2} s{}",
                lake.catch_up_seconds,
                if lake.audited { ", audited" } else { "" }
            )?;
        }
        for verified in &run.verification {
            let (records, subscriber) = (units::commas(verified.records), &verified.subscriber);
            let again = match verified.again {
                _ if verified.mode == "off" => String::new(),
                0 => String::new(),
                again => format!(", {} came again", units::commas(again)),
            };
            match (verified.mode.as_str(), verified.mismatches) {
                ("off", _) => writeln!(f, "  {subscriber}: {records} records read, not compared")?,
                ("counts", 0) => {
                    writeln!(f, "  {subscriber}: {records} records counted{again}: none lost, none twice")?
                }
                (_, 0) => {
                    writeln!(f, "  {subscriber}: {records} records compared{again}: none lost, none twice, in order")?
                }
                (_, mismatches) => {
                    writeln!(f, "  {subscriber}: {mismatches} MISMATCHES in {records} records")?;
                    for example in &verified.examples {
                        writeln!(f, "    {example}")?;
                    }
                }
            }
        }
        if run.interrupted {
            writeln!(f, "  it was ended early")?;
        }
        for (index, note) in run.notes.iter().enumerate() {
            write!(f, "{}  note: {note}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
