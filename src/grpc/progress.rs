//! `ProgressService`: how far a job is.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, async_trait};

use super::calls::deadline;
use super::{convert, pb};
use crate::domain::{Definition, Progress};
use crate::gateway::Gateway;

/// For UI backends.
pub struct ProgressReads {
    gateway: Gateway,
}

impl ProgressReads {
    /// The service over these use cases.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway }
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
        let (definition, progress) = self.gateway.progress(&id, deadline).await?;
        let progress = convert::progress(&definition, progress);
        measure(&progress);
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
                measure(progress);
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
        Ok(Response::new(states.map(|state| Ok(told(&*state?))).boxed()))
    }
}

fn told((definition, progress): &(Arc<Definition>, Progress)) -> pb::WatchProgressResponse {
    let progress = convert::progress(definition, progress.clone());
    measure(&progress);
    pb::WatchProgressResponse { progress: Some(progress) }
}

/// Counts an answer by where it comes from.
fn measure(progress: &pb::Progress) {
    let (source, reason) = (progress.source().as_str_name(), progress.source_reason().as_str_name());
    let source = source.strip_prefix("SOURCE_").unwrap_or(source);
    let reason = match progress.source_reason() {
        pb::SourceReason::Unspecified => "",
        _ => reason.strip_prefix("SOURCE_REASON_").unwrap_or(reason),
    };
    metrics::counter!("highwater_reads_total", "source" => source, "reason" => reason).increment(1);
}
