//! Sessions: one file per kind of QUIC stream. Each takes its stream's frames and answers on the same stream.
//!
//! All of them watch `shared.stopping`: when it comes they take nothing more, answer what is in hand, and end
//! with `ShuttingDown`.

pub(crate) mod consume;
pub(crate) mod control;
pub(crate) mod produce;
pub(crate) mod queue;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_protocol::Code;
use millstream_protocol::frame::Refusal;
use quinn::SendStream;

use crate::authorize::{self, Action, Principal, Resource};
use crate::budget::{Budget, ConnectionBudget};
use crate::frame_io::End;
use crate::quic::transport::Windows;
use crate::shared::{Shared, retryable};

/// How long a receiver may leave what was sent to it untaken while others wait for its memory.
const STALL_MAX: Duration = Duration::from_secs(30);

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

/// Writes chunks uncopied; a peer that takes nothing of them while others wait for memory is refused.
pub(crate) async fn patient_write(send: &mut SendStream, chunks: &mut [Bytes], budget: &Budget) -> Result<(), End> {
    let write = send.write_all_chunks(chunks);
    tokio::pin!(write);
    loop {
        match tokio::time::timeout(STALL_MAX, &mut write).await {
            Ok(written) => return Ok(written?),
            Err(_) if budget.outgoing_is_short() => {
                let text =
                    "this consumer took nothing for 30 s while others waited for memory: consume faster, or reopen";
                return Err(End::Refused(retryable(Code::Throttled, Duration::from_secs(1), text)));
            }
            Err(_) => {}
        }
    }
}
