//! `highwater dev`.

use std::process::ExitCode;

use clap::Args;

use super::example_calls::ExampleCalls;
use super::output::{QUIET_LOG_FILTER, init_log, print_line, program};
use super::private_gateway::{self, PrivateGateways};
use super::{Common, Failure, signals};

/// Runs a gateway with its own Redis and Postgres
///
/// The servers are private. They listen only on sockets in the data directory, and only you can open these sockets. The
/// servers stop when this command ends, for whatever reason. Their data are kept for the next run.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    private: private_gateway::Options,
    #[command(flatten)]
    common: Common,
}

/// Runs gateway and servers until a signal stops them.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let shutdown = signals::shutdown(|| drop(print_line(private_gateway::STOPPING)))?;
    if let Some(private) = PrivateGateways::start("dev", &flags.private, 1, shutdown.clone()).await? {
        let printed = print_line(summary(&private));
        if printed.is_err() {
            shutdown.cancel();
        }
        private.run_until_shutdown().await?;
        printed?;
    }
    print_line("stopped; the data are kept")?;
    Ok(ExitCode::SUCCESS)
}

fn summary(private: &PrivateGateways) -> String {
    let (address, program) = (private.address(), program());
    let calls = ExampleCalls::to(address);
    let call = |json: &str, method: &str| format!("  {}", calls.line(method, json));
    [
        format!("listening on {address}"),
        String::new(),
        format!("  Redis     {}", private.redis_cli()),
        format!("  Postgres  {}", private.psql()),
        format!("  data      {} (delete it to start with empty stores)", private.directory().display()),
        String::new(),
        format!("To create, report and read a first job, run from another terminal{}:", calls.requirement()),
        call(r#"{"jobId":"first","stages":["work"],"taskCount":3,"start":true}"#, "JobService/CreateJob"),
        call(
            r#"{"jobId":"first","results":[{"task":0,"stage":"work","outcome":"OUTCOME_SUCCEEDED"}]}"#,
            "ReportService/ReportResults",
        ),
        call(r#"{"jobId":"first"}"#, "ProgressService/GetProgress"),
        format!("  {program} watch --address {address} first"),
        String::new(),
        "Press Ctrl-C to stop the gateway and both servers.".to_owned(),
    ]
    .join("\n")
}
