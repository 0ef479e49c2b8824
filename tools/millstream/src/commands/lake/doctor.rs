//! `millstream lake doctor`: probes a store from here, without a server.

use millstream_lake::doctor::{Check, Report, doctor};
use millstream_protocol::Code;
use serde::Serialize;

use super::add::lake_url;
use crate::cli::lake::LakeDoctor;
use crate::exit::{Exit, Failure};
use crate::output::{Align, Output, Paint, Table, three_digits};

/// Probes, and fails unless each record can land once.
///
/// # Errors
/// Exit 10: the URL cannot be used, or the store cannot promise that; 20: it does not answer.
pub(super) async fn run(command: &LakeDoctor, output: Output) -> Result<(), Failure> {
    let url = lake_url(&command.url)?;
    let report = doctor(&url).await.map_err(|error| Failure::new(Exit::Code(error.code()), error.to_string()))?;
    output.result(&ReportView::new(&url, &report), |paint| description(&url, &report, paint))?;
    if report.exactly_once {
        return Ok(());
    }
    let failure = Failure::new(Exit::Code(Code::IllegalLake), format!("{url} cannot promise each record once"));
    Err(if report.at_least_once {
        failure.or_try(format!("millstream lake add NAME --stream STREAM --url {url} --delivery at-least-once"))
    } else {
        failure
    })
}

fn description(url: &str, report: &Report, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("CHECK", Align::Left),
        ("", Align::Left),
        ("SLOWEST", Align::Right),
        ("WHAT IT DID", Align::Left),
    ]);
    for check in &report.checks {
        let passed = if check.passed { "passed" } else { "FAILED" };
        let took = format!("{} ms", three_digits(check.took.as_secs_f64() * 1e3));
        table.row([check.name.to_owned(), passed.to_owned(), took, check.detail.clone()]);
    }
    let verdict = match (report.exactly_once, report.at_least_once) {
        (true, _) => paint.green("a lake there lands each record once"),
        (false, true) => paint.yellow("a lake there lands each record at least once, with --delivery at-least-once"),
        (false, false) => paint.red("no lake can be there"),
    };
    format!("{}\n\n{url}: {verdict}", table.render(paint))
}

#[derive(Serialize)]
struct ReportView<'a> {
    url: &'a str,
    exactly_once: bool,
    at_least_once: bool,
    checks: Vec<CheckView<'a>>,
}

#[derive(Serialize)]
struct CheckView<'a> {
    name: &'a str,
    passed: bool,
    detail: &'a str,
    took_ms: f64,
}

impl<'a> ReportView<'a> {
    fn new(url: &'a str, report: &'a Report) -> Self {
        let check = |check: &'a Check| CheckView {
            name: check.name,
            passed: check.passed,
            detail: &check.detail,
            took_ms: check.took.as_secs_f64() * 1e3,
        };
        let checks = report.checks.iter().map(check).collect();
        Self { url, exactly_once: report.exactly_once, at_least_once: report.at_least_once, checks }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_report_says_what_failed_and_what_is_left() {
        let took = Duration::from_micros(1_250);
        let check =
            Check { name: "two racing creates", passed: false, detail: "both were told that they won".into(), took };
        let report = Report { checks: vec![check], exactly_once: false, at_least_once: true };
        let text = description("s3://b/p", &report, Paint::Plain);
        assert!(text.contains("two racing creates  FAILED  1.25 ms  both were told that they won"), "{text}");
        assert!(text.ends_with("at least once, with --delivery at-least-once"), "{text}");
    }
}
