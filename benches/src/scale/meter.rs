//! Measures the CPU time and the Redis commands of a phase of a benchmark.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Server};
use crate::redis_admin::RedisAdmin;
use crate::{Result, usage};

/// Measures from its start to its stop.
pub struct Meter<'a> {
    environment: &'a Environment,
    gateways: Vec<&'a Server>,
    redis: Option<RedisAdmin>,
    began: Instant,
    before: Reading,
}

/// Resource usage per second. CPU is in seconds per second, so 1 is one core.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Usage {
    /// The sum of all gateways.
    pub gateway_cpu: f64,
    pub redis_cpu: f64,
    pub postgres_cpu: f64,
    /// Redis commands, including commands within scripts.
    pub commands: f64,
}

#[derive(Clone, Copy)]
struct Reading {
    gateways: Duration,
    redis: Duration,
    postgres: Duration,
    commands: u64,
}

impl<'a> Meter<'a> {
    /// Starts.
    pub async fn start(environment: &'a Environment, gateways: &[&'a Server]) -> Result<Self> {
        Self::with(environment, gateways, Some(RedisAdmin::connect(environment).await?)).await
    }

    /// Starts without counting Redis commands, for phases in which Redis may be down.
    pub async fn without_redis(environment: &'a Environment, gateways: &[&'a Server]) -> Result<Self> {
        Self::with(environment, gateways, None).await
    }

    async fn with(environment: &'a Environment, gateways: &[&'a Server], redis: Option<RedisAdmin>) -> Result<Self> {
        let gateways = gateways.to_vec();
        let before = read(environment, &gateways, redis.as_ref()).await?;
        Ok(Self { environment, gateways, redis, began: Instant::now(), before })
    }

    /// Stops, and returns the usage.
    pub async fn stop(self) -> Result<Usage> {
        let seconds = self.began.elapsed().as_secs_f64();
        let (after, before) = (read(self.environment, &self.gateways, self.redis.as_ref()).await?, self.before);
        let cpu = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / seconds;
        Ok(Usage {
            gateway_cpu: cpu(after.gateways, before.gateways),
            redis_cpu: cpu(after.redis, before.redis),
            postgres_cpu: cpu(after.postgres, before.postgres),
            commands: after.commands.saturating_sub(before.commands) as f64 / seconds,
        })
    }
}

async fn read(environment: &Environment, gateways: &[&Server], redis: Option<&RedisAdmin>) -> Result<Reading> {
    let mut sum = Duration::ZERO;
    for gateway in gateways {
        sum += gateway.cpu_time()?;
    }
    Ok(Reading {
        gateways: sum,
        redis: usage::cpu_time(environment.redis.pid())?,
        postgres: usage::cpu_time(environment.postgres.pid())?,
        commands: match redis {
            Some(redis) => redis.commands().await?,
            None => 0,
        },
    })
}
