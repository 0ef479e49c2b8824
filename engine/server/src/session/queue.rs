//! A queue stream: messages out, what is said of them in.
//!
//! ```text
//! OpenQueue ─► receiver of the queue ─► OpenQueueOk ─► reader: verbs, receives, window ─► the queue's thread
//!                                                      writer: ◄─ outbox ◄─ deliveries, results ◄─ the queue's thread
//! ```
//! - Which message comes to whom is the queue's to say (`millstream_broker::queue`); here it is only written. What waits to be
//!   written is bounded: the outbox says when it has no room, and the queue gives the receiver nothing meanwhile.
//! - Of a stored batch only the records that were delivered are sent, each run as a batch of its own (`outgoing`).
//! - A delivery that could not be written is released, uncounted. What was written stays the receiver's for the queue's grace.
//! - The bytes of a frame of verbs count against the budget until it is answered.

mod outbox;
mod outgoing;

use std::sync::Arc;
use std::time::Duration;

use millstream_broker::queue::{Act, Pulling, QueueHandle, QueueReceiver, Receipt, Receiving, Verb, VerbResult};
use millstream_protocol::Code;
use millstream_protocol::frame::control::Message;
use millstream_protocol::frame::delivery::Verb as Said;
use millstream_protocol::frame::delivery::{Receive, VerbRun, decode_verbs, decode_window};
use millstream_protocol::frame::queue::{QueueOpen, QueueOpened, QueueOrdering};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, Kind, Refusal};
use millstream_protocol::limits::{
    QUEUE_HELD_MAX, RECEIVE_BYTES_MAX, RECEIVE_MESSAGES_MAX, RECEIVE_WAIT_MS_MAX, VISIBILITY_MS_MAX,
};
use quinn::SendStream;
use tokio::task::JoinSet;

use super::Session;
use crate::authorize::{Action, Resource};
use crate::frame_io::{End, FrameReader, write_frame};
use crate::shared::{blocking, broker_refusal, retryable, shutting_down};
use outbox::{Out, Outbox};
use outgoing::Writer;

/// Receives of one stream that wait at once.
const RECEIVES_MAX: usize = 256;

/// Serves a queue stream to its end.
pub(crate) async fn run(
    session: &Arc<Session>,
    send: &mut SendStream,
    frames: &mut FrameReader,
    first: FrameHeader,
) -> Result<(), End> {
    let open = {
        let length = FRAME_HEADER_BYTES + first.body_len as usize;
        let _room = session.budget.reserve(length).await;
        session.shared.metrics.frame_bytes_in.add(length as u64);
        QueueOpen::decode(&frames.body(&first).await?)?
    };
    session.authorize(Action::Consume, Resource::Queue(&open.queue))?;
    let handle = session.shared.broker.queue(&open.queue).map_err(broker_refusal)?;
    let (outbox, outgoing) = Outbox::new(Arc::clone(&session.shared.budget));
    let (opened, receiver) = attach(session, &handle, open, &outbox).await?;
    session.expect_consume();
    write_frame(send, Kind::OpenQueueOk, first.correlation, &opened.encode()).await?;

    let receiver = Arc::new(receiver);
    let mut writer = Writer::new(session, &handle, &outbox, outgoing, Arc::clone(&receiver));
    let mut intake = Intake { session, handle: &handle, receiver: &receiver, outbox: &outbox, waits: JoinSet::new() };
    let ended = tokio::select! {
        ended = intake.run(frames) => ended,
        ended = writer.run(send) => ended,
        () = session.shared.stopping.cancelled() => Err(End::Refused(shutting_down())),
    };
    drop(intake);
    // From here on nothing is delivered, and what was not written goes back.
    drop(receiver);
    writer.leave();
    drop(outbox);
    match ended {
        // The client has finished its half, or the server stops: what it said before is answered.
        Ok(()) | Err(End::Refused(_)) => writer.answer_rest(send).await?,
        Err(_) => {}
    }
    ended
}

async fn attach(
    session: &Session,
    handle: &QueueHandle,
    open: QueueOpen,
    outbox: &Arc<Outbox>,
) -> Result<(QueueOpened, QueueReceiver), Refusal> {
    let held = open.held.as_ref().map_or(0, Vec::len);
    if held > QUEUE_HELD_MAX {
        let text = format!("a receiver came back with {held} messages: the limit is {QUEUE_HELD_MAX}");
        return Err(Refusal::new(Code::IllegalSetting, text));
    }
    let config = &handle.entry.config;
    let window = open.window.min(config.receiver_in_flight_max);
    let opened = QueueOpened {
        queue: handle.id().0,
        stream: session.shared.broker.queue_stream_name(&handle.entry),
        visibility_ms: open.visibility_ms.unwrap_or(config.visibility_ms),
        window,
        is_fifo: config.ordering != QueueOrdering::Unordered,
    };
    let receiving = Receiving {
        key: open.receiver,
        outlet: outbox.clone(),
        window,
        visibility_ms: open.visibility_ms,
        held: open.held.map(|held| held.iter().map(|held| (held.partition, held.fence)).collect()),
    };
    let handle = handle.clone();
    let receiver = blocking(move || handle.receive(receiving)).await?.map_err(broker_refusal)?;
    Ok((opened, receiver))
}

