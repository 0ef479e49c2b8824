//! A consume stream: batches as stored, pushed as fast as the receiver takes them.
//!
//! ```text
//! OpenConsume ─► start of each partition ─► OpenConsumeOk ─► delivery: next chunk is read while this one is written
//!                                                            `delivery` reads on blocking threads, round robin
//! ```
//! What is missing is said, never skipped: a start below the log start, retention overtaking the reader and
//! damage are `Gap` events; a log that lost its tail since, and a deleted stream, are `Failed`.
//! A chunk counts against the budget until quinn has taken it; from then on it counts against the send window.
//! Not here: where a batch lies (the log), skipping to a position within a batch (the client).

mod delivery;
mod start;

use bytes::{Bytes, BytesMut};
use millstream_protocol::StreamId;
use millstream_protocol::frame::consume::{BATCHES_PREFIX_BYTES, BatchesPrefix};
use millstream_protocol::frame::control::{ConsumeEvent, ConsumeOpen, ConsumeOpened, Message};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, Kind};
use quinn::SendStream;

use super::{Session, patient_write};
use crate::authorize::{Action, Resource};
use crate::budget::Budget;
use crate::frame_io::{End, FrameReader, write_frame};
use crate::shared::{Shared, broker_refusal, shutting_down};
use delivery::{Delivery, Item, Piece};

/// Serves a consume stream to its end.
pub(crate) async fn run(
    session: &Session,
    send: &mut SendStream,
    frames: &mut FrameReader,
    first: FrameHeader,
) -> Result<(), End> {
    let length = FRAME_HEADER_BYTES + first.body_len as usize;
    let open = {
        let _room = session.budget.reserve(length).await;
        ConsumeOpen::decode(&frames.body(&first).await?)?
    };
    let shared = &session.shared;
    shared.metrics.frame_bytes_in.add(length as u64);
    let stream = shared.broker.stream_by_id(StreamId(open.stream)).map_err(broker_refusal)?;
    session.authorize(Action::Consume, Resource::Stream(&stream.name))?;
    let started = start::resolve(&stream, &open).await?;
    session.expect_consume();
    let opened = ConsumeOpened { positions: started.positions };
    write_frame(send, Kind::OpenConsumeOk, first.correlation, &opened.encode()).await?;

    let mut delivery = Delivery::new(stream, started.cursors, started.events, shared);
    let stopped = send.stopped();
    tokio::select! {
        result = deliver(&mut delivery, send, first.correlation, shared) => result,
        () = shared.stopping.cancelled() => Err(End::Refused(shutting_down())),
        // The client has dropped its consumer, or is gone.
        _ = stopped => Err(End::Gone),
        end = nothing_more(frames) => Err(end),
    }
}

/// A client sends nothing after its opening; only the end of its half.
async fn nothing_more(frames: &mut FrameReader) -> End {
    match frames.header().await {
        Ok(None) => std::future::pending().await,
        Ok(Some(header)) => FrameError::Unexpected { found: header.kind, expected: "nothing" }.into(),
        Err(end) => end,
    }
}

async fn deliver(
    delivery: &mut Delivery<'_>,
    send: &mut SendStream,
    correlation: u64,
    shared: &Shared,
) -> Result<(), End> {
    let mut next = delivery.next().await;
    while let Some(item) = next {
        // The next chunk is read while this one is written: disk and network overlap, one chunk ahead.
        let (written, following) = tokio::join!(write(item, send, correlation, shared), delivery.next());
        written?;
        next = following;
    }
    Ok(())
}

async fn write(item: Item, send: &mut SendStream, correlation: u64, shared: &Shared) -> Result<(), End> {
    match item {
        Item::Event(event) => {
            if let ConsumeEvent::Gap { .. } = event {
                shared.metrics.gaps.add(1);
            }
            write_frame(send, Kind::ConsumeEvent, correlation, &event.encode()).await
        }
        Item::Piece(piece) => {
            let (length, records) = (piece.batches.len() as u64, piece.records);
            write_piece(piece, send, correlation, &shared.budget).await?;
            shared.metrics.bytes_delivered.add(length);
            shared.metrics.offsets_delivered.add(records);
            Ok(())
        }
    }
}

/// Writes the header and prefix as one small chunk, then the batches as they were read, uncopied.
async fn write_piece(piece: Piece, send: &mut SendStream, correlation: u64, budget: &Budget) -> Result<(), End> {
    let Piece { prefix, batches, room, .. } = piece;
    let mut chunks = [head(&prefix, correlation, batches.len()), batches];
    patient_write(send, &mut chunks, budget).await?;
    drop(room);
    Ok(())
}

fn head(prefix: &BatchesPrefix, correlation: u64, batches: usize) -> Bytes {
    let header = FrameHeader::new(Kind::Batches, correlation, BATCHES_PREFIX_BYTES + batches);
    let mut head = BytesMut::with_capacity(FRAME_HEADER_BYTES + BATCHES_PREFIX_BYTES);
    head.extend_from_slice(&header.encode());
    head.extend_from_slice(&prefix.encode());
    head.freeze()
}
