//! Tests in which two third-party clients drive a job from its creation to its snapshot: Python on gRPC's C core, and
//! `buf curl`. Both discover the API by reflection: Python by version v1alpha, and buf by version v1.

use std::path::PathBuf;
use std::process::Output;
use std::{env, fs};

use prost::Message;
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::Code;
use tonic_types::pb::{BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo};

use crate::source::root;
use crate::support::{Stack, eventually, pb};

#[tokio::test]
async fn python_drives_a_job_from_create_to_snapshot() {
    let stack = Stack::start(1).await;
    let script = root().join("tests/clients/grpcio_client.py");
    let python = tool("HIGHWATER_TEST_PYTHON", "python");
    let ran = run(Command::new(python).arg(script).arg(stack[0].address().to_string())).await;
    assert!(ran.status.success(), "{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test]
async fn buf_curl_drives_a_job_from_create_to_snapshot() {
    let stack = Stack::start(1).await;
    let buf = BufCurl { address: stack[0].address().to_string() };
    let definition = json!({"jobId": "17", "stages": ["read", "digest"], "taskCount": 3, "failureThreshold": 0.2});

    let job = &buf.call("JobService/CreateJob", &definition).await.unwrap()["job"];
    assert_eq!(job["state"], "JOB_STATE_PENDING");
    let started = &buf.call("JobService/StartJob", &json!({"jobId": "17"})).await.unwrap()["job"];
    assert_eq!(started["state"], "JOB_STATE_RUNNING");

    let answer = buf.report(&[(0, "read", true), (1, "read", true), (2, "read", false)]).await.unwrap();
    assert_eq!(answer["dispositions"], json!(["DISPOSITION_APPLIED", "DISPOSITION_APPLIED", "DISPOSITION_APPLIED"]));
    let answer = buf.report(&[(0, "read", true), (3, "read", true)]).await.unwrap();
    assert_eq!(answer["dispositions"], json!(["DISPOSITION_DUPLICATE", "DISPOSITION_UNKNOWN_TASK"]));

    let live = buf.progress().await;
    assert_eq!((&live["source"], &live["percent"]), (&json!("SOURCE_LIVE"), &json!(66)));
    assert_eq!(
        live["stages"][1],
        json!({
            "stage": "digest", "totalCount": "3", "pendingCount": "2",
            "succeededCount": "0", "failedCount": "0", "skippedCount": "1",
        })
    );

    buf.report(&[(0, "digest", true), (1, "digest", true)]).await.unwrap();
    let ended = eventually("the job ends", async || {
        let progress = buf.progress().await;
        (progress["state"] != "JOB_STATE_RUNNING").then_some(progress)
    });
    let ended = ended.await;
    assert_eq!((&ended["state"], &ended["source"]), (&json!("JOB_STATE_FAILED"), &json!("SOURCE_SNAPSHOT")));
    assert_eq!((&ended["succeededTaskCount"], &ended["failedTaskCount"]), (&json!("2"), &json!("1")));
    assert_eq!(ended["pendingTaskCount"], "0", "zero is present, not omitted");

    let late = buf.report(&[(2, "digest", true)]).await.unwrap();
    assert_eq!((&late["dispositions"], &late["stop"]), (&json!(["DISPOSITION_SUPERSEDED"]), &json!(true)));
}

#[tokio::test]
async fn buf_curl_receives_error_reasons_and_details() {
    let stack = Stack::start(1).await;
    let buf = BufCurl { address: stack[0].address().to_string() };
    let definition = json!({"jobId": "17", "stages": ["read"], "taskCount": 1});
    buf.call("JobService/CreateJob", &definition).await.unwrap();

    let early = buf.report(&[(0, "read", true)]).await.unwrap_err();
    assert_eq!((early.code, early.reason().as_str()), (Code::FailedPrecondition, "JOB_NOT_STARTED"));
    assert_eq!(early.detail::<PreconditionFailure>("PreconditionFailure").violations[0].subject, "17");

    buf.call("JobService/StartJob", &json!({"jobId": "17"})).await.unwrap();
    let no_stage = buf.report(&[(0, "read", true), (0, "", true)]).await.unwrap_err();
    assert_eq!((no_stage.code, no_stage.reason().as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(no_stage.detail::<BadRequest>("BadRequest").field_violations[0].field, "results[1].stage");

    let other = json!({"jobId": "17", "stages": ["other"], "taskCount": 1});
    let other = buf.call("JobService/CreateJob", &other).await.unwrap_err();
    assert_eq!((other.code, other.reason().as_str()), (Code::AlreadyExists, "JOB_EXISTS"));

    let unknown = buf.call("ProgressService/GetProgress", &json!({"jobId": "71"})).await.unwrap_err();
    assert_eq!((unknown.code, unknown.reason().as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    assert_eq!(unknown.detail::<ResourceInfo>("ResourceInfo").resource_name, "71");
}

/// Runs the `./dev curl` lines of a document in a shell, in order, against this stack. Returns the number of lines.
async fn run_documented_calls(document: &str, stack: &Stack) -> usize {
    let lines = document.lines().filter(|line| line.starts_with("./dev curl "));
    let mut calls = 0;
    for line in lines {
        let line = format!("{line} {}", stack[0].address());
        let ran = run(Command::new("bash").args(["-c", &line]).current_dir(root())).await;
        assert!(ran.status.success(), "{} after {line}", String::from_utf8_lossy(&ran.stderr));
        calls += 1;
    }
    calls
}

#[tokio::test]
async fn readme_quick_start_runs_as_written() {
    let stack = Stack::start(1).await;
    let quick_start = ["README.md", "docs/first-job.md"].map(|path| fs::read_to_string(root().join(path)));
    let calls = run_documented_calls(&quick_start.map(Result::unwrap_or_default).concat(), &stack).await;
    assert_eq!(calls, 8, "create, report, read, report; then create, add, start, report by name");
    let buf = BufCurl { address: stack[0].address().to_string() };
    eventually("the job of the README ends", async || {
        let answer = buf.call("ProgressService/GetProgress", &json!({"jobId": "mine"})).await.unwrap();
        (answer["progress"]["state"] == "JOB_STATE_SUCCEEDED").then_some(())
    })
    .await;
}

#[tokio::test]
async fn api_guide_commands_run_as_written() {
    let stack = Stack::start(1).await;
    assert_eq!(run_documented_calls(include_str!("../../docs/api.md"), &stack).await, 16);
    let retry = stack[0].get("film-7-again").await.unwrap();
    assert_eq!((retry.state(), retry.task_count), (pb::JobState::Running, 6));
    // The guide prints the range that starts at task 0.
    let buf = BufCurl { address: stack[0].address().to_string() };
    let outstanding = json!({"jobId": "film-7", "status": "TASK_STATUS_OUTSTANDING"});
    let ranges = &buf.call("JobService/ListTasks", &outstanding).await.unwrap()["ranges"];
    assert_eq!(*ranges, json!([{}, {"first": "2", "last": "5"}]));
    assert!(include_str!("../../docs/api.md").contains(r#""ranges": [{}, {"first": "2", "last": "5"}]"#));
}

/// A client that makes calls with `buf curl`. Methods without a job ID use job 17.
struct BufCurl {
    address: String,
}

impl BufCurl {
    /// Returns the response, or the error that buf printed.
    async fn call(&self, method: &str, request: &Value) -> Result<Value, Refused> {
        let url = format!("http://{}/highwater.v1.{method}", self.address);
        let mut command = Command::new(tool("HIGHWATER_TEST_BUF", "buf"));
        let ran = run(command.args(["curl", "--protocol=grpc", "--data", &request.to_string(), &url])).await;
        if ran.status.success() {
            return Ok(serde_json::from_slice(&ran.stdout).unwrap());
        }
        let printed = String::from_utf8_lossy(&ran.stderr);
        let exit_code = ran.status.code().unwrap();
        // Exit codes below 8 are failures of buf. From 8 on, the exit code is the gRPC code times 8.
        assert!(exit_code >= 8, "buf curl failed with {exit_code}: {printed}");
        Err(Refused { code: Code::from_i32(exit_code >> 3), printed: serde_json::from_str(&printed).unwrap() })
    }

    async fn report(&self, results: &[(i64, &str, bool)]) -> Result<Value, Refused> {
        let result = |(task, stage, succeeded): &(i64, &str, bool)| {
            let outcome = if *succeeded { "OUTCOME_SUCCEEDED" } else { "OUTCOME_FAILED" };
            json!({"task": task, "stage": stage, "outcome": outcome})
        };
        let results: Vec<Value> = results.iter().map(result).collect();
        self.call("ReportService/ReportResults", &json!({"jobId": "17", "results": results})).await
    }

    async fn progress(&self) -> Value {
        let answer = self.call("ProgressService/GetProgress", &json!({"jobId": "17"})).await.unwrap();
        answer["progress"].clone()
    }
}

/// An error as `buf curl` prints it.
#[derive(Debug)]
struct Refused {
    code: Code,
    printed: Value,
}

impl Refused {
    fn reason(&self) -> String {
        self.detail::<ErrorInfo>("ErrorInfo").reason
    }

    /// The detail of type `google.rpc.NAME`.
    fn detail<T: Message + Default>(&self, name: &str) -> T {
        let details = self.printed["details"].as_array().unwrap_or_else(|| panic!("no details: {}", self.printed));
        let detail = details.iter().find(|detail| detail["type"] == format!("google.rpc.{name}"));
        let detail = detail.unwrap_or_else(|| panic!("no {name}: {}", self.printed));
        T::decode(from_base64(detail["value"].as_str().unwrap()).as_slice()).unwrap()
    }
}

/// Decodes base64 without padding, as buf prints details.
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        held = (held << 6 | u32::try_from(value).unwrap()) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff).try_into().unwrap());
        }
    }
    bytes
}

/// The path of a program: the one that the environment variable names, or else the one that `./dev setup` installs.
pub fn tool(variable: &str, name: &str) -> PathBuf {
    let installed = || root().join("target/tools/venv/bin").join(name);
    let program = env::var_os(variable).map_or_else(installed, PathBuf::from);
    assert!(program.exists(), "{} does not exist: run ./dev setup", program.display());
    program
}

async fn run(command: &mut Command) -> Output {
    command.kill_on_drop(true).output().await.unwrap()
}
