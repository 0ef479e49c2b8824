//! The lines that are landed: a file, so many times over, out of the page cache.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use crate::Error;

const TIMES: u64 = 20;

/// A file of flights, and how often it is read.
pub struct Flights {
    pub path: PathBuf,
    pub times: u64,
    size: u64,
    is_sample: bool,
}

impl Flights {
    /// What the environment names; else the sample, so often that it has that many bytes.
    pub fn find(bytes: u64) -> Result<Flights, Error> {
        let named = std::env::var_os("MILLSTREAM_FLIGHTS").map(PathBuf::from);
        let is_sample = named.is_none();
        let sample = || concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/millstream/data/flights-sample.ndjson").into();
        let path = named.unwrap_or_else(sample);
        let size = std::fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?.len().max(1);
        let times = match std::env::var("MILLSTREAM_FLIGHTS_TIMES") {
            Ok(times) => times.parse().map_err(|_| format!("MILLSTREAM_FLIGHTS_TIMES is no number: {times}"))?,
            Err(_) if is_sample => bytes.div_ceil(size),
            Err(_) => TIMES,
        };
        Ok(Flights { path, times, size, is_sample })
    }

    /// Of all of it.
    pub fn bytes(&self) -> u64 {
        self.size * self.times
    }

    /// The times that directories are made by: the sample has six days, the whole year would have thousands of directories.
    pub fn format(&self) -> &'static str {
        if self.is_sample { "%Y-%m-%d" } else { "%Y-%m" }
    }

    /// How many characters of a time that is.
    pub fn format_bytes(&self) -> usize {
        if self.is_sample { 10 } else { 7 }
    }

    /// The file from its beginning, so often.
    pub fn readers(&self) -> impl Iterator<Item = std::io::Result<BufReader<File>>> {
        (0..self.times).map(|_| Ok(BufReader::with_capacity(1 << 20, File::open(&self.path)?)))
    }

    /// Each line, with its line break.
    pub fn each_line(&self, mut take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut line = Vec::new();
        for reader in self.readers() {
            let mut reader = reader?;
            while reader.read_until(b'\n', &mut line)? > 0 {
                take(&line)?;
                line.clear();
            }
        }
        Ok(())
    }
}
