//! Tests of the rate window, in which Lua counts results, and which Rust reads.

use std::time::Duration;

use highwater::domain::Layout;
use highwater::live::{HEADER_BYTES, Header, Tracker};
use time::OffsetDateTime;

use super::header::with_checksum;
use super::{FIRST, TestRedis, deadline, failed, job_id, succeeded};

const LAYOUT: Layout = Layout { total: 100, stages: 2 };
/// The offset of the window in the header, as in the table of the codec.
const BUCKET_AT: usize = 172;
/// The number of buckets in the window.
const BUCKETS: usize = 15;
/// The length of a bucket, in milliseconds.
const BUCKET_MS: i128 = 4000;

/// The number of the newest bucket, and the results in each bucket from the oldest to the newest.
fn window(header: &[u8]) -> (u64, [u32; BUCKETS]) {
    let number = u64::from_be_bytes(header[BUCKET_AT..BUCKET_AT + 8].try_into().unwrap());
    let counts = header[BUCKET_AT + 8..][..4 * BUCKETS].chunks_exact(4);
    let counts: Vec<_> = counts.map(|count| u32::from_be_bytes(count.try_into().unwrap())).collect();
    (number, counts.try_into().unwrap())
}

fn bucket_of(time: OffsetDateTime) -> u64 {
    (time.unix_timestamp_nanos() / 1_000_000 / BUCKET_MS).try_into().unwrap()
}

impl TestRedis {
    /// Writes a window whose newest bucket is `ago` buckets in the past. If `ago` is negative, the bucket is in the
    /// future, as after a clock was set back.
    async fn put_window(&self, id: &highwater::domain::JobId, ago: i64, counts: [u32; BUCKETS]) {
        let (_, now) = self.live.generation(deadline()).await.unwrap();
        let bytes = self.tracker_bytes(id).await;
        let (header, cells) = bytes.split_at(HEADER_BYTES);
        let mut header = header.to_vec();
        let number = bucket_of(now).checked_add_signed(-ago).unwrap();
        header[BUCKET_AT..BUCKET_AT + 8].copy_from_slice(&number.to_be_bytes());
        for (index, count) in counts.iter().enumerate() {
            header[BUCKET_AT + 8 + 4 * index..][..4].copy_from_slice(&count.to_be_bytes());
        }
        // The tracker was opened before the window began.
        header[36..44].copy_from_slice(&1000_u64.to_be_bytes());
        self.write_tracker(id, &[&with_checksum(header)[..], cells].concat()).await;
    }
}

#[tokio::test]
async fn report_advances_the_rate_window_and_counts_in_its_newest_bucket() {
    let redis = TestRedis::start(&[]).await;
    let counts: [u32; BUCKETS] = std::array::from_fn(|index| 1 << index);
    for (number, ago) in [0, 1, 2, 7, 13, 14, 15, 16, 1000, 1_000_000, -1, -3].into_iter().enumerate() {
        let id = job_id(&format!("window-{number}"));
        // The steps are repeated if a bucket ends between two of them.
        let (before, now, after) = loop {
            redis.open_adopted(&id, LAYOUT, FIRST).await;
            redis.put_window(&id, ago, counts).await;
            let (before, _) = window(&redis.tracker_bytes(&id).await);
            let header = redis.report(&id, LAYOUT, FIRST, &[succeeded(3, 0), failed(4, 0)]).await.unwrap();
            let now = bucket_of(header.last_mark_time.unwrap());
            if now == before.checked_add_signed(ago).unwrap() {
                break (before, now, window(&redis.tracker_bytes(&id).await));
            }
            let () = redis.query(&[b"FLUSHALL"]).await;
        };
        let passed = usize::try_from(now.saturating_sub(before)).unwrap();
        let mut expected: [u32; BUCKETS] =
            std::array::from_fn(|index| counts.get(index.saturating_add(passed)).copied().unwrap_or(0));
        // Three results count: one success, one failure, and the next stage of the failed task, which is skipped.
        expected[BUCKETS - 1] += 3;
        assert_eq!(after, (before.max(now), expected), "{ago} buckets ago");

        let reading = redis.live.read_tracker(&id, deadline()).await.unwrap();
        let Tracker::Present { header, .. } = reading.tracker else { panic!("{reading:?}") };
        let at = header.last_mark_time.unwrap();
        let rate = header.rate(at);
        assert_eq!(rate.results, expected.iter().map(|count| u64::from(*count)).sum::<u64>(), "{ago} buckets ago");
        let span = Duration::from_secs(14 * 4) + Duration::from_millis(within_bucket(&header));
        assert_eq!(rate.span, span, "{ago} buckets ago");
    }
}

/// Milliseconds from the start of the bucket to the last mark.
fn within_bucket(header: &Header) -> u64 {
    let millis = header.last_mark_time.unwrap().unix_timestamp_nanos() / 1_000_000;
    (millis % BUCKET_MS).try_into().unwrap()
}

#[tokio::test]
async fn repeated_and_retried_results_do_not_count_in_the_rate() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("window");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    redis.report(&id, LAYOUT, FIRST, &[failed(1, 0)]).await.unwrap();
    let results = |header: &Header| header.rate(header.last_mark_time.unwrap()).results;
    let repeated = redis.report(&id, LAYOUT, FIRST, &[failed(1, 0)]).await.unwrap();
    assert_eq!((results(&repeated), repeated.revision), (2, 1));
    // The retry succeeds, so the next stage of the task is pending again.
    let retried = redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 0)]).await.unwrap();
    assert_eq!((results(&retried), retried.revision), (2, 2));
    let next = redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 1)]).await.unwrap();
    assert_eq!((results(&next), next.revision), (3, 3));
}
