//! The server's side as a process of its own: this program once more, with a hidden command.
//!
//! A child says in one line where it listens and how it is known, and lives until its standard input ends: so it goes
//! with its parent, whatever becomes of that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use clap::Subcommand;
use millstream_benches::quic::Error;
use millstream_benches::{pipe, process};
use millstream_client::ByteSize;
use millstream_server::{Server, ServerConfig};

/// What a child does.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
pub enum Serve {
    /// Millstream's server
    #[command(hide = true)]
    ServeProduct { data_dir: PathBuf, datagram: u16, connections_per_address_max: u32, socket_buffer: usize },
    /// The raw pipe's
    #[command(hide = true)]
    ServePipe { dir: PathBuf, cached: PathBuf, datagram: u16, socket_buffer: usize },
}

impl Serve {
    /// Serves until standard input ends.
    pub fn run(&self) -> Result<(), Error> {
        match self {
            Self::ServeProduct { data_dir, datagram, connections_per_address_max, socket_buffer } => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                let mut config = ServerConfig {
                    data_dir: data_dir.clone(),
                    listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                    http: None,
                    datagram_bytes_max: *datagram,
                    connections_per_address_max: *connections_per_address_max,
                    socket_buffer: ByteSize(*socket_buffer as u64),
                    ..ServerConfig::default()
                };
                // Any other setting can be tried: `MILLSTREAM_READ_SIZE=262144 ratios --only fetch`.
                let variables: Vec<(String, String)> = std::env::vars().collect();
                config.apply_env(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
                let server = runtime.block_on(Server::start(config))?;
                ready(server.address(), server.fingerprint())?;
                Ok(runtime.block_on(server.stop())?)
            }
            Self::ServePipe { dir, cached, datagram, socket_buffer } => {
                let server = pipe::Server::start(dir, cached, *datagram, *socket_buffer)?;
                let hex: String = server.certificate.iter().map(|byte| format!("{byte:02x}")).collect();
                ready(server.address, &hex)
            }
        }
    }
}

/// What a server lets in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections_per_address: u32,
    pub socket_buffer: usize,
}

impl Limits {
    /// For a thousand connections of this program.
    pub const RAISED: Self = Self { connections_per_address: 2_000, socket_buffer: 64 << 20 };
}

impl Default for Limits {
    /// A server's own.
    fn default() -> Self {
        let ServerConfig { connections_per_address_max, socket_buffer, .. } = ServerConfig::default();
        Self { connections_per_address: connections_per_address_max, socket_buffer: socket_buffer.as_usize() }
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections_per_address, socket_buffer } = self;
        write!(f, "connections_per_address_max = {connections_per_address}, socket_buffer = {socket_buffer}")
    }
}

fn ready(address: SocketAddr, identity: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    writeln!(out, "{address} {identity}")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A running child.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Where it listens.
    pub address: SocketAddr,
    /// A fingerprint, or a certificate in hex.
    pub identity: String,
}

impl Running {
    /// Starts the product's server.
    pub fn product(data_dir: &Path, datagram: u16, limits: Limits) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-product").arg(data_dir);
        let Limits { connections_per_address, socket_buffer } = limits;
        command.args([datagram.to_string(), connections_per_address.to_string(), socket_buffer.to_string()]);
        Self::start(&mut command)
    }

    /// Starts the pipe's.
    pub fn pipe(dir: &Path, cached: &Path, datagram: u16, limits: Limits) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-pipe").args([dir, cached]).args([datagram.to_string(), limits.socket_buffer.to_string()]);
        Self::start(&mut command)
    }

    fn start(command: &mut Command) -> Result<Self, Error> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim().split_once(' ') {
            Some((address, identity)) => {
                let (address, identity) = (address.parse()?, identity.to_owned());
                Ok(Self { child, stdin, address, identity })
            }
            None => Err(format!("a server did not start: {:?}", child.wait()?).into()),
        }
    }

    /// The certificate in `identity`.
    pub fn certificate(&self) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&self.identity[at..at + 2], 16).unwrap_or(0);
        (0..self.identity.len() / 2).map(|index| digit(2 * index)).collect()
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration, Error> {
        Ok(process::cpu(self.child.id())?)
    }

    /// Memory of its own.
    pub fn memory(&self) -> Result<u64, Error> {
        Ok(process::memory(self.child.id())?)
    }

    /// Ends it without a word (SIGKILL).
    pub fn kill(mut self) -> Result<(), Error> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its standard input ends, and so does it.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
