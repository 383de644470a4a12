//! Reserves the memory of responses until they are written. A client that reads nothing would otherwise make the
//! gateway keep any number of responses.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

use super::call_memory::{CallBudget, CallMemory, Held, overloaded};

/// The memory of a response's headers and of its place in the queues of HTTP/2, in bytes.
const OVERHEAD_BYTES: usize = 1 << 10;

/// Counts the parts of responses on one connection that are not written yet, by age. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Unwritten(Arc<UnwrittenCounts>);

#[derive(Debug, Default)]
struct UnwrittenCounts {
    period: AtomicUsize,
    /// The parts of responses from the current period, and from older ones.
    by_period: [AtomicUsize; PERIODS],
}

/// The current period, the one before, and the one before that.
const PERIODS: usize = 3;

/// The body of a response, whose data are reserved until they are written.
pub struct ResponseBody {
    inner: Body,
    budget: CallBudget,
    unwritten: Option<Unwritten>,
    /// Whether the response was cut short, because no memory was left.
    is_refused: bool,
    _call: CallMemory,
}

/// A part of a response. HTTP/2 drops it when it is written, or when the stream ends.
struct ResponsePart {
    bytes: Bytes,
    _held: Held,
    counted: Option<(Unwritten, usize)>,
}

impl Unwritten {
    /// Begins a new period. Returns whether a part of a response is unwritten since before the last full period.
    pub fn next_period(&self) -> bool {
        let next = (self.0.period.load(Ordering::Relaxed) + 1) % PERIODS;
        // The oldest period ends here. Its place is used again once all of its parts are written.
        let is_stuck = self.0.by_period[next].load(Ordering::Relaxed) > 0;
        self.0.period.store(next, Ordering::Relaxed);
        is_stuck
    }

    fn add(&self) -> usize {
        let period = self.0.period.load(Ordering::Relaxed);
        self.0.by_period[period].fetch_add(1, Ordering::Relaxed);
        period
    }

    fn remove(&self, period: usize) {
        self.0.by_period[period].fetch_sub(1, Ordering::Relaxed);
    }
}

impl ResponseBody {
    /// Wraps the body of a response, and keeps the memory of its call reserved until the body is dropped.
    pub fn new(inner: Body, call: CallMemory, budget: CallBudget, unwritten: Option<Unwritten>) -> Self {
        Self { inner, budget, unwritten, is_refused: false, _call: call }
    }

    /// Returns the bytes with a reservation that lives as long as they do. If no memory is left, the response ends with
    /// trailers that say so.
    fn reserve(&mut self, bytes: Bytes) -> Frame<Bytes> {
        match self.budget.reserve(bytes.len() + OVERHEAD_BYTES) {
            Ok(held) => {
                let counted = self.unwritten.clone().map(|unwritten| {
                    let period = unwritten.add();
                    (unwritten, period)
                });
                Frame::data(Bytes::from_owner(ResponsePart { bytes, _held: held, counted }))
            }
            Err(_) => {
                self.is_refused = true;
                Frame::trailers(refusal())
            }
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_refused {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)).transpose()? else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(bytes) => self.reserve(bytes),
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.is_refused || self.inner.is_end_stream()
    }
}

/// Returns the trailers of a response for which no memory is left.
fn refusal() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(error) = overloaded().add_header(&mut trailers) {
        tracing::error!(
            %error,
            "could not encode a status as trailers; the client received a response without a status. Report this bug"
        );
    }
    trailers
}

impl AsRef<[u8]> for ResponsePart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ResponsePart {
    fn drop(&mut self) {
        if let Some((unwritten, period)) = &self.counted {
            unwritten.remove(*period);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tonic_types::StatusExt;

    use super::*;
    use crate::memory::MemoryBudget;

    fn body(budget: &Arc<MemoryBudget>, unwritten: &Unwritten) -> ResponseBody {
        let budget = CallBudget::new(budget, None);
        let call = CallMemory::reserve(&budget, 0).unwrap();
        let inner = Body::new(Full::new(Bytes::from_static(&[7; 100])));
        ResponseBody::new(inner, call, budget, Some(unwritten.clone()))
    }

    #[tokio::test]
    async fn data_are_reserved_until_they_are_dropped() {
        let (budget, unwritten) = (MemoryBudget::new(2000), Unwritten::default());
        let data = body(&budget, &unwritten).frame().await.unwrap().unwrap().into_data().unwrap();
        let part = data.slice(50..);
        drop(data);
        assert_eq!(budget.reserved(), 100 + OVERHEAD_BYTES);
        let mut refused = body(&budget, &unwritten);
        let trailers = refused.frame().await.unwrap().unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.get_details_error_info().unwrap().reason, "OVERLOADED");
        assert!(status.get_details_retry_info().is_some() && refused.frame().await.is_none());
        drop(part);
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn data_that_stay_unwritten_for_two_periods_are_stuck() {
        let (budget, unwritten) = (MemoryBudget::new(9000), Unwritten::default());
        let old = body(&budget, &unwritten).frame().await;
        assert!(!unwritten.next_period());
        let new = body(&budget, &unwritten).frame().await;
        assert!(!unwritten.next_period());
        assert!(unwritten.next_period());
        drop(old);
        assert!(unwritten.next_period());
        drop(new);
        assert!(!unwritten.next_period() && !unwritten.next_period() && !unwritten.next_period());
    }
}
