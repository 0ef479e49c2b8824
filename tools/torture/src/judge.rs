//! From the history's files to the checkers' verdict.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use millstream_check::history::{self, HistoryError, Recorder};
use millstream_check::log::{LogHistory, Rules};
use millstream_check::verdict::Verdict;

/// Judges all files of a directory as one history: nothing may be lost. `killed`: processes whose files may end in the middle
/// of a line.
pub fn judge(dir: &Path, killed: &[u32], rules: Rules) -> Result<Verdict, HistoryError> {
    let killed: BTreeSet<PathBuf> = killed.iter().map(|process| Recorder::path(dir, *process)).collect();
    let failed = |source| HistoryError::Io { path: dir.to_owned(), source };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut log = LogHistory::default();
    for file in &files {
        match killed.contains(file) {
            true => history::read_killed(file, |event| log.push(event))?,
            false => history::read(file, |event| log.push(event))?,
        }
    }
    Ok(log.judge(rules))
}

#[cfg(test)]
mod tests {
    use millstream_check::history::{Clock, Place, What};
    use millstream_check::value::{self, ValueId};
    use millstream_check::verdict::Check;
    use millstream_client::Record;

    use super::*;
    use crate::load::consumer::seen;

    const AT: Place = Place { stream: 0, partition: 0 };
    const RECORDS: u64 = 100;

    /// What a run leaves that acknowledged 100 records, of which the last read has all but `dropped`.
    fn run_that_lost(dropped: Option<u64>) -> Verdict {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::start();
        let values: Vec<ValueId> = (0..RECORDS).map(|counter| ValueId::new(1, counter)).collect();
        let mut producer = Recorder::create(dir.path(), 1, clock).expect("made");
        producer.record(What::Invoke { at: AT, values: values.clone() });
        producer.record(What::Ok { at: AT, base_offset: 0, values: values.clone(), resends: 0 });
        producer.finish().expect("written");
        let mut reader = Recorder::create(dir.path(), 2, clock).expect("made");
        let kept = (0..).zip(&values).filter(|(offset, _)| Some(*offset) != dropped);
        let records = kept.map(|(offset, value)| (offset, seen(&Record::new(value::encode(*value, 20))))).collect();
        reader.record(What::Final { at: AT, records });
        reader.record(What::FinalEnd { at: AT, start: 0, end: RECORDS });
        reader.finish().expect("written");
        judge(dir.path(), &[], Rules::default()).expect("whole")
    }

    #[test]
    fn canary_one_acknowledged_record_that_the_last_read_misses_turns_the_verdict_red() {
        let good = run_that_lost(None);
        assert!(good.is_good(), "{good}");
        for dropped in [0, 41, RECORDS - 1] {
            let bad = run_that_lost(Some(dropped));
            assert_eq!((bad.is_good(), bad.count(Check::LostWrite)), (false, 1), "{bad}");
            assert_eq!(bad.violations()[0].offset, Some(dropped));
        }
    }
}
