//! Messages about lakes: any of them comes back as it was, and the largest legal ones fit into their frames.
//! More cases: `PROPTEST_CASES=10000`.

use millstream_protocol::frame::control::{
    LakeAudit, LakeColumn, LakeColumns, LakeCompression, LakeConfig, LakeDelivery, LakeFormat, LakePartition,
    LakePreview, LakeRetry, LakeStatus, Message, Request, Response,
};
use millstream_protocol::frame::{FrameHeader, Kind};
use millstream_protocol::limits::{
    ERROR_TEXT_BYTES_MAX, LAKE_FINDINGS_MAX, LAKE_LAYOUT_BYTES_MAX, LAKE_LINE_BYTES_MAX, LAKE_PREVIEW_COLUMNS_MAX,
    LAKE_PREVIEW_PATHS_MAX, LAKE_PREVIEW_TEXT_BYTES_MAX, LAKE_SCHEMA_BYTES_MAX, LAKE_URL_BYTES_MAX, NAME_BYTES_MAX,
    PARTITIONS_MAX,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    // Short text lies inline in an archive, long text does not.
    prop_oneof!["\\PC{0,8}", "\\PC{0,60}"]
}

fn config() -> impl Strategy<Value = LakeConfig> {
    use LakeCompression::{Gzip, Lz4, None, Snappy, Zstd};
    let columns =
        prop_oneof![Just(LakeColumns::Inferred), Just(LakeColumns::Raw), text().prop_map(LakeColumns::Declared)];
    let kinds = (
        select(vec![LakeFormat::Parquet, LakeFormat::Ndjson]),
        select(vec![None, Zstd, Snappy, Lz4, Gzip]),
        select(vec![LakeDelivery::ExactlyOnce, LakeDelivery::AtLeastOnce]),
        columns,
    );
    (text(), text(), text(), text(), kinds, any::<(u64, u64, u64, u64, u32)>()).prop_map(
        |(name, stream, url, layout, (format, compression, delivery, columns), numbers)| {
            let (roll_bytes, roll_rows, roll_age_ms, max_age_ms, open_files) = numbers;
            LakeConfig {
                name,
                stream,
                url,
                format,
                compression,
                columns,
                layout,
                delivery,
                roll_bytes,
                roll_rows,
                roll_age_ms,
                max_age_ms,
                open_files,
            }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        config().prop_map(|config| Request::CreateLake { config }),
        text().prop_map(|name| Request::RemoveLake { name }),
        Just(Request::ListLakes),
        text().prop_map(|name| Request::LakeStatus { name }),
        (text(), any::<u64>()).prop_map(|(name, timeout_ms)| Request::FlushLake { name, timeout_ms }),
        (config(), any::<u32>()).prop_map(|(config, records)| Request::PreviewLake { config, records }),
        (text(), text()).prop_map(|(name, schema)| Request::AlterLake { name, schema }),
        (text(), any::<u64>()).prop_map(|(name, timeout_ms)| Request::RetryLakeErrors { name, timeout_ms }),
        (text(), any::<u64>()).prop_map(|(name, timeout_ms)| Request::AuditLake { name, timeout_ms }),
    ]
}

fn status() -> impl Strategy<Value = LakeStatus> {
    let partition = any::<(u32, u64, u64, u64)>().prop_map(|(partition, landed_end, read_end, high_watermark)| {
        LakePartition { partition, landed_end, read_end, high_watermark }
    });
    let counts = any::<(u64, u64, u64, u64, u64, u64, u32)>();
    (config(), vec(partition, 0..6), counts, any::<(u64, i64, i64)>(), text(), text()).prop_map(
        |(config, partitions, counts, times, error, last_error)| {
            let (files, rows, bytes, rejected, lost, open_rows, open_files) = counts;
            let (oldest_waiting_ms, newest_landed_ms, last_error_ms) = times;
            LakeStatus {
                config,
                partitions,
                files,
                rows,
                bytes,
                rejected,
                lost,
                open_rows,
                open_files,
                oldest_waiting_ms,
                newest_landed_ms,
                error,
                last_error,
                last_error_ms,
            }
        },
    )
}

fn preview() -> impl Strategy<Value = LakePreview> {
    let column = (text(), text(), any::<u32>()).prop_map(|(name, kind, id)| LakeColumn { name, kind, id });
    (any::<(u64, u64, u64)>(), vec(column, 0..6), vec(text(), 0..4), text()).prop_map(
        |((records, directories, rejected), columns, paths, reason)| LakePreview {
            records,
            columns,
            paths,
            directories,
            rejected,
            reason,
        },
    )
}

fn audit() -> impl Strategy<Value = LakeAudit> {
    (any::<bool>(), any::<(u64, u64, u64, u64, u64, u64, u64)>(), vec(text(), 0..4)).prop_map(
        |(complete, (files, rows, bytes, rejected, lost, compared, findings), named)| LakeAudit {
            complete,
            files,
            rows,
            bytes,
            rejected,
            lost,
            compared,
            findings,
            named,
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        config().prop_map(Response::Lake),
        vec(config(), 0..4).prop_map(Response::Lakes),
        status().prop_map(Response::LakeStatus),
        preview().prop_map(Response::LakePreview),
        audit().prop_map(Response::LakeAudit),
        any::<(u64, u64)>().prop_map(|(landed, rejected)| Response::LakeRetry(LakeRetry { landed, rejected })),
    ]
}

proptest! {
    #[test]
    fn what_is_said_about_lakes_comes_back(request in request(), response in response()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
}

#[test]
fn the_largest_messages_about_lakes_fit_into_their_frames() {
    let name = "n".repeat(NAME_BYTES_MAX);
    let error_text = "t".repeat(ERROR_TEXT_BYTES_MAX);
    let schema = "s".repeat(LAKE_SCHEMA_BYTES_MAX);
    let config = LakeConfig {
        columns: LakeColumns::Declared(schema.clone()),
        layout: "l".repeat(LAKE_LAYOUT_BYTES_MAX),
        ..LakeConfig::new(name.clone(), name.clone(), "u".repeat(LAKE_URL_BYTES_MAX))
    };
    let landed =
        |partition| LakePartition { partition, landed_end: u64::MAX, read_end: u64::MAX, high_watermark: u64::MAX };
    let status = LakeStatus {
        config: config.clone(),
        partitions: (0..PARTITIONS_MAX).map(landed).collect(),
        files: 1,
        rows: 1,
        bytes: 1,
        rejected: 1,
        lost: 1,
        open_rows: 1,
        open_files: 1,
        oldest_waiting_ms: 1,
        newest_landed_ms: 1,
        error: error_text.clone(),
        last_error: error_text,
        last_error_ms: 1,
    };
    let audit = LakeAudit {
        complete: false,
        files: 1,
        rows: 1,
        bytes: 1,
        rejected: 1,
        lost: 1,
        compared: 1,
        findings: 1,
        named: vec!["f".repeat(LAKE_LINE_BYTES_MAX); LAKE_FINDINGS_MAX],
    };
    fits(Kind::Request, Request::PreviewLake { config: config.clone(), records: 1 });
    fits(Kind::Request, Request::CreateLake { config });
    fits(Kind::Request, Request::AlterLake { name, schema });
    fits(Kind::Response, Response::LakeStatus(status));
    fits(Kind::Response, Response::LakeAudit(audit));
    let text = "c".repeat(LAKE_PREVIEW_TEXT_BYTES_MAX);
    let column = LakeColumn { name: text.clone(), kind: text, id: 1 };
    let preview = LakePreview {
        records: 1,
        columns: vec![column; LAKE_PREVIEW_COLUMNS_MAX],
        paths: vec!["p".repeat(LAKE_LINE_BYTES_MAX); LAKE_PREVIEW_PATHS_MAX],
        directories: 1,
        rejected: 1,
        reason: "r".repeat(LAKE_LINE_BYTES_MAX),
    };
    fits(Kind::Response, Response::LakePreview(preview));
}

fn fits<M: Message + PartialEq + std::fmt::Debug>(kind: Kind, message: M) {
    let body = message.encode();
    let _ = FrameHeader::new(kind, 0, body.len());
    assert!(M::decode(&body).as_ref() == Ok(&message), "{} of {} bytes", M::NAME, body.len());
}

#[test]
fn each_format_can_be_compressed_as_by_default_and_not_at_all() {
    for format in [LakeFormat::Parquet, LakeFormat::Ndjson] {
        let legal = format.compressions();
        assert!(legal.contains(&LakeCompression::default()) && legal.contains(&LakeCompression::None), "{legal:?}");
    }
    assert!(!LakeFormat::Ndjson.compressions().contains(&LakeCompression::Snappy));
    assert!(!LakeFormat::Parquet.compressions().contains(&LakeCompression::Gzip));
}
