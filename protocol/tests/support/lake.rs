//! Samples of what lakes say.

use millstream_protocol::frame::control::{
    LakeAudit, LakeColumn, LakeColumns, LakeCompression, LakeConfig, LakeDelivery, LakeFormat, LakePartition,
    LakePreview, LakeRetry, LakeStatus, Request, Response,
};

use super::{Sample, control};

pub fn all() -> Vec<Sample> {
    let name = || "bronze".to_owned();
    vec![
        control("request_create_lake", Request::CreateLake { config: config() }),
        control("request_create_lake_declared", Request::CreateLake { config: declared() }),
        control("request_remove_lake", Request::RemoveLake { name: name() }),
        control("request_list_lakes", Request::ListLakes),
        control("request_lake_status", Request::LakeStatus { name: name() }),
        control("request_flush_lake", Request::FlushLake { name: name(), timeout_ms: 60_000 }),
        control("request_preview_lake", Request::PreviewLake { config: config(), records: 0x0102_0304 }),
        control("request_alter_lake", Request::AlterLake { name: name(), schema: schema() }),
        control("request_retry_lake_errors", Request::RetryLakeErrors { name: name(), timeout_ms: 0x0506_0708 }),
        control("request_audit_lake", Request::AuditLake { name: name(), timeout_ms: 0x090a_0b0c }),
        control("response_lake", Response::Lake(config())),
        control("response_lakes", Response::Lakes(vec![config(), declared()])),
        control("response_lake_status", Response::LakeStatus(status())),
        control("response_lake_preview", Response::LakePreview(preview())),
        control("response_lake_audit", Response::LakeAudit(audit())),
        control("response_lake_retry", Response::LakeRetry(LakeRetry { landed: 0x0102_0304, rejected: 0x0506 })),
    ]
}

fn schema() -> String {
    r#"{"columns":[{"name":"ride","type":"int64"}]}"#.into()
}

fn config() -> LakeConfig {
    LakeConfig {
        name: "bronze".into(),
        stream: "flights".into(),
        url: "s3://bucket/flights/raw".into(),
        format: LakeFormat::Ndjson,
        compression: LakeCompression::Gzip,
        columns: LakeColumns::Raw,
        layout: "carrier={carrier}/date={ts:%Y-%m-%d}".into(),
        delivery: LakeDelivery::AtLeastOnce,
        roll_bytes: 128 << 20,
        roll_rows: 0x0102_0304,
        roll_age_ms: 60_000,
        max_age_ms: 3_600_000,
        open_files: 0x1112_1314,
    }
}

fn declared() -> LakeConfig {
    LakeConfig {
        format: LakeFormat::Parquet,
        compression: LakeCompression::Snappy,
        columns: LakeColumns::Declared(schema()),
        delivery: LakeDelivery::ExactlyOnce,
        ..config()
    }
}

fn status() -> LakeStatus {
    LakeStatus {
        config: declared(),
        partitions: vec![
            LakePartition { partition: 0, landed_end: 1_000, read_end: 1_010, high_watermark: 1_024 },
            LakePartition { partition: 1, landed_end: 0, read_end: 5, high_watermark: 7 },
        ],
        files: 12,
        rows: 1_000,
        bytes: 70_000,
        rejected: 3,
        lost: 4,
        open_rows: 15,
        open_files: 2,
        oldest_waiting_ms: 4_321,
        newest_landed_ms: 1_700_000_000_123,
        error: "the store refuses: 403".into(),
        last_error: "the store does not answer".into(),
        last_error_ms: 1_700_000_000_456,
    }
}

fn preview() -> LakePreview {
    let column = |name: &str, kind: &str, id| LakeColumn { name: name.into(), kind: kind.into(), id };
    LakePreview {
        records: 1_000,
        columns: vec![column("carrier", "string", 16), column("stops", "list<struct<at:timestamp>>", 17)],
        paths: vec!["carrier=UA/date=2013-01-01/00000-00000000000000000000-00000000000000000016.parquet".into()],
        directories: 17,
        rejected: 2,
        reason: "no JSON object".into(),
    }
}

fn audit() -> LakeAudit {
    LakeAudit {
        complete: false,
        files: 12,
        rows: 1_000,
        bytes: 70_000,
        rejected: 3,
        lost: 4,
        compared: 1_007,
        findings: 105,
        named: vec![
            "partition 0: the file a.parquet is not there".into(),
            "partition 1: offset 7 is there twice".into(),
        ],
    }
}
