//! Reads a batch that came from outside: checked first, decoded when asked.

use bytes::Bytes;

use super::header::{BatchHeader, HEADER_BYTES, check_body_crc, check_hashed, check_header_crc};
use super::record::{self, Context, RecordRef};
use super::{BatchError, Codec};
use crate::{Incarnation, Offset, Record};

/// One whole batch whose header fields and `body_crc` hold. Its records are not decoded yet.
#[derive(Debug, Clone)]
pub struct BatchView {
    header: BatchHeader,
    bytes: Bytes,
}

impl BatchView {
    /// Checks that `bytes` are exactly one batch: fields in range, `body_crc` right.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn parse(bytes: &Bytes) -> Result<Self, BatchError> {
        Self::parse_hashed(bytes, None)
    }

    /// The same where [`BodyCrcs`](super::BodyCrcs) has computed the checksum already.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn parse_hashed(bytes: &Bytes, crc: Option<u32>) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(bytes)?;
        let need = header.batch_len();
        if bytes.len() < need {
            return Err(BatchError::Truncated { need, have: bytes.len() });
        }
        if bytes.len() > need {
            return Err(BatchError::TrailingBytes { extra: bytes.len() - need });
        }
        match crc {
            Some(crc) => check_hashed(bytes, crc)?,
            None => check_body_crc(bytes)?,
        }
        Ok(Self { header, bytes: bytes.clone() })
    }

    /// Splits the first batch off `bytes`, as stored in the partition of that incarnation: `header_crc` is
    /// checked as well, and first, since the length rests on it.
    ///
    /// # Errors
    /// [`BatchError`]; `bytes` is then unchanged.
    pub fn split_stored(bytes: &mut Bytes, incarnation: Incarnation) -> Result<Self, BatchError> {
        Self::split_stored_hashed(bytes, incarnation, None)
    }

    /// The same where [`BodyCrcs`](super::BodyCrcs) has computed the checksum already.
    ///
    /// # Errors
    /// [`BatchError`]; `bytes` is then unchanged.
    pub fn split_stored_hashed(
        bytes: &mut Bytes,
        incarnation: Incarnation,
        crc: Option<u32>,
    ) -> Result<Self, BatchError> {
        check_header_crc(bytes, incarnation)?;
        let need = BatchHeader::decode(bytes)?.batch_len();
        if bytes.len() < need {
            return Err(BatchError::Truncated { need, have: bytes.len() });
        }
        let view = Self::parse_hashed(&bytes.slice(..need), crc)?;
        let _ = bytes.split_to(need);
        Ok(view)
    }

    /// The header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decompresses the body and reads its records one by one.
    ///
    /// # Errors
    /// [`BatchError::Decompress`].
    pub fn records(&self) -> Result<Records, BatchError> {
        let stored = self.bytes.slice(HEADER_BYTES..);
        let body = match self.header.codec {
            Codec::None => stored,
            codec => codec.decompress(&stored, self.header.uncompressed_len as usize)?.into(),
        };
        Ok(Records { header: self.header.clone(), body, place: Place::default() })
    }
}

/// The records of one batch. As an iterator it yields owned [`Record`]s that share the body's allocation;
/// [`next_ref`](Self::next_ref) lends them instead. A clone goes on by itself and shares the body.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    body: Bytes,
    place: Place,
}

/// What comes next in a body.
#[derive(Debug, Clone, Default)]
struct Place {
    position: usize,
    index: u32,
    next_delta: u32,
}

impl Place {
    fn next<'a>(&mut self, header: &BatchHeader, body: &'a [u8]) -> Option<Result<RecordRef<'a>, BatchError>> {
        if self.index >= header.record_count {
            let extra = body.len() - self.position;
            self.position = body.len();
            return (extra > 0).then_some(Err(BatchError::TrailingBytes { extra }));
        }
        let context = Context { index: self.index, sparse: header.sparse, first_timestamp: header.first_timestamp };
        let mut rest = &body[self.position..];
        let before = rest.len();
        let result = record::decode(&mut rest, &context).and_then(|record| {
            let bad = |what| Err(BatchError::Record { index: self.index, what });
            if record.offset_delta < self.next_delta {
                return bad("its offset does not rise");
            }
            if record.offset_delta > header.last_offset_delta {
                return bad("its offset lies outside the batch");
            }
            Ok(record)
        });
        match &result {
            Ok(record) => {
                self.position += before - rest.len();
                self.index += 1;
                self.next_delta = record.offset_delta + 1;
            }
            Err(_) => {
                self.position = body.len();
                self.index = header.record_count;
            }
        }
        Some(result)
    }
}

impl Records {
    /// Where the next record begins in the body.
    pub(super) fn position(&self) -> usize {
        self.place.position
    }

    /// The body, decompressed.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The next record, borrowed. After the last one, checks that nothing follows it.
    ///
    /// # Errors
    /// [`BatchError::Record`]; nothing follows an error.
    pub fn next_ref(&mut self) -> Option<Result<RecordRef<'_>, BatchError>> {
        let Self { header, body, place } = self;
        place.next(header, body)
    }

    /// The next record with its offset.
    ///
    /// # Errors
    /// As [`next_ref`](Self::next_ref).
    pub fn next_with_offset(&mut self) -> Option<Result<(Offset, Record), BatchError>> {
        let Self { header, body, place } = self;
        place.next(header, body).map(|result| {
            result.map(|record| (Offset(header.base_offset.0 + u64::from(record.offset_delta)), record.to_record(body)))
        })
    }

    /// Reads all records and says whether they are well-formed: what a server may ask of a batch it stores.
    ///
    /// # Errors
    /// The first [`BatchError`] found.
    pub fn validate(mut self) -> Result<(), BatchError> {
        while let Some(record) = self.next_ref() {
            record?;
        }
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with_offset().map(|result| result.map(|(_, record)| record))
    }
}
