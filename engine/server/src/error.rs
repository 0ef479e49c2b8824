//! Why a server does not start or stop. Each says what happened, with the values, then what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use millstream_broker::BrokerError;
use millstream_log::LogError;
use millstream_protocol::Code;

use crate::config::ConfigError;

/// Why a server does not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another program listens there.
    #[error("{protocol} port {address} is in use: stop the other program, or choose another with --{flag}")]
    PortInUse {
        /// `QUIC` or `HTTP`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The setting that moves it.
        flag: &'static str,
    },
    /// The system refuses the address.
    #[error("cannot listen on {address} for {protocol}: {source}")]
    Listen {
        /// `QUIC` or `HTTP`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("the certificate cannot be used: {}: {reason}", path.display())]
    Certificate {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file of the data directory cannot be read or written.
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        /// The act, as an infinitive.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process, probably a server, has the data directory open.
    #[error("the data directory {} is in use by another process: stop it, or choose another with --data-dir", path.display())]
    DataDirLocked {
        /// The data directory.
        path: PathBuf,
    },
    /// A newer version wrote the data directory.
    #[error("the data directory {} has format {found}, this program knows up to {known}: use a newer program", path.display())]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest this program can open.
        known: u32,
    },
    /// The data directory is damaged, unreadable or not ours; or the log did not close.
    #[error(transparent)]
    Broker(BrokerError),
    /// A task of the server's own failed.
    #[error("a bug in the server: {0}")]
    Internal(String),
}

impl From<BrokerError> for ServeError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Log(LogError::Locked { path }) => ServeError::DataDirLocked { path },
            BrokerError::Log(LogError::NewerFormat { path, found, known }) => {
                ServeError::NewerFormat { path, found, known }
            }
            other => ServeError::Broker(other),
        }
    }
}

impl ServeError {
    /// Whether a file, port or setting of this machine is at fault, which a program's exit code says.
    pub fn is_local(&self) -> bool {
        match self {
            ServeError::Config(_)
            | ServeError::PortInUse { .. }
            | ServeError::Listen { .. }
            | ServeError::Certificate { .. }
            | ServeError::File { .. }
            | ServeError::DataDirLocked { .. }
            | ServeError::NewerFormat { .. }
            | ServeError::Broker(_) => true,
            ServeError::Internal(_) => false,
        }
    }

    /// The error's number.
    pub fn code(&self) -> Code {
        match self {
            ServeError::Config(_) | ServeError::Certificate { .. } => Code::IllegalSetting,
            ServeError::PortInUse { .. } | ServeError::DataDirLocked { .. } => Code::Throttled,
            ServeError::NewerFormat { .. } => Code::Unsupported,
            ServeError::Listen { .. } | ServeError::File { .. } | ServeError::Internal(_) => Code::Internal,
            ServeError::Broker(error) => error.code(),
        }
    }

    pub(crate) fn listen(protocol: &'static str, flag: &'static str, address: SocketAddr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::AddrInUse {
            ServeError::PortInUse { protocol, address, flag }
        } else {
            ServeError::Listen { protocol, address, source }
        }
    }
}
