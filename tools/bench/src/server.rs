//! What a server's process uses, by `/proc`: only of one on this machine.

use std::time::{Duration, Instant};

use crate::Failure;

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
        Failure { exit: 70, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
