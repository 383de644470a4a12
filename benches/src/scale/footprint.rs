//! Measures start time, idle memory, and program size.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::effort::{Effort, median};
use crate::environment::{Environment, program};
use crate::format::short;
use crate::page::Page;
use crate::{Result, usage};

/// The results.
#[derive(Serialize, Deserialize)]
pub struct Footprint {
    start_millis: f64,
    idle_mb: f64,
    program_mb: f64,
}

/// Starts gateways one after the other, and measures the memory of an idle one.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Footprint> {
    let mut starts = Vec::new();
    let mut idle_mb = 0.0;
    for _ in 0..effort.pick(5, 1) {
        let began = Instant::now();
        let gateway = environment.gateway(&[]).await?;
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(effort.pick(Duration::from_secs(1), Duration::ZERO)).await;
        idle_mb = usage::resident_bytes(gateway.pid())? as f64 / 1e6;
    }
    let program_mb = fs::metadata(program("highwater")?)?.len() as f64 / 1e6;
    Ok(Footprint { start_millis: median(starts), idle_mb, program_mb })
}

impl Footprint {
    pub fn render(&self, page: &mut Page) {
        let row = [self.start_millis, self.idle_mb, self.program_mb].map(short);
        page.table("footprint", ["start until ready, ms", "RSS of an idle gateway, MB", "program, MB"], &[row]);
    }
}