/// Takes what the client says.
struct Intake<'a> {
    session: &'a Session,
    handle: &'a QueueHandle,
    receiver: &'a Arc<QueueReceiver>,
    outbox: &'a Arc<Outbox>,
    /// The ends of receives' waits.
    waits: JoinSet<()>,
}

impl Intake<'_> {
    async fn run(&mut self, frames: &mut FrameReader) -> Result<(), End> {
        while let Some(header) = frames.header().await? {
            let length = FRAME_HEADER_BYTES + header.body_len as usize;
            let room = self.session.budget.reserve(length).await;
            let body = frames.body(&header).await?;
            self.session.shared.metrics.frame_bytes_in.add(length as u64);
            self.session.authorize(Action::Consume, Resource::Queue(&self.handle.entry.name))?;
            match header.kind {
                Kind::QueueVerbs => {
                    let verbs: Vec<Verb> = decode_verbs(&body)?.into_iter().flat_map(expand).collect();
                    self.session.shared.metrics.queue_verbs.add(verbs.len() as u64);
                    let (outbox, correlation) = (Arc::clone(self.outbox), header.correlation);
                    self.handle.say(verbs, move |results| {
                        drop(room);
                        let codes = results.iter().map(VerbResult::code).collect();
                        outbox.put(Out::Results { correlation, codes });
                    });
                }
                Kind::QueueWindow => self.receiver.set_window(decode_window(&body)?),
                Kind::Receive => self.receive(header.correlation, Receive::decode(&body)?)?,
                found => return Err(FrameError::Unexpected { found, expected: "verbs, a receive or a window" }.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self, correlation: u64, receive: Receive) -> Result<(), End> {
        check(&receive)?;
        while self.waits.try_join_next().is_some() {}
        if self.waits.len() >= RECEIVES_MAX {
            let text = format!("{RECEIVES_MAX} receives wait on this stream: wait for their answers");
            return Err(End::Refused(retryable(Code::Throttled, Duration::from_secs(1), text)));
        }
        if correlation == 0 || !self.outbox.expect_pull(correlation, receive.bytes_max) {
            let text = "a receive needs a correlation of its own, other than 0";
            return Err(End::Close(Refusal::new(Code::ProtocolViolation, text)));
        }
        self.receiver.pull(Pulling {
            number: correlation,
            most: receive.messages_max,
            visibility_ms: receive.visibility_ms,
            attempt: receive.attempt,
        });
        let receiver = Arc::clone(self.receiver);
        self.waits.spawn(async move {
            tokio::time::sleep(Duration::from_millis(receive.wait_ms)).await;
            receiver.end_pull(correlation);
        });
        Ok(())
    }
}

fn check(receive: &Receive) -> Result<(), Refusal> {
    let out_of_range = |what, value: u64, most: u64| {
        Refusal::new(Code::IllegalSetting, format!("a receive's {what} is {value}, legal is up to {most}: change it"))
    };
    let Receive { messages_max, bytes_max, wait_ms, visibility_ms, .. } = *receive;
    if messages_max == 0 || messages_max > RECEIVE_MESSAGES_MAX {
        return Err(out_of_range("number of messages", messages_max.into(), RECEIVE_MESSAGES_MAX.into()));
    }
    if bytes_max == 0 || bytes_max > RECEIVE_BYTES_MAX {
        return Err(out_of_range("bytes", bytes_max.into(), RECEIVE_BYTES_MAX.into()));
    }
    if wait_ms > RECEIVE_WAIT_MS_MAX {
        return Err(out_of_range("wait in milliseconds", wait_ms, RECEIVE_WAIT_MS_MAX));
    }
    if visibility_ms.is_some_and(|ms| ms > VISIBILITY_MS_MAX) {
        let refusal = out_of_range("visibility in milliseconds", visibility_ms.unwrap_or(0), VISIBILITY_MS_MAX);
        return Err(Refusal { code: Code::VisibilityOutOfRange, ..refusal });
    }
    Ok(())
}

/// What is said of each message of a run.
fn expand(run: VerbRun) -> impl Iterator<Item = Verb> {
    let VerbRun { first, count, verb } = run;
    (0..count).map(move |n| {
        let receipt = first.nth(n);
        let act = match &verb {
            Said::Ack => Act::Ack,
            Said::Nack { delay_ms, error } => Act::Nack { delay_ms: *delay_ms, error: error.clone() },
            Said::Release => Act::Release,
            Said::Extend { visibility_ms } => Act::Extend { visibility_ms: *visibility_ms },
            Said::Reject { error } => Act::Reject { error: error.clone() },
        };
        let (epoch, offset, redriven, fence) = (receipt.epoch, receipt.offset, receipt.redriven, receipt.fence);
        Verb {
            queue: receipt.queue,
            partition: receipt.partition,
            receipt: Receipt { epoch, offset, redriven, fence },
            act,
        }
    })
}
