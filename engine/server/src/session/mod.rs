//! Sessions: one file per kind of QUIC stream. Each takes its stream's frames and answers on the same stream.
//!
//! All of them watch `shared.stopping`: when it comes they take nothing more, answer what is in hand, and end
//! with `ShuttingDown`.

pub(crate) mod consume;
pub(crate) mod control;
pub(crate) mod produce;

use std::sync::Arc;

use millstream_protocol::frame::Refusal;

use crate::authorize::{self, Action, Principal, Resource};
use crate::budget::ConnectionBudget;
use crate::quic::transport::Windows;
use crate::shared::Shared;

/// What the streams of one connection share.
pub(crate) struct Session {
    pub principal: Principal,
    pub budget: ConnectionBudget,
    pub windows: Windows,
    pub connection: quinn::Connection,
    pub shared: Arc<Shared>,
}

impl Session {
    /// Whether this connection's principal may do that. Called on every request.
    pub fn authorize(&self, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
        authorize::authorize(&self.principal, action, resource)
    }

    /// Lets the peer send further ahead, if memory allows.
    pub fn expect_produce(&self) {
        self.windows.grow_receive(&self.connection, self.budget.server(), &self.shared.config);
    }

    /// Keeps more under way to the peer, if memory allows.
    pub fn expect_consume(&self) {
        self.windows.grow_send(&self.connection, self.budget.server(), &self.shared.config);
    }
}
