//! A feed that falls behind: more is told than the gateway comes to hear. It is not believed for longer than one that is cut
//! (invariant I6).

use std::time::{Duration, Instant};

use pb::{JobState, Source};

use super::six_tasks;
use crate::support::{Link, Stack, eventually, pb};

/// How long a feed is believed without a round trip, and what a busy machine takes for a few calls.
const BELIEVED_FOR: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(3);

/// Of each row that is drained a gateway asks whether others are left: many times what may pass before it must be right.
const CHATTER: &str = "
    DO $$ BEGIN
        FOR n IN 1..200 LOOP
            INSERT INTO ledger (job_id, marks) VALUES ('b', '\\x000000000002');
            DELETE FROM ledger WHERE job_id = 'b';
            COMMIT;
        END LOOP;
    END $$";

#[tokio::test]
async fn a_feed_that_falls_behind_shows_no_ended_job_as_running() {
    // Nobody else looks after the tracker, which stays open: it is the feed alone that tells of the end.
    let stack = Stack::of(2).links().unreconciled().start().await;
    for id in ["a", "b"] {
        stack[1].create(six_tasks(id)).await.unwrap();
    }
    let live = async || (stack[0].progress("a").await.ok()?.source() == Source::Live).then_some(());
    eventually("it is read live", live).await;

    stack[0].links().postgres.set(Link::Slow(Duration::from_millis(100)));
    stack.postgres.run(CHATTER).await.unwrap();
    stack[1].links().redis.set(Link::Cut);
    stack[1].cancel("a", "past a Redis that is away").await.unwrap();
    let told = Instant::now();
    let ended = async || {
        let progress = stack[0].progress("a").await.ok()?;
        (progress.state() == JobState::Cancelled).then_some(progress)
    };
    assert!(eventually("it is shown as ended", ended).await.lower_bound);
    assert!(told.elapsed() < BELIEVED_FOR + LATE, "{:?}", told.elapsed());
}
