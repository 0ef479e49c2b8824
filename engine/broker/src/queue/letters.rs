//! Dead letters as a queue reads them again: what each says of its message, the message as it was, and that retention leaves
//! those alone that are still needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_log::{LogError, Partition};
use millstream_protocol::batch::{
    BatchBuilder, BatchError, BatchHeader, BatchView, Codec, DEDUP_ID, HEADER_BYTES, Stamp, stamp,
};
use millstream_protocol::{Incarnation, Offset, ProducerId, QueueId, Record, Timestamp};

use super::event::Adopted;
use super::feed::Feed;
use super::ledger::Ledger;
use super::settings::Now;
use crate::stream::Stream;

/// How often it is looked which letters are still needed, in milliseconds.
const LOOKS_MS: u64 = 1_000;
/// Headers that the way to the dead letters has added begin so.
pub(super) const ADDED: &str = "ms-dl-";
/// A record's own dedup id, among the dead letters, where it means nothing.
pub(super) const DEAD_DEDUP_ID: &str = "ms-dl-dedup-id";

/// The server's own producer of a queue's dead letters, or of a redrive's copies, from one partition: both upper bits are set,
/// as in no id that a client is given.
pub(super) fn producer(number: u64, partition: u32) -> ProducerId {
    ProducerId(3 << 62 | (number & 0x3fff_ffff) << 32 | u64::from(partition))
}

/// A dead letter, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// The message's partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// How often it was redriven before.
    pub redriven: u16,
    /// When it was appended.
    pub appended: Timestamp,
    /// The record as it was.
    pub record: Record,
}

/// Whether a stored batch is one of a queue's letters. Only the server itself writes under such a producer: what others write
/// into a dead-letter stream is never taken for a letter, whatever its headers say.
pub(super) fn is_of(header: &BatchHeader, queue: QueueId) -> bool {
    let partition = header.producer_id.0 as u32;
    header.producer_id == producer(queue.0, partition)
}

/// Takes a letter apart; an error says what it lacks.
pub(super) fn open(mut record: Record) -> Result<Letter, &'static str> {
    let number = |name: &str| -> Option<u64> {
        let header = record.headers.iter().find(|header| header.name == name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()?.parse().ok()
    };
    let partition = number("ms-dl-partition").and_then(|partition| u32::try_from(partition).ok());
    let (offset, appended) = (number("ms-dl-offset"), number("ms-dl-appended"));
    let redriven = number("ms-dl-redriven").map_or(0, |redriven| u16::try_from(redriven).unwrap_or(u16::MAX));
    let partition = partition.ok_or("no ms-dl-partition")?;
    let offset = offset.ok_or("no ms-dl-offset")?;
    let appended = Timestamp(appended.and_then(|at| i64::try_from(at).ok()).unwrap_or(0));
    for header in &mut record.headers {
        if header.name == DEAD_DEDUP_ID {
            header.name = DEDUP_ID.into();
        }
    }
    record.headers.retain(|header| !header.name.starts_with(ADDED));
    Ok(Letter { partition, offset, redriven, appended, record })
}

/// A batch of one record, as if it were stored at `offset` of the partition.
pub(super) fn batch_at(letter: &Letter, offset: u64, partition: &Partition) -> Result<BatchView, BatchError> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push_own(&letter.record)?;
    let mut bytes = builder.finish()?.to_vec();
    let place = Stamp {
        base_offset: Offset(offset),
        append_time: letter.appended,
        epoch: partition.epoch(),
        synced_end: Offset(offset),
    };
    stamp(&mut bytes[..HEADER_BYTES], &place, partition.incarnation());
    BatchView::split_stored(&mut bytes.into(), partition.incarnation())
}

/// The letters that one partition of a queue needs.
pub(super) struct Letters {
    owner: String,
    dead: Option<Arc<Stream>>,
    feeds: BTreeMap<u64, Feed>,
    /// The first that is kept, by the dead-letter partition's incarnation.
    held: BTreeMap<u64, u64>,
    /// What is to be kept once that flush is durable.
    next: Option<(u64, BTreeMap<u64, u64>)>,
    looks_at_ms: u64,
}

impl Letters {
    /// Keeps what the ledger needs from the start on.
    pub fn new(queue: QueueId, partition: u32, dead: Option<Arc<Stream>>, ledger: &Ledger) -> Self {
        let owner = format!("queue {queue} partition {partition}");
        let (feeds, held) = (BTreeMap::new(), BTreeMap::new());
        let mut letters = Self { owner, dead, feeds, held, next: None, looks_at_ms: 0 };
        letters.keep(ledger.letters_needed());
        letters
    }

    fn partition(&self, incarnation: u64) -> Result<&Arc<Partition>, LogError> {
        self.dead.as_ref().ok_or(LogError::Deleted)?.by_incarnation(Incarnation(incarnation))
    }

    /// From now on this letter is kept, too.
    ///
    /// # Errors
    /// That of its partition, if that is not open.
    pub fn hold(&mut self, letter: Adopted) -> Result<(), LogError> {
        let maps = [Some(&mut self.held), self.next.as_mut().map(|(_, next)| next)];
        for held in maps.into_iter().flatten() {
            let first = held.entry(letter.incarnation).or_insert(letter.at);
            *first = letter.at.min(*first);
        }
        let first = self.held[&letter.incarnation];
        self.partition(letter.incarnation)?.set_hold(&self.owner, Some(Offset(first)));
        Ok(())
    }

    /// Lets go of what is not needed any more, once that is durable.
    pub fn let_go(&mut self, ledger: &Ledger, next_flush: u64, durable: u64, now: Now) {
        if self.held.is_empty() {
            return;
        }
        if self.next.as_ref().is_some_and(|(flush, _)| *flush <= durable)
            && let Some((_, needed)) = self.next.take()
        {
            self.keep(needed);
        }
        if self.next.is_none() && now.mono_ms >= self.looks_at_ms {
            self.looks_at_ms = now.mono_ms + LOOKS_MS;
            self.next = Some((next_flush, ledger.letters_needed()));
        }
    }

    /// The state was read back from the log: what was to be let go rests on events that may not be there.
    pub fn restart(&mut self) {
        self.next = None;
        self.forget();
    }

    /// When it next wants to look.
    pub fn wake_in_ms(&self, now: Now) -> Option<u64> {
        (!self.held.is_empty()).then(|| self.looks_at_ms.saturating_sub(now.mono_ms).max(1))
    }

    fn keep(&mut self, needed: BTreeMap<u64, u64>) {
        for incarnation in self.held.keys().chain(needed.keys()) {
            if let Ok(partition) = self.partition(*incarnation) {
                partition.set_hold(&self.owner, needed.get(incarnation).copied().map(Offset));
            }
        }
        self.held = needed;
    }

    /// Nothing is kept any more: the queue is gone.
    pub fn end(&mut self) {
        self.keep(BTreeMap::new());
    }

    /// Reads a letter again; `None` if it is not there any more.
    pub fn read(&mut self, letter: Adopted) -> Result<Option<Letter>, LogError> {
        let partition = self.partition(letter.incarnation)?.clone();
        let feed = self.feeds.entry(letter.incarnation).or_default();
        let found = match feed.record(&partition, letter.at) {
            Ok(found) => found,
            Err(LogError::OffsetOutOfRange { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(found.and_then(|(_, record)| open(record).ok()))
    }

    /// Forgets what it has read.
    pub fn forget(&mut self) {
        self.feeds.clear();
    }
}
