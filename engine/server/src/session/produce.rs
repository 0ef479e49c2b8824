//! A produce stream: batches in, acks out.
//!
//! ```text
//! reader: header ─► depth ─► reservation ─► body ─► route ─► gate ─► checks ─► partition.append ─► lane
//! writer: ◄─ one ProduceAcks frame for all that waits ◄─ ready ◄─ `Acks::complete`, on the lane's thread
//! ```
//! - A batch counts against the granted depth until its ack is written: a client that does not read its acks
//!   cannot make them pile up.
//! - Its bytes count against the budget until its result is known.
//! - Acks come in order per partition: a batch refused here waits for what is in hand before it (`deferred`).
//! - After a failed batch the partition's later ones are refused until one comes with the resume flag, so that what
//!   was pipelined behind a failure is not stored ahead of it (the *gate*).
//!
//! - Whether a batch was stored before, and which of its records have dedup ids that are known, is the lane's to say, which has
//!   them in order; here a flagged batch is only read for its ids.
//!
//! The epoch that a client names is not compared: there is one owner, and reaching this server is reaching it.
//! Not here: writing and syncing (the log's lanes), batching (the client).

mod acks;
mod check;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_broker::Stream;
use millstream_log::{AppendSink, NewBatch, Partition};
use millstream_protocol::frame::produce::{OpenProduce, PRODUCE_PREFIX_BYTES, ProducePrefix};
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::limits::PRODUCE_DEPTH_MAX;
use millstream_protocol::{Code, PartitionId, StreamId};
use quinn::SendStream;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use crate::authorize::{Action, Resource};
use crate::frame_io::{End, FrameReader, write_frame};
use crate::shared::{blocking, broker_refusal, log_refusal, shutting_down};
use acks::{Acks, InHand, Lane};

/// Serves a produce stream to its end. Gives its sending half back while there is somebody to tell how it ended.
pub(crate) async fn run(
    session: &Arc<Session>,
    mut send: SendStream,
    frames: &mut FrameReader,
    first: FrameHeader,
) -> (Option<SendStream>, Result<(), End>) {
    let depth = match open(session, &mut send, frames, first).await {
        Ok(depth) => depth,
        Err(end) => return (Some(send), Err(end)),
    };
    let acks = Acks::new(depth, Arc::clone(&session.shared.metrics));
    let mut writer = AbortOnDropHandle::new(tokio::spawn(acks::write(send, Arc::clone(&acks))));
    let sink: Arc<dyn AppendSink> = Arc::clone(&acks) as Arc<dyn AppendSink>;
    let mut intake = Intake { session, routes: HashMap::new(), acks: &acks, sink };
    let result = tokio::select! {
        result = intake.run(frames) => result,
        () = session.shared.stopping.cancelled() => Err(End::Refused(shutting_down())),
        // It ends by itself only when the client takes no more acks, or by a bug.
        ended = &mut writer => return (given_back(ended), Err(End::Gone)),
    };
    if matches!(result, Err(End::Close(_) | End::Gone)) {
        return (None, result);
    }
    // What is in hand is answered before the stream ends.
    acks.close();
    (given_back(writer.await), result)
}

