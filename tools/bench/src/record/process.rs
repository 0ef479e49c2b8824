//! What a server's process uses, by `/proc`: only of one on this machine.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// `/proc/<pid>/stat` counts in these: `USER_HZ`, which Linux shows as 100 everywhere.
const TICKS_A_SECOND: f64 = 100.0;
/// Fields of it behind the program's name, from 0: user and system time.
const UTIME: usize = 11;
const STIME: usize = 12;

/// A server's process.
#[derive(Debug, Clone, Copy)]
pub struct ServerProcess {
    pid: u32,
}

impl ServerProcess {
    /// This process.
    pub fn this() -> Self {
        Self { pid: std::process::id() }
    }

    /// The process that holds that file open: of a server's data directory, its lock. `None` if it cannot be told.
    pub fn holder_of(file: &Path) -> Option<Self> {
        let file = file.canonicalize().ok()?;
        let pids = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|pid| holds(*pid, &file)).map(Self::new)
    }

    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// The process of that number.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(self) -> Result<u64, Failure> {
        let text = self.read("status")?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        kib.map(|kib: u64| kib * 1_024).ok_or_else(|| self.unreadable(&"status has no VmRSS"))
    }

    /// CPU time used so far, of all threads.
    pub fn cpu(self) -> Result<Duration, Failure> {
        let text = self.read("stat")?;
        // The name may have blanks and brackets in it; it ends at the last bracket.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        match (ticks(UTIME), ticks(STIME)) {
            (Some(user), Some(system)) => Ok(Duration::from_secs_f64((user + system) as f64 / TICKS_A_SECOND)),
            _ => Err(self.unreadable(&"stat has no times")),
        }
    }

    /// The share of one core that it uses over that time, in percent.
    pub async fn cpu_percent(self, over: Duration) -> Result<f64, Failure> {
        let (before, since) = (self.cpu()?, Instant::now());
        tokio::time::sleep(over).await;
        let used = self.cpu()?.saturating_sub(before);
        Ok(100.0 * used.as_secs_f64() / since.elapsed().as_secs_f64())
    }

    fn read(self, file: &str) -> Result<String, Failure> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(self, why: &dyn std::fmt::Display) -> Failure {
        let text = format!("process {} cannot be measured: {why}; --server-pid names one on this machine", self.pid);
        Failure::local(text)
    }
}

fn holds(pid: u32, file: &Path) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_file_open_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("LOCK");
        let file = std::fs::File::create(&path).expect("made");
        assert_eq!(ServerProcess::holder_of(&path).map(ServerProcess::pid), Some(std::process::id()));
        drop(file);
        assert_eq!(ServerProcess::holder_of(&path).map(ServerProcess::pid), None);
        assert_eq!(ServerProcess::holder_of(&dir.path().join("none")).map(ServerProcess::pid), None);
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let this = ServerProcess::new(std::process::id());
        assert!(this.resident_bytes().expect("measured") > 100_000);
        let (before, since) = (this.cpu().expect("measured"), Instant::now());
        while this.cpu().expect("measured") == before {
            assert!(since.elapsed() < Duration::from_secs(10), "it works, and no time passes");
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
        let Err(Failure { exit: 70, text }) = ServerProcess::new(u32::MAX).cpu() else { panic!("it is there") };
        assert!(text.contains("--server-pid"), "{text}");
    }
}
