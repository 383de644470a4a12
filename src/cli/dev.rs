//! `highwater dev`.

use std::process::ExitCode;

use clap::Args;

use super::calls::Calls;
use super::output::{QUIET_LOG, program, say, start_log};
use super::private::{self, Private};
use super::{Common, Failure, signals};

/// Runs a gateway with a Redis and a Postgres of its own
///
/// Both are private: they answer on sockets in the data directory, to you alone, and stop when this command does,
/// however it ends. What was stored is there again at the next start.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    private: private::Options,
    #[command(flatten)]
    common: Common,
}

/// Runs it until it is told to stop.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let shutdown = signals::shutdown(|| drop(say(private::STOPPING)))?;
    if let Some(private) = Private::start("dev", &flags.private, 1, shutdown.clone()).await? {
        let told = say(summary(&private));
        if told.is_err() {
            shutdown.cancel();
        }
        private.run_until_shutdown().await?;
        told?;
    }
    say("stopped; the data are kept")?;
    Ok(ExitCode::SUCCESS)
}

fn summary(private: &Private) -> String {
    let (address, program) = (private.address(), program());
    let calls = Calls::to(address);
    let call = |data: &str, method: &str| format!("  {}", calls.line(method, data));
    [
        format!("listening on {address}"),
        String::new(),
        format!("  Redis     {}", private.redis_cli()),
        format!("  Postgres  {}", private.psql()),
        format!("  data      {} (delete it to start afresh)", private.directory().display()),
        String::new(),
        format!("The first own job, from another terminal{}:", calls.needed()),
        call(r#"{"job_id":"first","stages":["work"],"task_count":3,"start":true}"#, "JobService/CreateJob"),
        call(
            r#"{"job_id":"first","results":[{"task":0,"stage":"work","outcome":"OUTCOME_SUCCEEDED"}]}"#,
            "ReportService/ReportResults",
        ),
        call(r#"{"job_id":"first"}"#, "ProgressService/GetProgress"),
        format!("  {program} watch --address {address} first"),
        String::new(),
        "Ctrl-C stops all of it.".to_owned(),
    ]
    .join("\n")
}