/// What the writer had of the stream. Its panic is the session's.
fn given_back(ended: Result<Option<SendStream>, JoinError>) -> Option<SendStream> {
    match ended {
        Ok(send) => send,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

async fn open(
    session: &Session,
    send: &mut SendStream,
    frames: &mut FrameReader,
    first: FrameHeader,
) -> Result<u32, End> {
    let asked = OpenProduce::decode(&frames.body(&first).await?)?;
    let depth = asked.depth.clamp(1, PRODUCE_DEPTH_MAX);
    session.expect_produce();
    write_frame(send, Kind::OpenProduceOk, first.correlation, &OpenProduce { depth }.encode()).await?;
    Ok(depth)
}

/// Where a partition's batches go. Known partitions only, so there are at most as many as exist.
#[derive(Clone)]
struct Route {
    stream: Arc<Stream>,
    partition: Arc<Partition>,
    lane: Lane,
}

/// A batch as it came, and its checksum as far as it could be computed on the way.
struct Came {
    bytes: Bytes,
    crc: Option<u32>,
}

struct Intake<'a> {
    session: &'a Session,
    routes: HashMap<(StreamId, PartitionId), Route>,
    acks: &'a Arc<Acks>,
    sink: Arc<dyn AppendSink>,
}

impl Intake<'_> {
    async fn run(&mut self, frames: &mut FrameReader) -> Result<(), End> {
        while let Some(header) = frames.header().await? {
            header.expect(Kind::Produce, "a batch")?;
            self.acks.take_turn().await;
            let length = FRAME_HEADER_BYTES + header.body_len as usize;
            let room = self.session.budget.reserve(length).await;
            let (body, crc) = frames.body_hashed(&header, PRODUCE_PREFIX_BYTES).await?;
            let prefix = ProducePrefix::decode(&body)?;
            self.session.shared.metrics.frame_bytes_in.add(length as u64);
            let in_hand =
                InHand { correlation: header.correlation, started: Instant::now(), _room: room, records: 0, bytes: 0 };
            let batch = Came { bytes: body.slice(PRODUCE_PREFIX_BYTES..), crc };
            self.take(header, prefix, batch, in_hand).await;
        }
        Ok(())
    }

    /// Hands one batch to its lane, or says why not. Either way there will be an ack.
    async fn take(&mut self, header: FrameHeader, prefix: ProducePrefix, batch: Came, mut in_hand: InHand) {
        let (session, acks) = (self.session, self.acks);
        let route = match self.route(prefix) {
            Ok(route) => route,
            Err(refusal) => return acks.refuse_unrouted(in_hand, refusal),
        };
        if header.flags & FLAG_RESUME != 0 {
            acks.resume(route.lane);
        }
        let checked = if acks.is_gated(route.lane) {
            Err(Refusal::new(
                Code::Throttled,
                "an earlier batch of this partition was refused: send it again, with the resume flag, before this one",
            ))
        } else {
            accept(session, &route, &batch, header.flags & FLAG_RESEND != 0).await
        };
        match checked {
            Err(refusal) => acks.refuse(route.lane, in_hand, refusal),
            Ok(accepted) => {
                (in_hand.records, in_hand.bytes) = (accepted.view.header().record_count, batch.bytes.len());
                let token = acks.begin(route.lane, in_hand);
                if let Err(error) = route.partition.append(accepted, token, &self.sink) {
                    acks.fail(token, log_refusal(&error));
                }
            }
        }
    }

    /// The known route, or a new one.
    fn route(&mut self, prefix: ProducePrefix) -> Result<Route, Refusal> {
        let key = (prefix.stream, prefix.partition);
        match self.routes.get(&key) {
            Some(route) if !route.stream.is_deleted() => return Ok(route.clone()),
            _ => self.routes.remove(&key),
        };
        let stream = self.session.shared.broker.stream_by_id(prefix.stream).map_err(broker_refusal)?;
        let partition = Arc::clone(stream.partition(prefix.partition).map_err(broker_refusal)?);
        let route = Route { stream, partition, lane: self.acks.add_lane() };
        self.routes.insert(key, route.clone());
        Ok(route)
    }
}

/// Whether a batch may be stored: by whom, whole, unstamped, its records within the stream's limits and with the keys and
/// headers they need.
async fn accept(session: &Session, route: &Route, batch: &Came, resend: bool) -> Result<NewBatch, Refusal> {
    session.authorize(Action::Produce, Resource::Stream(&route.stream.name))?;
    let now = session.shared.now();
    let view = check::parse(&batch.bytes, batch.crc, now)?;
    let mut dedup = None;
    if check::must_read(&view, &route.stream.config) {
        let turn = session.budget.server().decode_turn().await;
        let (decoded, stream) = (view.clone(), Arc::clone(&route.stream));
        dedup = blocking(move || {
            let _turn = turn;
            check::records(&decoded, &stream.config, now)
        })
        .await??;
    }
    Ok(NewBatch { view, resend, dedup })
}
