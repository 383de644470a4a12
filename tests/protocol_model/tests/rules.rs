//! What each rule of the protocols is for: without it, the model finds what must not be.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol_model::explore::Explored;
use protocol_model::protocol::Protocol;
use protocol_model::rules::Rule;
use protocol_model::world::Faults;
use protocol_model::worlds::{self, NONE};

/// Far more than any of these takes.
const WITHIN: Duration = Duration::from_secs(600);

const FLUSH: Faults = Faults { flushes: 1, ..NONE };
const ROLLBACK: Faults = Faults { rollbacks: 1, ..NONE };
const CRASH: Faults = Faults { crashes: 1, ..NONE };
const REDIS_CUT: Faults = Faults { redis_cuts: 1, ..NONE };
const FEED_CUT: Faults = Faults { feed_cuts: 1, ..NONE };
const FORGOTTEN: Faults = Faults { forgets: 1, ..NONE };

/// What happens with the rule left out, where it does harm.
fn without(rule: Rule) -> Explored {
    let (cancelled, starting) = (worlds::cancelled::<2>(), worlds::cancelled::<2>().started());
    let protocol = match rule {
        Rule::StartOpensFirst => starting.lagging().with(FLUSH),
        Rule::StartLeavesWhatItMayHaveOpened => starting.with(REDIS_CUT),
        Rule::TakeUpFences | Rule::MarksNeedTheGeneration => cancelled.with(ROLLBACK),
        Rule::RestoreReplacesNothing => starting.with(REDIS_CUT.and(CRASH)),
        // One reports, while another's restore is asleep and the third restores and ends the job.
        Rule::AskBeforeAcknowledging => return explore(worlds::cancelled::<3>().with(FLUSH.and(FLUSH)), rule),
        Rule::HelpBeforeSuperseded => cancelled,
        Rule::CommitTakesLedger | Rule::UnseenIsUnsure | Rule::CompletionSeals => cancelled.with(REDIS_CUT),
        Rule::CommitFences | Rule::Settle => cancelled.with(FLUSH),
        Rule::SettleOutlastsFeeds | Rule::AskBeforeAdopting => cancelled.lagging().with(FLUSH.and(REDIS_CUT)),
        Rule::FeedFailsClosed => cancelled.with(REDIS_CUT.and(FEED_CUT)),
        Rule::DrainMergesFirst => cancelled.with(REDIS_CUT.and(CRASH)),
        Rule::CompletionNeedsBelief | Rule::EndedIsFenced => cancelled.with(ROLLBACK.and(REDIS_CUT)),
        Rule::RecordedIsRemembered => starting.lagging().with(REDIS_CUT),
        Rule::SealExpires => cancelled.with(FORGOTTEN),
    };
    explore(protocol, rule)
}

fn explore<const N: usize>(protocol: Protocol<N>, rule: Rule) -> Explored {
    protocol.without(rule).explore(2, WITHIN)
}

#[test]
fn without_any_rule_something_is_violated() {
    let mut found = BTreeMap::new();
    for rule in Rule::ALL {
        let Explored { states, took, violated, .. } = without(rule);
        let violated: Vec<_> = violated.into_keys().collect();
        println!("without {rule:?}, after {states} states and {took:?}: {violated:?}");
        found.insert(format!("{rule:?}"), violated);
    }
    let needless: Vec<_> = found.iter().filter(|(_, violated)| violated.is_empty()).collect();
    assert!(needless.is_empty(), "{needless:?}");
}
