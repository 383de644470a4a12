//! Tests of a feed that falls behind because notifications arrive faster than the gateway can process them. Like a feed
//! that is cut, it is then no longer trusted (invariant I6).

use std::time::{Duration, Instant};

use pb::{JobState, Source};

use super::six_task_job;
use crate::support::{Link, Stack, eventually, pb};

/// The time for which a gateway trusts the feed without a round trip.
const FEED_TRUSTED_FOR: Duration = Duration::from_secs(2);
/// An allowance for a few calls on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// SQL that inserts and deletes many ledger rows. After each deleted row, a gateway queries whether rows remain. Over a
/// slow link, these queries take many times as long as the gateway may trust the feed.
const NOTIFICATION_FLOOD: &str = "
    DO $$ BEGIN
        FOR n IN 1..200 LOOP
            INSERT INTO ledger (job_id, marks) VALUES ('b', '\\x000000000002');
            DELETE FROM ledger WHERE job_id = 'b';
            COMMIT;
        END LOOP;
    END $$";

#[tokio::test]
async fn lagging_feed_does_not_show_an_ended_job_as_running() {
    // No reconciler runs and the tracker stays open, so only the feed announces the end.
    let stack = Stack::builder(2).links().without_reconciler().start().await;
    for id in ["a", "b"] {
        stack[1].create(six_task_job(id)).await.unwrap();
    }
    let live = async || (stack[0].progress("a").await.ok()?.source() == Source::Live).then_some(());
    eventually("the job is read LIVE", live).await;

    stack[0].links().postgres.set(Link::Slow(Duration::from_millis(100)));
    stack.postgres.run(NOTIFICATION_FLOOD).await.unwrap();
    stack[1].links().redis.set(Link::Cut);
    stack[1].cancel("a", "past a Redis that is away").await.unwrap();
    let cancelled = Instant::now();
    let ended = async || {
        let progress = stack[0].progress("a").await.ok()?;
        (progress.state() == JobState::Cancelled).then_some(progress)
    };
    assert!(eventually("gateway 0 shows the end", ended).await.lower_bound);
    assert!(cancelled.elapsed() < FEED_TRUSTED_FOR + SLACK, "{:?}", cancelled.elapsed());
}
