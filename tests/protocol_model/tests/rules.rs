//! Tests that every rule of the protocols is necessary: if a scenario omits it, the model finds a violation.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol_model::explore::Exploration;
use protocol_model::faults::Faults;
use protocol_model::rules::Rule;
use protocol_model::scenario::Scenario;

/// The time limit of an exploration. It is far longer than any of these explorations takes.
const TIME_LIMIT: Duration = Duration::from_secs(600);

const FLUSH: Faults = Faults { flushes: 1, ..Faults::NONE };
const ROLLBACK: Faults = Faults { rollbacks: 1, ..Faults::NONE };
const CRASH: Faults = Faults { crashes: 1, ..Faults::NONE };
const REDIS_CUT: Faults = Faults { redis_cuts: 1, ..Faults::NONE };
const POSTGRES_CUT: Faults = Faults { postgres_cuts: 1, ..Faults::NONE };
const FEED_CUT: Faults = Faults { feed_cuts: 1, ..Faults::NONE };
const DAMAGE: Faults = Faults { damages: 1, ..Faults::NONE };
const POSTGRES_FAILOVER: Faults = Faults { postgres_failovers: 1, ..Faults::NONE };

/// Explores a scenario in which the omitted rule matters.
fn explore_without(rule: Rule) -> Exploration {
    let cancelled = Scenario::<2>::cancelled();
    let starting = Scenario::<2>::cancelled().with_start();
    let scenario = match rule {
        Rule::StartOpensBeforeCommit => starting.with_slow_feed().with_faults(FLUSH),
        Rule::StartAbandonsUncertainTracker => starting.with_faults(REDIS_CUT),
        Rule::ReopenChangesIncarnation | Rule::MarksRequireCurrentGeneration => cancelled.with_faults(ROLLBACK),
        Rule::RestoreKeepsExistingTracker => starting.with_faults(REDIS_CUT.plus(CRASH)),
        // One gateway reports while the restore of a second gateway is paused. A third gateway restores the tracker and
        // ends the job.
        Rule::ConfirmBeforeAcknowledging => {
            return explore(Scenario::<3>::cancelled().with_faults(FLUSH.plus(FLUSH)), rule);
        }
        Rule::CommitBeforeSuperseded => cancelled,
        Rule::CommitIncludesLedger | Rule::UnconfirmedMarksAreLowerBound | Rule::AmendSealsFirst => {
            cancelled.with_faults(REDIS_CUT)
        }
        Rule::CommitChecksIncarnation | Rule::SettleBeforeAdopting => cancelled.with_faults(FLUSH),
        Rule::SettleOutlastsFeedLag | Rule::CheckLedgerBeforeAdopting => {
            cancelled.with_slow_feed().with_faults(FLUSH.plus(REDIS_CUT))
        }
        Rule::FeedFailsClosed => cancelled.with_faults(REDIS_CUT.plus(FEED_CUT)),
        Rule::DrainMergesBeforeDelete => cancelled.with_faults(REDIS_CUT.plus(CRASH)),
        Rule::AmendRequiresAdoption | Rule::ReopenAfterEndIsFenced => cancelled.with_faults(ROLLBACK.plus(REDIS_CUT)),
        Rule::RecordedReportsAreRemembered => starting.with_slow_feed().with_faults(REDIS_CUT),
        Rule::SealSurvivesCommit => cancelled.with_faults(POSTGRES_FAILOVER),
        Rule::ClaimConfirmsInPostgres => cancelled.with_faults(REDIS_CUT),
        Rule::ClaimRequiresTrackerWithoutPostgres => cancelled.with_faults(REDIS_CUT.plus(POSTGRES_CUT)),
        Rule::VerifyBeforeEnd | Rule::VerifyBeforePull | Rule::VerifyInBackground => cancelled.with_faults(DAMAGE),
        Rule::MirrorTakesReportedMarks => Scenario::one_fails().with_faults(DAMAGE),
    };
    explore(scenario, rule)
}

fn explore<const N: usize>(scenario: Scenario<N>, rule: Rule) -> Exploration {
    scenario.without(rule).explore(2, TIME_LIMIT)
}

#[test]
fn every_omitted_rule_leads_to_a_violation() {
    let mut found = BTreeMap::new();
    for rule in Rule::ALL {
        let Exploration { states, elapsed, violations, .. } = explore_without(rule);
        let violated: Vec<_> = violations.into_keys().collect();
        println!("without {rule:?}, after {states} states and {elapsed:?}: {violated:?}");
        found.insert(format!("{rule:?}"), violated);
    }
    let unnecessary: Vec<_> = found.iter().filter(|(_, violated)| violated.is_empty()).collect();
    assert!(unnecessary.is_empty(), "no violation without {unnecessary:?}");
}
