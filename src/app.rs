//! The composition root: builds a gateway from its settings, starts its parts and stops them in order.
//!
//! A start raises the open-file limit, creates the store clients, binds the ports, and then starts the reconciler, the
//! feed and the server. The store clients connect lazily, so neither store has to be up. The ports are bound before any
//! task starts, so nothing runs if a port is in use.
//!
//! A stop begins with the server, which reports that it is not ready, stops accepting connections, ends streams and
//! drains calls. The mirrors are merged into the trackers after the drain, because calls in flight still add marks. The
//! reconciler and the feed stop last, because the merge needs to know which jobs run and may need repaired trackers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{ListenAddress, POSTGRES_FORM, REDIS_FORM, Serving};
use crate::deadline::Deadline;
use crate::gateway::Gateway;
use crate::live::{self, Live};
use crate::memory::MemoryBudget;
use crate::store::{self, Store};
use crate::{open_files, server};

/// Minimum time for the final merge of the mirrors. It applies even if the drain has used up the drain timeout.
const MIN_MERGE_TIME: Duration = Duration::from_secs(2);

/// The reason why a gateway could not start or stopped by itself, as a message for the operator.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A store URL that the store's client cannot parse. The message does not contain the URL, because it may hold a
/// password.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {reason}; the expected form is {form}")]
pub struct InvalidStoreUrl {
    flag: &'static str,
    reason: String,
    form: &'static str,
}

/// A gateway that runs in this process: a server, a reconciler and a feed over both stores.
pub struct App {
    address: SocketAddr,
    server: JoinHandle<Result<(), Failure>>,
    reconciler: JoinHandle<()>,
    feed: JoinHandle<()>,
}

/// Creates a Redis client. The client connects when it is first used.
pub fn open_redis(settings: &live::Settings) -> Result<Live, InvalidStoreUrl> {
    Live::new(settings).map_err(|error| InvalidStoreUrl::new("redis-url", error, REDIS_FORM))
}

/// Creates a Postgres client. The client connects when it is first used.
pub fn open_postgres(settings: &store::Settings) -> Result<Store, InvalidStoreUrl> {
    Store::new(settings).map_err(|error| InvalidStoreUrl::new("postgres-url", error, POSTGRES_FORM))
}

impl InvalidStoreUrl {
    fn new(flag: &'static str, reason: impl std::fmt::Display, form: &'static str) -> Self {
        Self { flag, reason: reason.to_string(), form }
    }
}

impl App {
    /// Starts a gateway. It runs until `shutdown` is cancelled, and then stops in order; see [`App::stopped`].
    ///
    /// Fails if a store URL or the settle time is invalid, or if a port cannot be bound.
    pub async fn start(
        serving: &Serving,
        live: &live::Settings,
        store: &store::Settings,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let postgres_connections = usize::try_from(store.max_connections)?;
        let max_connections = open_files::for_clients(open_files::raise_limit(), postgres_connections);
        let call_memory = MemoryBudget::new(serving.memory().calls);
        let gateway = Gateway::new(open_redis(live)?, open_postgres(store)?, &serving.gateway(call_memory.clone()));
        let reconciling = serving.reconciler()?;
        let listeners = bind(serving).await?;
        let address = listeners.calls.local_addr()?;
        tracing::info!(calls = %address, admin = %listeners.admin.local_addr()?, "listening");
        let background = CancellationToken::new();
        let reconciler = tokio::spawn(gateway.reconciler(reconciling).run(background.clone()));
        let feed = tokio::spawn(gateway.clone().follow_feed(background.clone()));
        let settings = serving.server(max_connections, call_memory);
        let server = tokio::spawn(serve(listeners, gateway, settings, shutdown, background.drop_guard()));
        Ok(Self { address, server, reconciler, feed })
    }

    /// Returns the address on which calls are served. If port 0 was configured, the address has the port that was
    /// bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the gateway has stopped. After `shutdown`, this takes the time of the drain and of the final merge.
    /// Returns the failure if the gateway stopped by itself.
    pub async fn stopped(self) -> Result<(), Failure> {
        let ((), (), served) = tokio::try_join!(self.reconciler, self.feed, self.server)?;
        served
    }
}

/// Serves calls until `shutdown`, then drains and merges the mirrors. Stops the background tasks when it returns.
async fn serve(
    listeners: server::Listeners,
    gateway: Gateway,
    settings: server::Settings,
    shutdown: CancellationToken,
    _background: DropGuard,
) -> Result<(), Failure> {
    let stop_deadline = async {
        shutdown.cancelled().await;
        Deadline::after(settings.drain_timeout)
    };
    let serving = async {
        let served = server::serve(listeners, gateway.clone(), &settings, shutdown.clone()).await;
        shutdown.cancel();
        served
    };
    let (served, deadline) = tokio::join!(serving, stop_deadline);
    let unmerged = gateway.merge_back(deadline.max(Deadline::after(MIN_MERGE_TIME))).await;
    if !unmerged.is_empty() {
        let jobs = unmerged.len();
        tracing::error!(
            jobs,
            first = %unmerged[0],
            "stopping with marks that could not be merged back into Redis; if Redis has lost these marks, their results \
             must be reported again"
        );
    }
    served
}

async fn bind(serving: &Serving) -> Result<server::Listeners, Failure> {
    let calls = listen("listen", &serving.listen).await?;
    let admin = listen("admin-listen", &serving.admin_address()).await?;
    Ok(server::Listeners { calls, admin })
}

async fn listen(flag: &str, address: &ListenAddress) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address.host_and_port()).await;
    bound.map_err(|error| {
        format!("cannot listen on {address}: {error}; set --{flag} to another address, or to port 0 for any free port")
            .into()
    })
}
