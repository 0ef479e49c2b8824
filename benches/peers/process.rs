//! A peer's server as a child process: found, started in a directory of its own, killed when dropped.
//!
//! It is ready once it says so in its output; what it says later is read and thrown away, so that it never waits for us.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::sync::oneshot;

use super::Error;

/// How often another port is tried: between our asking for a free one and the server's binding it, someone may take it.
const PORTS_MAX: usize = 5;
/// Lines of a server that did not start which an error repeats.
const LINES_MAX: usize = 8;

static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// A server that may be installed.
#[derive(Debug)]
pub(super) struct Program {
    /// The command.
    pub name: &'static str,
    /// What stands before the version in the output of `--version`.
    pub before_version: &'static str,
    /// What its output says once it takes connections.
    pub ready: &'static str,
}

impl Program {
    /// Its version; `None` if it is not installed.
    pub(super) fn version(&self) -> Result<Option<String>, Error> {
        match Command::new(self.name).arg("--version").stdin(Stdio::null()).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                match version_in(&text, self.before_version) {
                    Some(version) => Ok(Some(version.to_owned())),
                    None => Err(Error::Start(format!("{} --version says {:?}", self.name, text.trim()))),
                }
            }
        }
    }

    /// Runs it to its end; what it wrote, and whether it was content.
    pub(super) fn run(&self, arguments: &[String]) -> Result<(bool, String), Error> {
        let output = Command::new(self.name).args(arguments).stdin(Stdio::null()).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }
}

fn version_in<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let (_, version) = text.split_once(before)?;
    version.split_whitespace().next()
}

/// A directory that goes when this is dropped.
pub(super) struct Directory(PathBuf);

impl Directory {
    /// A new one, in `parent`.
    pub(super) fn new(parent: &Path, name: &str) -> Result<Self, Error> {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        // Servers are told of it in words, and may run elsewhere.
        Ok(Self(path.canonicalize()?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be deleted stays for a person to look at.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A child that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that takes connections.
pub(super) struct Process {
    // Dropped in this order: killed, then its files deleted.
    _child: Running,
    _directory: Directory,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    /// Starts `program` on a free port and waits until it takes connections. `arguments` says how it is started, and may write
    /// its configuration into the directory.
    pub(super) async fn start(
        program: &'static Program,
        directory: Directory,
        arguments: impl Fn(SocketAddr, &Path) -> Result<Vec<String>, Error>,
    ) -> Result<Self, Error> {
        let mut last = String::new();
        for _ in 0..PORTS_MAX {
            let address = free_address()?;
            let (child, ready) = spawn(program, &arguments(address, directory.path())?, directory.path())?;
            match ready.await {
                Ok(Ok(())) => return Ok(Self { _child: child, _directory: directory, address }),
                Ok(Err(said)) => last = said,
                Err(_) => return Err(Error::Start(format!("the output of {} could not be read", program.name))),
            }
            if !last.to_ascii_lowercase().contains("address already in use") {
                break;
            }
        }
        Err(Error::Start(format!("{} ended before it was ready: {last}", program.name)))
    }
}

/// Starts it. The answer comes once it is ready, or with its last words once it has ended.
fn spawn(
    program: &'static Program,
    arguments: &[String],
    directory: &Path,
) -> Result<(Running, oneshot::Receiver<Result<(), String>>), Error> {
    let (output, writer) = std::io::pipe()?;
    let mut command = Command::new(program.name);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = Running(command.spawn()?);
    // The command has our copies of the pipe's end: with them open, the output would never end.
    drop(command);
    let (tell, ready) = oneshot::channel();
    thread::Builder::new().name(format!("{}-output", program.name)).spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let mut last = VecDeque::new();
        let answer = loop {
            match lines.next() {
                Some(line) if line.contains(program.ready) => break Ok(()),
                Some(line) => last.push_back(line),
                None => break Err(Vec::from(last).join(" / ")),
            }
            if last.len() > LINES_MAX {
                last.pop_front();
            }
        };
        // Whoever asked may have gone.
        let _ = tell.send(answer);
        lines.for_each(drop);
    })?;
    Ok((child, ready))
}

/// A port of the system's choice, free a moment ago.
fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Program = Program { name: "echo", before_version: "", ready: "--never--" };

    #[test]
    fn a_version_is_the_word_behind_its_mark() {
        assert_eq!(version_in("Redis server v=7.0.15 sha=0:0 malloc=x", "v="), Some("7.0.15"));
        assert_eq!(version_in("nats-server: v2.9.10\n", ": v"), Some("2.9.10"));
        assert_eq!(version_in("no such option", "v="), None);
    }

    #[test]
    fn what_is_not_installed_has_no_version() {
        let nobody = Program { name: "no-such-server-anywhere", before_version: "v", ready: "" };
        assert!(matches!(nobody.version(), Ok(None)));
    }

    #[tokio::test]
    async fn a_server_that_ends_is_an_error_with_its_last_words_and_its_directory_goes() {
        let directory = Directory::new(&std::env::temp_dir(), "peer").expect("a directory");
        let path = directory.path().to_owned();
        let ended = Process::start(&ECHO, directory, |_, _| Ok(vec!["disk on fire".to_owned()])).await;
        let Err(Error::Start(text)) = ended else { panic!("it cannot be ready") };
        assert_eq!(text, "echo ended before it was ready: disk on fire");
        assert!(!path.exists());
    }
}
