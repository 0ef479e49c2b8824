//! What was measured of one path, and how it is printed: as it comes, so that a long run can be followed.

use std::time::Duration;

use millstream_benches::ratio::{Better, Row, Spread};
use serde_json::{Map, Value, json};

/// One path with one size of datagrams.
pub struct Outcome {
    name: &'static str,
    datagram: u16,
    unit: &'static str,
    better: Better,
    /// The ratio to reach, from below or from above.
    aim: Option<f64>,
    product: Spread,
    ceiling: Spread,
    ratio: Spread,
    /// What else was seen: figures by name.
    notes: Map<String, Value>,
}

impl Outcome {
    /// Of rounds against a ceiling.
    pub fn new(name: &'static str, datagram: u16, row: &Row) -> Self {
        Self {
            name,
            datagram,
            unit: row.unit,
            better: row.better,
            aim: row.aim,
            product: row.product(),
            ceiling: row.ceiling(),
            ratio: row.quotient(),
            notes: Map::new(),
        }
    }

    /// Of rounds against a bound, which is not to be exceeded.
    pub fn bounded(name: &'static str, datagram: u16, unit: &'static str, product: Vec<f64>, bound: f64) -> Self {
        let product = Spread::of(product);
        let of_bound = |figure: f64| figure / bound;
        Self {
            name,
            datagram,
            unit,
            better: Better::Lower,
            aim: Some(1.0),
            product,
            ceiling: Spread { median: bound, min: bound, max: bound },
            ratio: Spread { median: of_bound(product.median), min: of_bound(product.min), max: of_bound(product.max) },
            notes: Map::new(),
        }
    }

    /// Says something more.
    pub fn note(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.notes.insert(name.to_owned(), value.into());
        self
    }

    fn is_met(&self) -> Option<bool> {
        self.aim.map(|aim| match self.better {
            Better::Higher => self.ratio.median >= aim,
            Better::Lower => self.ratio.median <= aim,
        })
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "name": self.name,
            "datagram": self.datagram,
            "product": self.product.median,
            "ceiling": self.ceiling.median,
            "unit": self.unit,
            "better": if self.better == Better::Higher { "higher" } else { "lower" },
            "ratio": self.ratio.median,
            "min": self.ratio.min,
            "max": self.ratio.max,
            "aim": self.aim,
            "product_min": self.product.min,
            "product_max": self.product.max,
            "ceiling_min": self.ceiling.min,
            "ceiling_max": self.ceiling.max,
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(self.notes.clone());
        }
        object
    }

    fn line(&self) -> String {
        let places = if self.product.median < 10.0 { 2 } else { 0 };
        let figure =
            |s: Spread| format!("{:.places$} [{:.places$}..{:.places$}] {}", s.median, s.min, s.max, self.unit);
        let Spread { median, min, max } = self.ratio;
        let aim = match (self.aim, self.better) {
            (None, _) => String::new(),
            (Some(aim), Better::Higher) => format!("≥ {aim:.1}"),
            (Some(aim), Better::Lower) => format!("≤ {aim:.1}"),
        };
        let met = match self.is_met() {
            Some(true) => "✔",
            Some(false) => "✘",
            None => " ",
        };
        format!(
            "{met} {:16} {:>5}  {:>19}  {aim:>6}  {:>30}  {:>30}",
            self.name,
            self.datagram,
            format!("{median:.2} [{min:.2}..{max:.2}]"),
            figure(self.product),
            figure(self.ceiling),
        )
    }
}

/// Prints what comes.
pub struct Printer {
    json: bool,
    lines: usize,
    met: usize,
    aims: usize,
}

impl Printer {
    /// As JSON, one object a line, or as a table.
    pub fn new(json: bool) -> Self {
        if !json {
            println!(
                "  {:16} {:>5}  {:>19}  {:>6}  {:>30}  {:>30}",
                "path", "UDP", "product / ceiling", "aim", "product", "ceiling"
            );
        }
        Self { json, lines: 0, met: 0, aims: 0 }
    }

    /// Prints one.
    pub fn print(&mut self, outcome: &Outcome) {
        self.lines += 1;
        self.aims += usize::from(outcome.aim.is_some());
        self.met += usize::from(outcome.is_met() == Some(true));
        if self.json {
            return println!("{}", outcome.json());
        }
        println!("{}", outcome.line());
        for (name, value) in &outcome.notes {
            let value = match value {
                Value::Number(number) => number.as_f64().map_or(value.to_string(), |n| format!("{n:.3}")),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            println!("    {name}: {value}");
        }
    }

    /// After the last one.
    pub fn end(&self, took: Duration, rounds: usize) {
        if !self.json {
            println!(
                "{} of {} aims met, by medians of {rounds} rounds [min..max]; {} measured in {:.0} s",
                self.met,
                self.aims,
                self.lines,
                took.as_secs_f64()
            );
        }
    }
}

/// Processor time for each GiB.
pub fn seconds_per_gib(cpu: &[Duration], bytes: u64) -> f64 {
    Spread::of(cpu.iter().map(Duration::as_secs_f64)).median / (bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_product_by_ceiling_and_an_aim_is_met_from_its_side() {
        for (better, product, met) in
            [(Better::Higher, 80.0, true), (Better::Higher, 70.0, false), (Better::Lower, 70.0, true)]
        {
            let mut row = Row::new("x", "MB/s", better, Some(0.8));
            row.round(|| Ok::<_, ()>(100.0), || Ok(product)).expect("figures");
            let outcome = Outcome::new("x", 1_452, &row);
            assert_eq!(outcome.is_met(), Some(met));
            let object = outcome.note("more", 3).json();
            assert_eq!(object["ratio"].as_f64(), Some(product / 100.0));
            assert_eq!((&object["datagram"], &object["more"]), (&json!(1_452), &json!(3)));
        }
        let bounded = Outcome::bounded("y", 6_500, "KiB", vec![30.0, 32.0, 200.0], 64.0);
        assert_eq!((bounded.is_met(), bounded.ratio.median, bounded.ratio.max), (Some(true), 0.5, 3.125));
    }
}
