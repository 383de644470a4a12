//! What is spent while something goes on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::redis::Redis;
use crate::stand::{Server, Stand};
use crate::{Result, usage};

/// Runs from its start to its stop.
pub struct Meter<'a> {
    stand: &'a Stand,
    gateways: Vec<&'a Server>,
    redis: Option<Redis>,
    began: Instant,
    before: Reading,
}

/// What was spent each second: of CPU in seconds, so 1 is a core.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spent {
    /// Of all gateways.
    pub gateway_cpu: f64,
    pub redis_cpu: f64,
    pub postgres_cpu: f64,
    /// Commands that Redis ran, those within scripts as well.
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
    /// Begins.
    pub async fn start(stand: &'a Stand, gateways: &[&'a Server]) -> Result<Self> {
        Self::with(stand, gateways, Some(Redis::of(stand).await?)).await
    }

    /// Begins, where Redis is away or need not be asked.
    pub async fn without_redis(stand: &'a Stand, gateways: &[&'a Server]) -> Result<Self> {
        Self::with(stand, gateways, None).await
    }

    async fn with(stand: &'a Stand, gateways: &[&'a Server], redis: Option<Redis>) -> Result<Self> {
        let gateways = gateways.to_vec();
        let before = read(stand, &gateways, redis.as_ref()).await?;
        Ok(Self { stand, gateways, redis, began: Instant::now(), before })
    }

    /// Ends.
    pub async fn stop(self) -> Result<Spent> {
        let seconds = self.began.elapsed().as_secs_f64();
        let (after, before) = (read(self.stand, &self.gateways, self.redis.as_ref()).await?, self.before);
        let cpu = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / seconds;
        Ok(Spent {
            gateway_cpu: cpu(after.gateways, before.gateways),
            redis_cpu: cpu(after.redis, before.redis),
            postgres_cpu: cpu(after.postgres, before.postgres),
            commands: after.commands.saturating_sub(before.commands) as f64 / seconds,
        })
    }
}

async fn read(stand: &Stand, gateways: &[&Server], redis: Option<&Redis>) -> Result<Reading> {
    let mut sum = Duration::ZERO;
    for gateway in gateways {
        sum += gateway.cpu()?;
    }
    Ok(Reading {
        gateways: sum,
        redis: usage::cpu(stand.redis.pid())?,
        postgres: usage::cpu(stand.postgres.pid())?,
        commands: match redis {
            Some(redis) => redis.commands().await?,
            None => 0,
        },
    })
}
