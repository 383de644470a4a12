//! Start time, idle memory, size of the program.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::effort::{Effort, median};
use crate::page::Page;
use crate::stand::{Stand, program};
use crate::{Result, usage};

/// What was found.
#[derive(Serialize)]
pub struct Footprint {
    start_millis: f64,
    idle_mb: f64,
    program_mb: f64,
}

/// Starts gateways, and looks at one that has nothing to do.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Footprint> {
    let mut starts = Vec::new();
    let mut idle_mb = 0.0;
    for _ in 0..effort.pick(5, 1) {
        let began = Instant::now();
        let gateway = stand.gateway(&[]).await?;
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(effort.pick(Duration::from_secs(1), Duration::ZERO)).await;
        idle_mb = usage::resident(gateway.pid())? as f64 / 1e6;
    }
    let program_mb = fs::metadata(program("highwater")?)?.len() as f64 / 1e6;
    Ok(Footprint { start_millis: median(starts), idle_mb, program_mb })
}

impl Footprint {
    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("Printed, not chased");
        page.say(format!(
            "From the start of the process until it answers that it serves: {:.0} ms. Memory of a gateway that has nothing to do: {:.1} MB. The \
             program: {:.1} MB.",
            self.start_millis, self.idle_mb, self.program_mb
        ));
        page.data("footprint", self)
    }
}
