//! A record: what an application sends and gets.

use bytes::Bytes;

use crate::Timestamp;

/// A named value beside a record's value. Names may repeat; `ms-` names are the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 1–256 bytes of UTF-8.
    pub name: String,
    /// Absent and empty are different.
    pub value: Option<Bytes>,
}

/// Key, headers, timestamp and value: one message, event or row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Decides the partition, and what compaction and FIFO groups go by.
    pub key: Option<Bytes>,
    /// In the order given.
    pub headers: Vec<Header>,
    /// The producer's time; filled with the time of sending where it is 0.
    pub timestamp: Timestamp,
    /// Absent is a tombstone; empty is a value.
    pub value: Option<Bytes>,
}

impl Record {
    /// A record with this value, no key, no headers, and the time of sending.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A record without a value: under compaction it deletes its key.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the producer's timestamp.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { name: name.into(), value: Some(value.into()) });
        self
    }

    /// Gives it a dedup id (the header `ms-dedup-id`): 1 to 128 bytes. Another record of the same id and key, within the
    /// stream's dedup window of the first one, is not stored: it is acknowledged with the first one's offset.
    #[must_use]
    pub fn dedup_id(self, id: impl Into<Bytes>) -> Self {
        self.header(crate::batch::DEDUP_ID, id)
    }

    /// What the record counts for against the size limit: key, value, header names and values.
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.name.len() + length(&h.value)).sum();
        length(&self.key) + length(&self.value) + headers
    }
}
