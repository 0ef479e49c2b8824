//! The server: listens, serves connections, ends with its handle.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::backend::Backend;
use crate::faults::Faults;
use crate::front::Front;
use crate::store::{Store, StoreError};

/// The one access key that is known.
pub const ACCESS_KEY: &str = "millstream";
/// Its secret: known to all, and fit for nothing else.
pub const SECRET_KEY: &str = "for-tests-only";
/// The region to name; any other does as well.
pub const REGION: &str = "us-east-1";

/// How a server starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens. Default: 127.0.0.1, on a port that the system chooses.
    pub listen: SocketAddr,
    /// The buckets that are there from the start; others can be created. Default: "test".
    pub buckets: Vec<String>,
    /// Where objects are kept as files too. Default: nowhere, they go with the server.
    pub directory: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 0).into(), buckets: vec!["test".into()], directory: None }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address is not free, or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Its directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running server. It ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    store: Arc<Store>,
    faults: Arc<Faults>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts one. Must be called inside a tokio runtime, and ends with that at the latest.
    ///
    /// # Errors
    /// If the address is not free, or the directory cannot be read or written.
    pub async fn start(settings: Settings) -> Result<Server, StartError> {
        let store = Arc::new(Store::open(settings.directory.as_deref())?);
        for bucket in &settings.buckets {
            store.create_bucket(bucket)?;
        }
        let failed = |source| StartError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let faults = Arc::new(Faults::default());
        let mut service = S3ServiceBuilder::new(Backend::new(Arc::clone(&store)));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let front = Front::new(service.build(), Arc::clone(&faults), Arc::clone(&store));
        let serving = tokio::spawn(serve(listener, front));
        Ok(Server { address, store, faults, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients are given as their endpoint. Buckets are in the path, not in the host's name.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables that make a client of S3 use this server.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// What it has stored: to look into, or to change behind its clients' backs.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What goes wrong in it.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, front: Front) {
    // Ends with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a connection that was gone at once. Let others run before the next attempt.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let front = front.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| front.clone().answer(request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
