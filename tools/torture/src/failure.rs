//! Why there is no judgement.

use millstream_check::history::HistoryError;

/// What ended a run before it could be judged.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Flags, the server's program, the directory: nothing was tortured.
    CannotBegin(String),
    /// The server or a client did what it must not do.
    Run(String),
}

impl Failure {
    /// Of a run that had begun.
    pub fn run(text: impl Into<String>) -> Self {
        Self::Run(text.into())
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::Run(format!("the history is not whole: {error}"))
    }
}
