//! The handler of `ProgressService`: returns and streams the progress of jobs.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use metrics::Counter;
use tonic::{Request, Response, Status, async_trait};

use super::deadline::call_deadline;
use super::metrics_layer::SeriesCache;
use super::{convert, pb};
use crate::gateway::{Gateway, ReadResult};

/// Implements `ProgressService` with the use cases of a gateway.
pub struct ProgressHandler {
    gateway: Gateway,
    reads: Arc<ReadCounters>,
}

/// The number of returned progress messages by source and reason.
#[derive(Default)]
struct ReadCounters(SeriesCache<Counter, { SOURCES * REASONS }>);

/// The number of sources: one more than the largest number of the enum. New values get larger numbers.
const SOURCES: usize = pb::Source::Fallback as usize + 1;
/// The number of source reasons: one more than the largest number of the enum. New values get larger numbers.
const REASONS: usize = pb::SourceReason::InLedger as usize + 1;

impl ProgressHandler {
    /// Creates a handler that calls `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, reads: Arc::default() }
    }
}

#[async_trait]
impl pb::progress_service_server::ProgressService for ProgressHandler {
    async fn get_progress(
        &self,
        request: Request<pb::GetProgressRequest>,
    ) -> Result<Response<pb::GetProgressResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let id = convert::job_id(&request.get_ref().job_id)?;
        let progress = convert::progress(&*self.gateway.progress(&id, deadline).await?);
        self.reads.count(&progress);
        Ok(Response::new(pb::GetProgressResponse { progress: Some(progress) }))
    }

    async fn batch_get_progress(
        &self,
        request: Request<pb::BatchGetProgressRequest>,
    ) -> Result<Response<pb::BatchGetProgressResponse>, Status> {
        let deadline = call_deadline(&request)?;
        let ids = convert::job_ids(&request.get_ref().job_ids)?;
        let reads = self.gateway.progress_of_all(&ids, deadline).await;
        let results: Vec<_> = ids.iter().zip(reads).map(|(id, read)| convert::progress_result(id, read)).collect();
        for result in &results {
            if let Some(pb::progress_result::Result::Progress(progress)) = &result.result {
                self.reads.count(progress);
            }
        }
        Ok(Response::new(pb::BatchGetProgressResponse { results }))
    }

    type WatchProgressStream = BoxStream<'static, Result<pb::WatchProgressResponse, Status>>;

    async fn watch_progress(
        &self,
        request: Request<pb::WatchProgressRequest>,
    ) -> Result<Response<Self::WatchProgressStream>, Status> {
        let id = convert::job_id(&request.get_ref().job_id)?;
        let mut watch = self.gateway.watch(&id)?;
        // The first update is awaited before the response, so that an unknown job fails the call within its deadline.
        let first = watch.next().await.transpose()?;
        let later = stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)));
        let updates = stream::iter(first.map(Ok)).chain(later);
        let reads = self.reads.clone();
        let to_response = move |read: ReadResult| {
            let progress = convert::progress(&*read?);
            reads.count(&progress);
            Ok(pb::WatchProgressResponse { progress: Some(progress) })
        };
        Ok(Response::new(updates.map(to_response).boxed()))
    }
}

impl ReadCounters {
    /// Counts one returned progress message.
    fn count(&self, progress: &pb::Progress) {
        let (source, reason) = (progress.source(), progress.source_reason());
        let register = || {
            let source = source.as_str_name();
            let reason = match reason {
                pb::SourceReason::Unspecified => "",
                _ => reason.as_str_name(),
            };
            let source = source.strip_prefix("SOURCE_").unwrap_or(source);
            let reason = reason.strip_prefix("SOURCE_REASON_").unwrap_or(reason);
            metrics::counter!("highwater_reads_total", "source" => source, "reason" => reason)
        };
        self.0.with(source as usize * REASONS + reason as usize, register, |reads| reads.increment(1));
    }
}
