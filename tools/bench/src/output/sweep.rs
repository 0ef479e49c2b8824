//! Many runs along a setting: how a scenario scales.

use std::fmt;
use std::str::FromStr;

use millstream_client::ByteSize;
use serde::{Deserialize, Serialize};

use super::table::columns;
use super::units;
use crate::failure::Failure;
use crate::load::Load;
use crate::load::flags::{LoadFlags, RateParser};
use crate::result::Run;

/// The settings that can be swept.
const SETTINGS: [&str; 11] = [
    "batch-size",
    "record-size",
    "partitions",
    "producers",
    "consumers",
    "queues",
    "subscribers",
    "connections",
    "in-flight",
    "rate",
    "linger",
];

/// A setting and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    setting: String,
    values: Vec<String>,
}

impl FromStr for Over {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (setting, values) = text.split_once('=').ok_or("write for example record-size=100,1k,16k")?;
        if !SETTINGS.contains(&setting) {
            return Err(format!("'{setting}' cannot be swept: use {}", SETTINGS.join(", ")));
        }
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let over = Self { setting: setting.to_owned(), values };
        for value in &over.values {
            over.set(&Load::of(crate::load::Scenario::Produce), value).map_err(|failure| failure.text)?;
        }
        Ok(over)
    }
}

impl Over {
    /// Over numbers of consumers.
    pub fn consumers(counts: &[u32]) -> Self {
        Self { setting: "consumers".to_owned(), values: counts.iter().map(ToString::to_string).collect() }
    }

    /// Its name, as the flag's.
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// Its values, as they were written.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// A load with that value.
    pub fn set(&self, load: &Load, value: &str) -> Result<Load, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}={value}: {why}", self.setting));
        let count = || match value.parse::<u32>() {
            Ok(count) if (1..=10_000).contains(&count) => Ok(count),
            _ => Err(wrong("use 1 to 10000".to_owned())),
        };
        let size = || value.parse::<ByteSize>().map(ByteSize::bytes).map_err(wrong);
        let mut load = load.clone();
        match self.setting.as_str() {
            "batch-size" => load.batch_size = Some(size()?),
            "record-size" => load.record_size = size()?,
            "partitions" => load.partitions = Some(count()?),
            "producers" => load.producers = count()?,
            "consumers" => LoadFlags::set_consumers(&mut load, count()?),
            "queues" => load.queues = count()?,
            "subscribers" => load.subscribers = count()?,
            "connections" => load.connections = count()?,
            "in-flight" => load.in_flight = Some(count()?),
            "rate" => load.rate = RateParser::read(value).map_err(wrong)?.0,
            "linger" => load.linger = Some(value.parse().map_err(wrong)?),
            other => return Err(wrong(format!("{other} cannot be swept"))),
        }
        Ok(load)
    }
}

/// A value, and its runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    pub value: String,
    pub runs: Vec<Run>,
}

/// One setting's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// The setting.
    pub over: String,
    pub points: Vec<Point>,
}

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sweep {
    pub format: u32,
    pub name: String,
    /// What every run was told, but for what is swept.
    pub settings: Load,
    pub rounds: u32,
    pub curves: Vec<Curve>,
}

/// The least, the middle and the most of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing. Of an even number the lower middle.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        Some(Self { min, median: figures[(figures.len() - 1) / 2], max })
    }
}

impl Point {
    /// A figure of the scenario's own meter, over the rounds.
    pub fn spread(&self, figure: impl Fn(&crate::result::Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| figure(run.main()?)))
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} round(s) each: the median [least .. most]", self.name, self.rounds)?;
        for curve in &self.curves {
            let mut rows =
                vec![[curve.over.as_str(), "RECORDS/S", "", "BYTES/S", "P50", "P99"].map(str::to_owned).to_vec()];
            for point in &curve.points {
                let shown = |spread: Option<Spread>, unit: fn(f64) -> String| {
                    spread.map_or(String::new(), |spread| unit(spread.median))
                };
                let records = point.spread(|main| Some(main.records_per_second));
                let range = records
                    .map_or(String::new(), |of| format!("[{} .. {}]", units::count(of.min), units::count(of.max)));
                rows.push(vec![
                    point.value.clone(),
                    shown(records, |rate| units::commas(rate.round() as u64)),
                    range,
                    shown(point.spread(|main| Some(main.bytes_per_second)), units::bytes),
                    shown(point.spread(|main| Some(main.latency?.p50_us)), units::time),
                    shown(point.spread(|main| Some(main.latency?.p99_us)), units::time),
                ]);
            }
            write!(f, "\n\n{}", columns(&rows).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Scenario;

    #[test]
    fn settings_and_values_are_checked_before_anything_runs() {
        let over: Over = "record-size=100,1k,16k".parse().expect("legal");
        let load = over.set(&Load::of(Scenario::Produce), "1k").expect("legal");
        assert_eq!(load.record_size, 1_024);
        for text in ["record-size", "colour=1", "partitions=0,1", "linger=x", "rate=fast"] {
            assert!(text.parse::<Over>().is_err(), "{text}");
        }
        for setting in SETTINGS {
            assert!(format!("{setting}=1").parse::<Over>().is_ok(), "{setting}");
        }
    }

    #[test]
    fn a_spread_is_of_the_sorted_figures() {
        let spread = Spread::of([3.0, 1.0, 2.0, 9.0]).expect("some");
        assert_eq!(spread, Spread { min: 1.0, median: 2.0, max: 9.0 });
        assert_eq!(Spread::of([]), None);
    }
}
