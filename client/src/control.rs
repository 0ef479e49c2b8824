//! The control stream: requests out, answers in, in any order, told apart by correlation ids.
//!
//! Two tasks own the stream's halves, so that a caller who gives up never leaves half a frame behind. At most
//! [`REQUESTS_IN_FLIGHT_MAX`] requests wait for an answer; the next one waits for room. Heartbeats of groups wait long and
//! cost nothing meanwhile: they are counted apart, so that members by the hundred leave the other requests their room.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millstream_protocol::Code;
use millstream_protocol::frame::control::{Message, Request, Response};
use millstream_protocol::frame::{FrameHeader, Kind, Refusal};
use millstream_protocol::limits::CONTROL_BYTES_MAX;
use parking_lot::Mutex;
use quinn::{SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::frame_io::{FrameReader, StreamError, encode_frame};

/// What a server works on at once for one connection.
const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Heartbeats that a server lets wait at once on one connection.
const HEARTBEATS_IN_FLIGHT_MAX: usize = 1_024;

/// The sending side of a connection's control stream.
pub(crate) struct Control {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    heartbeats: Arc<Semaphore>,
    next_correlation: AtomicU64,
    frames: mpsc::Sender<Bytes>,
}

/// A request's turn goes back when its answer comes, even if nobody waits for it any more.
struct Waiting {
    answer: oneshot::Sender<Result<Response>>,
    _turn: OwnedSemaphorePermit,
}

struct Shared {
    /// `None` once the stream has ended: nothing is accepted any more.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
    connection: quinn::Connection,
}

impl Control {
    /// Takes over a stream whose hello has been answered.
    pub fn start(connection: quinn::Connection, send: SendStream, reader: FrameReader) -> Self {
        let (frames, outgoing) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX + HEARTBEATS_IN_FLIGHT_MAX);
        let shared = Arc::new(Shared { waiting: Mutex::new(Some(HashMap::new())), connection });
        tokio::spawn(write(send, outgoing));
        tokio::spawn(read(reader, Arc::clone(&shared)));
        Self {
            shared,
            turns: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
            heartbeats: Arc::new(Semaphore::new(HEARTBEATS_IN_FLIGHT_MAX)),
            next_correlation: AtomicU64::new(1),
            frames,
        }
    }

    /// Whether requests can still be sent.
    pub fn is_open(&self) -> bool {
        self.shared.waiting.lock().is_some()
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, request: &Request) -> Result<Response> {
        let body = request.encode();
        if body.len() > CONTROL_BYTES_MAX {
            let text =
                format!("a request of {} bytes is above the limit of {CONTROL_BYTES_MAX}: shorten it", body.len());
            return Err(Error::local(Code::IllegalSetting, text));
        }
        let turns = if matches!(request, Request::HeartbeatGroup(_)) { &self.heartbeats } else { &self.turns };
        let turn = Arc::clone(turns).acquire_owned().await.expect("the semaphore is never closed");
        let correlation = self.next_correlation.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match &mut *self.shared.waiting.lock() {
            Some(waiting) => waiting.insert(correlation, Waiting { answer, _turn: turn }),
            None => return Err(gone()),
        };
        // There is room for as many frames as there are turns; an error means that the writer has ended, and
        // then the reader ends too and answers.
        let _ = self.frames.try_send(encode_frame(Kind::Request, correlation, &body));
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::lost("the connection was lost before the answer came: the outcome is unknown", "the control stream ended")
}

async fn write(mut send: SendStream, mut outgoing: mpsc::Receiver<Bytes>) {
    while let Some(frame) = outgoing.recv().await {
        if send.write_chunk(frame).await.is_err() {
            return;
        }
    }
    // The last handle of the connection is gone; an error only says that so is the peer.
    let _ = send.finish();
}

async fn read(mut reader: FrameReader, shared: Arc<Shared>) {
    let ended = loop {
        match reader.frame().await {
            Ok(Some((header, body))) => {
                if let Err(end) = shared.take(&header, &body) {
                    break end;
                }
            }
            Ok(None) => break Error::lost("the server ended the control stream", StreamError::Cut),
            Err(error) => break error.into(),
        }
    };
    if ended.code() == Code::ProtocolViolation {
        let code = VarInt::from_u32(u32::from(Code::ProtocolViolation.number()));
        shared.connection.close(code, ended.to_string().as_bytes());
    }
    for (_, waiting) in shared.waiting.lock().take().into_iter().flatten() {
        // Whoever does not wait any more does not want to know.
        let _ = waiting.answer.send(Err(ended.clone()));
    }
}

impl Shared {
    /// Hands an answer to who waits for it; an error ends the stream.
    fn take(&self, header: &FrameHeader, body: &Bytes) -> Result<()> {
        let answer = match header.kind {
            Kind::Response => Ok(Response::decode(body)?),
            Kind::Error => Err(Error::from(Refusal::decode(body)?)),
            _ => header.expect(Kind::Response, "an answer").map(|()| Ok(Response::Done))?,
        };
        match (self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&header.correlation)), answer) {
            (Some(waiting), answer) => {
                let _ = waiting.answer.send(answer);
                Ok(())
            }
            // Of the connection as a whole: it says goodbye. What waits was not answered.
            (None, Err(goodbye)) if header.correlation == 0 => {
                Err(Error::lost(format!("the server ended the connection: {goodbye}"), goodbye))
            }
            (None, _) => {
                Err(Error::protocol(format_args!("an answer to request {}, which nobody made", header.correlation)))
            }
        }
    }
}
