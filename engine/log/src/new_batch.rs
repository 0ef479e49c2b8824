//! A batch on its way in, and what its sender said of it.

use std::sync::Arc;

use millstream_protocol::batch::{BatchError, BatchView};

use crate::dedup::DedupKey;

/// One batch to append, and what its sender said of it.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// The batch, parsed, with a zero stamp.
    pub view: BatchView,
    /// Whether it may have been sent before: then a producer that has been forgotten is not taken for a new one.
    pub resend: bool,
    /// If the batch is flagged (it has control headers): the key of each record's dedup id, `None` for a record without one.
    pub dedup: Option<Arc<[Option<DedupKey>]>>,
}

impl NewBatch {
    /// A batch sent for the first time; if it is flagged its records are decoded for their dedup ids.
    ///
    /// # Errors
    /// [`BatchError`] if a flagged batch's records do not decode.
    pub fn with_dedup_ids(view: BatchView) -> Result<Self, BatchError> {
        let dedup = DedupKey::of_batch(&view)?;
        Ok(Self { view, resend: false, dedup })
    }

    /// The same batch, sent again.
    #[must_use]
    pub fn resent(self) -> Self {
        Self { resend: true, ..self }
    }
}

impl From<BatchView> for NewBatch {
    /// A batch that was not sent before; dedup ids are not looked for.
    fn from(view: BatchView) -> Self {
        Self { view, resend: false, dedup: None }
    }
}
