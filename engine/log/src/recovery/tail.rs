//! Whole, torn or rotten? What a segment's bytes mean where they are not a batch.
//!
//! A write that never completed and one that was damaged later look alike. What tells them apart is `synced_end`,
//! the offset below which all was known durable, in the headers of *later* batches, in the checkpoint's marks, in the
//! journal: a bad batch below the greatest one was durable once, so it is rot: a hole, reported, the
//! rest stays. Above it, it is a torn tail: cut there, and what follows is quarantined even where it is intact, since
//! of one unfinished group commit any subset may have reached the disk.
//!
//! A sealed segment was synced whole before the next one was begun: there, every bad byte is rot.

use std::io;

use millstream_protocol::Offset;
use millstream_protocol::batch::BatchHeader;

use super::scan::{Scan, Step};
use crate::producers::{Producers, Sequenced};
use crate::segment::{Extent, Hole};

/// Whether a segment's end may be torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The last one: it was growing.
    Active,
    /// Synced whole; it ends at this offset, where the next one begins.
    Sealed(Offset),
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// What is readable.
    pub extent: Extent,
    /// Where the torn tail begins, if there is one.
    pub cut: Option<u64>,
}

/// Judges a segment from where `extent` ends; the producers of what is readable are added to `producers`. `known_synced` is
/// the greatest `synced_end` known from elsewhere.
pub(crate) fn judge(
    mut scan: Scan<'_>,
    mut extent: Extent,
    producers: &mut Producers,
    role: Role,
    known_synced: Offset,
) -> io::Result<Judgement> {
    loop {
        let expected = extent.end;
        match scan.next()? {
            Step::End => break,
            Step::Batch { position, header } if header.base_offset == expected => {
                extent.note(&header, position);
                if let Some(batch) = Sequenced::of(&header) {
                    producers.note(&batch);
                }
            }
            // Bytes that are no batch, or one that does not follow (a stale or misdirected write).
            step => {
                let position = match step {
                    Step::Batch { position, .. } | Step::Bad { position, .. } => position,
                    Step::End => unreachable!("handled above"),
                };
                let behind = look_behind(&mut scan, position, expected)?;
                let rotten = match role {
                    Role::Sealed(_) => true,
                    Role::Active => expected < behind.synced_end.max(known_synced).max(extent.synced_end),
                };
                match behind.next {
                    Some((resume_position, next)) if rotten => {
                        let hole = Hole { from: expected, resume: next.base_offset, position, resume_position };
                        extent.holes.push(hole);
                        extent.end = next.base_offset;
                        extent.end_position = resume_position;
                        scan.seek(resume_position);
                    }
                    _ if role == Role::Active => return Ok(Judgement { extent, cut: Some(position) }),
                    _ => break,
                }
            }
        }
    }
    if let Role::Sealed(end) = role
        && extent.end < end
    {
        let resume_position = scan.limit();
        extent.holes.push(Hole { from: extent.end, resume: end, position: extent.end_position, resume_position });
        extent.end = end;
        extent.end_position = resume_position;
    }
    Ok(Judgement { extent, cut: None })
}

/// What follows a bad place.
struct Behind {
    next: Option<(u64, BatchHeader)>,
    synced_end: Offset,
}

fn look_behind(scan: &mut Scan<'_>, position: u64, expected: Offset) -> io::Result<Behind> {
    // One that lies right here may be intact, and follow a loss.
    scan.seek(position - 1);
    let mut behind = Behind { next: None, synced_end: Offset::ZERO };
    while let Some(header) = scan.resync(expected)? {
        // One that begins below is stale: it can't follow what is there.
        if header.base_offset < expected {
            continue;
        }
        behind.synced_end = behind.synced_end.max(header.synced_end);
        behind.next.get_or_insert((scan.position(), header.clone()));
        scan.seek(scan.position() + header.batch_len() as u64 - 1);
    }
    Ok(behind)
}
