//! A gateway that runs in this process: server and reconciler over both stores.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Failure, Misuse, open_files};
use crate::config::{POSTGRES_FORM, REDIS_FORM, Serving};
use crate::gateway::Gateway;
use crate::live::{self, Live};
use crate::store::{self, Store};
use crate::{reconciler, server};

/// A running gateway.
pub struct Running {
    address: SocketAddr,
    server: JoinHandle<Result<(), Failure>>,
    reconciler: JoinHandle<()>,
}

impl Running {
    /// Starts a gateway, which runs until `shutdown` and drains then. Neither store has to be there yet.
    pub async fn start(
        serving: &Serving,
        live: &live::Settings,
        store: &store::Settings,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let stores = usize::try_from(store.max_connections)?;
        let max_connections = open_files::for_clients(open_files::raise_limit(), stores);
        let live =
            Live::new(live).map_err(|error| Misuse(format!("--redis-url: {error}; it is written {REDIS_FORM}")))?;
        let store = Store::new(store)
            .map_err(|error| Misuse(format!("--postgres-url: {error}; it is written {POSTGRES_FORM}")))?;
        let gateway = Gateway::new(live, store, &serving.gateway());
        let bound = TcpListener::bind(serving.listen).await;
        let listener = bound.map_err(|error| {
            format!("cannot listen on {}: {error} (another address: --listen; any free port: port 0)", serving.listen)
        })?;
        let address = listener.local_addr()?;
        let reconciler = tokio::spawn(reconciler::run(gateway.clone(), serving.reconciler(), shutdown.clone()));
        let settings = serving.server(max_connections);
        let server = tokio::spawn(async move { server::serve(listener, gateway, &settings, shutdown).await });
        Ok(Self { address, server, reconciler })
    }

    /// Where it listens: the port that was taken, if any free one was to be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) -> Result<(), Failure> {
        let ((), served) = tokio::try_join!(self.reconciler, self.server)?;
        served
    }
}
