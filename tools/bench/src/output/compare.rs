//! Two runs side by side: each figure of the one as a ratio to the other's.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::table::{columns, percentiles};
use super::units;
use crate::failure::Failure;
use crate::result::{FORMAT, Measured, Run};

/// Two runs, and in what they differ.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub ratios: Vec<Ratio>,
    /// Settings that are not the same.
    pub differences: Vec<Difference>,
    #[serde(skip)]
    pub before: Run,
    #[serde(skip)]
    pub after: Run,
}

/// One figure in both.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    pub meter: String,
    pub figure: String,
    pub before: f64,
    pub after: f64,
    /// After to before.
    pub ratio: f64,
    #[serde(skip)]
    unit: Unit,
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Count,
    Bytes,
    Time,
    Percent,
}

/// A setting that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub setting: String,
    pub before: String,
    pub after: String,
}

impl Comparison {
    /// Of two files that `--json` wrote.
    pub fn read(before: &Path, after: &Path) -> Result<Self, Failure> {
        Ok(Self::new(read(before)?, read(after)?))
    }

    /// Of two runs.
    pub fn new(before: Run, after: Run) -> Self {
        let mut ratios = Vec::new();
        for measured in &after.meters {
            if let Some(other) = before.meters.iter().find(|other| other.name == measured.name) {
                ratios.extend(of_meter(other, measured));
            }
        }
        if let (Some(one), Some(other)) = (&before.process, &after.process) {
            let ratio = |figure: &str, before: f64, after: f64, unit| ratio("process", figure, (before, after), unit);
            ratios.push(ratio("cpu_percent", one.cpu_percent, other.cpu_percent, Unit::Percent));
            let (before, after) = (one.resident_bytes_max as f64, other.resident_bytes_max as f64);
            ratios.push(ratio("resident_bytes_max", before, after, Unit::Bytes));
        }
        let differences = differences(&before, &after);
        Self { ratios, differences, before, after }
    }

    /// The table.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["", "BEFORE", "AFTER", "RATIO"].map(str::to_owned).to_vec()];
        rows.extend(self.ratios.iter().map(|one| {
            let show = |figure| match one.unit {
                Unit::Count => units::commas(f64::round(figure) as u64),
                Unit::Bytes => units::bytes(figure),
                Unit::Time => units::time(figure),
                Unit::Percent => format!("{figure:.0} %"),
            };
            vec![
                format!("{} {}", one.meter, one.figure),
                show(one.before),
                show(one.after),
                format!("{:.2}", one.ratio),
            ]
        }));
        rows
    }

    /// The settings that differ, as a table.
    pub fn difference_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["SETTING", "BEFORE", "AFTER"].map(str::to_owned).to_vec()];
        rows.extend(
            self.differences.iter().map(|one| vec![one.setting.clone(), one.before.clone(), one.after.clone()]),
        );
        rows
    }
}

fn read(path: &Path) -> Result<Run, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    let path = path.display();
    let run: Run = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{path} is not what --json prints of a run: {error}")))?;
    if run.format != FORMAT {
        let (version, format) = (&run.version, run.format);
        return Err(Failure::usage(format!(
            "{path} is of format {format} (version {version}), this program reads {FORMAT}"
        )));
    }
    Ok(run)
}

fn ratio(meter: &str, figure: &str, (before, after): (f64, f64), unit: Unit) -> Ratio {
    let ratio = if before > 0.0 { after / before } else { f64::NAN };
    Ratio { meter: meter.to_owned(), figure: figure.to_owned(), before, after, ratio, unit }
}

fn of_meter(before: &Measured, after: &Measured) -> Vec<Ratio> {
    let name = after.name.as_str();
    let mut ratios = vec![
        ratio(name, "records/s", (before.records_per_second, after.records_per_second), Unit::Count),
        ratio(name, "bytes/s", (before.bytes_per_second, after.bytes_per_second), Unit::Bytes),
    ];
    if let (Some(before), Some(after)) = (&before.latency, &after.latency) {
        let pairs = percentiles(before).into_iter().zip(percentiles(after));
        ratios.extend(pairs.map(|((figure, before), (_, after))| ratio(name, figure, (before, after), Unit::Time)));
    }
    ratios
}

fn differences(before: &Run, after: &Run) -> Vec<Difference> {
    let settings = |run: &Run| match serde_json::to_value(&run.settings).expect("plain structs always serialize") {
        serde_json::Value::Object(settings) => settings,
        _ => unreachable!("a struct is an object"),
    };
    let (before, after) = (settings(before), settings(after));
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differing = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    differing
        .map(|(name, value)| Difference {
            setting: name.clone(),
            before: before.get(name).map(text).unwrap_or_default(),
            after: text(value),
        })
        .collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (&self.before, &self.after);
        write!(f, "{} against {}\n\n{}", after.name, before.name, columns(&self.rows()).trim_end())?;
        if !self.differences.is_empty() {
            write!(f, "\n\n{}", columns(&self.difference_rows()).trim_end())?;
        }
        for (name, run) in [("before", before), ("after", after)] {
            if !run.correct {
                write!(f, "\n  note: {name} is not right: what was read is not what was sent")?;
            }
        }
        if before.machine.optimized != after.machine.optimized {
            write!(f, "\n  note: only one of them was built with optimisations: do not compare them")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::run;

    #[test]
    fn ratios_are_after_to_before_and_settings_that_differ_are_named() {
        let (before, mut after) = (run("produce", 2), run("produce", 2));
        after.settings.producers = 7;
        after.meters[0].records_per_second *= 2.0;
        let comparison = Comparison::new(before, after);
        assert!((comparison.ratios[0].ratio - 2.0).abs() < 1e-9 && comparison.ratios[0].figure == "records/s");
        let expected = Difference { setting: "producers".into(), before: "1".into(), after: "7".into() };
        assert_eq!(comparison.differences, [expected]);
        assert!(comparison.to_string().contains("2.00"));
    }

    #[test]
    fn a_file_that_is_no_run_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        let refused = |text: &str| {
            std::fs::write(&path, text).expect("written");
            Comparison::read(&path, &path).expect_err("refused")
        };
        assert!(refused("{}").text.contains("a.json"));
        let other = serde_json::to_string(&Run { format: 99, ..run("x", 1) }).expect("json");
        assert!(refused(&other).text.contains("format 99"));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(Comparison::read(&path, &path).expect_err("gone").exit, 70);
    }
}
