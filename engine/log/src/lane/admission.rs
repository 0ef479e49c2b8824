//! Whether a batch may be stored: what the partition's tables, and the batches staged before it in the same pass, say of its
//! producer and its dedup ids.
//!
//! The order of the questions: is it stored already (by its sequence)? Are all its records (by their dedup ids)? Does its
//! sequence follow? Is any of its records known? Is there room for its ids?
//!
//! What is staged is not durable yet. It counts for the batches behind it, in an [`Overlay`] of its group, and becomes part
//! of the tables when the group has; if the group fails it is dropped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use millstream_protocol::ProducerId;
use millstream_protocol::batch::BatchHeader;
use millstream_protocol::frame::produce::Duplicate;
use millstream_protocol::limits::DEDUP_IDS_MAX;

use super::Appended;
use crate::dedup::{DedupKey, First};
use crate::error::LogError;
use crate::new_batch::NewBatch;
use crate::producers::Standing;
use crate::segment::BatchPlace;
use crate::tables::{Identified, Passed, Stand, Tables};

/// What staged batches change.
#[derive(Default)]
pub(crate) struct Overlay {
    /// Where the first producer stands: mostly there is no other.
    first: Option<(ProducerId, Stand)>,
    others: HashMap<ProducerId, Stand>,
    ids: HashMap<DedupKey, First>,
    identified: Vec<Identified>,
    passed: Vec<Passed>,
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is stored.
    Store,
    /// It was stored before, here.
    Stored(Appended),
    /// It is staged.
    Staged(Appended),
    /// All of its records were stored before, or are staged.
    Known { duplicates: Arc<[Duplicate]>, staged: bool, passed: Option<Passed> },
    /// It is refused.
    Refused(LogError),
}

impl Overlay {
    /// A batch is staged that lies there.
    pub(super) fn stage(&mut self, place: &BatchPlace, keys: Option<Arc<[Option<DedupKey>]>>) {
        if let Some(batch) = place.sequenced() {
            let known = Some(Standing { epoch: batch.epoch, next: batch.next() });
            self.set(batch.producer, Stand { known, passed: None });
        }
        if let Some(keys) = keys {
            for (index, key) in keys.iter().enumerate() {
                if let (Some(key), Some(offset)) = (key, place.offset.checked_plus(index as u64)) {
                    self.ids.insert(*key, First { offset, append_time: place.append_time });
                }
            }
            self.identified.push((keys, place.offset, place.append_time));
        }
    }

    /// A batch is passed over.
    pub(super) fn pass_over(&mut self, passed: Passed, tables: &Tables) {
        let stand = Stand { passed: Some(passed.next), ..self.stand(passed.producer, tables) };
        self.set(passed.producer, stand);
        self.passed.push(passed);
    }

    /// The group is durable: it becomes a part of the tables.
    pub(crate) fn settle(&self, tables: &mut Tables, places: &[BatchPlace], end: millstream_protocol::Offset) {
        tables.note(places.iter().filter_map(BatchPlace::sequenced), &self.identified, end);
        self.drop_staged(tables);
    }

    /// The group failed: what was passed over because of records stored before stays so.
    pub(crate) fn drop_staged(&self, tables: &mut Tables) {
        self.passed.iter().for_each(|passed| tables.pass_over(passed));
    }

    /// Whether [`drop_staged`](Self::drop_staged) has anything to do.
    pub(crate) fn has_passed(&self) -> bool {
        !self.passed.is_empty()
    }

    fn stand(&self, id: ProducerId, tables: &Tables) -> Stand {
        match &self.first {
            Some((first, stand)) if *first == id => return *stand,
            _ => {}
        }
        match self.others.is_empty() {
            true => None,
            false => self.others.get(&id).copied(),
        }
        .unwrap_or_else(|| tables.stand(id))
    }

    fn set(&mut self, id: ProducerId, stand: Stand) {
        match &mut self.first {
            Some((first, known)) if *first == id => *known = stand,
            None => self.first = Some((id, stand)),
            Some(_) => drop(self.others.insert(id, stand)),
        }
    }
}

