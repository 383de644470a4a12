//! How far it goes: what more tasks, jobs, callers and gateways cost, and what the slow paths do.
//!
//! | file | the question |
//! |---|---|
//! | `size` | does a read cost the same whatever the size of the job |
//! | `memory` | how much memory a task takes, in Redis and in a mirror |
//! | `names` | how much a name takes, in Postgres and in a gateway |
//! | `reported` | how long a read takes while reports come in |
//! | `beside` | whether a job of ten million tasks slows others |
//! | `scripts` | how long a script holds Redis at the worst |
//! | `running` | what jobs cost that just run, from one to ten thousand |
//! | `callers` | what pollers and watchers of one job cost, from one to ten thousand |
//! | `gateways` | what more gateways bring |
//! | `fallback` | how fast the slow paths are: the ledger, and trackers that are not believed |
//! | `recovery` | how long a thousand jobs take to be whole again after FLUSHALL |
//! | `footprint` | start time, idle memory, size of the program |
//! | `first` | what breaks first |
//! | `goal`, `spent`, `redis`, `batches`, `until` | goals; what is spent meanwhile; what Redis says of itself; the largest reports; waiting |

mod batches;
mod beside;
mod callers;
mod fallback;
mod first;
mod footprint;
mod gateways;
mod goal;
mod memory;
mod names;
mod recovery;
mod redis;
mod reported;
mod running;
mod scripts;
mod size;
mod spent;

use std::time::Duration;

use crate::Result;
use crate::effort::{Effort, step};
use crate::page::Page;
use crate::stand::Stand;

/// How long anything may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// Measures all of it.
pub async fn run(effort: Effort) -> Result<Page> {
    let limit = highwater::open_files::raise_limit();
    let stand = Stand::start().await?;
    step("what a read costs by the size of the job");
    let sizes = size::measure(&stand, effort).await?;
    step("memory a task, and a name");
    let (memory, names) = (memory::measure(&stand, effort).await?, names::measure(&stand, effort).await?);
    let stand = another(stand, effort).await?;
    step("reads while reports come in");
    let reported = reported::measure(&stand, effort).await?;
    step("others beside a job of ten million tasks");
    let beside = beside::measure(&stand, effort).await?;
    step("the longest scripts");
    let scripts = scripts::measure(&stand, effort).await?;
    let stand = another(stand, effort).await?;
    step("more gateways");
    let gateways = gateways::measure(&stand, effort).await?;
    step("more jobs");
    let stand = another(stand, effort).await?;
    let running = running::measure(&stand, effort).await?;
    let stand = another(stand, effort).await?;
    step("more callers");
    let callers = callers::measure(&stand, effort, limit).await?;
    let mut stand = another(stand, effort).await?;
    step("recovery after FLUSHALL");
    let recovery = recovery::measure(&stand, effort).await?;
    step("the slow paths");
    let fallback = fallback::measure(&mut stand, effort).await?;
    let footprint = footprint::measure(&stand, effort).await?;

    let mut page = Page::new("scale", "How far it goes");
    page.say(
        "What more tasks, jobs, callers and gateways cost, and what the slow paths do. Everything runs on one machine, \
         so callers, gateways, Redis and Postgres share its cores: what stands here as CPU time is the server's \
         alone, while rates and latencies are those of all of them together. Answers are checked: one that is not LIVE, or \
         a mark that is not applied, ends the run.",
    );
    let goals = [sizes.goals(), memory.goals(), reported.goals(), beside.goals(), scripts.goals()];
    goal::tell(&mut page, &goals.concat());
    sizes.tell(&mut page)?;
    memory.tell(&mut page)?;
    names.tell(&mut page)?;
    reported.tell(&mut page)?;
    beside.tell(&mut page)?;
    scripts.tell(&mut page)?;
    running.tell(&mut page)?;
    callers.tell(&mut page)?;
    gateways.tell(&mut page)?;
    first::tell(&mut page, &reported, &running, &callers)?;
    fallback.tell(&mut page)?;
    recovery.tell(&mut page)?;
    footprint.tell(&mut page)?;
    Ok(page)
}

/// What others left behind must not be measured: a full run takes new servers, a smoke goes on with those that it has.
async fn another(stand: Stand, effort: Effort) -> Result<Stand> {
    if effort == Effort::Smoke {
        return Ok(stand);
    }
    drop(stand);
    Stand::start().await
}
