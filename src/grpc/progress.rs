//! `ProgressService`: how far a job is.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use metrics::Counter;
use tonic::{Request, Response, Status, async_trait};

use super::calls::deadline;
use super::series::Series;
use super::{convert, pb};
use crate::gateway::{Gateway, ReadResult};

/// For UI backends.
pub struct ProgressReads {
    gateway: Gateway,
    reads: Arc<Reads>,
}

/// How many reads there were, by where their answers came from.
#[derive(Default)]
struct Reads(Series<Counter, { SOURCES * REASONS }>);

/// One more than the largest number of each: the interface only adds.
const SOURCES: usize = pb::Source::Fallback as usize + 1;
const REASONS: usize = pb::SourceReason::InLedger as usize + 1;

impl ProgressReads {
    /// The service over these use cases.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, reads: Arc::default() }
    }
}

#[async_trait]
impl pb::progress_service_server::ProgressService for ProgressReads {
    async fn get_progress(
        &self,
        request: Request<pb::GetProgressRequest>,
    ) -> Result<Response<pb::GetProgressResponse>, Status> {
        let deadline = deadline(&request)?;
        let id = convert::job_id(&request.get_ref().job_id)?;
        let progress = convert::progress(&*self.gateway.progress(&id, deadline).await?);
        self.reads.count(&progress);
        Ok(Response::new(pb::GetProgressResponse { progress: Some(progress) }))
    }

    async fn batch_get_progress(
        &self,
        request: Request<pb::BatchGetProgressRequest>,
    ) -> Result<Response<pb::BatchGetProgressResponse>, Status> {
        let deadline = deadline(&request)?;
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
        let mut watch = self.gateway.watch(&id);
        // Awaited here, so that a call for no job is refused like any other, and within its deadline.
        let first = watch.next().await.transpose()?;
        let later = stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)));
        let states = stream::iter(first.map(Ok)).chain(later);
        let reads = self.reads.clone();
        let told = move |state: ReadResult| {
            let progress = convert::progress(&*state?);
            reads.count(&progress);
            Ok(pb::WatchProgressResponse { progress: Some(progress) })
        };
        Ok(Response::new(states.map(told).boxed()))
    }
}

impl Reads {
    /// Counts an answer.
    fn count(&self, progress: &pb::Progress) {
        let (source, reason) = (progress.source(), progress.source_reason());
        let make = || {
            let source = source.as_str_name();
            let told = match reason {
                pb::SourceReason::Unspecified => "",
                _ => reason.as_str_name(),
            };
            let source = source.strip_prefix("SOURCE_").unwrap_or(source);
            let told = told.strip_prefix("SOURCE_REASON_").unwrap_or(told);
            metrics::counter!("highwater_reads_total", "source" => source, "reason" => told)
        };
        self.0.of(source as usize * REASONS + reason as usize, make, |reads| reads.increment(1));
    }
}
