//! The window of the rate: what Lua counts into, Rust reads.

use std::time::Duration;

use highwater::domain::Layout;
use highwater::live::{HEADER_BYTES, Header, Tracker};
use time::OffsetDateTime;

use super::header::summed;
use super::{Bench, failed, job, soon, succeeded};

const LAYOUT: Layout = Layout { total: 100, stages: 2 };
/// As the table in the codec has them.
const BUCKET_AT: usize = 172;
const BUCKETS: usize = 15;
const BUCKET_MS: i128 = 4000;

/// The newest bucket's number and the results in each, oldest first.
fn window(header: &[u8]) -> (u64, [u32; BUCKETS]) {
    let number = u64::from_be_bytes(header[BUCKET_AT..BUCKET_AT + 8].try_into().unwrap());
    let counts = header[BUCKET_AT + 8..][..4 * BUCKETS].chunks_exact(4);
    let counts: Vec<_> = counts.map(|count| u32::from_be_bytes(count.try_into().unwrap())).collect();
    (number, counts.try_into().unwrap())
}

fn bucket_of(time: OffsetDateTime) -> u64 {
    (time.unix_timestamp_nanos() / 1_000_000 / BUCKET_MS).try_into().unwrap()
}

impl Bench {
    /// Gives the tracker a window whose newest bucket lies `ago` buckets back (or ahead, where a clock was put back).
    async fn put_window(&self, id: &highwater::domain::JobId, ago: i64, counts: [u32; BUCKETS]) {
        let (_, now) = self.live.generation(soon()).await.unwrap();
        let bytes = self.bytes(id).await;
        let (header, cells) = bytes.split_at(HEADER_BYTES);
        let mut header = header.to_vec();
        let number = bucket_of(now).checked_add_signed(-ago).unwrap();
        header[BUCKET_AT..BUCKET_AT + 8].copy_from_slice(&number.to_be_bytes());
        for (index, count) in counts.iter().enumerate() {
            header[BUCKET_AT + 8 + 4 * index..][..4].copy_from_slice(&count.to_be_bytes());
        }
        // Opened before all of it.
        header[36..44].copy_from_slice(&1000_u64.to_be_bytes());
        self.put(id, &[&summed(header)[..], cells].concat()).await;
    }
}

#[tokio::test]
async fn a_report_moves_the_window_on_and_counts_into_its_newest_bucket() {
    let bench = Bench::start(&[]).await;
    let counts: [u32; BUCKETS] = std::array::from_fn(|index| 1 << index);
    for (number, ago) in [0, 1, 2, 7, 13, 14, 15, 16, 1000, 1_000_000, -1, -3].into_iter().enumerate() {
        let id = job(&format!("window-{number}"));
        // A bucket may end between two of these steps; then it is done again.
        let (before, now, after) = loop {
            bench.adopted(&id, LAYOUT, 1).await;
            bench.put_window(&id, ago, counts).await;
            let (before, _) = window(&bench.bytes(&id).await);
            let header = bench.report(&id, LAYOUT, 1, &[succeeded(3, 0), failed(4, 0)]).await.unwrap();
            let now = bucket_of(header.last_mark_time.unwrap());
            if now == before.checked_add_signed(ago).unwrap() {
                break (before, now, window(&bench.bytes(&id).await));
            }
            let () = bench.ask(&[b"FLUSHALL"]).await;
        };
        let passed = usize::try_from(now.saturating_sub(before)).unwrap();
        let mut expected: [u32; BUCKETS] =
            std::array::from_fn(|index| counts.get(index.saturating_add(passed)).copied().unwrap_or(0));
        // One success, one failure, and the stage behind it that the failure skips.
        expected[BUCKETS - 1] += 3;
        assert_eq!(after, (before.max(now), expected), "{ago} buckets ago");

        let view = bench.live.read_tracker(&id, soon()).await.unwrap();
        let Tracker::Present { header, .. } = view.tracker else { panic!("{view:?}") };
        let at = header.last_mark_time.unwrap();
        let rate = header.rate(at);
        assert_eq!(rate.results, expected.iter().map(|count| u64::from(*count)).sum::<u64>(), "{ago} buckets ago");
        let span = Duration::from_secs(14 * 4) + Duration::from_millis(within_bucket(&header));
        assert_eq!(rate.span, span, "{ago} buckets ago");
    }
}

/// How far into its bucket the last mark came.
fn within_bucket(header: &Header) -> u64 {
    let millis = header.last_mark_time.unwrap().unix_timestamp_nanos() / 1_000_000;
    (millis % BUCKET_MS).try_into().unwrap()
}

#[tokio::test]
async fn what_is_no_progress_does_not_count_into_the_rate() {
    let bench = Bench::start(&[]).await;
    let id = job("window");
    bench.adopted(&id, LAYOUT, 1).await;
    bench.report(&id, LAYOUT, 1, &[failed(1, 0)]).await.unwrap();
    let results = |header: &Header| header.rate(header.last_mark_time.unwrap()).results;
    let repeated = bench.report(&id, LAYOUT, 1, &[failed(1, 0)]).await.unwrap();
    assert_eq!((results(&repeated), repeated.revision), (2, 1));
    // The retry succeeds: the stage behind it is pending again.
    let retried = bench.report(&id, LAYOUT, 1, &[succeeded(1, 0)]).await.unwrap();
    assert_eq!((results(&retried), retried.revision), (2, 2));
    let next = bench.report(&id, LAYOUT, 1, &[succeeded(1, 1)]).await.unwrap();
    assert_eq!((results(&next), next.revision), (3, 3));
}
