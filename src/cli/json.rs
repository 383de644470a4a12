//! Messages as canonical proto3 JSON, as other gRPC tools print it. Names are lowerCamelCase, and 64-bit integers are
//! strings.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage};

use super::Failure;
use crate::grpc::pb;

/// Returns a progress as one line of JSON.
pub fn progress(progress: &pb::Progress) -> Result<String, Failure> {
    to_json("highwater.v1.Progress", progress)
}

/// Returns a job as one line of JSON.
pub fn job(job: &pb::Job) -> Result<String, Failure> {
    to_json("highwater.v1.Job", job)
}

fn to_json(name: &str, message: &impl Message) -> Result<String, Failure> {
    static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
        LazyLock::new(|| DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET));
    let pool = POOL.as_ref().map_err(ToString::to_string)?;
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("the interface has no message {name}"))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    Ok(serde_json::to_string(&message)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_counts_are_written_and_unknown_counts_are_omitted() {
        let mut known = pb::Progress { job_id: "a".into(), task_count: 3, ..pb::Progress::default() };
        known.set_state(pb::JobState::Running);
        known.succeeded_task_count = Some(0);
        let json = progress(&known).unwrap();
        assert_eq!(json, r#"{"jobId":"a","state":"JOB_STATE_RUNNING","taskCount":"3","succeededTaskCount":"0"}"#);
    }
}
