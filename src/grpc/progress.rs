//! `ProgressService`: how far a job is.

use tonic::{Request, Response, Status, async_trait};

use super::calls::deadline;
use super::{convert, pb};
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
        let results = ids.iter().zip(reads).map(|(id, read)| convert::progress_result(id, read)).collect();
        Ok(Response::new(pb::BatchGetProgressResponse { results }))
    }
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
