//! A server that this program starts for a run: the real one, over loopback, on a runtime and a directory of its own.

use std::net::{Ipv4Addr, SocketAddr};

use millstream_server::{Server, ServerConfig};
use tempfile::TempDir;

use super::flags::TargetFlags;
use crate::failure::Failure;

/// A running server. Its directory goes with it.
pub struct OwnServer {
    server: Option<Server>,
    runtime: Option<tokio::runtime::Runtime>,
    dir: TempDir,
}

impl OwnServer {
    /// Starts it; gives how it is reached.
    pub async fn start(target: &TargetFlags) -> Result<(Self, TargetFlags), Failure> {
        let dir = target.make_temp_dir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("server")
            .enable_all()
            .build()
            .map_err(|error| Failure::local(format!("cannot start the server's threads: {error}")))?;
        let config = ServerConfig {
            data_dir: dir.path().join("data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http: None,
            ..ServerConfig::default()
        };
        let started = runtime.spawn(Server::start(config)).await.expect("a start does not panic");
        let server = started.map_err(|error| Failure::local(format!("cannot start a server: {error}")))?;
        let reached = target.of_own_server(server.address().to_string(), server.fingerprint().to_owned());
        Ok((Self { server: Some(server), runtime: Some(runtime), dir }, reached))
    }

    /// Stops it, and deletes what it has.
    pub async fn stop(mut self) -> Result<(), Failure> {
        if let (Some(server), Some(runtime)) = (self.server.take(), &self.runtime) {
            let stopped = runtime.spawn(server.stop()).await.expect("a stop does not panic");
            stopped.map_err(|error| Failure::local(format!("the server did not stop well: {error}")))?;
        }
        let path = self.dir.path().to_owned();
        drop(self);
        match path.exists() {
            true => Err(Failure::local(format!("{} could not be deleted: delete it", path.display()))),
            false => Ok(()),
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // A runtime must not be waited for within another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
