//! `millstream lake audit` and `retry-errors`: what has landed, proved; what has not, tried again.

use std::time::Duration;

use millstream_protocol::Code;
use millstream_protocol::frame::control::{LakeAudit, LakeRetry};
use serde::Serialize;

use super::super::Session;
use crate::cli::lake;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Paint, bytes, count, counted, printable};

/// Audits, and fails unless all is complete.
pub(super) async fn audit(session: &Session, command: &lake::LakeAudit, output: Output) -> Result<(), Failure> {
    let name = &command.name;
    let audit = match session.client.audit_lake(name, command.timeout).await {
        Ok(audit) => audit,
        Err(error) => return Err(timed_out(session, name, &error).await),
    };
    output.result(&AuditView::from(&audit), |paint| description(&audit, paint))?;
    if audit.complete {
        return Ok(());
    }
    let text = format!("lake '{name}' is not complete: {}", counted(audit.findings, "finding"));
    Err(Failure::new(Exit::Code(Code::RecordsLost), text).or_try(format!("millstream lake status {name}")))
}

/// Lands what can land by now of what was rejected.
pub(super) async fn retry_errors(
    session: &Session,
    name: &str,
    timeout: Duration,
    output: Output,
) -> Result<(), Failure> {
    let LakeRetry { landed, rejected } = match session.client.retry_lake_errors(name, timeout).await {
        Ok(retry) => retry,
        Err(error) => return Err(timed_out(session, name, &error).await),
    };
    output.result(&serde_json::json!({ "landed": landed, "rejected": rejected }), |_| match (landed, rejected) {
        (0, 0) => "there are no rejected records".to_owned(),
        (_, 0) => format!("{} landed; none is left in errors/", counted(landed, "record")),
        _ => format!("{} landed, {} still rejected, in errors/", counted(landed, "record"), count(rejected)),
    })
}

async fn timed_out(session: &Session, name: &str, error: &millstream_client::Error) -> Failure {
    let failure = session.lake_failure(name, error).await;
    match error.code() {
        Code::TimedOut => {
            failure.or_try("--timeout with a longer span").or_try(format!("millstream lake status {name}"))
        }
        _ => failure,
    }
}

fn description(audit: &LakeAudit, paint: Paint) -> String {
    let verdict = if audit.complete { paint.green("complete:") } else { paint.red("not complete:") };
    let mut text = format!(
        "{verdict} {} in {} ({}), {} rejected, {} lost; {} of the log compared",
        counted(audit.rows, "row"),
        counted(audit.files, "file"),
        bytes(audit.bytes),
        count(audit.rejected),
        count(audit.lost),
        counted(audit.compared, "record"),
    );
    for finding in &audit.named {
        text.push_str(&format!("\n  {}", printable(finding)));
    }
    match audit.findings.saturating_sub(audit.named.len() as u64) {
        0 => text,
        more => format!("{text}\n  and {} more", count(more)),
    }
}

#[derive(Serialize)]
struct AuditView<'a> {
    complete: bool,
    files: u64,
    rows: u64,
    bytes: u64,
    rejected: u64,
    lost: u64,
    compared: u64,
    findings: u64,
    named: &'a [String],
}

impl<'a> From<&'a LakeAudit> for AuditView<'a> {
    fn from(audit: &'a LakeAudit) -> Self {
        let LakeAudit { complete, files, rows, bytes, rejected, lost, compared, findings, ref named } = *audit;
        Self { complete, files, rows, bytes, rejected, lost, compared, findings, named }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_named_and_the_rest_is_counted() {
        let complete = LakeAudit {
            complete: true,
            files: 12,
            rows: 5_000,
            bytes: 70_000,
            rejected: 2,
            lost: 0,
            compared: 5_002,
            findings: 0,
            named: Vec::new(),
        };
        assert_eq!(
            description(&complete, Paint::Plain),
            "complete: 5,000 rows in 12 files (70.0 kB), 2 rejected, 0 lost; 5,002 records of the log compared"
        );
        let named = vec!["partition 0: offset 7 is missing".to_owned()];
        let text = description(&LakeAudit { complete: false, findings: 3, named, ..complete }, Paint::Plain);
        assert!(text.starts_with("not complete: "), "{text}");
        assert!(text.ends_with("\n  partition 0: offset 7 is missing\n  and 2 more"), "{text}");
    }
}
