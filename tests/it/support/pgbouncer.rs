//! A private `PgBouncer` in front of a test's database.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use highwater::dev::{self, Process};

use super::directory::Directory;
use super::wait::eventually;
use super::{Database, Gateway, Stack};

/// Debian installs it outside the PATH of ordinary users.
const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// The user that runs the program instead of root, which it refuses to run as.
const USER: &str = "postgres";

/// The part of a connection's life for which it keeps its server process.
#[derive(Debug, Clone, Copy)]
pub enum PoolMode {
    Session,
    Transaction,
}

pub struct PgBouncer {
    port: u16,
    settings: String,
    file: PathBuf,
    process: Process,
    directory: Directory,
}

impl PgBouncer {
    /// Starts a pooler in front of the database of the stack.
    pub async fn start(stack: &Stack, mode: PoolMode) -> Self {
        let directory = Directory::new();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (file, settings) = (directory.join("pgbouncer.ini"), settings(&stack.postgres, port));
        std::fs::write(&file, settings.clone() + mode.setting()).unwrap();
        let mut command = vec![PROGRAM.to_owned(), file.display().to_string()];
        if dev::is_root() {
            command.splice(1..1, ["-u", USER].map(str::to_owned));
        }
        let process = Process::start(&command, &directory, &directory.join("log")).unwrap();
        let pooler = Self { port, settings, file, process, directory };
        let accepts = async || tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok();
        eventually("the pooler listens", accepts).await;
        pooler
    }

    /// Starts a gateway that uses Redis directly and Postgres through this pooler.
    pub async fn gateway(&self, stack: &Stack, settings: &[&str]) -> Gateway {
        let url =
            stack.postgres.gateway_url().replace(&format!(":{}", stack.postgres.port()), &format!(":{}", self.port));
        let stores = [format!("--redis-url={}", stack.redis.url()), format!("--postgres-url={url}")];
        let flags = stores.into_iter().chain(settings.iter().map(|flag| (*flag).to_owned())).collect();
        Gateway::start(self.directory.join("gateway"), flags, None).await
    }

    /// Changes the mode of the running pooler, as a reload of its configuration does.
    pub fn set_mode(&mut self, mode: PoolMode) {
        std::fs::write(&self.file, self.settings.clone() + mode.setting()).unwrap();
        self.process.signal(libc::SIGHUP);
    }
}

impl PoolMode {
    fn setting(self) -> &'static str {
        match self {
            Self::Session => "pool_mode = session\n",
            Self::Transaction => "pool_mode = transaction\n",
        }
    }
}

/// The settings without the mode. The parameter that is ignored is the only one that docs/operating.md requires.
fn settings(database: &Database, port: u16) -> String {
    let (user, name, server) = (Database::GATEWAY_ROLE, database.name(), database.port());
    format!(
        "[databases]\n{name} = host=127.0.0.1 port={server} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = any\nignore_startup_parameters = extra_float_digits\n"
    )
}
