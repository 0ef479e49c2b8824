//! What operators see of a queue's messages, with their records.

use millstream_filter::Candidate;
use millstream_log::LogError;
use millstream_protocol::batch::RecordRef;
use millstream_protocol::{Record, Timestamp};

use super::event::Adopted;
use super::feed::{self, Feed};
use super::machine::{Glance, Standing};
use super::part::Part;
use super::rules::Rules;
use super::settings::Now;
use super::types::Peeked;
use super::worker::PeekWhat;

/// Messages that one call shows at most.
pub(super) const PEEK_MAX: usize = 100;
/// Records that are held against the filter in one call at most: what lies behind them is shown once the queue has got there.
const RECORDS_AT_ONCE: usize = 4_096;

/// The first unsettled messages of a partition, in order: up to `max` from `what.from` on.
pub(super) fn peek(
    part: &mut Part,
    rules: &Rules,
    what: &PeekWhat,
    max: usize,
    now: Now,
) -> Result<Vec<Peeked>, LogError> {
    // Its own: what the queue has read for its receivers stays there.
    let mut feed = Feed::default();
    let mut peeked = Vec::new();
    for glance in part.machine.peek(what.from, max, what.only_parked, now) {
        let found = match glance.adopted {
            Some(letter) => part.letters.read(letter)?.map(|letter| (letter.appended, letter.record)),
            None => feed.record(&part.partition, glance.offset)?,
        };
        // Compaction may have removed it.
        if let Some((append_time, record)) = found {
            let due = Some(feed::due_ms(rules, part.partition.id().0, glance.offset, append_time, &record));
            peeked.push(show(part, glance, due.filter(|due| *due > now.wall_ms), append_time, record));
        }
    }
    if what.only_parked {
        return Ok(peeked);
    }
    let mut from = part.machine.ledger().judged().max(part.machine.ledger().floor()).max(what.from);
    from = from.max(part.partition.log_start().0);
    let mut looked_at = 0;
    while peeked.len() < max && looked_at < RECORDS_AT_ONCE {
        let Some(batch) = feed.batch(&part.partition, from)? else { break };
        let header = batch.header();
        let (mut records, mut owned) = (batch.records()?, batch.records()?);
        while let (Some(record), Some(whole)) = (records.next_ref(), owned.next_with_offset()) {
            let (record, (offset, whole)) = (record?, whole?);
            if offset.0 < from || peeked.len() == max {
                continue;
            }
            looked_at += 1;
            if matches(rules, part.partition.id().0, offset.0, &record) {
                let glance =
                    Glance { offset: offset.0, standing: Standing::Waiting, receives: 0, first_ms: 0, adopted: None };
                peeked.push(show(part, glance, None, header.append_time, whole));
            }
        }
        from = header.end_offset().0;
    }
    Ok(peeked)
}

fn matches(rules: &Rules, partition: u32, offset: u64, record: &RecordRef<'_>) -> bool {
    let filter = rules.get(rules.at(partition, offset)).and_then(|rule| rule.filter.as_ref());
    filter.is_none_or(|filter| filter.matches(&Candidate::new(record)).unwrap_or(false))
}

fn show(part: &Part, glance: Glance, due: Option<u64>, append_time: Timestamp, record: Record) -> Peeked {
    let Glance { offset, standing, receives, first_ms, adopted } = glance;
    let standing = match (standing, due) {
        (Standing::Available, Some(due)) if receives == 0 && adopted.is_none() => Standing::Delayed(due),
        (standing, _) => standing,
    };
    let redriven = adopted.map_or(0, |Adopted { redriven, .. }| redriven);
    let partition = part.partition.id().0;
    Peeked { partition, offset, standing, receives, redriven, first_ms, append_time, record }
}
