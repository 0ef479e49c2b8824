//! Runs the real program: in a directory of its own, without the environment of whoever runs the tests, on ports that
//! the system chooses, and never longer than a deadline.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No command here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A directory in which commands run: `./millstream-data` is in it.
pub struct Place {
    dir: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "{part:?} is not in stderr: {}", self.stderr);
        self
    }

    #[track_caller]
    pub fn prints(self, part: &str) -> Self {
        assert!(self.stdout.contains(part), "{part:?} is not in stdout: {}", self.stdout);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?} {}", self.stdout, self.stderr))
    }

    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), environment: Vec::new() }
    }

    /// From here on all its commands run with these variables.
    pub fn set_environment(&mut self, variables: impl IntoIterator<Item = (&'static str, String)>) {
        self.environment = variables.into_iter().collect();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// A command that is not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        let ours = std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            ["MILLSTREAM_", "AWS_"].iter().any(|prefix| name.starts_with(prefix))
        });
        for (name, _) in ours {
            command.env_remove(name);
        }
        // No context file of whoever runs the tests, and no name by which cargo calls its programs.
        command.env_remove("XDG_CONFIG_HOME").env("HOME", self.dir.path()).env_remove("CARGO_MANIFEST_DIR");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.dir.path()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        finish(self.command(args).spawn().expect("it starts"))
    }

    /// Runs a command line, split at blanks.
    pub fn sh(&self, line: &str) -> Done {
        self.run(line.split_whitespace())
    }

    /// Runs a command line with this stdin.
    pub fn sh_with(&self, line: &str, stdin: &[u8]) -> Done {
        let mut child = self.command(line.split_whitespace()).stdin(Stdio::piped()).spawn().expect("it starts");
        let (mut pipe, stdin) = (child.stdin.take().expect("piped"), stdin.to_vec());
        let writer = std::thread::spawn(move || {
            // A command that ends early does not read everything.
            let _ = pipe.write_all(&stdin);
        });
        let done = finish(child);
        writer.join().expect("the writer ends");
        done
    }

    /// Starts a server on `./millstream-data`, on a port that the system chooses.
    pub fn serve(&self) -> Serve {
        self.serve_with("--listen 127.0.0.1:0 --http off")
    }

    pub fn serve_with(&self, flags: &str) -> Serve {
        Serve::start(self.command(["serve"].into_iter().chain(flags.split_whitespace())))
    }

    /// A server that crashed, again on its port.
    pub fn serve_again(&self, address: &str) -> Serve {
        self.serve_with(&format!("--listen {address} --http off"))
    }
}

/// Waits for a child's end, and collects what it wrote.
pub fn finish(mut child: Child) -> Done {
    let pid = pid(&child);
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let stderr = std::thread::spawn(move || read(&mut stderr));
    let stdout = std::thread::spawn(move || read(&mut stdout));
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || drop(sender.send(child.wait())));
    let status = match receiver.recv_timeout(DEADLINE) {
        Ok(status) => status.expect("it can be waited for"),
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            panic!("it did not end in {DEADLINE:?}: {}", stderr.join().expect("read"));
        }
    };
    waiter.join().expect("it waited");
    Done { status, stdout: stdout.join().expect("read"), stderr: stderr.join().expect("read") }
}

fn read(pipe: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("it can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// A running server; killed when dropped.
pub struct Serve {
    child: Option<Child>,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    /// What it printed when it was ready.
    pub line: String,
    pub address: String,
    pub fingerprint: String,
}

impl Serve {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it can be read");
        if line.is_empty() {
            let mut stderr = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
            panic!("the server did not start: {stderr}");
        }
        // Logs must not fill the pipe while nobody reads it.
        let mut stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word);
            at.and_then(|at| words.get(at + 1)).map_or(String::new(), |word| (*word).to_owned())
        };
        let (address, fingerprint) = (after("on"), after("fingerprint"));
        Self { child: Some(child), stdout: Some(stdout), line: line.trim_end().to_owned(), address, fingerprint }
    }

    /// As a crash: nothing is flushed, nobody is told.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// As an operator stops it; returns how it ended.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM).wait()
    }

    pub fn signal(self, signal: Signal) -> Self {
        kill_process(pid(self.child.as_ref().expect("it runs")), signal).expect("it is there");
        self
    }

    pub fn wait(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        // Its stdout is closed when it has ended.
        let mut rest = String::new();
        self.stdout.take().expect("piped").read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "", "one line is all it prints");
        child.wait().expect("it ends")
    }

    /// Flags with which a command finds this server from anywhere.
    pub fn flags(&self) -> [String; 4] {
        ["--server".into(), self.address.clone(), "--fingerprint".into(), self.fingerprint.clone()]
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lines `{"id":0,"key":"k0"}` … with `keys` different keys.
pub fn lines(count: u64, keys: u64) -> String {
    (0..count).map(|id| format!("{{\"id\":{id},\"key\":\"k{}\"}}\n", id % keys)).collect()
}

/// The records of a stream, as `consume` prints them, by partition and offset.
pub fn consume(place: &Place, stream: &str) -> Vec<Value> {
    let done = place.sh(&format!("consume {stream} --from earliest --format json")).ok();
    done.lines().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The sample that the repository carries.
pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-sample.ndjson")
}
