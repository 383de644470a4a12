//! Measures what more tasks, jobs, callers and gateways cost, and how fast the fallback paths are.
//!
//! | file | question |
//! |---|---|
//! | `size` | Does the cost of a read depend on the size of the job? |
//! | `memory` | How much memory does a task take, in Redis and in a mirror? |
//! | `names` | How much memory does a task name take, in Postgres and in a gateway? |
//! | `reads_under_load` | How long does a read take during reports? |
//! | `interference` | Do reports to a job of ten million tasks slow down other jobs? |
//! | `scripts` | How long does a script block Redis at most? |
//! | `running_jobs` | What do running jobs cost without calls, from one to ten thousand? |
//! | `callers` | What do pollers and watchers of one job cost, from one to ten thousand? |
//! | `gateways` | What is the effect of more gateways? |
//! | `bottleneck` | Which resource is exhausted first? |
//! | `fallback` | How fast are reports to the ledger, and reads without Redis or of trackers that are not adopted? |
//! | `recovery` | How long do a thousand jobs take to recover after `FLUSHALL`? |
//! | `footprint` | What are start time, idle memory and program size? |
//! | `goal`, `meter`, `large_reports` | goals; resource usage of a phase; the largest possible reports |

mod bottleneck;
mod callers;
mod fallback;
mod footprint;
mod gateways;
mod goal;
mod interference;
mod large_reports;
mod memory;
mod meter;
mod names;
mod reads_under_load;
mod recovery;
mod running_jobs;
mod scripts;
mod size;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::effort::{Effort, announce};
use crate::environment::Environment;
use crate::page::{Page, Run};

/// The timeout for background work, such as the restore of a tracker.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(90);

/// All results.
#[derive(Serialize, Deserialize)]
pub struct Results {
    size: size::Sizes,
    memory: memory::Memory,
    names: names::Names,
    reads_under_load: reads_under_load::ReadsUnderLoad,
    interference: interference::Interference,
    scripts: scripts::Scripts,
    gateways: gateways::Gateways,
    running_jobs: running_jobs::RunningJobs,
    callers: callers::Callers,
    recovery: recovery::Recovery,
    fallback: fallback::Fallback,
    footprint: footprint::Footprint,
}

/// Measures everything.
pub async fn measure(effort: Effort) -> Result<Results> {
    let open_files = highwater::open_files::raise_limit();
    let environment = Environment::start().await?;
    announce("reads by job size");
    let size = size::measure(&environment, effort).await?;
    announce("memory per task and per name");
    let (memory, names) = (memory::measure(&environment, effort).await?, names::measure(&environment, effort).await?);
    let environment = renew(environment, effort).await?;
    announce("reads during reports");
    let reads_under_load = reads_under_load::measure(&environment, effort).await?;
    announce("other jobs during reports to a job of ten million tasks");
    let interference = interference::measure(&environment, effort).await?;
    announce("the longest scripts");
    let scripts = scripts::measure(&environment, effort).await?;
    let environment = renew(environment, effort).await?;
    announce("more gateways");
    let gateways = gateways::measure(&environment, effort).await?;
    announce("more jobs");
    let environment = renew(environment, effort).await?;
    let running_jobs = running_jobs::measure(&environment, effort).await?;
    let environment = renew(environment, effort).await?;
    announce("more callers");
    let callers = callers::measure(&environment, effort, open_files).await?;
    let mut environment = renew(environment, effort).await?;
    announce("recovery after FLUSHALL");
    let recovery = recovery::measure(&environment, effort).await?;
    announce("fallback paths");
    let fallback = fallback::measure(&mut environment, effort).await?;
    let footprint = footprint::measure(&environment, effort).await?;
    Ok(Results {
        size,
        memory,
        names,
        reads_under_load,
        interference,
        scripts,
        gateways,
        running_jobs,
        callers,
        recovery,
        fallback,
        footprint,
    })
}

/// Renders the page.
pub fn render(run: &Run<Results>) -> Result<Page> {
    let mut page = Page::new("scale", run);
    let results = &run.results;
    let goals = [
        results.size.goals(),
        results.memory.goals(),
        results.reads_under_load.goals(),
        results.interference.goals(),
        results.scripts.goals(),
    ];
    goal::render(&mut page, &goals.concat());
    results.size.render(&mut page);
    results.memory.render(&mut page);
    results.names.render(&mut page);
    results.reads_under_load.render(&mut page)?;
    results.interference.render(&mut page);
    results.scripts.render(&mut page);
    results.running_jobs.render(&mut page)?;
    results.callers.render(&mut page)?;
    results.gateways.render(&mut page)?;
    bottleneck::render(&mut page, &results.reads_under_load, &results.running_jobs, &results.callers);
    results.fallback.render(&mut page);
    results.recovery.render(&mut page);
    results.footprint.render(&mut page);
    Ok(page)
}

/// A new environment, so that remains of earlier measurements do not affect later ones. A smoke test keeps the old one.
async fn renew(environment: Environment, effort: Effort) -> Result<Environment> {
    if effort == Effort::Smoke {
        return Ok(environment);
    }
    drop(environment);
    Environment::start().await
}
