//! Filters on one JSON record of some 250 bytes: compiling, reading the record and answering, answering once it is read.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group};
use millstream_filter::{Candidate, Filter};
use millstream_protocol::batch::{BatchView, Codec};
use millstream_protocol::{Record, Timestamp};

use crate::records::build;

const VALUE: &str = r#"{"id":4711,"event_time":"2026-01-01T10:15:00Z","carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR","dest":"SFO","sched_dep_time":515,"dep_time":517,"dep_delay":2,"sched_arr_time":819,"arr_time":830,"arr_delay":11,"air_time":327,"distance":2565}"#;

const FILTERS: [(&str, &str); 6] = [
    ("compare", "value.distance >= 2000.0"),
    ("and", r#"value.distance >= 2000.0 && value.carrier == "UA""#),
    ("in", r#"value.carrier in ["AA", "DL", "UA"]"#),
    ("starts_with", r#"value.tailnum.startsWith("N1")"#),
    ("header", r#"headers["region"] == "eu""#),
    ("key", r#"key == "flight-1545""#),
];

fn filters(criterion: &mut Criterion) {
    let record = Record::new(VALUE).key("flight-1545").header("region", "eu").timestamp(Timestamp(1_767_225_600_000));
    let view = BatchView::parse(&build(Codec::None, &[record])).expect("legal");
    let mut records = view.records().expect("legal");
    let record = records.next_ref().expect("there is one").expect("legal");
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(1));
    for (name, text) in FILTERS {
        let filter = Filter::compile(text).expect("it compiles");
        let candidate = Candidate::new(&record);
        assert_eq!(filter.matches(&candidate), Ok(true), "{text}");
        group.bench_function(format!("answer/{name}"), |bench| bench.iter(|| filter.matches(black_box(&candidate))));
        group.bench_function(format!("read_and_answer/{name}"), |bench| {
            bench.iter(|| filter.matches(&Candidate::new(black_box(&record))));
        });
    }
    let (name, text) = FILTERS[1];
    group.bench_function(format!("compile/{name}"), |bench| bench.iter(|| Filter::compile(black_box(text))));
    group.finish();
}

criterion_group!(steps, filters);
