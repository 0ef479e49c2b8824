//! What comes next on a consume stream: a chunk of one partition, or an event.
//!
//! Partitions that may have data stand in a queue and are read in turn; those that are caught up wait for their
//! log to change, each with one listener that is made anew only after it has fired. So a wake-up costs what changed,
//! not how many partitions there are.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use millstream_broker::Stream;
use millstream_log::{Chunk, LogError, Partition};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::consume::BatchesPrefix;
use millstream_protocol::frame::control::ConsumeEvent;
use millstream_protocol::limits::BATCH_BYTES_MAX;
use millstream_protocol::{Code, Offset};

use super::start::{failed, gap};
use crate::budget::Reservation;
use crate::shared::{Shared, blocking, log_refusal};

/// The smallest read, however short memory is.
const READ_BYTES_MIN: usize = 64 << 10;

/// One partition's place in a delivery.
pub(super) struct Cursor {
    pub partition: Arc<Partition>,
    /// The next offset to read.
    pub next: Offset,
    /// Where a bounded delivery ends.
    pub end: Option<Offset>,
    /// What the last read took, if that was more than a usual one: large batches come in rows.
    pub read_size: usize,
}

/// What is delivered next.
pub(super) enum Item {
    Event(ConsumeEvent),
    Piece(Piece),
}

/// Batches of one partition.
pub(super) struct Piece {
    pub prefix: BatchesPrefix,
    pub batches: Bytes,
    /// Offsets covered.
    pub records: u64,
    pub room: Reservation,
}

type Waiting = Pin<Box<dyn Future<Output = Cursor> + Send>>;

/// The partitions of one consume stream.
pub(super) struct Delivery<'a> {
    shared: &'a Shared,
    stream: Arc<Stream>,
    events: VecDeque<ConsumeEvent>,
    /// May have data.
    ready: VecDeque<Cursor>,
    /// Caught up; each yields its cursor when its log has changed.
    waiting: FuturesUnordered<Waiting>,
}

impl<'a> Delivery<'a> {
    pub fn new(stream: Arc<Stream>, cursors: Vec<Cursor>, events: Vec<ConsumeEvent>, shared: &'a Shared) -> Self {
        Self { shared, stream, events: events.into(), ready: cursors.into(), waiting: FuturesUnordered::new() }
    }

    /// The next chunk or event; waits for one. `None` once every partition has ended.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Item::Event(event));
            }
            // What has changed meanwhile joins the queue behind those that are waiting for their turn.
            while let Some(Some(cursor)) = self.waiting.next().now_or_never() {
                self.ready.push_back(cursor);
            }
            let cursor = match self.ready.pop_front() {
                Some(cursor) => cursor,
                None => self.waiting.next().await?,
            };
            if let Some(piece) = self.turn(cursor).await {
                return Some(Item::Piece(piece));
            }
        }
    }

    /// One partition's turn: reads from it, or ends it, or lets it wait. Events go into the queue.
    async fn turn(&mut self, mut cursor: Cursor) -> Option<Piece> {
        let id = cursor.partition.id();
        if self.stream.is_deleted() {
            self.events.push_back(failed(id.0, &log_refusal(&LogError::Deleted)));
            return None;
        }
        if let Some(end) = cursor.end
            && cursor.next >= end
        {
            self.events.push_back(ConsumeEvent::End { partition: id.0, offset: end.0 });
            return None;
        }
        if cursor.next == cursor.partition.high_watermark() {
            // Listen, look again, then wait: what comes in between is not missed.
            let listener = cursor.partition.listen();
            if cursor.next == cursor.partition.high_watermark() && !self.stream.is_deleted() {
                self.waiting.push(Box::pin(async move {
                    listener.await;
                    cursor
                }));
                return None;
            }
        }
        match read(&mut cursor, self.shared).await {
            Ok((chunk, room)) => {
                let records = cursor.next.records_until(chunk.next);
                let prefix =
                    BatchesPrefix { partition: id, high_watermark: chunk.high_watermark, log_start: chunk.log_start };
                cursor.next = chunk.next;
                self.ready.push_back(cursor);
                Some(Piece { prefix, batches: chunk.bytes, records, room })
            }
            Err(refused) => {
                self.missing(cursor, refused);
                None
            }
        }
    }

    /// Nothing could be read at the cursor: says so, and goes on behind the gap if there is an end to it.
    fn missing(&mut self, mut cursor: Cursor, refused: Unreadable) {
        let id = cursor.partition.id().0;
        let refusal = refused.refusal();
        let (resume, text) = match &refused {
            Unreadable::Log(LogError::OffsetOutOfRange { log_start, .. }) => {
                (*log_start, "retention overtook this reader: consume faster, or keep records longer")
            }
            Unreadable::Log(LogError::RecordsLost { resume, .. }) => (*resume, "stored records are damaged"),
            _ => return self.events.push_back(failed(id, &refusal)),
        };
        if resume <= cursor.next {
            return self.events.push_back(failed(id, &refusal));
        }
        let text = format!("{text}: records {}..{resume} of partition {id} are missing ({refusal})", cursor.next);
        self.events.push_back(gap(id, cursor.next, resume, refusal.code, text));
        cursor.next = resume;
        self.ready.push_back(cursor);
    }
}

/// Why a read gave nothing.
enum Unreadable {
    Log(LogError),
    Bug(Refusal),
}

impl Unreadable {
    fn refusal(&self) -> Refusal {
        match self {
            Unreadable::Log(error) => log_refusal(error),
            Unreadable::Bug(refusal) => refusal.clone(),
        }
    }
}

/// Reads a chunk under a reservation of its size.
async fn read(cursor: &mut Cursor, shared: &Shared) -> Result<(Chunk, Reservation), Unreadable> {
    let usual = shared.budget.outgoing_size(shared.config.read_size.as_usize(), READ_BYTES_MIN);
    let mut size = usual.max(cursor.read_size);
    if let Some(chunk) = cursor.partition.read_recent(cursor.next, usual) {
        // What it has is small, and in memory already.
        let room = shared.budget.reserve_outgoing(chunk.bytes.len()).await;
        return Ok((chunk, room));
    }
    loop {
        let mut room = shared.budget.reserve_outgoing(size).await;
        let (partition, from) = (Arc::clone(&cursor.partition), cursor.next);
        let chunk =
            blocking(move || partition.read(from, size)).await.map_err(Unreadable::Bug)?.map_err(Unreadable::Log)?;
        let length = chunk.bytes.len();
        if length == 0 || length > BATCH_BYTES_MAX {
            let text = format!("a read at {from} gave {length} bytes: a bug in the server");
            return Err(Unreadable::Bug(Refusal::new(Code::Internal, text)));
        }
        cursor.read_size = if length > usual { length } else { 0 };
        if length <= room.bytes() {
            room.shrink_to(length);
            return Ok((chunk, room));
        }
        // One batch larger than a usual read: given up, and read again once there is room for all of it.
        size = length;
        drop((chunk, room));
    }
}
