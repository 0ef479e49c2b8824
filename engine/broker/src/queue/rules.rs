//! A queue's filters and delays, compiled: each holds from an offset on.

use millstream_filter::Filter;

use crate::catalog::{QueueEntry, QueueRule};

/// What holds of a record.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    from: Vec<u64>,
    pub delay_ms: u64,
    /// `None`: all records match.
    pub filter: Option<Filter>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub fn of(queue: &QueueEntry) -> Self {
        Self(queue.rules.iter().map(|rule| compile(&queue.name, rule)).collect())
    }

    /// The number of what holds of a record: the newest that has begun there.
    pub fn at(&self, partition: u32, offset: u64) -> usize {
        let has_begun = |rule: &Rule| rule.from.get(partition as usize).copied().unwrap_or(0) <= offset;
        self.0.iter().rposition(has_begun).unwrap_or(0)
    }

    pub fn get(&self, number: usize) -> Option<&Rule> {
        self.0.get(number)
    }
}

fn compile(queue: &str, rule: &QueueRule) -> Rule {
    // It compiled when it was stored. If a later version takes it otherwise, no message is thrown away for that.
    let filter = (!rule.filter.is_empty()).then(|| Filter::compile(&rule.filter)).and_then(|compiled| {
        compiled
            .inspect_err(|error| tracing::error!(queue, filter = rule.filter, %error, "a filter is no filter any more"))
            .ok()
    });
    Rule { from: rule.from.clone(), delay_ms: rule.delay_ms, filter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_rule_that_has_begun_holds_and_never_acts_back() {
        let rule = |from: &[u64], delay_ms| Rule { from: from.to_vec(), delay_ms, filter: None };
        let rules = Rules(vec![rule(&[], 1), rule(&[10, 20], 2), rule(&[15, 15], 3)]);
        let delay = |partition, offset| rules.get(rules.at(partition, offset)).map(|rule| rule.delay_ms);
        assert_eq!([0, 9, 10, 14, 15].map(|offset| delay(0, offset)), [1, 1, 2, 2, 3].map(Some));
        assert_eq!([14, 15, 20].map(|offset| delay(1, offset)), [1, 3, 3].map(Some));
        assert_eq!(delay(7, 0), Some(3), "a partition that came later has only known the newest");
    }
}
