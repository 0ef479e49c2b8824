//! The one door: who may do what. Every request goes through [`authorize`], not only the opening of a stream.
//!
//! There are no principals yet, so everything is allowed; the calls stand where they must stand, so that tokens
//! and permissions (RELIABILITY §4.2) come in behind this function and nowhere else.

use std::sync::Arc;

use millstream_protocol::frame::Refusal;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// For logs: what the client calls itself. Not proof of anything.
    pub name: Arc<str>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Append.
    Produce,
    /// Fetch; work in a group; receive from a queue.
    Consume,
    /// Learn that it exists, and its state.
    Describe,
    /// Make a stream or a queue.
    Create,
    /// Forget records of a stream; move a group's offsets; change, purge, seek or pause a queue.
    Alter,
    /// Delete a stream, a group or a queue.
    Delete,
    /// Make, preview, flush, alter, audit or remove a lake; try its errors again.
    LakeManage,
}

/// On what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// The whole server: lists.
    Server,
    /// A stream, by name.
    Stream(&'a str),
    /// A lake, by name.
    Lake(&'a str),
    /// A consumer group, by name.
    Group(&'a str),
    /// A queue, by name.
    Queue(&'a str),
}

/// Whether `principal` may do `action` on `resource`.
pub(crate) fn authorize(principal: &Principal, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
    // Without principals the default is to allow; with the first one it becomes to deny.
    tracing::trace!(principal = %principal.name.escape_debug(), ?action, ?resource, "allowed");
    Ok(())
}
