//! A private Redis.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::Process;
use super::{Error, Result, files};

/// Time limit of a start, which may include the replay of a large append-only file.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of ports that a start tries.
const MAX_ATTEMPTS: usize = 5;

/// A private Redis. The server stops when this value is dropped and when this process ends.
pub struct Redis {
    directory: PathBuf,
    socket: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    process: Process,
}

impl Redis {
    /// Starts a Redis in `base`/redis and waits until it answers.
    ///
    /// By default, Redis evicts nothing and writes no data to disk. `settings` override this. Their names are those of
    /// redis.conf.
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let directory = files::make_directory(base, "redis")?;
        let socket = files::socket(&directory, "redis.sock")?;
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut attempts = 1;
        loop {
            let port = files::free_port()?;
            match run(&directory, &socket, &settings, port) {
                Ok(process) => return Ok(Self { directory, socket, settings, port, process }),
                Err(error) if attempts == MAX_ATTEMPTS => return Err(error),
                Err(_) => attempts += 1,
            }
        }
    }

    /// Returns the URL `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the URL of the Unix socket: `unix://PATH`.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Returns the path of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the port on 127.0.0.1, which a restart does not change.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the ID of the server's process, which a restart changes.
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

    /// Stops the server in order, so that it saves its data if it is configured to do so.
    pub fn stop(&mut self) {
        self.process.stop(libc::SIGTERM);
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Suspends the server. Connections stay open, but the server does not answer.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Resumes a server that [`Redis::pause`] suspended.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Stops the server if it runs, and starts it on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.process = run(&self.directory, &self.socket, &self.settings, self.port)?;
        Ok(())
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("redis.log")
}

fn run(directory: &Path, socket: &Path, settings: &[(String, String)], port: u16) -> Result<Process> {
    let program = files::find_program(&["redis-server", "valkey-server"], &[], "install Redis 7 or newer")?;
    let port = port.to_string();
    let (socket_path, directory_path) = (socket.display().to_string(), directory.display().to_string());
    let defaults = [
        ("bind", "127.0.0.1"),
        ("port", &port),
        ("unixsocket", &socket_path),
        ("unixsocketperm", "700"),
        ("dir", &directory_path),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
    ];
    let overrides = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut command = vec![program.display().to_string()];
    command.extend(
        defaults.into_iter().chain(overrides).flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]),
    );
    let log = log(directory);
    let mut process = Process::start(&command, directory, &log)?;
    let begun = Instant::now();
    while !answers(socket) {
        if process.ended() || begun.elapsed() > START_TIMEOUT {
            return Err(Error::new("the private Redis did not start", files::end_of(&log)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(process)
}

/// Whether the server answers PING on its socket. The port is not used, because another process could answer there.
fn answers(socket: &Path) -> bool {
    let ping = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer == *b"+PONG")
    };
    ping().unwrap_or(false)
}
