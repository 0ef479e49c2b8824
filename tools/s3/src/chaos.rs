//! Faults at random, from a seed.
//!
//! Whether a request fails, and how, is a function of the seed, its operation and key, and how often that was asked before: not
//! of what happens to others meanwhile, so that a run fails the same way however its requests interleave.

use std::time::Duration;

use crate::asked::{Asked, Operation};
use crate::faults::{Act, Refusal};

/// How late an answer or a request is that comes late.
const LATE: Duration = Duration::from_millis(100);

/// Faults at random. Refusals for want of rights are none of them: those do not go away by themselves.
#[derive(Debug, Clone)]
pub struct Chaos {
    seed: u64,
    per_mille: [u16; Operation::ALL.len()],
    late: Duration,
}

impl Chaos {
    /// None yet, of that seed: add operations with [`on`](Chaos::on).
    pub fn new(seed: u64) -> Self {
        Self { seed, per_mille: [0; Operation::ALL.len()], late: LATE }
    }

    /// That many of a thousand requests of every kind fail.
    pub fn everywhere(seed: u64, per_mille: u16) -> Self {
        Operation::ALL.into_iter().fold(Self::new(seed), |chaos, operation| chaos.on(operation, per_mille))
    }

    /// That many of a thousand requests of this kind fail; 1,000 and more: all.
    #[must_use]
    pub fn on(mut self, operation: Operation, per_mille: u16) -> Self {
        self.per_mille[operation as usize] = per_mille;
        self
    }

    /// How late a late answer or request is. Default 100 ms: longer than a client's patience, or shorter, is another fault.
    #[must_use]
    pub fn late(mut self, late: Duration) -> Self {
        self.late = late;
        self
    }

    /// What happens to a request that was asked `attempt` times before.
    pub(crate) fn draw(&self, asked: &Asked, attempt: u64) -> Option<Act> {
        let names = [asked.bucket.as_bytes(), &[0], asked.key.as_bytes(), &[asked.operation as u8]].concat();
        let chance = mix(mix(self.seed ^ fnv1a(&names)).wrapping_add(attempt));
        if chance % 1_000 >= u64::from(self.per_mille[asked.operation as usize]) {
            return None;
        }
        let acts = self.acts(asked);
        acts.get(((chance >> 32) % acts.len() as u64) as usize).copied()
    }

    fn acts(&self, asked: &Asked) -> Vec<Act> {
        let mut acts = vec![
            Act::Refuse(Refusal::InternalError),
            Act::Refuse(Refusal::SlowDown),
            Act::Refuse(Refusal::TooManyRequests),
            Act::HangUp,
            Act::ApplyThenHangUp,
            Act::ApplyThenAnswerAfter(self.late),
        ];
        if matches!(asked.operation, Operation::Put | Operation::Delete) {
            acts.push(Act::ApplyThenRefuse(Refusal::InternalError));
            acts.push(Act::HangUpThenApplyAfter(self.late));
        }
        if asked.operation == Operation::Put && asked.is_conditional {
            acts.extend([Act::Refuse(Refusal::Conflict), Act::ApplyThenRefuse(Refusal::Conflict)]);
        }
        match asked.operation {
            Operation::Put => acts.extend([Act::CutRequest, Act::Unlisted { lists: 2 }]),
            Operation::Get | Operation::List => acts.push(Act::CutAnswer),
            Operation::Head | Operation::Delete => {}
        }
        acts
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64's finalizer: neighbouring numbers do not meet.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn draws(chaos: &Chaos, operation: Operation) -> Vec<Option<Act>> {
        let asked = |n: u64| Asked::plain(operation, "b", &format!("k{}", n % 100));
        (0..10_000).map(|n| chaos.draw(&asked(n), n / 100)).collect()
    }

    #[test]
    fn as_many_fail_as_were_asked_for_in_every_way_and_the_same_from_the_same_seed() {
        let chaos = Chaos::everywhere(7, 300).on(Operation::Head, 0).on(Operation::List, 1_000);
        for operation in Operation::ALL {
            let drawn = draws(&chaos, operation);
            let faulty = drawn.iter().flatten().count();
            match operation {
                Operation::Head => assert_eq!(faulty, 0),
                Operation::List => assert_eq!(faulty, 10_000),
                _ => assert!((2_800..3_200).contains(&faulty), "{operation:?}: {faulty}"),
            }
            let kinds: HashSet<_> = drawn.iter().flatten().collect();
            assert_eq!(kinds.len(), if faulty == 0 { 0 } else { chaos.acts(&Asked::plain(operation, "b", "k")).len() });
            assert_eq!(drawn, draws(&chaos.clone(), operation));
        }
        assert_ne!(draws(&chaos, Operation::Put), draws(&Chaos::everywhere(8, 300), Operation::Put));
    }
}
