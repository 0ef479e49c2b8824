//! Which server: by flags, by environment, or by the `client.json` that it left in its data directory.

use std::path::PathBuf;

use clap::Args;
use millstream_client::{Client, LocalServer};

use crate::Failure;

/// How the server is found.
#[derive(Debug, Args)]
pub struct TargetFlags {
    /// The server's address
    #[arg(long, global = true, env = "MILLSTREAM_SERVER", value_name = "ADDR")]
    server: Option<String>,
    /// The server's certificate, pinned: sha256:<64 hex>
    #[arg(long, global = true, env = "MILLSTREAM_FINGERPRINT", value_name = "PIN")]
    fingerprint: Option<String>,
    /// The server's data directory, whose client.json names address and pin
    #[arg(long, global = true, env = "MILLSTREAM_DATA_DIR", value_name = "DIR", default_value = "./millstream-data")]
    data_dir: PathBuf,
}

impl TargetFlags {
    /// Connects.
    pub async fn connect(&self) -> Result<Client, Failure> {
        if let (Some(server), Some(fingerprint)) = (&self.server, &self.fingerprint) {
            return Ok(Client::connect(server, fingerprint).await?);
        }
        if let Some(server) = &self.server {
            let text = format!(
                "nothing says how the server at {server} proves that it is the one you mean: give --fingerprint"
            );
            return Err(Failure { exit: 2, text });
        }
        let local = LocalServer::read(&self.data_dir).map_err(|error| Failure { exit: 60, text: error.to_string() })?;
        Ok(Client::connect(local.address, local.fingerprint).await?)
    }
}
