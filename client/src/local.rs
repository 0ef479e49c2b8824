//! Finding the server of this machine: a running server leaves `client.json` in its data directory.

use std::path::Path;

use millstream_protocol::Code;

use crate::error::{Error, Result};

const FILE: &str = "client.json";

/// What a server left in its data directory for clients on the same machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalServer {
    /// Where it listens for QUIC.
    pub address: String,
    /// What to pin: `sha256:` and 64 hex digits.
    pub fingerprint: String,
    /// Where it listens for HTTP, if it does.
    pub http: Option<String>,
}

impl LocalServer {
    /// Reads `client.json` of a data directory. Blocks on the file; does not connect.
    ///
    /// # Errors
    /// [`Code::IllegalSetting`]: the file cannot be read, or is not one that a server writes.
    pub fn read(data_dir: impl AsRef<Path>) -> Result<Self> {
        let path = data_dir.as_ref().join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let text = format!(
                "cannot read {}: {error}; start the server with that data directory, or name its address and fingerprint",
                path.display()
            );
            Error::local_from(Code::IllegalSetting, text, error)
        })?;
        Self::parse(&text).ok_or_else(|| {
            let text = format!("{} is not what a server writes: restart the server to renew it", path.display());
            Error::local(Code::IllegalSetting, text)
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let field = |name: &str| json.get(name)?.as_str().map(str::to_owned);
        Some(Self { address: field("address")?, fingerprint: field("fingerprint")?, http: field("http") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_json_is_read_with_and_without_http() {
        let full = r#"{"address":"127.0.0.1:4650","fingerprint":"sha256:00","http":"127.0.0.1:4651"}"#;
        let server = LocalServer::parse(full).expect("a whole file");
        assert_eq!((server.address.as_str(), server.http.as_deref()), ("127.0.0.1:4650", Some("127.0.0.1:4651")));
        let off = r#"{"address":"[::1]:1","fingerprint":"sha256:00","http":null}"#;
        assert_eq!(LocalServer::parse(off).expect("HTTP is off").http, None);
        assert_eq!(LocalServer::parse(r#"{"address":1}"#), None);
        assert!(LocalServer::read("/nonexistent").is_err());
    }
}
