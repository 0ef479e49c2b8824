//! The hello: the one message before authentication, so decoded by hand and small.
//!
//! ```text
//! Hello    u32 magic "MSTH" · u16 lowest version · u16 highest version · u16 length, client name · u16 length, token
//! HelloOk  u32 magic "MSTH" · u16 version chosen · u64 server id · u16 length, server version text
//! ```

use super::{Fields, FrameError, put_text};

/// "MSTH" as a little-endian number.
pub const HELLO_MAGIC: u32 = u32::from_le_bytes(*b"MSTH");
/// The protocol version this code speaks.
pub const PROTOCOL_VERSION: u16 = 1;

const CLIENT_NAME_BYTES_MAX: usize = 256;
const TOKEN_BYTES_MAX: usize = 2 << 10;

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version it speaks.
    pub version_min: u16,
    /// The highest version it speaks.
    pub version_max: u16,
    /// For logs: program and version, at most 256 bytes.
    pub client_name: String,
    /// Who it is; empty until tokens exist. At most 2 KiB.
    pub token: String,
}

impl Hello {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&HELLO_MAGIC.to_le_bytes());
        out.extend_from_slice(&self.version_min.to_le_bytes());
        out.extend_from_slice(&self.version_max.to_le_bytes());
        put_text(&mut out, &self.client_name, CLIENT_NAME_BYTES_MAX);
        put_text(&mut out, &self.token, TOKEN_BYTES_MAX);
        out
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("hello", body);
        magic(&mut fields)?;
        let hello = Self {
            version_min: fields.u16()?,
            version_max: fields.u16()?,
            client_name: fields.text(CLIENT_NAME_BYTES_MAX)?.to_owned(),
            token: fields.text(TOKEN_BYTES_MAX)?.to_owned(),
        };
        fields.finish().map(|()| hello)
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloOk {
    /// The version both speak from here on.
    pub version: u16,
    /// Random per data directory: tells a client that reconnects whether it meets the same log.
    pub server_id: u64,
    /// For people, at most 256 bytes.
    pub server_version: String,
}

impl HelloOk {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&HELLO_MAGIC.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.server_id.to_le_bytes());
        put_text(&mut out, &self.server_version, CLIENT_NAME_BYTES_MAX);
        out
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("hello answer", body);
        magic(&mut fields)?;
        let answer = Self {
            version: fields.u16()?,
            server_id: fields.u64()?,
            server_version: fields.text(CLIENT_NAME_BYTES_MAX)?.to_owned(),
        };
        fields.finish().map(|()| answer)
    }
}

fn magic(fields: &mut Fields<'_>) -> Result<(), FrameError> {
    match fields.u32()? {
        HELLO_MAGIC => Ok(()),
        other => Err(FrameError::Unknown { what: "hello magic", value: other.into() }),
    }
}
