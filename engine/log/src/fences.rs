//! Which producers are fenced, whatever a partition remembers of them: asked by the lanes for each batch with a producer's id.
//!
//! A fence holds for batches that a lane looks at after it was raised; whoever must know that none is stored any more puts a
//! barrier through the lanes afterwards. In memory only: ids and epochs are the catalog's.
//!
//! Bounded: of unnamed producers the [`FENCES_MAX`] newest fences are kept. By the time an older one is let go each
//! partition that its producer has written to since knows the newer epoch itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_protocol::ProducerId;
use parking_lot::RwLock;

/// Raised epochs that are remembered.
const FENCES_MAX: usize = 100_000;
/// Set in the ids of named producers.
const NAMED: u64 = 1 << 63;
/// Set as well in those of the server's own.
const OWN: u64 = 1 << 62;
/// Below this epoch every epoch lies, itself included.
const FOR_EVER: u32 = u32::MAX;

/// All fences of a log.
#[derive(Default)]
pub(crate) struct Fences {
    /// Whether `raised` has any: most logs have none.
    any: AtomicBool,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    raised: HashMap<ProducerId, u32>,
    /// The ids in `raised`, oldest first.
    order: VecDeque<ProducerId>,
    /// The current ids of named producers.
    named: HashSet<ProducerId>,
}

impl Fences {
    /// Whether a batch of this producer and epoch is refused.
    pub(crate) fn is_fenced(&self, id: ProducerId, epoch: u32) -> bool {
        let is_named = is_named(id);
        if !is_named && !self.any.load(Ordering::Acquire) {
            return false;
        }
        let inner = self.inner.read();
        let is_below = |below: &u32| epoch < *below || *below == FOR_EVER;
        is_named && !inner.named.contains(&id) || inner.raised.get(&id).is_some_and(is_below)
    }

    /// Fences epochs below `below`; never less than before.
    pub(crate) fn raise(&self, id: ProducerId, below: u32) {
        self.inner.write().raise(id, below);
        self.any.store(true, Ordering::Release);
    }

    /// Says which ids of named producers are current.
    pub(crate) fn set_named(&self, current: impl IntoIterator<Item = ProducerId>) {
        self.inner.write().named = current.into_iter().filter(|id| is_named(*id)).collect();
    }

    /// Makes an id current in the place of another.
    pub(crate) fn name(&self, new: ProducerId, old: Option<ProducerId>) {
        let mut inner = self.inner.write();
        if let Some(old) = old {
            inner.named.remove(&old);
            if !is_named(old) {
                inner.raise(old, FOR_EVER);
                self.any.store(true, Ordering::Release);
            }
        }
        if is_named(new) {
            inner.named.insert(new);
        }
    }
}

impl Inner {
    fn raise(&mut self, id: ProducerId, below: u32) {
        if let Some(known) = self.raised.get_mut(&id) {
            *known = (*known).max(below);
            return;
        }
        if self.raised.len() >= FENCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.raised.remove(&oldest);
        }
        self.raised.insert(id, below);
        self.order.push_back(id);
    }
}

/// Ids of the server's own producers have the bit below set, too: they are current as long as what they belong to is.
fn is_named(id: ProducerId) -> bool {
    id.0 & (NAMED | OWN) == NAMED
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ProducerId = ProducerId(7);
    const FIRST: ProducerId = ProducerId(NAMED | 1);
    const SECOND: ProducerId = ProducerId(NAMED | 2);

    #[test]
    fn epochs_below_a_fence_are_refused_and_a_fence_never_sinks() {
        let fences = Fences::default();
        assert!(!fences.is_fenced(PLAIN, 0));
        fences.raise(PLAIN, 3);
        fences.raise(PLAIN, 1);
        assert!(fences.is_fenced(PLAIN, 2) && !fences.is_fenced(PLAIN, 3));
        assert!(!fences.is_fenced(ProducerId(8), 0), "another producer");
        fences.raise(PLAIN, FOR_EVER);
        assert!(fences.is_fenced(PLAIN, u32::MAX), "for ever means every epoch");
    }

    #[test]
    fn of_named_producers_only_the_current_ones_are_not_fenced() {
        let fences = Fences::default();
        assert!(fences.is_fenced(FIRST, 0), "nobody said that it is current");
        fences.set_named([FIRST, PLAIN]);
        assert!(!fences.is_fenced(FIRST, 0));
        fences.name(SECOND, Some(FIRST));
        assert!(fences.is_fenced(FIRST, 9) && !fences.is_fenced(SECOND, 0));
        fences.raise(SECOND, 1);
        assert!(fences.is_fenced(SECOND, 0) && !fences.is_fenced(SECOND, 1));
        fences.name(FIRST, Some(PLAIN));
        assert!(fences.is_fenced(PLAIN, 0) && !fences.is_fenced(FIRST, 0));
    }

    #[test]
    fn the_oldest_fence_is_let_go_where_there_are_too_many() {
        let fences = Fences::default();
        (1..=FENCES_MAX as u64 + 1).for_each(|id| fences.raise(ProducerId(id), 1));
        assert!(!fences.is_fenced(ProducerId(1), 0));
        assert!(fences.is_fenced(ProducerId(2), 0) && fences.is_fenced(ProducerId(FENCES_MAX as u64 + 1), 0));
        assert_eq!(fences.inner.read().order.len(), FENCES_MAX);
    }
}
