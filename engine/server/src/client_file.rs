//! `client.json`: what a client on the same machine needs, left in the data directory while the server runs.
//!
//! ```text
//! {"address":"127.0.0.1:4650","fingerprint":"sha256:<64 hex>","http":"127.0.0.1:4651"}
//! ```
//! A crash leaves it behind: it says where a server *was* ready; whether it is, a connection says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ServeError;
use crate::private_file;

const FILE_NAME: &str = "client.json";

/// What a client on the same machine needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFile {
    /// Where to connect; a server that listens on every address is named by loopback.
    pub address: SocketAddr,
    /// `sha256:` and the SHA-256 of the certificate's public key (SPKI, DER), in hexadecimal.
    pub fingerprint: String,
    /// Where HTTP listens, if it does.
    pub http: Option<SocketAddr>,
}

impl ClientFile {
    /// What the server in `data_dir` has left; `None` if there is nothing.
    ///
    /// # Errors
    /// [`ServeError::File`] if it cannot be read, or is not what a server writes.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, ServeError> {
        let path = data_dir.join(FILE_NAME);
        let failed = |source| ServeError::File { act: "read", path: path.clone(), source };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), ServeError> {
        let path = data_dir.join(FILE_NAME);
        let text = serde_json::to_string(self).expect("addresses and text always serialize");
        private_file::write(&path, text.as_bytes()).map_err(|source| ServeError::File { act: "write", path, source })
    }

    pub(crate) fn remove(data_dir: &Path) -> Result<(), ServeError> {
        let path = data_dir.join(FILE_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| ServeError::File { act: "remove", path, source }),
        }
    }
}

/// The address as a client on this machine reaches it.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_reads_back_is_private_and_its_absence_is_not_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(ClientFile::read(dir.path()).expect("nothing yet"), None);
        let file = ClientFile {
            address: reachable(SocketAddr::from(([0, 0, 0, 0], 7))),
            fingerprint: "sha256:00".into(),
            http: None,
        };
        file.write(dir.path()).expect("written");
        assert_eq!(ClientFile::read(dir.path()).expect("readable"), Some(file));
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ClientFile::remove(dir.path()).expect("removed");
        ClientFile::remove(dir.path()).expect("removing twice is fine");
    }
}
