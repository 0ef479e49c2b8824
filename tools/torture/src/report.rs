//! The verdict in one line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millstream_check::history::Life;
use millstream_check::verdict::{Check, Verdict};

/// What was done to the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub cycles: u32,
    under_load: u64,
    in_recovery: u64,
    in_shutdown: u64,
    slowest_start: Duration,
    pub last_start: Duration,
}

impl Tally {
    pub fn count(&mut self, life: Life) {
        match life {
            Life::KillUnderLoad => self.under_load += 1,
            Life::KillInRecovery => self.in_recovery += 1,
            Life::KillInShutdown => self.in_shutdown += 1,
            Life::Start | Life::Ready | Life::Stop => {}
        }
    }

    pub fn started(&mut self, took: Duration) {
        self.last_start = took;
        self.slowest_start = self.slowest_start.max(took);
    }

    /// So far.
    pub fn progress(&self, acked: u64) -> String {
        let start_ms = self.last_start.as_millis();
        format!("{} acked, {} kills, last start {start_ms} ms", grouped(acked), grouped(self.kills()))
    }

    /// As the end of a verdict says it.
    pub fn kills_told(&self) -> String {
        format!(
            "{} kills ({} under load, {} in recovery, {} in shutdown), slowest start {} ms",
            grouped(self.kills()),
            grouped(self.under_load),
            grouped(self.in_recovery),
            grouped(self.in_shutdown),
            self.slowest_start.as_millis()
        )
    }

    fn kills(&self) -> u64 {
        self.under_load + self.in_recovery + self.in_shutdown
    }
}

/// A run that was judged.
#[derive(Debug)]
pub struct Report {
    pub tally: Tally,
    pub verdict: Verdict,
    /// The command that makes the same choices.
    pub again: String,
    pub seed: u64,
    /// Where everything of the run is, if it is.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// The program's exit code.
    pub fn exit(&self) -> u8 {
        u8::from(!self.verdict.is_good())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, verdict, .. } = self;
        let (counts, of) = (verdict.counts(), |check| grouped(verdict.count(check)));
        write!(f, "{} {} cycles: ", if verdict.is_good() { "PASS" } else { "FAIL" }, tally.cycles)?;
        write!(f, "{} acked, {} lost, ", grouped(counts.acked), of(Check::LostWrite))?;
        write!(f, "{} reordered, ", grouped(verdict.count(Check::Reorder) + verdict.count(Check::RealTime)))?;
        write!(f, "{} divergent, {} phantom, ", of(Check::Divergence), of(Check::Phantom))?;
        write!(f, "{} duplicates from resends, ", grouped(counts.duplicates))?;
        let told = [Check::LostWrite, Check::Reorder, Check::RealTime, Check::Divergence, Check::Phantom];
        others(f, verdict, &told)?;
        write!(f, "{} unknown ({} stored), ", grouped(counts.unknown), grouped(counts.unknown_stored))?;
        write!(f, "{} read; ", grouped(counts.fetched + counts.last_read))?;
        write!(f, "{}, seed {}", tally.kills_told(), self.seed)?;
        if let Some(kept) = &self.kept {
            write!(f, "; kept in {}", kept.display())?;
        }
        if !verdict.is_good() {
            write!(f, "; again: {}", self.again)?;
        }
        Ok(())
    }
}

/// What else was found than what a verdict tells of anyway.
pub fn others(f: &mut fmt::Formatter<'_>, verdict: &Verdict, told: &[Check]) -> fmt::Result {
    let rest = Check::ALL.into_iter().filter(|check| !told.contains(check) && verdict.count(*check) > 0);
    for check in rest {
        write!(f, "{} × {} {}, ", grouped(verdict.count(check)), check.id(), check.name())?;
    }
    Ok(())
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use millstream_check::history::{Event, Place, What};
    use millstream_check::log::{LogHistory, Rules};
    use millstream_check::value::ValueId;

    use super::*;

    fn report(last_read: Vec<(u64, Option<ValueId>)>) -> Report {
        let (at, values) = (Place { stream: 0, partition: 0 }, vec![ValueId::new(1, 0)]);
        let mut log = LogHistory::default();
        for what in [
            What::Invoke { at, values: values.clone() },
            What::Ok { at, base_offset: 0, values, resends: 0 },
            What::Final { at, records: last_read },
        ] {
            log.push(Event { at_ns: 0, process: 1, what });
        }
        let mut tally = Tally { cycles: 10, ..Tally::default() };
        tally.started(Duration::from_millis(31));
        for life in [Life::KillUnderLoad, Life::KillUnderLoad, Life::KillInRecovery, Life::Ready] {
            tally.count(life);
        }
        let verdict = log.judge(Rules::default());
        Report { tally, verdict, again: "millstream-torture kill --seed 7".into(), seed: 7, kept: None }
    }

    #[test]
    fn the_line_says_the_verdict_first_and_the_exit_code_agrees() {
        let good = report(vec![(0, Some(ValueId::new(1, 0)))]);
        assert_eq!(
            good.to_string(),
            "PASS 10 cycles: 1 acked, 0 lost, 0 reordered, 0 divergent, 0 phantom, 0 duplicates from resends, 0 unknown (0 \
             stored), 1 read; 3 kills (2 under load, 1 in recovery, 0 in shutdown), slowest start 31 ms, seed 7"
        );
        assert_eq!(good.exit(), 0);
        let bad = report(Vec::new());
        assert!(bad.to_string().starts_with("FAIL 10 cycles: 1 acked, 1 lost, "), "{bad}");
        assert!(bad.to_string().ends_with("; again: millstream-torture kill --seed 7"), "{bad}");
        assert_eq!(bad.exit(), 1);
    }

    #[test]
    fn numbers_are_grouped_in_thousands() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
