//! A private Redis.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::Process;
use super::{Error, Result, files};

/// How long a start may take: reading a large file of commands takes its time.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// How often a start is tried on other ports.
const TRIES: usize = 5;

/// A Redis of our own: stops when dropped, and when our process ends.
pub struct Redis {
    directory: PathBuf,
    socket: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    process: Process,
}

impl Redis {
    /// Starts a Redis in `base`/redis that evicts nothing and, unless `settings` (by the names of redis.conf) say
    /// otherwise, writes nothing to disk. Waits until it answers.
    pub fn start(base: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let directory = files::make_directory(base, "redis")?;
        let socket = files::socket(&directory, "redis.sock")?;
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut tries = 1;
        loop {
            let port = files::free_port()?;
            match run(&directory, &socket, &settings, port) {
                Ok(process) => return Ok(Self { directory, socket, settings, port, process }),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The same server by its socket: `unix://PATH`.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process; another after a restart.
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

    /// Stops in order, saving what is to be saved.
    pub fn stop(&mut self) {
        self.process.stop(libc::SIGTERM);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Hangs: connections stay, answers do not come.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Ends [`Redis::pause`].
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Starts again, on the same port and data; stops first if it runs.
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
    let ours = [
        ("bind", "127.0.0.1"),
        ("port", &port),
        ("unixsocket", &socket_path),
        ("unixsocketperm", "700"),
        ("dir", &directory_path),
        ("maxmemory-policy", "noeviction"),
        ("save", ""),
    ];
    let theirs = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut command = vec![program.display().to_string()];
    command.extend(ours.into_iter().chain(theirs).flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]));
    let log = log(directory);
    let mut process = Process::start(&command, directory, &log)?;
    let begun = Instant::now();
    while !answers(socket) {
        if process.ended() || begun.elapsed() > STARTS_WITHIN {
            return Err(Error::new("Redis does not start", files::end_of(&log)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(process)
}

/// Asks by the socket, where nobody else can answer, as could on a port.
fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer == *b"+PONG")
    };
    ask().unwrap_or(false)
}
