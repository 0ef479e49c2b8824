//! How long and how much: arguments and environment of a bench with a plain `main`.
//!
//! `cargo bench … -- --json` prints one JSON object instead of a table. `MILLSTREAM_BENCH_ROUNDS`,
//! `MILLSTREAM_BENCH_MIB` (data for each measurement) and `MILLSTREAM_BENCH_DIR` (on the disk that is to be measured;
//! the build directory otherwise, since a temporary directory may be no disk at all) change the defaults. Started by
//! anything but `cargo bench`, it only shows that it works: one small round.

use std::path::PathBuf;

/// What a bench was asked to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often each measurement is repeated.
    pub rounds: usize,
    /// Data for each measurement.
    pub bytes: u64,
    /// Where files go.
    pub directory: PathBuf,
    /// Print JSON.
    pub json: bool,
}

impl Settings {
    /// Reads arguments and environment. `build_directory` is the caller's `env!("CARGO_TARGET_TMPDIR")`.
    ///
    /// # Panics
    /// If a variable is not a number, or an argument not known.
    pub fn read(build_directory: &str, rounds: usize, mib: u64) -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        if let Some(unknown) = arguments.iter().find(|a| !["--bench", "--json", "--nocapture"].contains(&a.as_str())) {
            panic!("unknown argument {unknown}: the only one is --json; see the head of settings.rs for variables");
        }
        let (rounds, mib) = if has("--bench") { (rounds, mib) } else { (1, 4) };
        Self {
            rounds: number("MILLSTREAM_BENCH_ROUNDS").map_or(rounds, |rounds| rounds.max(1) as usize),
            bytes: number("MILLSTREAM_BENCH_MIB").unwrap_or(mib).max(1) << 20,
            directory: std::env::var_os("MILLSTREAM_BENCH_DIR").map_or_else(|| build_directory.into(), PathBuf::from),
            json: has("--json"),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}
