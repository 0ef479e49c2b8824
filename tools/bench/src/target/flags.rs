//! Which server: by flags, by environment, or by the `client.json` that it left in its data directory.

use std::path::{Path, PathBuf};

use clap::Args;
use millstream_client::{Client, LocalServer};

use crate::failure::Failure;
use crate::record::process::ServerProcess;

/// How the server is found.
#[derive(Debug, Clone, Args)]
pub struct TargetFlags {
    /// The server's address
    #[arg(long, global = true, env = "MILLSTREAM_SERVER", value_name = "ADDR", help_heading = "Server")]
    server: Option<String>,
    /// The server's certificate, pinned: sha256:<64 hex>
    #[arg(long, global = true, env = "MILLSTREAM_FINGERPRINT", value_name = "PIN", help_heading = "Server")]
    fingerprint: Option<String>,
    /// The server's data directory, whose client.json names address and pin
    #[arg(
        long,
        global = true,
        env = "MILLSTREAM_DATA_DIR",
        value_name = "DIR",
        default_value = "./millstream-data",
        help_heading = "Server"
    )]
    data_dir: PathBuf,
    /// The server's process on this machine: what it uses is measured [default: found by its data directory]
    #[arg(long, global = true, value_name = "PID", help_heading = "Server")]
    server_pid: Option<u32>,
    /// Start a server for this run, in this program, on a directory of its own that is deleted at the end
    #[arg(long, global = true, conflicts_with_all = ["server", "server_pid"], help_heading = "Server")]
    pub start_server: bool,
    /// Put the load on the engine itself, in this program: no network, no TLS
    #[arg(long, global = true, conflicts_with_all = ["server", "server_pid", "start_server"], help_heading = "Server")]
    pub in_process: bool,
    /// Where the directory of --start-server and --in-process is made [default: the system's, for temporary files]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Server")]
    pub temp_dir: Option<PathBuf>,
}

impl TargetFlags {
    /// Of a server that this program has started.
    pub fn of_own_server(&self, address: String, fingerprint: String) -> Self {
        Self { server: Some(address), fingerprint: Some(fingerprint), ..self.clone() }
    }

    /// A directory of the run's own.
    pub fn make_temp_dir(&self) -> Result<tempfile::TempDir, Failure> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("millstream-bench-");
        let parent = self.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        builder.tempdir_in(&parent).map_err(|error| Failure::file("make a directory in", &parent, &error))
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Client, Failure> {
        if let (Some(server), Some(fingerprint)) = (&self.server, &self.fingerprint) {
            return Client::connect(server, fingerprint).await.map_err(none_there);
        }
        if let Some(server) = &self.server {
            return Err(Failure::usage(format!(
                "nothing says how the server at {server} proves that it is the one you mean: give --fingerprint"
            )));
        }
        let local = LocalServer::read(&self.data_dir).map_err(|error| {
            Failure::unreachable(format!("{error}; or let this program start one for the run: --start-server"))
        })?;
        Client::connect(local.address, local.fingerprint).await.map_err(none_there)
    }

    /// The server's process, if it is on this machine and can be told.
    pub fn process(&self) -> Result<Option<ServerProcess>, Failure> {
        if let Some(pid) = self.server_pid {
            let process = ServerProcess::new(pid);
            process.resident_bytes()?;
            return Ok(Some(process));
        }
        let lock: &Path = &self.data_dir.join("LOCK");
        Ok(if self.server.is_none() { ServerProcess::holder_of(lock) } else { None })
    }
}

fn none_there(error: millstream_client::Error) -> Failure {
    let hint = if error.is_unreachable() { "; or let this program start one for the run: --start-server" } else { "" };
    let failure = Failure::from(error);
    Failure { text: failure.text + hint, ..failure }
}
