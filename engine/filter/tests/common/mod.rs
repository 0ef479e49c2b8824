//! Records as filters see them: encoded into a batch and decoded again.
#![allow(dead_code, missing_docs)]

use bytes::Bytes;
use millstream_filter::{Candidate, Filter, FilterError};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, RecordRef};
use millstream_protocol::{Header, Record, Timestamp};

/// 2026-03-01T12:30:45.250Z, a Sunday.
pub const NOON: i64 = 1_772_368_245_250;

pub fn record(value: &[u8]) -> Record {
    Record { key: None, headers: Vec::new(), timestamp: Timestamp(NOON), value: Some(Bytes::copy_from_slice(value)) }
}

pub fn header(name: &str, value: Option<&[u8]>) -> Header {
    Header { name: name.into(), value: value.map(Bytes::copy_from_slice) }
}

pub fn with_ref<T>(record: &Record, look: impl FnOnce(&RecordRef<'_>) -> T) -> T {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(record).expect("a legal record");
    let batch = builder.finish().expect("a batch");
    let mut records = BatchView::parse(&batch).expect("a batch").records().expect("records");
    let record = records.next_ref().expect("one record").expect("decodes");
    look(&record)
}

pub fn evaluate(text: &str, record: &Record) -> Result<bool, FilterError> {
    let filter = Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    with_ref(record, |record| filter.matches(&Candidate::new(record)))
}
