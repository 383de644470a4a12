//! A gateway that runs in this process: server and reconciler over both stores.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Failure, open_files, stores};
use crate::config::Serving;
use crate::deadline::Deadline;
use crate::gateway::Gateway;
use crate::{live, server, store};

/// How long merging marks back may take at least, however long the drain took.
const MERGE_WITHIN: Duration = Duration::from_secs(2);

/// A running gateway.
pub struct Running {
    address: SocketAddr,
    server: JoinHandle<Result<(), Failure>>,
    reconciler: JoinHandle<()>,
    feed: JoinHandle<()>,
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
        let (live, store) = (stores::redis(live)?, stores::postgres(store)?);
        let reconciling = serving.reconciler()?;
        let gateway = Gateway::new(live, store, &serving.gateway());
        let calls = listen("listen", serving.listen).await?;
        let admin = listen("admin-listen", serving.admin_address()).await?;
        let address = calls.local_addr()?;
        tracing::info!(calls = %address, admin = %admin.local_addr()?, "listening");
        let listeners = server::Listeners { calls, admin };
        // Both go on until nothing is left to be merged back.
        let merged = CancellationToken::new();
        let reconciler = tokio::spawn(gateway.reconciler(reconciling).run(merged.clone()));
        let feed = tokio::spawn(gateway.clone().follow_feed(merged.clone()));
        let settings = serving.server(max_connections);
        let drain = settings.drain_timeout;
        let server = tokio::spawn(async move {
            let _merged = merged.drop_guard();
            let stops = async {
                shutdown.cancelled().await;
                Deadline::after(drain)
            };
            let serves = async {
                let served = server::serve(listeners, gateway.clone(), &settings, shutdown.clone()).await;
                shutdown.cancel();
                served
            };
            let (outcome, until) = tokio::join!(serves, stops);
            let left = gateway.merge_back(until.max(Deadline::after(MERGE_WITHIN))).await;
            if !left.is_empty() {
                let jobs = left.len();
                tracing::error!(jobs, first = %left[0], "stopping with marks that could not be merged back: if Redis has lost them too, they have to be reported again");
            }
            outcome
        });
        Ok(Self { address, server, reconciler, feed })
    }

    /// Where it listens: the port that was taken, if any free one was to be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) -> Result<(), Failure> {
        let ((), (), served) = tokio::try_join!(self.reconciler, self.feed, self.server)?;
        served
    }
}

async fn listen(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        format!("cannot listen on {address}: {error} (another address: --{flag}; any free port: port 0)").into()
    })
}
