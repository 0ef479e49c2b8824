//! What the server decides for all its lakes, and the ranges of what a user decides for one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_log::{Clock, SystemClock};
use millstream_protocol::frame::control::LakeConfig;

use crate::LakeError;

/// The smallest and largest `roll_bytes`: a file is read into memory for its PUT, encoded.
pub(crate) const ROLL_BYTES: (u64, u64) = (1 << 20, 512 << 20);
/// The smallest and largest `roll_age_ms`: from a tenth of a second to a week.
pub(crate) const ROLL_AGE_MS: (u64, u64) = (100, 7 * 24 * 60 * 60 * 1_000);

/// What the server decides for all its lakes.
#[derive(Clone)]
pub struct LakeSettings {
    /// Where files are built before they are put: a directory on a local disk. Made if it is missing. What is in it
    /// has no name and goes with the process.
    pub spool_dir: PathBuf,
    /// How many partitions of a lake are scanned, built or put at the same time; at least 1. Each takes up to about
    /// 64 MiB while it builds and the size of its file while it puts.
    pub parallel: usize,
    /// Tells the age of records.
    pub clock: Arc<dyn Clock>,
}

impl LakeSettings {
    /// Settings with this spool directory, two partitions at a time, and the machine's clock.
    pub fn new(spool_dir: impl Into<PathBuf>) -> Self {
        Self { spool_dir: spool_dir.into(), parallel: 2, clock: Arc::new(SystemClock::default()) }
    }
}

impl fmt::Debug for LakeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeSettings")
            .field("spool_dir", &self.spool_dir)
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// Checks the ranges of a lake's own settings.
pub(crate) fn check_ranges(config: &LakeConfig) -> Result<(), LakeError> {
    let range = |what, value, (min, max): (u64, u64)| {
        if (min..=max).contains(&value) { Ok(()) } else { Err(LakeError::IllegalSetting { what, value, min, max }) }
    };
    range("roll_bytes", config.roll_bytes, ROLL_BYTES)?;
    range("roll_age_ms", config.roll_age_ms, ROLL_AGE_MS)
}
