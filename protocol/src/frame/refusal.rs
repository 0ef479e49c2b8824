//! An error on the wire.
//!
//! ```text
//! u16 code · u32 retry after (ms, 0: not said) · u16 length, text
//! ```

use super::{Fields, FrameError, put_text};
use crate::Code;
use crate::limits::ERROR_TEXT_BYTES_MAX;

/// Why a request was refused: a code for the program, a text for the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong, and what a caller can do.
    pub code: Code,
    /// When a retry may help, in milliseconds; 0 where nothing is known.
    pub retry_after_ms: u32,
    /// What happened, with the values, then what to do. Cut to 4 KiB.
    pub text: String,
}

impl Refusal {
    /// A refusal without a time for a retry.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, retry_after_ms: 0, text: text.into() }
    }

    /// Appends the refusal's bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.number().to_le_bytes());
        out.extend_from_slice(&self.retry_after_ms.to_le_bytes());
        put_text(out, &self.text, ERROR_TEXT_BYTES_MAX);
    }

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    pub(super) fn take(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let code = Code::from_number(fields.u16()?);
        let retry_after_ms = fields.u32()?;
        Ok(Self { code, retry_after_ms, text: fields.text(ERROR_TEXT_BYTES_MAX)?.to_owned() })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("error", body);
        let refusal = Self::take(&mut fields)?;
        fields.finish().map(|()| refusal)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.text.is_empty() { self.code.fmt(f) } else { f.write_str(&self.text) }
    }
}

impl std::error::Error for Refusal {}
