//! What a run leaves: JSON, logs, pages, comparisons, sweeps; and a run that is ended early.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{TestServer, bench, json, meter, refused, text};

const SMALL: &str = "--records 1000 --warm-up 0s --record-size 100 --quiet";

#[test]
fn a_run_is_written_in_every_form_and_two_are_compared() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        let mut command = server.bench(&format!("end-to-end {SMALL}"));
        let run = json(command.arg("--report").arg(at("run.html")).arg("--hdr").arg(at("hdr")));
        std::fs::write(at(&format!("{name}.json")), run.to_string()).expect("written");
    }
    let page = std::fs::read_to_string(at("run.html")).expect("a page");
    assert!(page.contains("Latency by percentile") && !page.contains("http"), "one file, with plots");
    for name in ["end-to-end-produce.hlog", "end-to-end-consume.hlog"] {
        let log = std::fs::read_to_string(at("hdr").join(name)).expect("a log");
        assert!(log.starts_with("#[Logged with millstream-bench") && log.contains("HISTF"), "{log}");
    }
    let compare = |second: &str| {
        let mut command = bench("compare");
        command.arg(at("a.json")).arg(at(second)).arg("--report").arg(at("both.html"));
        command
    };
    let ratios = json(&mut compare("b.json"));
    assert!(ratios["ratios"].as_array().is_some_and(|ratios| ratios.len() > 10), "{ratios}");
    assert!(std::fs::read_to_string(at("both.html")).expect("a page").contains("dashed"));
    std::fs::write(at("c.json"), "{}").expect("written");
    assert!(refused(&mut compare("c.json"), 2).contains("c.json"));
}

#[test]
fn a_sweep_runs_each_value_and_several_consumers_are_one() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("sweep.html");
    let line = format!("sweep --over record-size=64,1k --over partitions=1,2,3 --rounds 2 produce {SMALL}");
    let sweep = json(server.bench(&line).arg("--report").arg(&page));
    let values = |curve: &Value| -> Vec<String> {
        curve["points"]
            .as_array()
            .expect("points")
            .iter()
            .map(|point| point["value"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(values(&sweep["curves"][0]), ["64", "1k"]);
    assert_eq!(values(&sweep["curves"][1]), ["1", "2", "3"]);
    assert_eq!(sweep["curves"][0]["points"][1]["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!(sweep["curves"][0]["points"][1]["runs"][0]["meters"][0]["bytes"], 1_024_000);
    assert!(std::fs::read_to_string(&page).expect("a page").contains("By partitions"));
    let queue = json(&mut server.bench(&format!("queue --consumers 1,2 {SMALL}")));
    assert_eq!(values(&queue["curves"][0]), ["1", "2"]);
    refused(&mut server.bench("sweep --over colour=red produce"), 2);
}

#[test]
fn workloads_are_listed_and_run_under_their_names() {
    let list = json(&mut bench("workload --list"));
    assert!(list.as_array().is_some_and(|names| names.contains(&"1-topic-16-partitions-1kb".into())), "{list}");
    let server = TestServer::start();
    let run = json(&mut server.bench(&format!("workload 1-topic-16-partitions-1kb {SMALL}")));
    assert_eq!((&run["name"], &run["settings"]["partitions"]), (&"1-topic-16-partitions-1kb".into(), &16.into()));
    assert_eq!(meter(&run, "consume")["records"], 1_000);
    let said = refused(&mut server.bench("workload 1-topic-16-partition-1kb"), 2);
    assert!(said.contains("did you mean") && said.contains("1-topic-16-partitions-1kb"), "{said}");
}

#[test]
fn an_interrupt_ends_a_run_early_with_its_result() {
    let server = TestServer::start();
    let mut command = server.bench("end-to-end --stream long --duration 600s --warm-up 0s --rate 2000 --quiet --json");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let until = Instant::now() + Duration::from_secs(30);
    let has_records = || {
        let info = server.runtime.block_on(server.client.describe_stream("long"));
        info.is_ok_and(|info| info.partitions.iter().any(|partition| partition.high_watermark > 0))
    };
    while !has_records() {
        assert!(Instant::now() < until, "it should have sent something by now");
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(killed.success());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let run: Value = serde_json::from_slice(&output.stdout).expect("a result");
    assert_eq!((run["interrupted"].as_bool(), run["correct"].as_bool()), (Some(true), Some(true)), "{run}");
    assert!(run["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{run}");
}

#[test]
fn studies_run() {
    let server = TestServer::start();
    let commits = json(&mut server.bench("study commits --in-flight 2 --partitions 2 --seconds 1"));
    assert!(commits["depths"][0]["commits_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{commits}");
    let line = "study groups --groups 3 --members 2 --connections 2 --partitions 4 --quiet-seconds 0 --rebalance-members 3 \
                --rebalance-partitions 9 --rounds 2";
    let groups = json(&mut server.bench(line));
    assert_eq!(groups["members"], 6, "{groups}");
}
