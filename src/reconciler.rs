//! What a dead gateway left behind, and what nobody looks at: every round, every rule, for every running job. Rules
//! are level-triggered and idempotent, so any number of gateways may run them at once, and a round that fails is made
//! up for by the next.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;
use crate::domain::{JobId, TrackerView};
use crate::error::Result;
use crate::gateway::{Gateway, Look};

/// How many jobs are looked at in one round trip.
const PAGE: u32 = 500;
/// How long one page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From one round to the next, about.
    pub interval: Duration,
}

/// What a running job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Opened for this run and not adopted: its starter may be dead.
    Adopt,
    /// Sealed or complete: whoever began it may be dead.
    Finish,
}

/// Rounds until `shutdown`.
pub async fn run(gateway: Gateway, settings: Settings, shutdown: CancellationToken) {
    let mut renewed = None;
    let mut away = false;
    loop {
        // Gateways that were started together drift apart.
        let pause = settings.interval.mul_f64(0.8 + 0.4 * jitter());
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        // Often enough that a tracker survives three failed rounds in a row.
        let renew = renewed.is_none_or(|at: Instant| at.elapsed() > gateway.tracker_ttl() / 4);
        let Some(outcome) = shutdown.run_until_cancelled(round(&gateway, renew)).await else { return };
        match &outcome {
            Ok(()) if renew => renewed = Some(Instant::now()),
            Ok(()) => {}
            Err(error) if !away => tracing::warn!(%error, "reconciling fails; it goes on once the stores are back"),
            Err(_) => {}
        }
        if away && outcome.is_ok() {
            tracing::info!("reconciling again");
        }
        away = outcome.is_err();
    }
}

async fn round(gateway: &Gateway, renew: bool) -> Result<()> {
    let mut after: Option<JobId> = None;
    loop {
        let deadline = Deadline::after(PAGE_WITHIN);
        let looks = gateway.look_at_running(after.as_ref(), PAGE, deadline).await?;
        if renew {
            let ids: Vec<JobId> = looks.iter().map(|look| look.id.clone()).collect();
            gateway.renew(&ids, deadline).await?;
        }
        for look in &looks {
            for rule in due(look) {
                match rule {
                    Rule::Adopt => {
                        if gateway.adopt(&look.id, look.incarnation, deadline).await? {
                            tracing::info!(job = %look.id, "adopted");
                        }
                    }
                    Rule::Finish => drop(gateway.finish(&look.id, look.incarnation)),
                }
            }
        }
        match looks.last() {
            Some(last) if looks.len() == PAGE as usize => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

/// The rules that apply, in this order: what is complete but for its adoption can end only once it is adopted.
fn due(look: &Look) -> impl Iterator<Item = Rule> {
    let (adopt, finish) = match look.tracker {
        TrackerView::Present { incarnation, adopted, sealed, .. } if incarnation == look.incarnation => {
            (!adopted && !sealed, sealed || look.complete)
        }
        _ => (false, false),
    };
    [adopt.then_some(Rule::Adopt), finish.then_some(Rule::Finish)].into_iter().flatten()
}

/// 0 to 1, different in every process and round.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(incarnation: u64, adopted: bool, sealed: bool, complete: bool) -> Look {
        let tracker = TrackerView::Present { incarnation, adopted, sealed, marked: true };
        Look { id: JobId::generate(), incarnation: 2, tracker, complete }
    }

    fn rules(look: &Look) -> Vec<Rule> {
        due(look).collect()
    }

    #[test]
    fn sealed_and_complete_are_finished_and_only_the_own_tracker_is_touched() {
        assert_eq!(rules(&look(2, true, false, false)), []);
        assert_eq!(rules(&look(2, true, true, false)), [Rule::Finish]);
        assert_eq!(rules(&look(2, true, false, true)), [Rule::Finish]);
        assert_eq!(rules(&look(2, false, false, false)), [Rule::Adopt]);
        assert_eq!(rules(&look(2, false, true, false)), [Rule::Finish]);
        assert_eq!(rules(&look(1, false, true, true)), []);
        let gone = Look { tracker: TrackerView::Missing, ..look(2, true, false, false) };
        assert_eq!(rules(&gone), []);
    }

    /// With failures in it, it cannot end before it is adopted; and if it cannot be adopted, it may have succeeded.
    #[test]
    fn a_complete_tracker_that_is_not_adopted_is_adopted_and_finished() {
        assert_eq!(rules(&look(2, false, false, true)), [Rule::Adopt, Rule::Finish]);
    }
}
