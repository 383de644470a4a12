//! Measures the memory per task name, in Postgres and in a gateway.

use std::time::Instant;

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::effort::Effort;
use crate::environment::Environment;
use crate::format::{count, short};
use crate::jobs::{STAGES, success};
use crate::page::Page;
use crate::{Result, usage};

/// The largest number of names per `AddTasks` call.
const NAMES_PER_CALL: usize = 10_000;
const ID: &str = "named";

/// The results; sizes are averages in bytes per name.
#[derive(Serialize, Deserialize)]
pub struct Names {
    count: usize,
    /// The name itself.
    length: f64,
    postgres: f64,
    gateway: f64,
    added_per_second: f64,
    /// The latency of the first report by name, for which the gateway reads all names.
    first_report_millis: f64,
}

/// Adds file names as task names, and lets another gateway read them.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Names> {
    let names = effort.pick(1_000_000, 20_000);
    let adding = environment.gateway(&[]).await?;
    let mut jobs = JobServiceClient::new(adding.channel()?);
    let create = pb::CreateJobRequest {
        job_id: ID.to_owned(),
        stages: STAGES.map(str::to_owned).to_vec(),
        named_tasks: true,
        ..pb::CreateJobRequest::default()
    };
    jobs.create_job(create).await?;
    let (began, before, mut length) = (Instant::now(), table_bytes(environment).await?, 0);
    for first in (0..names).step_by(NAMES_PER_CALL) {
        let task_names: Vec<_> = (first..first + NAMES_PER_CALL).map(name).collect();
        length += task_names.iter().map(String::len).sum::<usize>();
        let added = jobs.add_tasks(pb::AddTasksRequest { job_id: ID.to_owned(), task_names, task_count: None }).await?;
        if added.into_inner().added_count.cast_unsigned() != NAMES_PER_CALL as u64 {
            return Err("not all names were added".into());
        }
    }
    let elapsed = began.elapsed();
    let postgres = table_bytes(environment).await? - before;
    jobs.start_job(pb::StartJobRequest { job_id: ID.to_owned() }).await?;
    let (grown, first_report_millis) = read(environment, names).await?;
    crate::jobs::cancel(&adding.channel()?, ID).await?;
    let per_name = |bytes: f64| bytes / names as f64;
    Ok(Names {
        count: names,
        length: per_name(length as f64),
        postgres: per_name(postgres),
        gateway: per_name(grown),
        added_per_second: names as f64 / elapsed.as_secs_f64(),
        first_report_millis,
    })
}

/// The growth of a gateway that resolves a name, in bytes, and the latency in milliseconds.
async fn read(environment: &Environment, names: usize) -> Result<(f64, f64)> {
    let reading = environment.gateway(&[]).await?;
    let mut reports = ReportServiceClient::new(reading.channel()?);
    let before = usage::resident_bytes(reading.pid())?;
    let result = pb::TaskResult { task: None, task_name: name(names - 1), ..success(0, STAGES[0]) };
    let began = Instant::now();
    let request = pb::ReportResultsRequest { job_id: ID.to_owned(), results: vec![result] };
    let dispositions = reports.report_results(request).await?.into_inner().dispositions;
    if dispositions != [i32::from(pb::Disposition::Applied)] {
        return Err(format!("a result by name was {dispositions:?}").into());
    }
    let millis = began.elapsed().as_secs_f64() * 1e3;
    Ok((usage::resident_bytes(reading.pid())?.saturating_sub(before) as f64, millis))
}

/// A path as in a package mirror.
fn name(number: usize) -> String {
    let (package, file) = (number / 200, number % 200);
    format!("pool/main/p/package-{package:05}/package_{package}.{}-{file}_amd64.deb", number * 7919 % 100)
}

/// The bytes of the names in Postgres, including indexes and overhead.
async fn table_bytes(environment: &Environment) -> Result<f64> {
    let mut connection = PgConnection::connect(&environment.database_url()).await?;
    let sql = "SELECT pg_total_relation_size('task_names')";
    let size: i64 = connection.fetch_one(AssertSqlSafe(sql.to_owned())).await?.try_get(0)?;
    connection.close().await?;
    Ok(size as f64)
}

impl Names {
    pub fn render(&self, page: &mut Page) {
        let row = [
            count(self.count as f64),
            format!("{:.1}", self.length),
            format!("**{:.1}**", self.postgres),
            format!("**{:.1}**", self.gateway),
            format!("{:.1}", self.gateway - self.length),
            count(self.added_per_second),
            short(self.first_report_millis),
        ];
        page.table(
            "names",
            [
                "names",
                "average length, bytes",
                "in Postgres, bytes each",
                "in a gateway, bytes each",
                "without the name itself",
                "added per second",
                "first report by name, ms",
            ],
            &[row],
        );
    }
}
