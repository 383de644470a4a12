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
    /// Sealed or complete: whoever began it may be dead.
    Finish,
    /// Opened for this run and not adopted: its starter may be dead.
    Adopt,
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
            match due(look) {
                Some(Rule::Finish) => drop(gateway.finish(&look.id, look.incarnation)),
                Some(Rule::Adopt) => {
                    if gateway.adopt(&look.id, look.incarnation, deadline).await? {
                        tracing::info!(job = %look.id, "adopted");
                    }
                }
                None => {}
            }
        }
        match looks.last() {
            Some(last) if looks.len() == PAGE as usize => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

/// The rule that applies, if any.
fn due(look: &Look) -> Option<Rule> {
    match look.tracker {
        TrackerView::Present { incarnation, .. } if incarnation != look.incarnation => None,
        TrackerView::Present { sealed: true, .. } => Some(Rule::Finish),
        TrackerView::Present { .. } if look.complete => Some(Rule::Finish),
        TrackerView::Present { adopted: false, .. } => Some(Rule::Adopt),
        _ => None,
    }
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

    #[test]
    fn sealed_and_complete_are_finished_and_only_the_own_tracker_is_touched() {
        assert_eq!(due(&look(2, true, false, false)), None);
        assert_eq!(due(&look(2, true, true, false)), Some(Rule::Finish));
        assert_eq!(due(&look(2, true, false, true)), Some(Rule::Finish));
        assert_eq!(due(&look(2, false, false, true)), Some(Rule::Finish));
        assert_eq!(due(&look(2, false, false, false)), Some(Rule::Adopt));
        assert_eq!(due(&look(1, false, true, true)), None);
        let gone = Look { tracker: TrackerView::Missing, ..look(2, true, false, false) };
        assert_eq!(due(&gone), None);
    }
}
