//! Producer ids: who gets which, and which are fenced.
//!
//! ```text
//! bit 63       named: of a name's ids only the current one may append
//! bits 32..63  the start that gave it: the catalog's epoch, durable before the first id is given
//! bits 0..32   counts up within a start, from 1
//! ```
//! So an id is never 0 and never given twice, and giving one to a producer without a name costs no disk. A name's current
//! id is in the catalog: it must outlive a restart, or the producer that was fenced before could go on after it.
//!
//! Order of a naming: the catalog's event, durably; the fence of the id before; a barrier through the lanes; the answer.
//! Order of a bump: the fence of older epochs; the barrier; then the partitions are asked where the producer goes on. The
//! new epoch follows from the given one alone. So a request that is repeated, or carried out long after its client has
//! given it up and asked again, fences nothing that the client has been told to use.
//!
//! Not here: sequences (the log's partitions), names' bounds (`catalog`).

use std::sync::atomic::{AtomicU32, Ordering};

use millstream_log::{Log, StateLog};
use millstream_protocol::frame::control::NextSequence;
use millstream_protocol::{Epoch, ProducerId};
use parking_lot::Mutex;

use crate::catalog::{Catalog, Input};
use crate::error::BrokerError;
use crate::stream::Stream;

const NAMED: u64 = 1 << 63;
const START_SHIFT: u32 = 32;
/// The log's word for every epoch.
const EPOCH_FENCED_FOR_EVER: u32 = u32::MAX;

/// Gives ids and raises epochs.
pub(crate) struct Producers {
    start: Epoch,
    given: AtomicU32,
    /// One naming at a time: catalog and fences must agree.
    naming: Mutex<()>,
}

impl Producers {
    /// Those of a start of that number, before anything is served. Tells the log which ids are current.
    pub fn open(log: &Log, catalog: &StateLog<Catalog>) -> Self {
        log.set_named_producers(catalog.read(|catalog| catalog.producers().map(|(_, id)| id).collect::<Vec<_>>()));
        Self { start: catalog.epoch(), given: AtomicU32::new(0), naming: Mutex::new(()) }
    }

    /// A new id; with a name it is that name's only one from now on. Blocks.
    pub fn init(&self, log: &Log, catalog: &StateLog<Catalog>, name: Option<&str>) -> Result<ProducerId, BrokerError> {
        let Some(name) = name else { return self.next(0) };
        let _one = self.naming.lock();
        let id = self.next(NAMED)?;
        let input = Input::NameProducer { name: name.to_owned(), id };
        let before = catalog.read(|catalog| catalog.producer(name));
        let forgotten = catalog.read(|catalog| catalog.producer_to_forget(name).map(|(_, id)| id));
        catalog.update(|catalog| catalog.step(input.clone()))?;
        log.name_producer(id, before)?;
        if forgotten.is_some() {
            log.name_producer(id, forgotten)?;
        }
        Ok(id)
    }

    /// Fences epochs up to the given one; says the next epoch and where the producer goes on. Blocks.
    pub fn bump(
        &self,
        log: &Log,
        catalog: &StateLog<Catalog>,
        (id, epoch): (ProducerId, u32),
        stream: &Stream,
    ) -> Result<(u32, Vec<NextSequence>), BrokerError> {
        if !self.was_given(id) {
            return Err(BrokerError::UnknownProducer(id));
        }
        if id.0 & NAMED != 0 && !catalog.read(|catalog| catalog.producers().any(|(_, current)| current == id)) {
            return Err(BrokerError::ProducerFenced(id));
        }
        let raised = epoch.checked_add(1).filter(|raised| *raised < EPOCH_FENCED_FOR_EVER);
        let Some(raised) = raised else {
            let legal = format!("0 to {}", EPOCH_FENCED_FOR_EVER - 2);
            return Err(BrokerError::IllegalSetting {
                setting: "the producer's epoch",
                value: epoch.to_string(),
                legal,
            });
        };
        log.fence_producer(id, raised)?;
        let next = |partition: &std::sync::Arc<millstream_log::Partition>| NextSequence {
            partition: partition.id().0,
            next: partition.next_sequence(id),
        };
        Ok((raised, stream.online().map(next).collect()))
    }

    fn next(&self, kind: u64) -> Result<ProducerId, BrokerError> {
        let given = self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |given| given.checked_add(1));
        let Ok(given) = given else { return Err(BrokerError::ProducersExhausted) };
        Ok(ProducerId(kind | u64::from(self.start.0) << START_SHIFT | u64::from(given + 1)))
    }

    /// Whether this or an earlier start can have given that id.
    fn was_given(&self, id: ProducerId) -> bool {
        let (start, count) = ((id.0 & !NAMED) >> START_SHIFT, id.0 as u32);
        let is_ours = start == u64::from(self.start.0);
        start > 0
            && count > 0
            && start <= u64::from(self.start.0)
            && (!is_ours || count <= self.given.load(Ordering::Relaxed))
    }
}
