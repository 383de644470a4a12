//! The connection to Redis. All callers share it. It is opened on first use and reopened when it breaks. Every call has
//! a deadline, and fails at once while the circuit breaker knows that Redis is down.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{FromRedisValue, IntoConnectionInfo, Pipeline, Value};

use super::Error;
use super::scripts::Call;
use crate::breaker::{Breaker, NoResponse};
use crate::deadline::Deadline;
use crate::sync;

/// The timeout of one connection attempt. Together with [`MAX_RETRY_DELAY`], it bounds the time after which a
/// recovered Redis is used again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause between two connection attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);
/// The time after which a connection is closed if its data is not acknowledged. Without this timeout, a half-open
/// connection would never be reopened.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of calls that wait on the connection. While Redis stalls, further calls fail at once instead of
/// queueing.
const CALLS_IN_FLIGHT: usize = 10_000;

/// A handle of the connection. A clone is cheap: all clones share one connection and one circuit breaker.
#[derive(Clone)]
pub(super) struct Connection {
    link: Arc<Link>,
    breaker: Breaker,
    /// The maximum time of one call.
    timeout: Duration,
}

/// The connection, together with the settings that are needed to replace it.
struct Link {
    client: redis::Client,
    config: ConnectionManagerConfig,
    manager: RwLock<ConnectionManager>,
}

impl Connection {
    /// Creates the handle without connecting. The first call connects.
    pub fn new(url: &str, timeout: Duration) -> redis::RedisResult<Self> {
        let keepalive = TcpKeepalive::new().with_time(TCP_USER_TIMEOUT).with_interval(Duration::from_secs(1));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(TCP_USER_TIMEOUT);
        let client = redis::Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(MAX_RETRY_DELAY)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            // `bound` limits every call, so a second timer per call is not needed.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(CALLS_IN_FLIGHT)
            .set_concurrency_limit(CALLS_IN_FLIGHT);
        let manager = RwLock::new(ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?);
        let link = Arc::new(Link { client, config, manager });
        let probed = link.clone();
        let breaker = Breaker::new("redis", timeout, move || probed.clone().probe());
        Ok(Self { link, breaker, timeout })
    }

    /// Runs a script by its hash, and loads it first if Redis does not know it.
    pub async fn script<T: FromRedisValue>(&self, call: &Call, deadline: Deadline) -> Result<T, Error> {
        Ok(self.invoke(call, deadline).await??)
    }

    /// Runs an idempotent script. If the connection turns out to be broken, for example after a restart of Redis, the
    /// connection is reopened and the script is sent once more.
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
    ) -> Result<redis::RedisResult<T>, NoResponse> {
        let mut manager = self.link.manager();
        // The future is boxed, so that it is not copied with every future that contains it.
        let answer = self.bound(Box::pin(call.invoke(&mut manager)), deadline).await?;
        if answer.as_ref().is_err_and(|error| matches!(Error::from(error.clone()), Error::Unreachable(_))) {
            self.breaker.report_failure();
        }
        Ok(answer)
    }

    /// Sends commands in one round trip over one connection, and returns all replies in order. The reply to a command
    /// that Redis rejects is [`Value::ServerError`].
    pub async fn pipeline(&self, commands: &mut Pipeline, deadline: Deadline) -> Result<Vec<Value>, Error> {
        // redis-rs rejects an empty pipeline.
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut manager = self.link.manager();
        let answers = self.bound(commands.ignore_errors().query_async(&mut manager), deadline).await?;
        // Errors of commands are replies, so an error here is an error of the connection.
        Ok(answers.inspect_err(|_| self.breaker.report_failure())?)
    }

    /// Limits a call by its deadline, the timeout and the circuit breaker.
    async fn bound<T>(&self, call: impl Future<Output = T>, deadline: Deadline) -> Result<T, NoResponse> {
        self.breaker.budget(deadline.at_most(self.timeout)).bound(call).await
    }
}

impl Link {
    fn manager(&self) -> ConnectionManager {
        sync::read(&self.manager).clone()
    }

    /// Pings over the connection that calls use. If the first ping fails, it may only have revealed that the connection
    /// is broken, so a second ping follows.
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
        // The manager reconnects after a network error, but not after Redis has rejected a connection.
        if answer.as_ref().is_err_and(|error| !error.is_io_error())
            && let Ok(new) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *sync::write(&self.manager) = new;
        }
        answer
    }
}
