//! A private Postgres.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::process::Process;
use super::user::User;
use super::{Error, Result, cluster, files};

/// Time limit of a start, which may include crash recovery.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of ports that a start tries.
const MAX_ATTEMPTS: usize = 5;
/// Time limit of one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLSTATE of CREATE DATABASE if the database exists.
const DUPLICATE_DATABASE: &str = "42P04";

/// A private Postgres. The server stops when this value is dropped and when this process ends.
pub struct Postgres {
    directory: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    process: Process,
}

impl Postgres {
    /// Starts a Postgres in `base`/postgres and waits until it answers. Creates its data directory if there is none.
    ///
    /// The names in `settings` are those of postgresql.conf. The only user is `postgres`, which has no password.
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let directory = files::make_directory(base, "postgres")?;
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let user = User::for_postgres()?;
        if let Some(user) = &user {
            user.own(&directory)?;
        }
        cluster::make(&directory, user.as_ref(), settings.contains(&("fsync".to_owned(), "off".to_owned())))?;
        cluster::remove_stale_pid_file(&directory);
        let mut attempts = 1;
        loop {
            let port = files::free_port()?;
            match run(&directory, &settings, port) {
                Ok(process) => return Ok(Self { directory, settings, port, process }),
                Err(error) if attempts == MAX_ATTEMPTS => return Err(error),
                Err(_) => attempts += 1,
            }
        }
    }

    /// Creates a database unless it exists.
    pub fn create_database(&self, name: &str) -> Result<()> {
        let created =
            execute(&socket_url(&self.directory, self.port, "postgres"), &format!("CREATE DATABASE \"{name}\""));
        match created {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DUPLICATE_DATABASE) => Ok(()),
            created => created.map_err(|error| Error::new(format!("cannot create the database {name}"), error)),
        }
    }

    /// Returns the URL `postgres://postgres@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}", cluster::SUPERUSER, self.port)
    }

    /// Returns the URL of the Unix socket: `postgres://postgres@localhost:PORT/DATABASE?host=DIRECTORY`.
    pub fn socket_url(&self, database: &str) -> String {
        socket_url(&self.directory, self.port, database)
    }

    /// Returns the directory of the Unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the port on 127.0.0.1, which is also part of the socket's name. A restart does not change the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the ID of the server's main process, which a restart changes.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the path of the server's log.
    pub fn log(&self) -> PathBuf {
        log(&self.directory)
    }

    /// Whether the server has exited, for any reason.
    pub fn ended(&mut self) -> bool {
        self.process.ended()
    }

    /// Stops the server in order. Clients are disconnected.
    pub fn stop(&mut self) {
        self.process.stop(libc::SIGINT);
    }

    /// Kills all processes of the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Suspends all processes of the server. Connections stay open, but the server does not answer.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Resumes a server that [`Postgres::pause`] suspended.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Stops the server if it runs, and starts it on the same port with the same data.
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
    let defaults = [
        ("port", port.to_string()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("unix_socket_directories", directory.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
    ];
    let mut command = vec![cluster::program("postgres")?.display().to_string()];
    command.extend(["-D".to_owned(), cluster::data(directory).display().to_string()]);
    // If a setting is given twice, Postgres uses the last value.
    let defaults = defaults.iter().map(|(name, value)| (*name, value.as_str()));
    let overrides = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    command.extend(defaults.chain(overrides).flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
    let log = log(directory);
    let mut process = Process::start_as(User::for_postgres()?.as_ref(), &command, directory, &log)?;
    let (begun, url) = (Instant::now(), socket_url(directory, port, "postgres"));
    while execute(&url, "SELECT 1").is_err() {
        if process.ended() || begun.elapsed() > START_TIMEOUT {
            return Err(Error::new("the private Postgres did not start", files::end_of(&log)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Runs one statement on a separate thread, because Tokio allows no second runtime on a thread that already runs one.
fn execute(url: &str, sql: &str) -> std::result::Result<(), sqlx::Error> {
    let work = async {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        connection.close().await
    };
    let bounded =
        async { tokio::time::timeout(STATEMENT_TIMEOUT, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) };
    std::thread::scope(|scope| {
        let executing =
            scope.spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bounded));
        executing.join().unwrap_or(Err(sqlx::Error::WorkerCrashed))
    })
}
