//! What a process uses, by `/proc`, and how many files it may open.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `/proc/<pid>/stat` counts in these: `USER_HZ`, which Linux shows as 100 everywhere.
const TICKS_A_SECOND: f64 = 100.0;
/// Fields of it behind the program's name, from 0: user and system time.
const UTIME: usize = 11;
const STIME: usize = 12;

/// CPU time of all its threads so far; 10 ms are the least that shows.
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may have blanks and brackets in it; it ends at the last bracket.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_secs_f64((ticks(UTIME) + ticks(STIME)) as f64 / TICKS_A_SECOND))
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    let rustix::time::Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(tv_sec as u64, tv_nsec as u32)
}

/// Memory that is the process's own and in RAM (`RssAnon`), in bytes: not its files' cached pages.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other("status has no RssAnon"))
}

/// As many open files as the system lets this process and its children have; says how many.
///
/// # Errors
/// The system refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}
