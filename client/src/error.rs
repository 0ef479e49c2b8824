//! The one error of the client's public face: a code for the program, a text for the person.
//!
//! Cheap to clone, because a lost batch fails all its records with the same error.
//! Not here: what the codes mean (`millstream_protocol::Code`).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::frame::{FrameError, Refusal};
use millstream_protocol::{Class, Code, Offset, Outcome, PartitionId};

use crate::tls::Fingerprint;

/// What the client's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a call failed. `Display` says what happened, with the values, then what to do.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    code: Code,
    cause: Cause,
    text: String,
    retry_after: Option<Duration>,
    partition: Option<PartitionId>,
    stream: Option<Arc<str>>,
    source: Option<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The server said so.
    Refused,
    /// The client said so, before anything was sent.
    Local,
    /// No connection could be made: nothing was sent.
    Unreachable,
    /// The server is not the one that was asked for: nothing was sent.
    WrongServer,
    /// Something was sent, and no answer came.
    Lost,
    /// Records are missing; delivery goes on.
    Gap(Gap),
}

/// Records that a consumer will not get: damaged, or deleted before it came to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset missing.
    pub from: Offset,
    /// The next offset that will come.
    pub resume: Offset,
}

impl Error {
    /// The stable code. Failures to connect have [`Code::ConnectionLost`] or, where the server is not the right
    /// one, [`Code::NotAllowed`]; ask [`is_unreachable`](Self::is_unreachable) and
    /// [`is_wrong_fingerprint`](Self::is_wrong_fingerprint) first.
    pub fn code(&self) -> Code {
        self.inner.code
    }

    /// What can be done: the code's class.
    pub fn class(&self) -> Class {
        self.inner.code.class()
    }

    /// Whether the request surely had no effect. A request that was never sent had none, whatever its code says.
    pub fn outcome(&self) -> Outcome {
        match self.inner.cause {
            Cause::Local | Cause::Unreachable | Cause::WrongServer => Outcome::Definite,
            Cause::Lost => Outcome::Indefinite,
            Cause::Refused | Cause::Gap(_) => self.inner.code.outcome(),
        }
    }

    /// Whether the same call may succeed later without being changed. Look at [`outcome`](Self::outcome) before
    /// repeating what must not happen twice.
    pub fn is_retryable(&self) -> bool {
        match self.inner.cause {
            Cause::Unreachable => true,
            Cause::WrongServer | Cause::Gap(_) => false,
            Cause::Refused | Cause::Local | Cause::Lost => self.inner.code.is_retryable(),
        }
    }

    /// Whether no connection to the server could be made: nothing listens there, the name does not resolve, or it
    /// did not answer in time.
    pub fn is_unreachable(&self) -> bool {
        self.inner.cause == Cause::Unreachable
    }

    /// Whether the server's key is not the pinned one, or its certificate not of the given authority. Nothing was
    /// sent to it.
    pub fn is_wrong_fingerprint(&self) -> bool {
        self.inner.cause == Cause::WrongServer
    }

    /// The records that are missing, if this is a consumer's note of a gap: delivery goes on behind it.
    pub fn gap(&self) -> Option<Gap> {
        match self.inner.cause {
            Cause::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    /// The partition that it is about, where a consumer's item names one.
    pub fn partition(&self) -> Option<PartitionId> {
        self.inner.partition
    }

    /// The stream that it is about, where an item of a group's consumer or a commit names one.
    pub fn stream(&self) -> Option<&str> {
        self.inner.stream.as_deref()
    }

    /// When the server thinks that a retry may help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { code, cause, text, source, .. } = &*self.inner;
        write!(f, "Error({} {code}, {cause:?}: {text}", code.number())?;
        if let Some(source) = source {
            write!(f, "; {source}")?;
        }
        f.write_str(")")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let retry_after =
            (refusal.retry_after_ms > 0).then(|| Duration::from_millis(u64::from(refusal.retry_after_ms)));
        Self::build(refusal.code, Cause::Refused, text, None).with(|inner| inner.retry_after = retry_after)
    }
}

impl Error {
    fn build(code: Code, cause: Cause, text: String, source: Option<Source>) -> Self {
        Self { inner: Arc::new(Inner { code, cause, text, retry_after: None, partition: None, stream: None, source }) }
    }

