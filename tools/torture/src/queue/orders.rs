//! The messages: of many groups, some without any, some delayed by themselves, some odd.

use std::collections::BTreeMap;
use std::ops::Range;

use millstream_check::history::{InQueue, OfQueue, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{Header, Record};

use super::plan::{LOT, ODD};
use crate::load::Source;

const GROUPS: u64 = 500;
/// So few have no group that the queues which need one can be rid of them.
const KEYLESS_PERCENT: u64 = 1;
const DELAYED_PERCENT: u64 = 5;
const DELAYS_MS: [u64; 4] = [50, 200, 500, 1_500];
const PADDING_MAX: u64 = 1_000;
const DELAY: &str = "ms-delay";

/// Those of one producer.
pub struct Orders {
    pub producer: u32,
    pub seeded: Seeded,
}

struct Order {
    group: Option<u64>,
    delay_ms: Option<u64>,
    is_odd: bool,
    padding: u64,
}

impl Orders {
    /// The same for the same number.
    fn order(&self, number: u64) -> Order {
        let mut seeded = self.seeded.fork(number);
        Order {
            group: (!seeded.percent(KEYLESS_PERCENT)).then(|| seeded.of(0..=GROUPS - 1)),
            delay_ms: seeded.percent(DELAYED_PERCENT).then(|| DELAYS_MS[seeded.index(DELAYS_MS.len())]),
            is_odd: seeded.percent(30),
            padding: seeded.of(0..=PADDING_MAX),
        }
    }

    fn value(&self, number: u64) -> ValueId {
        ValueId::new(self.producer, number)
    }
}

/// The group of a message, as the history numbers it. Those without a key are one: where a queue needs groups they are
/// delivered only if they are redriven, and together then.
pub fn group(record: &Record) -> Option<u64> {
    let Some(key) = record.key.as_deref() else { return Some(GROUPS) };
    std::str::from_utf8(key).ok()?.strip_prefix('g')?.parse().ok()
}

impl Source for Orders {
    fn producer(&self) -> u32 {
        self.producer
    }

    fn record(&self, number: u64) -> (ValueId, Record) {
        let Order { group, delay_ms, is_odd, padding } = self.order(number);
        let value = self.value(number);
        let mut record = Record::new(value::encode(value, padding as usize));
        record.key = group.map(|group| format!("g{group}").into());
        let mut header = |name: &str, value: String| {
            record.headers.push(Header { name: name.to_owned(), value: Some(value.into()) });
        };
        header(LOT, if is_odd { "odd" } else { "even" }.to_owned());
        if let Some(delay_ms) = delay_ms {
            header(DELAY, delay_ms.to_string());
        }
        (value, record)
    }

    fn told(&self, numbers: Range<u64>) -> Vec<What> {
        let mut delayed: BTreeMap<u64, Vec<ValueId>> = BTreeMap::new();
        let (mut matching, mut other) = (Vec::new(), Vec::new());
        for number in numbers {
            let (order, value) = (self.order(number), self.value(number));
            if let Some(delay_ms) = order.delay_ms {
                delayed.entry(delay_ms).or_default().push(value);
            }
            if order.is_odd { matching.push(value) } else { other.push(value) }
        }
        let delayed = delayed.into_iter().map(|(delay_ms, values)| What::Delayed { values, delay_ms });
        let of_odd = OfQueue { queue: ODD, receiver: 0, what: InQueue::Verdicts { matching, other } };
        delayed.chain([What::Queue(of_odd)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_message_is_what_is_sent() {
        let orders = Orders { producer: 7, seeded: Seeded::new(1) };
        let told = orders.told(0..1_000);
        let mut odd = Vec::new();
        let mut delayed = BTreeMap::new();
        for what in told {
            match what {
                What::Queue(OfQueue { what: InQueue::Verdicts { matching, .. }, .. }) => odd = matching,
                What::Delayed { values, delay_ms } => delayed.extend(values.into_iter().map(|value| (value, delay_ms))),
                other => panic!("{other:?}"),
            }
        }
        let mut keyless = 0;
        for number in 0..1_000 {
            let (value, record) = orders.record(number);
            let header = |name: &str| record.headers.iter().find(|h| h.name == name).and_then(|h| h.value.clone());
            assert_eq!(header(LOT).expect("it has one") == "odd", odd.contains(&value));
            assert_eq!(header(DELAY), delayed.get(&value).map(|delay_ms| delay_ms.to_string().into()));
            assert_eq!(record.value.as_deref().and_then(value::decode), Some(value));
            keyless += u64::from(group(&record) == Some(GROUPS));
        }
        assert!(keyless > 0 && !odd.is_empty() && !delayed.is_empty());
    }
}
