//! What kind of producer works next: one choice after the other, out of a seed. Pure.

use std::time::Duration;

use millstream_check::seeded::Seeded;
use millstream_client::Codec;

use super::Mix;

/// Keys that records have, if they have one: more than there are partitions, so that most of them get some.
const KEYS: u64 = 4_096;

/// How one producer works for its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub batch_bytes: usize,
    pub linger: Duration,
    pub in_flight: u32,
    pub codec: Codec,
    /// Short ones give records up while the server is away, so that unknown outcomes occur.
    pub delivery_timeout: Duration,
    /// Records without an outcome; beyond, it waits.
    pub window: usize,
    pub burst: u64,
    pub pause_us: u64,
    pub keyed_percent: u64,
    pub padding: u64,
    /// Records it sends before another producer takes its place.
    pub life: u64,
    /// Whether it ends as a crash: dropped, with records under way.
    pub crashes: bool,
    pub idempotent: bool,
    /// Whether a second copy of a record of it is an error.
    pub stands_once: bool,
}

impl Plan {
    /// The next producer's.
    pub fn choose(seeded: &mut Seeded, mix: Mix) -> Self {
        let two_of_three = seeded.of(0..=2) > 0;
        let (idempotent, stands_once) = match mix {
            Mix::Any => (two_of_three, two_of_three),
            Mix::Exact { idempotent } => (idempotent, true),
        };
        let gives_up = seeded.percent(30);
        let delivery_ms = if gives_up { seeded.of(200..=900) } else { 60_000 };
        Self {
            batch_bytes: 1 << seeded.of(10..=20),
            linger: Duration::from_millis(seeded.of(0..=5)),
            in_flight: 1 << seeded.of(0..=7),
            codec: [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd][seeded.index(4)],
            delivery_timeout: Duration::from_millis(delivery_ms),
            window: 1 << seeded.of(7..=12),
            burst: 1 << seeded.of(4..=9),
            pause_us: seeded.of(500..=6_000),
            keyed_percent: [0, 50, 100][seeded.index(3)],
            padding: 1 << seeded.of(4..=11),
            life: seeded.of(500..=40_000),
            crashes: seeded.percent(50),
            idempotent,
            stands_once,
        }
    }

    /// The next record's padding: most are small, a few are large.
    pub fn padding(&self, seeded: &mut Seeded) -> usize {
        let most = if seeded.percent(1) { 64 << 10 } else { self.padding };
        seeded.of(0..=most) as usize
    }

    /// The next record's key.
    pub fn key(&self, seeded: &mut Seeded) -> Option<Vec<u8>> {
        seeded.percent(self.keyed_percent).then(|| seeded.of(0..=KEYS - 1).to_le_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_producers() {
        let plans = |seed| {
            let mut seeded = Seeded::new(seed);
            [(); 20].map(|()| Plan::choose(&mut seeded, Mix::Any))
        };
        assert_eq!(plans(3), plans(3));
        assert_ne!(plans(3), plans(4));
    }

    #[test]
    fn some_producers_give_up_and_some_wait() {
        let mut seeded = Seeded::new(1);
        let plans: Vec<Plan> = (0..100).map(|_| Plan::choose(&mut seeded, Mix::Any)).collect();
        let short = plans.iter().filter(|plan| plan.delivery_timeout < Duration::from_secs(1)).count();
        assert!((10..60).contains(&short), "{short} of 100 give up");
    }

    #[test]
    fn a_canary_promises_what_it_does_not_do() {
        let mut seeded = Seeded::new(1);
        let mut promises = |mix| {
            let plans = [(); 30].map(|()| Plan::choose(&mut seeded, mix));
            plans.map(|plan| (plan.idempotent, plan.stands_once))
        };
        assert!(promises(Mix::Any).contains(&(false, false)));
        assert!(promises(Mix::Exact { idempotent: true }).iter().all(|one| *one == (true, true)));
        assert!(promises(Mix::Exact { idempotent: false }).iter().all(|one| *one == (false, true)));
    }
}
