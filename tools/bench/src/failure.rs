//! Why a run failed: its exit code, as the `millstream` program's, and the text.
//!
//! ```text
//! 2    the flags contradict each other, or do not fit what is there
//! 10…40 the server's refusal, by the class of its code (see `millstream_client::Code`)
//! 50   what was read is not what was sent
//! 60   no server there, or not the one that is meant
//! 70   this machine: a file, a process
//! ```

use std::fmt::Display;
use std::path::Path;

use millstream_client::Error;

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The program's exit code.
    pub exit: u8,
    /// What happened, and what to do.
    pub text: String,
}

impl Failure {
    /// The flags do not fit.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: 2, text: text.into() }
    }

    /// What was read is wrong, or an answer makes no sense.
    pub fn data(text: impl Into<String>) -> Self {
        Self { exit: 50, text: text.into() }
    }

    /// There is no server.
    pub fn unreachable(text: impl Into<String>) -> Self {
        Self { exit: 60, text: text.into() }
    }

    /// This machine failed.
    pub fn local(text: impl Into<String>) -> Self {
        Self { exit: 70, text: text.into() }
    }

    /// A file could not be read or written.
    pub fn file(act: &str, path: &Path, error: &dyn Display) -> Self {
        Self::local(format!("cannot {act} {}: {error}", path.display()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_elsewhere = error.is_unreachable() || error.is_wrong_fingerprint();
        let exit = if is_elsewhere { 60 } else { 10 * error.code().class().number() };
        Self { exit, text: error.to_string() }
    }
}

impl From<millstream_log::LogError> for Failure {
    fn from(error: millstream_log::LogError) -> Self {
        Self { exit: 10 * error.code().class().number(), text: error.to_string() }
    }
}

impl From<millstream_broker::BrokerError> for Failure {
    fn from(error: millstream_broker::BrokerError) -> Self {
        Self { exit: 10 * error.code().class().number(), text: error.to_string() }
    }
}
