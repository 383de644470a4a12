//! How much does a name take, in Postgres and in a gateway?

use std::time::Instant;

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::effort::Effort;
use crate::jobs::{STAGES, success};
use crate::page::{Page, count};
use crate::stand::Stand;
use crate::{Result, usage};

/// As many as a call can add.
const A_CALL: usize = 10_000;
const ID: &str = "named";

/// What was found: bytes a name, and a second.
#[derive(Serialize)]
pub struct Names {
    count: usize,
    own: f64,
    postgres: f64,
    gateway: f64,
    added_per_second: f64,
    /// How long the first report by name took, which reads all names.
    first_report_millis: f64,
}

/// Adds names of files, and lets another gateway read them.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Names> {
    let names = effort.pick(1_000_000, 20_000);
    let adding = stand.gateway(&[]).await?;
    let mut jobs = JobServiceClient::new(adding.channel()?);
    let create = pb::CreateJobRequest {
        job_id: ID.to_owned(),
        stages: STAGES.map(str::to_owned).to_vec(),
        named_tasks: true,
        ..pb::CreateJobRequest::default()
    };
    jobs.create_job(create).await?;
    let (began, before, mut own) = (Instant::now(), relation(stand).await?, 0);
    for first in (0..names).step_by(A_CALL) {
        let task_names: Vec<_> = (first..first + A_CALL).map(name).collect();
        own += task_names.iter().map(String::len).sum::<usize>();
        let added = jobs.add_tasks(pb::AddTasksRequest { job_id: ID.to_owned(), task_names, task_count: 0 }).await?;
        if added.into_inner().added_count.cast_unsigned() != A_CALL as u64 {
            return Err("not all names were added".into());
        }
    }
    let elapsed = began.elapsed();
    let postgres = relation(stand).await? - before;
    jobs.start_job(pb::StartJobRequest { job_id: ID.to_owned() }).await?;
    let (grown, first_report_millis) = read(stand, names).await?;
    crate::jobs::cancel(&adding.channel()?, ID).await?;
    let a_name = |bytes: f64| bytes / names as f64;
    Ok(Names {
        count: names,
        own: a_name(own as f64),
        postgres: a_name(postgres),
        gateway: a_name(grown),
        added_per_second: names as f64 / elapsed.as_secs_f64(),
        first_report_millis,
    })
}

/// By how many bytes a gateway grows that resolves a name, and how many milliseconds that takes.
async fn read(stand: &Stand, names: usize) -> Result<(f64, f64)> {
    let reading = stand.gateway(&[]).await?;
    let mut reports = ReportServiceClient::new(reading.channel()?);
    let before = usage::resident(reading.pid())?;
    let result = pb::TaskResult { task_name: name(names - 1), ..success(0, STAGES[0]) };
    let began = Instant::now();
    let request = pb::ReportResultsRequest { job_id: ID.to_owned(), results: vec![result] };
    let dispositions = reports.report_results(request).await?.into_inner().dispositions;
    if dispositions != [i32::from(pb::Disposition::Applied)] {
        return Err(format!("a report by name became {dispositions:?}").into());
    }
    let millis = began.elapsed().as_secs_f64() * 1e3;
    Ok((usage::resident(reading.pid())?.saturating_sub(before) as f64, millis))
}

/// As the paths of a mirror of packages are.
fn name(number: usize) -> String {
    let (package, file) = (number / 200, number % 200);
    format!("pool/main/p/package-{package:05}/package_{package}.{}-{file}_amd64.deb", number * 7919 % 100)
}

/// The bytes that all names take in Postgres, with index and what lies around them.
async fn relation(stand: &Stand) -> Result<f64> {
    let mut connection = PgConnection::connect(&stand.database_url()).await?;
    let sql = "SELECT pg_total_relation_size('task_names')";
    let size: i64 = connection.fetch_one(AssertSqlSafe(sql.to_owned())).await?.try_get(0)?;
    connection.close().await?;
    Ok(size as f64)
}

impl Names {
    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("Memory a name");
        page.say(format!(
            "What tasks have besides, where they have names: {} names of files, {:.1} bytes long on average. In Postgres each takes \
             **{:.1} bytes**, all told; in the memory of a gateway that resolves them **{:.1} bytes**, by the growth of its RSS, which \
             is {:.1} beside the name itself. They were added by calls of {} at {} a second; the first report by name, for which \
             the gateway read all of them, took {:.0} ms.",
            count(self.count as f64),
            self.own,
            self.postgres,
            self.gateway,
            self.gateway - self.own,
            count(A_CALL as f64),
            count(self.added_per_second),
            self.first_report_millis
        ));
        page.data("names", self)
    }
}
