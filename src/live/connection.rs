//! The connection to Redis: shared, lazily made, remade when it breaks, every call under a deadline.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{FromRedisValue, IntoConnectionInfo, Pipeline, Value};

use super::Error;
use super::scripts::Call;
use crate::breaker::{Breaker, Silence};
use crate::deadline::Deadline;

/// How long making one connection may take, and the longest pause before the next try: a Redis that is back is used
/// again within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const RETRY_WITHIN: Duration = Duration::from_millis(500);
/// A connection whose bytes nobody acknowledges for so long is dead: without this a half-open one is never remade.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// How many calls may wait on the connection: under a stall the next ones fail at once instead of queueing for ever.
const CALLS_IN_FLIGHT: usize = 10_000;

/// Cheap to clone; all clones share one connection, and what is known of Redis being away.
#[derive(Clone)]
pub(super) struct Connection {
    link: Arc<Link>,
    breaker: Breaker,
    timeout: Duration,
}

/// The connection itself, and how it is made.
struct Link {
    client: redis::Client,
    config: ConnectionManagerConfig,
    manager: RwLock<ConnectionManager>,
}

impl Connection {
    /// Connects to nothing yet.
    pub fn new(url: &str, timeout: Duration) -> redis::RedisResult<Self> {
        let keepalive = TcpKeepalive::new().with_time(TCP_USER_TIMEOUT).with_interval(Duration::from_secs(1));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(TCP_USER_TIMEOUT);
        let client = redis::Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(RETRY_WITHIN)
            .set_connection_timeout(Some(CONNECT_WITHIN))
            // Every call is bounded here, and a timer for each is enough.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(CALLS_IN_FLIGHT)
            .set_concurrency_limit(CALLS_IN_FLIGHT);
        let manager = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
        let link = Arc::new(Link { client, config, manager });
        let probed = link.clone();
        let breaker = Breaker::new("redis", timeout, move || probed.clone().probe());
        Ok(Self { link, breaker, timeout })
    }

    /// Runs a script by its hash, loading it first where Redis does not know it yet.
    pub async fn script<T: FromRedisValue>(&self, call: &Call, deadline: Deadline) -> Result<T, Error> {
        Ok(self.invoke(call, deadline).await??)
    }

    /// The same for a script that does nothing when it is run again: a connection that turns out to be broken, as the
    /// one to a Redis that was restarted is, is made anew and used once more.
    pub async fn idempotent<T: FromRedisValue>(&self, call: &Call, deadline: Deadline) -> Result<T, Error> {
        match self.invoke(call, deadline).await? {
            Err(error) if error.is_connection_dropped() => self.script(call, deadline).await,
            answer => Ok(answer?),
        }
    }

    async fn invoke<T: FromRedisValue>(
        &self,
        call: &Call,
        deadline: Deadline,
    ) -> Result<redis::RedisResult<T>, Silence> {
        let mut manager = self.link.manager();
        // In a box, as it moves with every future around it.
        let answer = self.bound(Box::pin(call.invoke(&mut manager)), deadline).await?;
        if answer.as_ref().is_err_and(|error| matches!(Error::from(error.clone()), Error::Unreachable(_))) {
            self.breaker.suspect();
        }
        Ok(answer)
    }

    /// Sends commands in one go, over one connection, and returns every answer; a refused command's is an error value
    /// in its place.
    pub async fn pipeline(&self, commands: &mut Pipeline, deadline: Deadline) -> Result<Vec<Value>, Error> {
        // redis-rs calls an empty pipeline an error.
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut manager = self.link.manager();
        let answers = self.bound(commands.ignore_errors().query_async(&mut manager), deadline).await?;
        // Errors of commands are ignored, so this is one of the connection.
        Ok(answers.inspect_err(|_| self.breaker.suspect())?)
    }

    async fn bound<T>(&self, call: impl Future<Output = T>, deadline: Deadline) -> Result<T, Silence> {
        self.breaker.until(deadline.at_most(self.timeout)).bound(call).await
    }
}

impl Link {
    fn manager(&self) -> ConnectionManager {
        self.manager.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks over the connection that calls use; and again, since the first may only find out that it is broken.
    async fn probe(self: Arc<Self>) -> Result<(), String> {
        if self.ping().await.is_ok() {
            return Ok(());
        }
        self.ping().await.map(drop).map_err(|error| error.to_string())
    }

    async fn ping(&self) -> redis::RedisResult<Vec<Value>> {
        let mut ping = redis::pipe();
        ping.cmd("PING").ignore_errors();
        let answer = ping.query_async(&mut self.manager()).await;
        // The manager makes a new connection after a fault of the network, but never again after it was refused one.
        if answer.as_ref().is_err_and(|error| !error.is_io_error())
            && let Ok(anew) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *self.manager.write().unwrap_or_else(PoisonError::into_inner) = anew;
        }
        answer
    }
}
