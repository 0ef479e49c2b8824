//! What a filter costs: `cargo run --release -p millstream-filter --example speed [file.ndjson]`.
//!
//! Prints nanoseconds an operation, each the best of five rounds over the records, and the worst cases: what the greediest
//! filter may take of a thread on the heaviest record.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_filter::{Candidate, Filter};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, RecordRef};
use millstream_protocol::{Record, Timestamp};

const TEXT: &str = r#"value.distance >= 2000.0 && value.carrier == "UA""#;

/// Evaluations of the same record in a round.
const HOT: usize = 20_000;

fn main() {
    let file = std::env::args().nth(1).unwrap_or("tools/millstream/data/flights-sample.ndjson".into());
    let lines = std::fs::read_to_string(&file).expect("the file of records can be read");
    let records: Vec<Record> = lines.lines().map(|line| record(line.to_owned())).collect();
    println!("{} records of {} bytes on average, {TEXT}", records.len(), lines.len() / records.len());
    let filter = Filter::compile(TEXT).expect("compiles");
    let ignore = |bytes: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    let tree = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
    for_each(&records, "check the JSON only (serde_json, IgnoredAny)", |record| {
        ignore(record.value.unwrap_or_default())
    });
    for_each(&records, "parse with serde_json::Value", |record| tree(record.value.unwrap_or_default()));
    for_each(&records, "parse and evaluate one filter", |record| {
        filter.matches(&Candidate::new(record)).is_ok_and(|matches| matches)
    });
    for_each(&records, "parse and evaluate twenty filters", |record| {
        let candidate = Candidate::new(record);
        (0..20).filter(|_| filter.matches(black_box(&candidate)).is_ok_and(|matches| matches)).count() > 0
    });

    println!("\nevaluation alone, on a candidate that has been read");
    for text in [
        TEXT,
        r#"value.carrier in ["UA", "DL"]"#,
        r#"value.tailnum.startsWith("N1")"#,
        "value.missing == 1",
        "true",
        "timestamp > timestamp(\"2026-01-01T00:00:00Z\")",
    ] {
        let filter = Filter::compile(text).expect("compiles");
        with_refs(&records, |refs| {
            let candidates: Vec<_> = refs.iter().map(Candidate::new).collect();
            let best =
                best_of_rounds(|| candidates.iter().filter(|candidate| filter.matches(candidate) == Ok(true)).count());
            println!("{:>9.0} ns  {text}", best.as_nanos() as f64 / records.len() as f64);
        });
    }

    println!("\nthe same record again and again: our interpreter and the crate's");
    with_refs(&records[..1], |refs| {
        let candidate = Candidate::new(&refs[0]);
        let ours = best_of_rounds(|| (0..HOT).filter(|_| filter.matches(black_box(&candidate)) == Ok(true)).count());
        println!("{:>9.0} ns  ours", ours.as_nanos() as f64 / HOT as f64);
        let env = Arc::new(cel::Env::stdlib());
        let program = env.compile(TEXT).expect("compiles");
        let mut context = cel::Context::with_env(env);
        let value: serde_json::Value = serde_json::from_slice(refs[0].value.unwrap_or_default()).expect("JSON");
        context.add_variable("value", value).expect("a value");
        let theirs = best_of_rounds(|| (0..HOT).filter(|_| program.execute(black_box(&context)).is_ok()).count());
        println!("{:>9.0} ns  the crate's", theirs.as_nanos() as f64 / HOT as f64);
    });

    println!("\ncompile, then worst cases");
    let best = best_of_rounds(|| Filter::compile(TEXT).is_ok());
    println!("{best:>9.1?}  compile {TEXT}");
    for (name, value) in heavy() {
        with_refs(&[record(value)], |refs| {
            let all = Filter::compile("value == 1").expect("compiles");
            let began = Instant::now();
            let candidate = Candidate::new(&refs[0]);
            let _ = all.matches(&candidate);
            println!("{:>9.1?}  read {name}", began.elapsed());
            for text in greedy() {
                let filter = Filter::compile(&text).expect("compiles");
                let began = Instant::now();
                let outcome = filter.matches(&candidate);
                if began.elapsed() > Duration::from_millis(1) {
                    let outcome = outcome.map_or_else(|error| error.reason.to_string(), |matches| matches.to_string());
                    println!("{:>9.1?}    {:.60} → {outcome}", began.elapsed(), text);
                }
            }
        });
    }
}

fn record(value: String) -> Record {
    Record { key: None, headers: Vec::new(), timestamp: Timestamp(1_772_368_245_250), value: Some(Bytes::from(value)) }
}

fn with_refs<T>(records: &[Record], look: impl FnOnce(&[RecordRef<'_>]) -> T) -> T {
    let batches: Vec<Bytes> = records
        .iter()
        .map(|record| {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(record).expect("a legal record");
            builder.finish().expect("a batch")
        })
        .collect();
    let mut decoded: Vec<_> =
        batches.iter().map(|batch| BatchView::parse(batch).and_then(|view| view.records()).expect("a batch")).collect();
    let refs: Vec<_> =
        decoded.iter_mut().map(|records| records.next_ref().expect("one record").expect("decodes")).collect();
    look(&refs)
}

fn for_each(records: &[Record], what: &str, mut act: impl FnMut(&RecordRef<'_>) -> bool) {
    with_refs(records, |refs| {
        let best = best_of_rounds(|| refs.iter().filter(|record| act(record)).count());
        println!("{:>9.0} ns  {what}", best.as_nanos() as f64 / records.len() as f64);
    });
}

fn best_of_rounds<T>(mut round: impl FnMut() -> T) -> Duration {
    (0..5)
        .map(|_| {
            let began = Instant::now();
            black_box(round());
            began.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn heavy() -> Vec<(&'static str, String)> {
    let list = |element: &str, count: usize| format!("{{\"l\":[{}],\"s\":\"x\"}}", vec![element; count].join(","));
    let text = "a".repeat(8_000_000);
    vec![
        ("262,000 numbers", list("1", 262_000)),
        ("80,000 objects of two members", list("{\"a\":1,\"b\":2}", 80_000)),
        ("130,000 objects of an escaped name", list("{\"\\n\":1}", 130_000)),
        ("250,000 escaped strings", list("\"\\n\"", 250_000)),
        ("a string of 8 MB", format!("{{\"l\":[1],\"s\":\"{text}\"}}")),
        ("an escaped string of 8 MB", format!("{{\"l\":[1],\"s\":\"\\n{text}\"}}")),
    ]
}

fn greedy() -> Vec<String> {
    vec![
        "value.l.all(x, x in value.l)".into(),
        "value.l.exists(x, x.nothing || x.a < 0)".into(),
        "value.l.all(x, x != value.l && size([x, x, x, x]) == 4)".into(),
        "value.l.map(x, [x]) == value.l".into(),
        format!("[value.s]{} == 1", ".map(x, x + x)".repeat(60)),
        format!("[value.l]{} == 1", ".map(x, x + x)".repeat(60)),
        format!("value.s{} == \"\"", " + value.s".repeat(90)),
        "value.s.contains(\"b\")".into(),
        "like(value.s, \"*b*c*\")".into(),
        "value.s.lowerAscii() == \"b\"".into(),
        "size(value.s) == 1".into(),
    ]
}
