//! Answers about lakes, cut so that they fit into a frame: names of fields and paths come from records, and have no bound of
//! their own.
//!
//! Counts stay whole. Proof: below, and `protocol/tests/lakes.rs` for what is left at most.

use millstream_protocol::frame::control::{LakeAudit, LakePreview, LakeStatus};
use millstream_protocol::limits::{
    ERROR_TEXT_BYTES_MAX, LAKE_FINDINGS_MAX, LAKE_LINE_BYTES_MAX, LAKE_PREVIEW_COLUMNS_MAX, LAKE_PREVIEW_PATHS_MAX,
    LAKE_PREVIEW_TEXT_BYTES_MAX,
};

/// A preview that fits.
pub(crate) fn fit_preview(mut preview: LakePreview) -> LakePreview {
    preview.columns.truncate(LAKE_PREVIEW_COLUMNS_MAX);
    for column in &mut preview.columns {
        cut(&mut column.name, LAKE_PREVIEW_TEXT_BYTES_MAX);
        cut(&mut column.kind, LAKE_PREVIEW_TEXT_BYTES_MAX);
    }
    preview.paths.truncate(LAKE_PREVIEW_PATHS_MAX);
    preview.paths.iter_mut().for_each(|path| cut(path, LAKE_LINE_BYTES_MAX));
    cut(&mut preview.reason, LAKE_LINE_BYTES_MAX);
    preview
}

/// An audit that fits.
pub(crate) fn fit_audit(mut audit: LakeAudit) -> LakeAudit {
    audit.named.truncate(LAKE_FINDINGS_MAX);
    audit.named.iter_mut().for_each(|finding| cut(finding, LAKE_LINE_BYTES_MAX));
    audit
}

/// A status that fits.
pub(crate) fn fit_status(mut status: LakeStatus) -> LakeStatus {
    cut(&mut status.error, ERROR_TEXT_BYTES_MAX);
    cut(&mut status.last_error, ERROR_TEXT_BYTES_MAX);
    status
}

/// Cuts a text to `limit` bytes; the dots at its end say so.
fn cut(text: &mut String, limit: usize) {
    const DOTS: &str = "…";
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit - DOTS.len()));
        text.push_str(DOTS);
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::frame::control::LakeColumn;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        for (text, left) in
            [("x".repeat(8), "x".repeat(8)), ("x".repeat(9), "xxxxx…".into()), ("ü".repeat(5), "üü…".into())]
        {
            let mut text = text;
            cut(&mut text, 8);
            assert_eq!(text, left);
        }
    }

    #[test]
    fn whatever_records_name_the_answer_is_bounded_and_the_counts_are_whole() {
        let long = "ß".repeat(1 << 20);
        let column = |id| LakeColumn { name: long.clone(), kind: "struct<a: int64>".into(), id };
        let preview = LakePreview {
            records: 9,
            columns: (0..3).map(column).collect(),
            paths: vec![long.clone(); 30],
            directories: 30,
            rejected: 1,
            reason: long.clone(),
        };
        let fits = fit_preview(preview);
        assert_eq!((fits.columns.len(), fits.paths.len(), fits.directories), (3, 20, 30));
        assert!(fits.columns.iter().all(|column| column.name.len() <= 256 && column.kind == "struct<a: int64>"));
        assert!(fits.paths.iter().chain([&fits.reason]).all(|text| text.len() <= LAKE_LINE_BYTES_MAX));
        let (named, complete) = (vec![long; 200], false);
        let audit = LakeAudit {
            complete,
            files: 0,
            rows: 0,
            bytes: 0,
            rejected: 0,
            lost: 0,
            compared: 0,
            findings: 200,
            named,
        };
        let fits = fit_audit(audit);
        assert_eq!((fits.named.len(), fits.findings), (100, 200));
        assert!(fits.named.iter().all(|finding| finding.len() <= LAKE_LINE_BYTES_MAX));
    }
}
