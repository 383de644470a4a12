//! The connection to Redis: shared, lazily made, remade when it breaks, every call under a deadline.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{FromRedisValue, IntoConnectionInfo, Pipeline, ScriptInvocation, Value};

use super::Error;
use crate::deadline::Deadline;

/// How long making one connection may take, and the longest pause before the next try: a Redis that is back is used
/// again within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const RETRY_WITHIN: Duration = Duration::from_millis(500);
/// A connection whose bytes nobody acknowledges for so long is dead: without this a half-open one is never remade.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// How many calls may wait on the connection: under a stall the next ones fail at once instead of queueing for ever.
const CALLS_IN_FLIGHT: usize = 10_000;

/// Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub(super) struct Connection {
    manager: ConnectionManager,
    timeout: Duration,
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
            .set_response_timeout(Some(timeout))
            .set_pipeline_buffer_size(CALLS_IN_FLIGHT)
            .set_concurrency_limit(CALLS_IN_FLIGHT);
        Ok(Self { manager: ConnectionManager::new_lazy_with_config(client, config)?, timeout })
    }

    /// Runs a script by its hash, loading it first where Redis does not know it yet.
    pub async fn script<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>, deadline: Deadline) -> Result<T, Error> {
        let mut manager = self.manager.clone();
        Ok(deadline.at_most(self.timeout).bound(call.invoke_async(&mut manager)).await??)
    }

    /// Sends commands in one go, over one connection, and returns every answer; a refused command's is an error value
    /// in its place.
    pub async fn pipeline(&self, commands: &mut Pipeline, deadline: Deadline) -> Result<Vec<Value>, Error> {
        // redis-rs calls an empty pipeline an error.
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut manager = self.manager.clone();
        let call = commands.ignore_errors().query_async(&mut manager);
        Ok(deadline.at_most(self.timeout).bound(call).await??)
    }
}
