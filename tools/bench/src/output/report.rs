//! Pages of results: a run, two runs, a sweep.

use super::compare::Comparison;
use super::page::{details, escape, page, table};
use super::plot::{Axis, Line, Plot, Scale};
use super::sweep::{Curve, Spread, Sweep};
use super::table::{headline, percentiles};
use super::units;
use crate::result::{Measured, Run};

const SECONDS: Axis = Axis { name: "seconds", scale: Scale::Linear, unit: |x| format!("{x:.0}") };
const RATE: Axis = Axis { name: "records/s", scale: Scale::Linear, unit: units::count };
const LATENCY: Axis = Axis { name: "latency", scale: Scale::Log, unit: units::time };
const PERCENTILE: Axis = Axis { name: "percentile", scale: Scale::Percentile, unit: |x| format!("{x}") };
const CPU: Axis = Axis { name: "% of a core", scale: Scale::Linear, unit: |x| format!("{x:.0} %") };
const MEMORY: Axis = Axis { name: "resident", scale: Scale::Linear, unit: units::bytes };

/// Runs that are drawn together: with a name each if there are two.
type Drawn<'a> = [(&'a str, &'a Run)];

/// A run's page.
pub fn of_run(run: &Run) -> String {
    let body = format!("{}{}{}{}{}", summary(run), figures(run), plots(&[("", run)]), verification(run), settings(run));
    page(&format!("{}: {}", run.name, units::count(main_rate(run)) + " records/s"), &body)
}

/// The page of two runs.
pub fn of_comparison(comparison: &Comparison) -> String {
    let (before, after) = (&comparison.before, &comparison.after);
    let mut body = format!("<p>{}<br>{}</p>\n", escape(&headline(before)), escape(&headline(after)));
    body += &table(&comparison.rows());
    if !comparison.differences.is_empty() {
        body += "<h2>Settings that differ</h2>\n";
        body += &table(&comparison.difference_rows());
    }
    body += &plots(&[("before", before), ("after", after)]);
    for (name, run) in [("before", before), ("after", after)] {
        body +=
            &details(&format!("{name}: figures and settings"), &(figures(run) + &verification(run) + &settings(run)));
    }
    page(&format!("{} against {}", after.name, before.name), &body)
}

/// A sweep's page.
pub fn of_sweep(sweep: &Sweep) -> String {
    let mut body =
        format!("<p class=\"faint\">{} round(s) of each value: the median, with the range.</p>\n", sweep.rounds);
    for curve in &sweep.curves {
        body += &format!("<h2>By {}</h2>\n", escape(&curve.over));
        body += &curve_plots(curve);
        let mut rows = vec![
            [curve.over.as_str(), "records/s", "least", "most", "bytes/s", "p50", "p99"].map(str::to_owned).to_vec(),
        ];
        for point in &curve.points {
            let rate = point.spread(|main| Some(main.records_per_second));
            let shown = |figure: Option<f64>, unit: fn(f64) -> String| figure.map_or(String::new(), unit);
            rows.push(vec![
                point.value.clone(),
                shown(rate.map(|rate| rate.median), units::count),
                shown(rate.map(|rate| rate.min), units::count),
                shown(rate.map(|rate| rate.max), units::count),
                shown(point.spread(|main| Some(main.bytes_per_second)).map(|rate| rate.median), units::bytes),
                shown(point.spread(|main| Some(main.latency?.p50_us)).map(|of| of.median), units::time),
                shown(point.spread(|main| Some(main.latency?.p99_us)).map(|of| of.median), units::time),
            ]);
        }
        body += &table(&rows);
    }
    let settings = serde_json::to_string_pretty(&sweep.settings).expect("plain structs always serialize");
    body += &details("Settings", &format!("<pre>{}</pre>", escape(&settings)));
    page(&format!("{}: how it scales", sweep.name), &body)
}

fn main_rate(run: &Run) -> f64 {
    run.main().map_or(0.0, |main| main.records_per_second)
}