/// Says what is to be done with a batch of a producer, or with dedup ids. `staged` is its partition's group, if there is one.
pub(super) fn admit(batch: &NewBatch, tables: &Tables, staged: Option<(&Overlay, &[BatchPlace])>) -> Admission {
    let header = batch.view.header();
    let none = Overlay::default;
    let empty;
    let (overlay, places) = match staged {
        Some(staged) => staged,
        None => {
            empty = none();
            (&empty, &[][..])
        }
    };
    let stand = match header.producer_id {
        ProducerId(0) => Stand::default(),
        id => overlay.stand(id, tables),
    };
    let sequence = judge(header, batch.resend, stand, tables, places);
    if let Sequence::Fenced = sequence {
        return Admission::Refused(fenced(header));
    }
    if let Sequence::Stored(appended) = sequence {
        return Admission::Stored(appended);
    }
    if let Sequence::Staged(appended) = sequence {
        return Admission::Staged(appended);
    }
    let ids = batch.dedup.as_deref().map(|keys| look_up(keys, tables, overlay));
    if let Some(ids) = &ids
        && ids.is_all
    {
        let fits = header.producer_id.0 != 0 && stand.fits(header.base_sequence);
        let passed = fits.then(|| Passed {
            producer: header.producer_id,
            base_sequence: header.base_sequence,
            next: header.base_sequence.saturating_add(u64::from(header.last_offset_delta) + 1),
        });
        return Admission::Known { duplicates: ids.known.as_slice().into(), staged: ids.is_staged, passed };
    }
    match sequence {
        Sequence::OutOfOrder { expected } => {
            let (producer, found) = (header.producer_id, header.base_sequence);
            return Admission::Refused(LogError::OutOfOrderSequence { producer, expected, found });
        }
        Sequence::Unknown => {
            let (producer, sequence) = (header.producer_id, header.base_sequence);
            return Admission::Refused(LogError::UnknownProducer { producer, sequence });
        }
        Sequence::Fits | Sequence::Fenced | Sequence::Stored(_) | Sequence::Staged(_) => {}
    }
    let Some(ids) = ids else { return Admission::Store };
    if !ids.known.is_empty() {
        return Admission::Refused(LogError::Duplicates(ids.known.into()));
    }
    if let Some(index) = ids.twin {
        return Admission::Refused(LogError::TwinDedupId { index });
    }
    if tables.dedup.len() + overlay.ids.len() + ids.new > DEDUP_IDS_MAX {
        return Admission::Refused(LogError::DedupWindowFull);
    }
    Admission::Store
}

/// A batch whose producer has a newer epoch.
pub(super) fn fenced(header: &BatchHeader) -> LogError {
    LogError::ProducerFenced { producer: header.producer_id, epoch: header.producer_epoch }
}

/// What a batch's sequence says of it.
enum Sequence {
    Fits,
    Stored(Appended),
    Staged(Appended),
    Fenced,
    OutOfOrder { expected: u64 },
    Unknown,
}

fn judge(header: &BatchHeader, resend: bool, stand: Stand, tables: &Tables, places: &[BatchPlace]) -> Sequence {
    let (id, base) = (header.producer_id, header.base_sequence);
    if id.0 == 0 {
        return Sequence::Fits;
    }
    let Some(known) = stand.known else {
        return match base {
            _ if stand.passed == Some(base) => Sequence::Fits,
            0 if !(resend && tables.producers.may_have_forgotten(id)) => Sequence::Fits,
            _ => Sequence::Unknown,
        };
    };
    if header.producer_epoch < known.epoch {
        return Sequence::Fenced;
    }
    if base == known.next || stand.passed == Some(base) {
        return Sequence::Fits;
    }
    if base > known.next {
        return Sequence::OutOfOrder { expected: stand.passed.unwrap_or(known.next) };
    }
    let count = header.last_offset_delta + 1;
    let staged = places.iter().rev().filter(|place| place.producer == id).filter_map(BatchPlace::sequenced);
    if let Some(appended) = staged.into_iter().find_map(|batch| batch.find(base, count)) {
        return Sequence::Staged(appended);
    }
    tables.producers.find(id, base, count).map_or(Sequence::Unknown, Sequence::Stored)
}

/// What is known of a batch's dedup ids.
#[derive(Default)]
struct Ids {
    /// Records whose ids are known.
    known: Vec<Duplicate>,
    /// Whether these are all records.
    is_all: bool,
    /// Whether one of them is known from what is staged only.
    is_staged: bool,
    /// The first record whose id, not known, an earlier record of the batch has as well.
    twin: Option<u32>,
    /// Ids that are not known.
    new: usize,
}

fn look_up(keys: &[Option<DedupKey>], tables: &Tables, overlay: &Overlay) -> Ids {
    let mut ids = Ids::default();
    let mut fresh = HashSet::new();
    for (index, key) in keys.iter().enumerate() {
        let (index, Some(key)) = (index as u32, key) else { continue };
        let stored = tables.dedup.get(key);
        ids.is_staged |= stored.is_none() && overlay.ids.contains_key(key);
        match stored.or_else(|| overlay.ids.get(key).copied()) {
            Some(First { offset, append_time }) => ids.known.push(Duplicate { index, offset, append_time }),
            None if !fresh.insert(*key) => ids.twin = ids.twin.or(Some(index)),
            None => {}
        }
    }
    ids.is_all = ids.known.len() == keys.len();
    ids.new = fresh.len();
    ids
}
