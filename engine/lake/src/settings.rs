//! What the server decides for all its lakes, and the ranges of what a user decides for one.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_log::{Clock, SystemClock};
use millstream_protocol::frame::control::{LakeColumns, LakeConfig, LakeFormat};
use millstream_protocol::limits::{LAKE_OPEN_FILES, LAKE_ROLL_AGE_MS, LAKE_ROLL_BYTES, LAKE_ROLL_ROWS};
use tokio::sync::Semaphore;

use crate::LakeError;
use crate::budget::Budget;
use crate::layout::Layout;
use crate::schema::parse_declared;
use crate::workers::Workers;

/// Memory for rows and row groups that are not written out yet, in bytes.
const BUILD_BYTES: usize = 128 << 20;
/// Memory for files on their way to a store, in MiB.
const PUT_MIB: usize = 160;

/// What the server decides for all its lakes.
#[derive(Clone)]
pub struct LakeSettings {
    /// Where files are built before they are put: a directory on a local disk. Made if it is missing. What is in it
    /// has no name and goes with the process.
    pub spool_dir: PathBuf,
    /// The threads that read and encode.
    pub workers: Arc<Workers>,
    /// How many files of one lake are put at the same time; at least 1.
    pub parallel_puts: usize,
    /// Memory of files under construction: beyond it, row groups are closed early.
    pub building: Arc<Budget>,
    /// Memory of files on their way to a store, in MiB: a larger file goes alone.
    pub putting: Arc<Semaphore>,
    /// Tells the age of records.
    pub clock: Arc<dyn Clock>,
}

impl LakeSettings {
    /// Settings with this spool directory, a thread for every other core, 128 MiB for building and 160 MiB for
    /// putting, and the machine's clock.
    pub fn new(spool_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            spool_dir: spool_dir.into(),
            workers: Workers::start(cores / 2),
            parallel_puts: 4,
            building: Arc::new(Budget::new(BUILD_BYTES)),
            putting: Arc::new(Semaphore::new(PUT_MIB)),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// How many permits of `putting` a file of that size takes.
    pub(crate) fn put_permits(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 20).clamp(1, PUT_MIB as u64)).unwrap_or(PUT_MIB as u32)
    }
}

impl fmt::Debug for LakeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeSettings")
            .field("spool_dir", &self.spool_dir)
            .field("parallel_puts", &self.parallel_puts)
            .finish_non_exhaustive()
    }
}

/// Checks what can be checked of a lake's own settings without asking anybody.
pub(crate) fn check(config: &LakeConfig) -> Result<(), LakeError> {
    let range = |what, value, range: RangeInclusive<u64>| {
        let (min, max) = (*range.start(), *range.end());
        if range.contains(&value) { Ok(()) } else { Err(LakeError::IllegalSetting { what, value, min, max }) }
    };
    range("roll_bytes", config.roll_bytes, LAKE_ROLL_BYTES)?;
    range("roll_rows", config.roll_rows, LAKE_ROLL_ROWS)?;
    range("roll_age_ms", config.roll_age_ms, LAKE_ROLL_AGE_MS)?;
    range("max_age_ms", config.max_age_ms, config.roll_age_ms..=*LAKE_ROLL_AGE_MS.end())?;
    range("open_files", u64::from(config.open_files), LAKE_OPEN_FILES)?;
    if !config.format.compressions().contains(&config.compression) {
        return Err(LakeError::IllegalConfig(
            "Parquet files are compressed with zstd, snappy, lz4 or none, NDJSON files with zstd, gzip or none".into(),
        ));
    }
    if config.format == LakeFormat::Ndjson && config.columns != LakeColumns::Inferred {
        return Err(LakeError::IllegalConfig("NDJSON files have no columns: choose Parquet, or no schema".into()));
    }
    Layout::parse(&config.layout).map_err(|error| LakeError::IllegalConfig(error.to_string()))?;
    if let LakeColumns::Declared(text) = &config.columns {
        parse_declared(text).map_err(|error| LakeError::IllegalConfig(error.to_string()))?;
    }
    Ok(())
}