    /// Changes an error that nobody else holds yet.
    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            change(inner);
        }
        self
    }

    /// The client itself refuses; nothing was sent.
    pub(crate) fn local(code: Code, text: impl Into<String>) -> Self {
        Self::build(code, Cause::Local, text.into(), None)
    }

    pub(crate) fn local_from(code: Code, text: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::build(code, Cause::Local, text.into(), Some(source.into()))
    }

    pub(crate) fn unreachable(address: &str, why: impl fmt::Display) -> Self {
        let text = format!("no Millstream server reachable at {address}: {why}");
        Self::build(Code::ConnectionLost, Cause::Unreachable, text, None)
    }

    pub(crate) fn unreachable_from(address: &str, why: impl fmt::Display, source: impl Into<Source>) -> Self {
        let text = format!("no Millstream server reachable at {address}: {why}");
        Self::build(Code::ConnectionLost, Cause::Unreachable, text, Some(source.into()))
    }

    pub(crate) fn wrong_fingerprint(address: &str, pinned: &Fingerprint, found: &Fingerprint) -> Self {
        let text = format!(
            "the server at {address} has the fingerprint {found}, pinned is {pinned}: it is another server, or its key \
             was replaced; if that is known, pin the new fingerprint"
        );
        Self::build(Code::NotAllowed, Cause::WrongServer, text, None)
    }

    pub(crate) fn untrusted(address: &str, source: impl Into<Source>) -> Self {
        let source = source.into();
        let text = format!(
            "the certificate of the server at {address} is not trusted ({source}): check the CA file and the host name, \
             or pin the server's fingerprint"
        );
        Self::build(Code::NotAllowed, Cause::WrongServer, text, Some(source))
    }

    pub(crate) fn lost(text: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::build(Code::ConnectionLost, Cause::Lost, text.into(), Some(source.into()))
    }

    /// A copy was sent, and the server cannot say whether it has it.
    pub(crate) fn of_unknown_producer(text: String) -> Self {
        Self::build(Code::UnknownProducer, Cause::Lost, text, None)
    }

    /// Sent, and not answered within its time.
    pub(crate) fn timed_out(text: impl Into<String>) -> Self {
        Self::build(Code::TimedOut, Cause::Lost, text.into(), None)
    }

    /// The answer is not what the protocol says.
    pub(crate) fn protocol(what: impl fmt::Display) -> Self {
        let text = format!("the server broke the protocol: {what}; use a client and a server of matching versions");
        Self::build(Code::ProtocolViolation, Cause::Lost, text, None)
    }

    pub(crate) fn of_gap(gap: Gap, code: Code, text: String) -> Self {
        let text = if text.is_empty() {
            format!("records {}..{} of partition {} are missing: {code}", gap.from, gap.resume, gap.partition)
        } else {
            text
        };
        Self::build(code, Cause::Gap(gap), text, None).with(|inner| inner.partition = Some(gap.partition))
    }

    /// A partition's delivery has ended for good.
    pub(crate) fn of_partition(partition: PartitionId, code: Code, text: String) -> Self {
        let text = if text.is_empty() { format!("partition {partition}: {code}") } else { text };
        Self::build(code, Cause::Refused, text, None).with(|inner| inner.partition = Some(partition))
    }

    /// Names the stream.
    pub(crate) fn in_stream(self, stream: &Arc<str>) -> Self {
        self.with(|inner| inner.stream = Some(Arc::clone(stream)))
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::protocol(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_sent_surely_had_no_effect() {
        let unreachable = Error::unreachable("h:1", "nothing listens there");
        assert_eq!((unreachable.code(), unreachable.outcome()), (Code::ConnectionLost, Outcome::Definite));
        assert!(unreachable.is_retryable() && unreachable.is_unreachable());
        let lost = Error::lost("gone", "reset");
        assert_eq!((lost.code(), lost.outcome()), (Code::ConnectionLost, Outcome::Indefinite));
        assert!(lost.source().is_some() && !lost.is_unreachable());
    }

    #[test]
    fn a_refusal_keeps_its_code_text_and_time() {
        let refusal = Refusal { code: Code::Throttled, retry_after_ms: 250, text: "slow down".into() };
        let error = Error::from(refusal);
        assert_eq!((error.code(), error.to_string().as_str()), (Code::Throttled, "slow down"));
        assert_eq!((error.retry_after(), error.is_retryable()), (Some(Duration::from_millis(250)), true));
    }
}
