//! Zipf's distribution: the k-th key comes in proportion to k^-exponent.
//!
//! Rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", 1996): constant time and memory, however many keys there are.

use super::random::Random;

/// Draws from 1 to n.
#[derive(Debug, Clone)]
pub struct Zipf {
    n: f64,
    exponent: f64,
    /// The integral of the hat at 1.5, less the first weight: where drawing begins.
    from: f64,
    /// The same at n + 0.5: where it ends.
    to: f64,
    /// A draw that lies this near to its integer is taken without looking closer.
    sure: f64,
}

impl Zipf {
    /// `n` is at least 1, the exponent above 0.
    pub fn new(n: u64, exponent: f64) -> Self {
        let mut zipf = Self { n: n as f64, exponent, from: 0.0, to: 0.0, sure: 0.0 };
        zipf.from = zipf.integral(1.5) - 1.0;
        zipf.to = zipf.integral(zipf.n + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// One of 1 to n.
    pub fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.to + random.unit() * (self.from - self.to);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.sure || u >= self.integral(k + 0.5) - self.weight(k) {
                return k as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// Of x^-exponent: (x^(1-e) - 1) / (1-e), and ln x where the exponent is 1.
    fn integral(&self, x: f64) -> f64 {
        let ln = x.ln();
        quotient_of_exp(ln * (1.0 - self.exponent)) * ln
    }

    fn inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.exponent)).max(-1.0);
        (quotient_of_ln(t) * y).exp()
    }
}

/// (e^x - 1) / x, and 1 at 0.
fn quotient_of_exp(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 * (1.0 + x / 3.0) }
}

/// ln(1 + x) / x, and 1 at 0.
fn quotient_of_ln(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x / 3.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_proportion_to_their_weights() {
        for exponent in [0.5, 0.99, 1.0, 1.2, 2.0] {
            let (n, draws) = (100, 200_000);
            let (zipf, mut random) = (Zipf::new(n, exponent), Random::new(1));
            let mut counts = vec![0_u32; n as usize + 1];
            for _ in 0..draws {
                counts[zipf.draw(&mut random) as usize] += 1;
            }
            assert_eq!(counts[0], 0, "they begin at 1");
            let sum: f64 = (1..=n).map(|k| (k as f64).powf(-exponent)).sum();
            for k in [1, 2, 3, 10, 50] {
                let expected = f64::from(draws) * (k as f64).powf(-exponent) / sum;
                let found = f64::from(counts[k as usize]);
                // Five standard deviations.
                assert!((found - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{exponent} {k}: {found} {expected}");
            }
        }
    }

    #[test]
    fn one_key_is_always_the_one() {
        let (zipf, mut random) = (Zipf::new(1, 1.0), Random::new(9));
        assert!((0..1_000).all(|_| zipf.draw(&mut random) == 1));
    }
}
