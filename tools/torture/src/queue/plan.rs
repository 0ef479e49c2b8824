//! The queues of a run, all on one stream: each kind of promise, with times so short that they meet the kills.

use std::time::Duration;

use millstream_check::history::queue::{DeadLetterLimit, Order, Retry, Settings};
use millstream_client::{OnDead, QueueBackoff, QueueConfig, QueueOrdering};

/// The stream that all of them read; in the history stream 0.
pub const STREAM: &str = "orders";
/// The dead-letter streams; in the history 1 and following.
pub const DEAD: [&str; 3] = ["dead", "dead-runs", "dead-odd"];
/// A message is odd by this header.
pub const LOT: &str = "lot";
/// The queue that has odd ones alone.
pub const ODD: u32 = 4;
/// The queue that is made when a part of the messages is there already.
pub const REPLAY: u32 = 5;
/// The longest visibility of all.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(2);

/// One queue.
#[derive(Debug, Clone)]
pub struct Plan {
    pub name: &'static str,
    pub config: QueueConfig,
    /// Receivers are pushed messages or ask for them; else they only ask. Where a receive may take several of a group at
    /// once, nobody who is pushed them can tell which came together.
    pub can_push: bool,
}

/// All of them; a queue's place here is its number in the history.
pub fn queues() -> Vec<Plan> {
    let backoff = |min_ms, max_ms| QueueBackoff { min_ms, max_ms, factor_percent: 200 };
    let fifo = |group_batch| QueueOrdering::Fifo { group_batch, on_dead: OnDead::Skip };
    let plan = |name, config| Plan { name, config, can_push: true };
    let plain = QueueConfig {
        visibility_ms: 2_000,
        max_receives: Some(4),
        dead_letter: Some(DEAD[0].to_owned()),
        backoff: backoff(100, 1_000),
        disconnect_grace_ms: Some(1_000),
        ..QueueConfig::default()
    };
    let brisk =
        QueueConfig { visibility_ms: 300, backoff: backoff(0, 0), disconnect_grace_ms: None, ..QueueConfig::default() };
    let in_order = QueueConfig { ordering: fifo(1), max_receives: Some(3), backoff: backoff(50, 400), ..plain.clone() };
    let runs = QueueConfig {
        ordering: fifo(8),
        visibility_ms: 1_000,
        max_receives: Some(5),
        dead_letter: Some(DEAD[1].to_owned()),
        disconnect_grace_ms: Some(500),
        ..in_order.clone()
    };
    let odd = QueueConfig {
        filter: format!("headers.{LOT} == \"odd\""),
        visibility_ms: 1_500,
        max_receives: Some(2),
        dead_letter: Some(DEAD[2].to_owned()),
        delay_ms: 700,
        ..plain.clone()
    };
    let replay = QueueConfig { max_receives: None, dead_letter: None, ..plain.clone() };
    vec![
        plan("plain", plain),
        plan("brisk", brisk),
        plan("in-order", in_order),
        Plan { can_push: false, ..plan("runs", runs) },
        plan("odd", odd),
        plan("replay", replay),
    ]
}

impl Plan {
    /// What the history is told that it promises.
    pub fn promises(&self) -> Settings {
        let QueueConfig { visibility_ms, delay_ms, disconnect_grace_ms, backoff, .. } = self.config;
        let (order, group_batch) = match self.config.ordering {
            QueueOrdering::Unordered => (Order::Unordered, 1),
            QueueOrdering::Fifo { group_batch, .. } => (Order::Fifo, group_batch.into()),
        };
        let QueueBackoff { min_ms, max_ms, factor_percent } = backoff;
        let limit = |stream| {
            let max_receives = self.config.max_receives.map_or(u32::MAX, u32::from);
            DeadLetterLimit { stream, max_receives }
        };
        Settings {
            visibility_ms,
            delay_ms,
            disconnect_grace_ms,
            retry: Retry { min_ms, max_ms, factor_percent },
            dead_letter: self.dead_letter().map(limit),
            order,
            group_batch,
            filtered: !self.config.filter.is_empty(),
            interest: false,
        }
    }

    /// Its dead-letter stream, as the history numbers it.
    pub fn dead_letter(&self) -> Option<u32> {
        let name = self.config.dead_letter.as_deref()?;
        DEAD.iter().position(|dead| *dead == name).map(|place| place as u32 + 1)
    }

    pub fn visibility(&self) -> Duration {
        Duration::from_millis(self.config.visibility_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_name_the_right_queues() {
        let queues = queues();
        let named = |number: u32| queues[number as usize].name;
        assert_eq!((named(ODD), named(REPLAY)), ("odd", "replay"));
        assert!(queues.iter().all(|plan| plan.config.dead_letter.is_some() == plan.dead_letter().is_some()));
        assert_eq!(queues.iter().map(Plan::visibility).max(), Some(VISIBILITY_MAX));
        let batched = |plan: &Plan| matches!(plan.config.ordering, QueueOrdering::Fifo { group_batch: 2.., .. });
        assert!(queues.iter().all(|plan| !(plan.can_push && batched(plan))));
    }
}
