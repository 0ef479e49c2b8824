//! What a data directory's files say after a crash: [`replay`] puts the journals' frames back, [`scan`] reads batches one
//! by one, [`tail`] judges where a log ends, [`open`] carries it out on the medium, [`generations`] chooses where
//! compaction left two of a segment, [`tables`] rebuilds what is known of producers and dedup ids, [`quarantine`] keeps what is cut or not understood.
//!
//! Recovery never unlinks what was part of the log: what it does not understand it renames and reports. What goes is a cache
//! without its segment, and a file of our own that was cut short before it had its name.

mod generations;
pub(crate) mod open;
pub(crate) mod quarantine;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod tables;
pub(crate) mod tail;

/// Does `work` for every item, on several threads if there are many: they wait for the disk, not for a core. The results
/// are in the items' order.
pub(crate) fn in_parallel<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if threads == 1 || items.len() <= threads {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            items.chunks(share).map(|part| scope.spawn(|| part.iter().map(&work).collect::<Vec<R>>())).collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Vec<R>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    })
}
