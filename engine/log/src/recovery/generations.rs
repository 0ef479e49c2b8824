//! Which generation of a segment is served, where a crash in a compaction has left more than one: the newest whole one.
//!
//! A generation gets its name only when it is synced, and the one before is unlinked only when that name is durable. So of
//! two that are there the newer one is whole, unless the medium has lost it; it is read from the medium before it is
//! believed. Older ones then stay where they are: recovery unlinks nothing, and the next compaction deletes what it has
//! superseded, again if need be, as retention does with what lies below the log start.
//!
//! A newer one that is not whole goes into quarantine, said loudly, and the older one is served: it holds all that the
//! newer one did, and records that had been compacted away. They are read as they once were, at their own offsets.

use millstream_protocol::Offset;

use super::open::{Place, Recovered, set_aside};
use super::scan::{Scan, Step};
use crate::error::{Context, LogError};
use crate::segment::{PREAMBLE_BYTES, Preamble, file_name};
use crate::storage::{Access, read_exact_at};

/// One generation for each base; `names` is sorted.
pub(super) fn newest_whole(
    place: &Place<'_>,
    names: &[(Offset, u32)],
    recovered: &mut Recovered,
) -> Result<Vec<(Offset, u32)>, LogError> {
    let mut chosen = Vec::with_capacity(names.len());
    let mut groups = names.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(generations) = groups.next() {
        let end = groups.peek().map(|next| next[0].0);
        chosen.push(match generations {
            [only] => *only,
            several => choose(place, several, end, recovered)?,
        });
    }
    Ok(chosen)
}

fn choose(
    place: &Place<'_>,
    generations: &[(Offset, u32)],
    end: Option<Offset>,
    recovered: &mut Recovered,
) -> Result<(Offset, u32), LogError> {
    let mut whole = None;
    for (index, name) in generations.iter().enumerate().rev() {
        if is_whole(place, *name, end, recovered)? {
            whole = Some(index);
            break;
        }
    }
    // None is whole: the newest serves what is intact in it, and the others are kept for who may repair it.
    let chosen = whole.unwrap_or(generations.len() - 1);
    let damaged = if whole.is_some() { chosen + 1..generations.len() } else { 0..chosen };
    for (base, generation) in &generations[damaged] {
        let name = file_name(*base, *generation);
        tracing::error!(stream = %place.identity.stream, partition = %place.identity.partition, file = name,
            served = %file_name(*base, generations[chosen].1),
            "two generations of a segment are there and one is damaged: records that were compacted away may be read again");
        set_aside(place, &name, recovered)?;
    }
    Ok(generations[chosen])
}

/// Whether every batch of a generation is intact and they span all offsets up to `end`.
fn is_whole(
    place: &Place<'_>,
    (base, generation): (Offset, u32),
    end: Option<Offset>,
    recovered: &mut Recovered,
) -> Result<bool, LogError> {
    let path = place.dir.join(file_name(base, generation));
    let file = place.storage.open(&path, Access::Read).context("open", &path)?;
    file.evict(0).context("evict", &path)?;
    let length = file.len().context("read", &path)?;
    let head = read_exact_at(&*file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", &path)?;
    if !(Preamble { identity: place.identity, base, generation }).matches(&head) {
        return Ok(false);
    }
    recovered.bytes_read += length;
    let mut scan = Scan::new(&*file, place.identity.incarnation, PREAMBLE_BYTES, length);
    let mut next = base;
    loop {
        match scan.next().context("read", &path)? {
            Step::Batch { header, .. } if header.base_offset == next => next = header.end_offset(),
            Step::End => return Ok(end.is_none_or(|end| next == end)),
            Step::Batch { .. } | Step::Bad { .. } => return Ok(false),
        }
    }
}
