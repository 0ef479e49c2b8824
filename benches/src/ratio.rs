//! Ratios of product to ceiling, round by round.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// A rate: the ratio is product / ceiling.
    Higher,
    /// A time: the ratio is ceiling / product, so that 1 is always the ceiling.
    Lower,
}

/// One thing measured in both ways.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done, by the product and by what.
    pub name: &'static str,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Which way they are better.
    pub better: Better,
    /// The ratio to reach, if one is set.
    pub aim: Option<f64>,
    product: Vec<f64>,
    ceiling: Vec<f64>,
}

/// A median with its extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Row {
    /// A row without rounds.
    pub fn new(name: &'static str, unit: &'static str, better: Better, aim: Option<f64>) -> Self {
        Self { name, unit, better, aim, product: Vec::new(), ceiling: Vec::new() }
    }

    /// Measures one round: which goes first changes from round to round.
    ///
    /// # Errors
    /// The first of either's.
    pub fn round<E>(
        &mut self,
        ceiling: impl FnOnce() -> Result<f64, E>,
        product: impl FnOnce() -> Result<f64, E>,
    ) -> Result<(), E> {
        if self.product.len().is_multiple_of(2) {
            self.ceiling.push(ceiling()?);
            self.product.push(product()?);
        } else {
            self.product.push(product()?);
            self.ceiling.push(ceiling()?);
        }
        Ok(())
    }

    /// The rounds' ratios. A ratio of two neighbours in time: what slows the machine down slows both.
    ///
    /// # Panics
    /// Without a round.
    pub fn ratio(&self) -> Spread {
        let pairs = self.product.iter().zip(&self.ceiling);
        Spread::of(pairs.map(|(product, ceiling)| match self.better {
            Better::Higher => product / ceiling,
            Better::Lower => ceiling / product,
        }))
    }

    /// The rounds' product / ceiling, whichever way is better.
    ///
    /// # Panics
    /// Without a round.
    pub fn quotient(&self) -> Spread {
        Spread::of(self.product.iter().zip(&self.ceiling).map(|(product, ceiling)| product / ceiling))
    }

    /// The product's figures.
    ///
    /// # Panics
    /// Without a round.
    pub fn product(&self) -> Spread {
        Spread::of(self.product.iter().copied())
    }

    /// The ceiling's figures.
    ///
    /// # Panics
    /// Without a round.
    pub fn ceiling(&self) -> Spread {
        Spread::of(self.ceiling.iter().copied())
    }

    fn json(&self) -> Value {
        let spread = |s: Spread| json!({ "median": s.median, "min": s.min, "max": s.max });
        json!({
            "name": self.name,
            "unit": self.unit,
            "ratio": spread(self.ratio()),
            "aim": self.aim,
            "product": spread(Spread::of(self.product.iter().copied())),
            "ceiling": spread(Spread::of(self.ceiling.iter().copied())),
            "rounds": { "product": self.product, "ceiling": self.ceiling },
        })
    }
}

impl Spread {
    /// Of some figures.
    ///
    /// # Panics
    /// Without any.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { panic!("nothing was measured") };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Self { median, min, max }
    }
}

/// The rows as a table for people.
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut out = format!("{title}\n");
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(8);
    let _ = writeln!(out, "{:width$}  {:>19}  {:>4}  {:>24}  {:>24}", "", "ratio", "aim", "product", "ceiling");
    for row in rows {
        let ratio = row.ratio();
        let ratio = format!("{:.2} [{:.2}..{:.2}]", ratio.median, ratio.min, ratio.max);
        let aim = row.aim.map_or("–".to_owned(), |aim| format!("{aim:.1}"));
        let figures = |figures: &[f64]| {
            let s = Spread::of(figures.iter().copied());
            format!("{:.0} [{:.0}..{:.0}] {}", s.median, s.min, s.max, row.unit)
        };
        let (product, ceiling) = (figures(&row.product), figures(&row.ceiling));
        let _ = writeln!(out, "{:width$}  {ratio:>19}  {aim:>4}  {product:>24}  {ceiling:>24}", row.name);
    }
    out
}

/// The rows as one JSON object.
pub fn json(title: &str, rows: &[Row]) -> String {
    json!({ "title": title, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_ceiling_whichever_way_is_better() {
        for (better, product) in [(Better::Higher, [50.0, 80.0, 60.0]), (Better::Lower, [200.0, 125.0, 500.0 / 3.0])] {
            let mut row = Row::new("x", "y", better, Some(0.6));
            for figure in product {
                row.round(|| Ok::<_, ()>(100.0), || Ok(figure)).expect("both are figures");
            }
            let ratio = row.ratio();
            assert!((ratio.median - 0.6).abs() < 1e-9, "{ratio:?}");
            assert!((ratio.min - 0.5).abs() < 1e-9 && (ratio.max - 0.8).abs() < 1e-9, "{ratio:?}");
            assert!(table("t", &[row.clone()]).contains("0.60 [0.50..0.80]"));
            let parsed: Value = serde_json::from_str(&json("t", &[row])).expect("JSON");
            assert_eq!(parsed["rows"][0]["rounds"]["product"].as_array().map(Vec::len), Some(3));
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
    }
}
