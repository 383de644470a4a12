//! A private Postgres.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::process::Process;
use super::user::User;
use super::{Error, Result, cluster, files};

/// How long a start may take, recovery after a kill included.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// How often a start is tried on other ports.
const TRIES: usize = 5;
/// How long one question may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The SQLSTATE of creating a database that is there.
const DUPLICATE_DATABASE: &str = "42P04";

/// A Postgres of our own: stops when dropped, and when our process ends.
pub struct Postgres {
    directory: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    process: Process,
}

impl Postgres {
    /// Starts a Postgres in `base`/postgres, with `settings` by the names of postgresql.conf; makes its data first if
    /// there are none. Its one user `postgres` needs no password. Waits until it answers.
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let directory = files::make_directory(base, "postgres")?;
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let user = User::for_postgres()?;
        if let Some(user) = &user {
            user.own(&directory)?;
        }
        cluster::make(&directory, user.as_ref(), settings.contains(&("fsync".to_owned(), "off".to_owned())))?;
        cluster::bury_killed_server(&directory);
        let mut tries = 1;
        loop {
            let port = files::free_port()?;
            match run(&directory, &settings, port) {
                Ok(process) => return Ok(Self { directory, settings, port, process }),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// Creates a database, unless it is there.
    pub fn create_database(&self, name: &str) -> Result<()> {
        let created = ask(&socket_url(&self.directory, self.port, "postgres"), &format!("CREATE DATABASE \"{name}\""));
        match created {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DUPLICATE_DATABASE) => Ok(()),
            created => created.map_err(|error| Error::new(format!("cannot create the database {name}"), error)),
        }
    }

    /// `postgres://postgres@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}", cluster::SUPERUSER, self.port)
    }

    /// The same server by its socket: `postgres://postgres@localhost:PORT/DATABASE?host=DIRECTORY`.
    pub fn socket_url(&self, database: &str) -> String {
        socket_url(&self.directory, self.port, database)
    }

    /// Where the Unix socket is.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The port on 127.0.0.1, which also names the socket; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's main process; another after a restart.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        log(&self.directory)
    }

    /// Whether the server has ended, by itself or by us.
    pub fn ended(&mut self) -> bool {
        self.process.ended()
    }

    /// Stops in order; clients are disconnected.
    pub fn stop(&mut self) {
        self.process.stop(libc::SIGINT);
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Hangs, with all its processes: connections stay, answers do not come.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Ends [`Postgres::pause`].
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Starts again, on the same port and data; stops first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.process = run(&self.directory, &self.settings, self.port)?;
        Ok(())
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("postgres.log")
}

fn socket_url(directory: &Path, port: u16, database: &str) -> String {
    format!("postgres://{}@localhost:{port}/{database}?host={}", cluster::SUPERUSER, directory.display())
}

fn run(directory: &Path, settings: &[(String, String)], port: u16) -> Result<Process> {
    files::socket(directory, &format!(".s.PGSQL.{port}"))?;
    let ours = [
        ("port", port.to_string()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("unix_socket_directories", directory.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
    ];
    let mut command = vec![cluster::program("postgres")?.display().to_string()];
    command.extend(["-D".to_owned(), cluster::data(directory).display().to_string()]);
    // Of a setting that is given twice, the later counts.
    let ours = ours.iter().map(|(name, value)| (*name, value.as_str()));
    let theirs = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    command.extend(ours.chain(theirs).flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
    let log = log(directory);
    let mut process = Process::start_as(User::for_postgres()?.as_ref(), &command, directory, &log)?;
    let (begun, url) = (Instant::now(), socket_url(directory, port, "postgres"));
    while ask(&url, "SELECT 1").is_err() {
        if process.ended() || begun.elapsed() > STARTS_WITHIN {
            return Err(Error::new("Postgres does not start", files::end_of(&log)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Runs one statement, on a thread of its own, since the caller's may belong to a runtime that must not block.
fn ask(url: &str, sql: &str) -> std::result::Result<(), sqlx::Error> {
    let work = async {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        connection.close().await
    };
    let bounded = async { tokio::time::timeout(ANSWERS_WITHIN, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) };
    std::thread::scope(|scope| {
        let asking =
            scope.spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bounded));
        asking.join().unwrap_or(Err(sqlx::Error::WorkerCrashed))
    })
}
