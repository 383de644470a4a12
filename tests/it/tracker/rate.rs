//! Differential tests of the rates: the script computes the same numbers as [`StageRate::record`].

use highwater::domain::{JobId, Layout, MAX_RATE, MarkStep, StageRate};
use highwater::live::{HEADER_BYTES, Header, MarkReply, StepWrite};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{FIRST, TestRedis, deadline, failed, job_id, succeeded};

const LAYOUT: Layout = Layout { total: 100_000, stages: 2 };
/// The number of random rates that are compared.
const CASES: usize = 300;

/// A rate, and how many milliseconds ago its last result was recorded. A negative number is in the future, as after a
/// clock was set back. `None` says that there was no result.
fn rates() -> impl Strategy<Value = (StageRate, Option<i64>)> {
    let millis = || prop_oneof![Just(0), 0..50_u32, 50..20_000_u32, 20_000..400_000_u32, any::<u32>()];
    let average = || prop_oneof![Just(0), 0..100_000_u64, 0..1_000_000_000_u64, 0..=MAX_RATE];
    let ago = prop_oneof![Just(None), (-5000..100_000_i64).prop_map(Some), (0..1_i64 << 40).prop_map(Some)];
    let rate = |(span, gap, slow, fast)| StageRate { last: 0, span, gap, slow, fast };
    ((millis(), millis(), average(), average()).prop_map(rate), ago)
}

fn now(header: &Header) -> u64 {
    (header.last_mark_time.unwrap().unix_timestamp_nanos() / 1_000_000).try_into().unwrap()
}

impl TestRedis {
    /// Writes rates to the header of a tracker.
    async fn put_rates(&self, id: &JobId, rates: [StageRate; 2]) {
        let bytes = self.tracker_bytes(id).await;
        let mut header = Header::decode(&bytes[..HEADER_BYTES]).unwrap();
        header.rates[..2].copy_from_slice(&rates);
        self.write_tracker(id, &[&header.encode()[..], &bytes[HEADER_BYTES..]].concat()).await;
    }
}

#[tokio::test]
async fn script_computes_the_same_rates_as_the_domain() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("rates");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    let mut runner = TestRunner::deterministic();
    for case in 0..CASES {
        let (_, clock) = redis.live.generation(deadline()).await.unwrap();
        let clock = i64::try_from(clock.unix_timestamp_nanos() / 1_000_000).unwrap();
        let before = [0, 1].map(|_| {
            let (rate, ago) = rates().new_tree(&mut runner).unwrap().current();
            StageRate { last: ago.map_or(0, |ago| u64::try_from(clock - ago).unwrap()), ..rate }
        });
        redis.put_rates(&id, before).await;
        let first = u32::try_from(case * 200).unwrap();
        let count = u32::try_from(case % 100).unwrap() + 1;
        let marks: Vec<_> = (first..first + count).map(|task| succeeded(task, 0)).collect();
        let after = redis.report(&id, LAYOUT, FIRST, &marks).await.unwrap();
        let mut expected = before[0];
        expected.record(now(&after), count.into());
        assert_eq!(after.rates[..2], [expected, before[1]], "{before:?} at {}", now(&after));
    }
}

#[tokio::test]
async fn repeated_retried_skipped_and_merged_results_do_not_count_in_the_rates() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("counted");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    let failure = redis.report(&id, LAYOUT, FIRST, &[failed(1, 0)]).await.unwrap();
    let first = failure.rates[0];
    assert_eq!(first, StageRate { last: now(&failure), ..StageRate::default() });
    assert_eq!(failure.rates[1], StageRate::default(), "the second stage of the task is skipped");
    let repeated = redis.report(&id, LAYOUT, FIRST, &[failed(1, 0)]).await.unwrap();
    assert_eq!((repeated.rates[0], repeated.revision), (first, 1));
    let retried = redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 0)]).await.unwrap();
    assert_eq!((retried.rates[0], retried.revision), (first, 2));

    let step = MarkStep::plan(LAYOUT, [succeeded(2, 0)].into_iter()).swap_remove(0);
    let expected = redis.tracker_bytes(&id).await[HEADER_BYTES..][step.runs()[0].clone()].to_vec();
    let change = step.apply(&expected).unwrap();
    let write = StepWrite { step: &step, expected: &expected, change: &change };
    let merged = redis.live.merge_marks(&id, FIRST, write, deadline()).await.unwrap();
    let MarkReply::Applied(merged) = merged else { panic!("{merged:?}") };
    assert_eq!((merged.rates[0], merged.revision, merged.counts.stages[0].succeeded), (first, 3, 2));

    let next = redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 1)]).await.unwrap();
    assert_eq!(next.rates[..2], [first, StageRate { last: now(&next), ..StageRate::default() }]);
}
