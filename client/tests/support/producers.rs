//! What the server knows of idempotent producers and dedup ids, as the real one has it: numbers, names, epochs, and per
//! partition the batches that are stored.

use std::collections::HashMap;

use bytes::Bytes;
use millstream_protocol::batch::BatchView;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::control::{NextSequence, Response};
use millstream_protocol::frame::produce::{Duplicate, Produced, Stored};
use millstream_protocol::{Code, Offset};

#[derive(Default)]
pub struct Producers {
    /// An older server: it knows no producers.
    pub is_unsupported: bool,
    /// Cut the connection under so many bumps, which are carried out.
    pub cut_bumps: u32,
    given: u64,
    names: HashMap<String, u64>,
    /// Below these epochs nothing is stored.
    fenced: HashMap<u64, u32>,
    standings: HashMap<(u32, u64), Standing>,
    ids: HashMap<(u32, Option<Bytes>, Bytes), Stored>,
}

struct Standing {
    next: u64,
    /// Base sequence, count, and where they are.
    batches: Vec<(u64, u32, Stored)>,
}

impl Producers {
    pub fn init(&mut self, name: Option<String>) -> Result<Response, Refusal> {
        if self.is_unsupported {
            return Err(Refusal::new(Code::Unsupported, "this server does not know the request: use a newer server"));
        }
        self.given += 1;
        if let Some(before) = name.and_then(|name| self.names.insert(name, self.given)) {
            self.fenced.insert(before, u32::MAX);
        }
        Ok(Response::Producer { id: self.given, epoch: 0 })
    }

    pub fn bump(&mut self, id: u64, epoch: u32, partitions: u32) -> Result<Response, Refusal> {
        let below = self.fenced.entry(id).or_default();
        if *below == u32::MAX {
            return Err(Refusal::new(Code::Fenced, "fenced by a newer one of its name"));
        }
        *below = (*below).max(epoch + 1);
        let next = |partition| NextSequence { partition, next: self.next(partition, id) };
        Ok(Response::ProducerBumped { epoch: epoch + 1, partitions: (0..partitions).map(next).collect() })
    }

    pub fn cuts_a_bump(&mut self) -> bool {
        let cuts = self.cut_bumps > 0;
        self.cut_bumps -= u32::from(cuts);
        cuts
    }

    /// The sequence that a producer goes on with.
    pub fn next(&self, partition: u32, id: u64) -> Option<u64> {
        self.standings.get(&(partition, id)).map(|standing| standing.next)
    }

    /// A partition forgets all producers.
    pub fn forget(&mut self, partition: u32) {
        self.standings.retain(|(known, _), _| *known != partition);
    }

    /// Stores a batch with `store`, or says why not.
    pub fn judge(
        &mut self,
        partition: u32,
        batch: &Bytes,
        resend: bool,
        store: impl FnOnce() -> Stored,
    ) -> Result<Produced, Code> {
        let view = BatchView::parse(batch).expect("a batch");
        let header = view.header();
        let (id, base, count) = (header.producer_id.0, header.base_sequence, header.record_count);
        if id != 0 {
            if self.fenced.get(&id).is_some_and(|below| header.producer_epoch < *below) {
                return Err(Code::Fenced);
            }
            match self.standings.get(&(partition, id)) {
                None if base > 0 || resend && self.given > 1_000 => return Err(Code::UnknownProducer),
                None => {}
                Some(standing) => {
                    if let Some((_, _, stored)) =
                        standing.batches.iter().find(|known| (known.0, known.1) == (base, count))
                    {
                        return Ok(Produced::Stored(*stored));
                    }
                    if base != standing.next {
                        let is_behind = base < standing.next;
                        return Err(if is_behind { Code::UnknownProducer } else { Code::OutOfOrderSequence });
                    }
                }
            }
        }
        let records: Vec<_> =
            view.records().expect("it decompresses").map(|record| record.expect("a record")).collect();
        let ids: Vec<_> = records
            .into_iter()
            .map(|record| {
                let id = record.headers.iter().find(|header| header.name == "ms-dedup-id")?;
                Some((partition, record.key, id.value.clone().expect("a value")))
            })
            .collect();
        let known: Vec<Duplicate> = (0..)
            .zip(&ids)
            .filter_map(|(index, id)| {
                let Stored { base_offset, append_time } = *self.ids.get(id.as_ref()?)?;
                Some(Duplicate { index, offset: base_offset, append_time })
            })
            .collect();
        if known.len() == count as usize {
            self.pass(partition, id, base + u64::from(count));
        }
        if !known.is_empty() {
            return Ok(Produced::Duplicates(known));
        }
        let stored = store();
        for (index, id) in (0..).zip(ids) {
            let base_offset = Offset(stored.base_offset.0 + index);
            if let Some(id) = id {
                assert!(self.ids.insert(id, Stored { base_offset, ..stored }).is_none(), "an id twice in a batch");
            }
        }
        self.pass(partition, id, base + u64::from(count));
        if let Some(standing) = self.standings.get_mut(&(partition, id)) {
            standing.batches.push((base, count, stored));
        }
        Ok(Produced::Stored(stored))
    }

    fn pass(&mut self, partition: u32, id: u64, next: u64) {
        if id != 0 {
            self.standings.entry((partition, id)).or_insert(Standing { next, batches: Vec::new() }).next = next;
        }
    }
}
