//! The stores and gateways of one test.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::directory::Directory;
use super::gateway::{Gateway, Links};
use super::{Database, Proxy, Redis};

/// Two stores, and gateways that use them. The gateways stop before the stores.
pub struct Stack {
    gateways: Vec<Gateway>,
    pub redis: Redis,
    pub postgres: Database,
    directory: Directory,
}

/// Settings of a stack that differ from the defaults.
#[derive(Default)]
pub struct Builder {
    gateways: usize,
    flags: Vec<String>,
    links: bool,
    redis_settings: Vec<(String, String)>,
    postgres_settings: Option<Vec<(String, String)>>,
}

impl Stack {
    /// Starts fresh stores and this number of gateways, and waits until all are ready.
    pub async fn start(gateways: usize) -> Self {
        Self::builder(gateways).start().await
    }

    /// Returns a builder for a stack with this number of gateways.
    pub fn builder(gateways: usize) -> Builder {
        Builder { gateways, ..Builder::default() }
    }

    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }
}

impl Builder {
    /// Adds a flag for every gateway, as in `.setting("tracker-ttl", "2s")`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.flags.push(format!("--{name}={value}"));
        self
    }

    /// Sets the reconcile interval and the settle time to more than the length of any test, so that no reconcile round
    /// runs.
    pub fn without_reconciler(self) -> Self {
        self.setting("reconcile-interval", "1h").setting("settle-time", "1d")
    }

    /// Sets the reconcile interval and the settle time. Sets the request timeout to half of the settle time.
    pub fn reconciling(self, interval: Duration, settle: Duration) -> Self {
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let builder = self.setting("reconcile-interval", &millis(interval)).setting("settle-time", &millis(settle));
        builder.setting("request-timeout", &millis(settle / 2))
    }

    /// Puts separate proxies between each gateway and the stores.
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Adds settings of Redis, which are named as in redis.conf.
    pub fn redis(mut self, settings: &[(&str, &str)]) -> Self {
        self.redis_settings = owned(settings);
        self
    }

    /// Uses a private Postgres with these settings, which are named as in postgresql.conf.
    pub fn private_postgres(mut self, settings: &[(&str, &str)]) -> Self {
        self.postgres_settings = Some(owned(settings));
        self
    }

    /// Starts everything and waits until every gateway is ready.
    pub async fn start(self) -> Stack {
        let directory = Directory::new();
        let redis = Redis::start(&directory, &borrowed(&self.redis_settings));
        let postgres = match &self.postgres_settings {
            None => Database::new().await,
            Some(settings) => Database::in_private_server(&borrowed(settings)),
        };
        let mut stack = Stack { gateways: Vec::new(), redis, postgres, directory };
        for number in 0..self.gateways {
            let links = self.links.then(|| Links {
                redis: Proxy::start(stack.redis.port()),
                postgres: Proxy::start(stack.postgres.port()),
            });
            let flags = flags(&stack, links.as_ref(), &self.flags);
            let directory = stack.directory.join(format!("gateway-{number}"));
            stack.gateways.push(Gateway::start(directory, flags, links).await);
        }
        for gateway in &stack.gateways {
            gateway.wait_until_ready().await;
        }
        stack
    }
}

/// The flags of a gateway: store URLs, debug logs for failing tests, and the settings of the test.
fn flags(stack: &Stack, links: Option<&Links>, settings: &[String]) -> Vec<String> {
    let (redis, postgres) = (stack.redis.url(), stack.postgres.gateway_url());
    let through = |url: String, port: u16, proxy: Option<u16>| {
        proxy.map_or(url.clone(), |proxy| url.replace(&format!(":{port}"), &format!(":{proxy}")))
    };
    let redis = through(redis, stack.redis.port(), links.map(|links| links.redis.port()));
    let postgres = through(postgres, stack.postgres.port(), links.map(|links| links.postgres.port()));
    let mut flags = vec![format!("--redis-url={redis}"), format!("--postgres-url={postgres}")];
    flags.push("--log=info,highwater=debug".to_owned());
    flags.extend_from_slice(settings);
    flags
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

impl Index<usize> for Stack {
    type Output = Gateway;

    fn index(&self, number: usize) -> &Gateway {
        &self.gateways[number]
    }
}

impl IndexMut<usize> for Stack {
    fn index_mut(&mut self, number: usize) -> &mut Gateway {
        &mut self.gateways[number]
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, gateway) in self.gateways.iter().enumerate() {
                eprintln!("---- end of the log of gateway {number}:\n{}", gateway.log_tail());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Fault, Link, eventually, job, pb, succeeded};

    #[tokio::test]
    async fn gateway_stalls_at_a_fault_point_until_released() {
        let stack = Stack::start(1).await;
        stack[0].create(job("a", &["s"], 2)).await.unwrap();
        stack[0].inject("report.marked", Fault::Stall);
        let report = tokio::spawn({
            let client = stack[0].client();
            async move { client.report("a", succeeded(0..1, "s")).await }
        });
        stack[0].wait_until_reached("report.marked").await;
        assert!(!report.is_finished());
        stack[0].release("report.marked");
        report.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn gateway_dies_at_a_fault_point_and_restarts() {
        let mut stack = Stack::start(1).await;
        stack[0].create(job("a", &["s"], 2)).await.unwrap();
        stack[0].inject("report.marked", Fault::Kill);
        stack[0].report("a", succeeded(0..1, "s")).await.unwrap_err();
        stack[0].wait_for_exit().await;
        stack[0].restart().await;
        stack[0].wait_until_ready().await;
        assert_eq!(stack[0].progress("a").await.unwrap().succeeded_task_count, Some(1));
    }

    #[tokio::test]
    async fn gateway_can_be_cut_off_from_one_store() {
        let stack = Stack::builder(2).links().start().await;
        stack[0].create(job("a", &["s"], 2)).await.unwrap();
        stack[0].links().redis.set(Link::Cut);
        let falls_back = async || (stack[0].progress("a").await.ok()?.source() == pb::Source::Fallback).then_some(());
        eventually("a read without Redis", falls_back).await;
        assert_eq!(stack[1].progress("a").await.unwrap().source(), pb::Source::Live);
    }
}