fn summary(run: &Run) -> String {
    let mut html = format!("<p>{}</p>\n", escape(&headline(run)));
    if !run.correct {
        html += "<p class=\"alarm\">What was read is not what was sent: see Verification.</p>\n";
    }
    if run.interrupted {
        html += "<p class=\"alarm\">It was ended early.</p>\n";
    }
    for note in &run.notes {
        html += &format!("<p class=\"faint\">{}</p>\n", escape(note));
    }
    html
}

fn figures(run: &Run) -> String {
    let head = ["", "records", "records/s", "bytes/s", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for measured in &run.meters {
        let mut row = vec![
            measured.name.clone(),
            units::commas(measured.records),
            units::commas(measured.records_per_second.round() as u64),
            units::bytes(measured.bytes_per_second),
        ];
        row.extend(measured.latency.iter().flat_map(percentiles).map(|(_, us)| units::time(us)));
        rows.push(row);
    }
    let mut html = table(&rows);
    for measured in &run.meters {
        if let Some(of) = &measured.latency_of {
            html += &format!("<p class=\"faint\">{}: {}</p>\n", escape(&measured.name), escape(of));
        }
    }
    html
}

fn plots(runs: &Drawn<'_>) -> String {
    let mut html = String::new();
    let rate =
        |measured: &Measured| measured.series.iter().map(|s| (s.second as f64 + 0.5, s.records as f64)).collect();
    html += &over_meters("Throughput over time", SECONDS, RATE, runs, rate);
    let curve = |measured: &Measured| measured.curve.clone();
    html += &over_meters("Latency by percentile", PERCENTILE, LATENCY, runs, curve);
    let p99 =
        |measured: &Measured| measured.series.iter().filter_map(|s| Some((s.second as f64 + 0.5, s.p99_us?))).collect();
    html += &over_meters("p99 over time", SECONDS, LATENCY, runs, p99);
    let of_process = |title: &str, y, figure: fn(&crate::record::sampler::Sample) -> f64| {
        let lines = runs.iter().enumerate().filter_map(|(index, (name, run))| {
            let process = run.process.as_ref()?;
            let of = if process.of == "this" { "this process, load and all" } else { "server" };
            let points = process.samples.iter().map(|sample| (sample.at, figure(sample))).collect();
            Some(Line {
                name: join(of, name),
                points,
                dashed: index == 0 && runs.len() > 1,
                colour: index,
                ..Line::default()
            })
        });
        Plot { title: title.to_owned(), x: SECONDS, y, lines: lines.collect() }.svg()
    };
    html += &of_process("Processor", CPU, |sample| sample.cpu_percent);
    html += &of_process("Memory", MEMORY, |sample| sample.resident_bytes as f64);
    html
}

fn join(what: &str, run: &str) -> String {
    if run.is_empty() { what.to_owned() } else { format!("{what}, {run}") }
}

/// A line for each meter of each run; the first of two runs is broken.
fn over_meters(
    title: &str,
    x: Axis,
    y: Axis,
    runs: &Drawn<'_>,
    points: impl Fn(&Measured) -> Vec<(f64, f64)>,
) -> String {
    let mut lines = Vec::new();
    for (index, (name, run)) in runs.iter().enumerate() {
        for (colour, measured) in run.meters.iter().enumerate() {
            let dashed = index == 0 && runs.len() > 1;
            let (name, points) = (join(&measured.name, name), points(measured));
            lines.push(Line { name, points, dashed, colour, ..Line::default() });
        }
    }
    Plot { title: title.to_owned(), x, y, lines }.svg()
}

fn curve_plots(curve: &Curve) -> String {
    // The unit of what is swept: a size, or a number.
    let is_size = curve.over.ends_with("-size");
    let figure = |text: &str| match text.parse::<millstream_client::ByteSize>() {
        Ok(size) if is_size => Some(size.bytes() as f64),
        _ => text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().ok(),
    };
    let x = Axis { name: "", scale: Scale::Log, unit: if is_size { units::bytes } else { units::count } };
    let line = |name: &str, colour, of: &dyn Fn(&super::sweep::Point) -> Option<Spread>| {
        let found = curve.points.iter().filter_map(|point| Some((figure(&point.value)?, of(point)?)));
        let mut found: Vec<(f64, Spread)> = found.filter(|(x, _)| *x > 0.0).collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line {
            name: name.to_owned(),
            points: found.iter().map(|(x, spread)| (*x, spread.median)).collect(),
            range: found.iter().map(|(x, spread)| (*x, spread.min, spread.max)).collect(),
            colour,
            ..Line::default()
        }
    };
    let plot = |title: &str, y, lines| Plot { title: title.to_owned(), x, y, lines }.svg();
    let records = line("records/s", 0, &|point| point.spread(|main| Some(main.records_per_second)));
    let bytes = line("bytes/s", 1, &|point| point.spread(|main| Some(main.bytes_per_second)));
    let p50 = line("p50", 2, &|point| point.spread(|main| Some(main.latency?.p50_us)));
    let p99 = line("p99", 3, &|point| point.spread(|main| Some(main.latency?.p99_us)));
    plot("Records a second", RATE, vec![records])
        + &plot("Bytes a second", Axis { unit: units::bytes, ..MEMORY }, vec![bytes])
        + &plot("Latency", LATENCY, vec![p50, p99])
}

fn verification(run: &Run) -> String {
    if run.verification.is_empty() {
        return String::new();
    }
    let head = ["subscriber", "compared", "records", "expected", "came again", "mismatches"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut examples = String::new();
    for one in &run.verification {
        let figures = [one.records, one.expected, one.again, one.mismatches].map(units::commas);
        rows.push([one.subscriber.clone(), one.mode.clone()].into_iter().chain(figures).collect());
        for example in &one.examples {
            examples += &format!("<p class=\"alarm\">{}: {}</p>\n", escape(&one.subscriber), escape(example));
        }
    }
    format!("<h2>Verification</h2>\n{}{examples}", table(&rows))
}

fn settings(run: &Run) -> String {
    let settings = serde_json::to_string_pretty(&run.settings).expect("plain structs always serialize");
    let machine = &run.machine;
    let build = if machine.optimized { "optimised" } else { "not optimised" };
    let machine =
        format!("{} cores, {} {}; millstream-bench {}, {build}", machine.cpus, machine.os, machine.arch, run.version);
    let html = format!("<p class=\"faint\">{}</p><pre>{}</pre>", escape(&machine), escape(&settings));
    details("Settings", &html)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::run;

    #[test]
    fn a_report_has_its_plots_its_table_and_its_settings_and_no_other_file() {
        let html = of_run(&run("produce", 5));
        for part in
            ["Throughput over time", "Latency by percentile", "Processor", "Memory", "p99.99", "record_size", "<svg"]
        {
            assert!(html.contains(part), "{part}");
        }
        for outside in ["http:", "https:", "src=", "href=", "<script"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn two_runs_are_drawn_over_each_other() {
        let comparison = Comparison::new(run("produce", 5), run("produce", 7));
        let html = of_comparison(&comparison);
        assert!(html.contains("produce, before") && html.contains("produce, after") && html.contains("dashed"));
    }

    #[test]
    fn what_is_wrong_is_said_first() {
        let mut wrong = run("consume", 1);
        wrong.correct = false;
        assert!(of_run(&wrong).contains("class=\"alarm\""));
    }

    #[test]
    fn a_sweep_is_drawn_with_its_range() {
        let point =
            |value: &str| super::super::sweep::Point { value: value.to_owned(), runs: vec![run("p", 2), run("p", 2)] };
        let curve = Curve { over: "record-size".to_owned(), points: vec![point("100"), point("1k"), point("16k")] };
        let settings = run("p", 1).settings;
        let sweep = Sweep { format: 1, name: "produce".to_owned(), settings, rounds: 2, curves: vec![curve] };
        let html = of_sweep(&sweep);
        assert!(html.contains("By record-size") && html.contains("<polygon") && html.contains("16k"), "{html}");
    }
}
