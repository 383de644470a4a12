//! A child process that never outlives this process. Its output goes to a file.
//!
//! The child runs in a process group of its own, so that Ctrl-C at the terminal reaches only this process. This process
//! then stops its servers in order.
//!
//! A watchdog (a small shell script) kills the child when this process ends. The watchdog reads from a pipe whose other
//! end only this process holds, so the read returns when this process ends. `PR_SET_PDEATHSIG` cannot be used, because
//! it fires when the *thread* that started the child ends, and threads of tokio and of the test harness may end at any
//! time.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::user::User;
use super::{Error, Result, files, proc};

/// Shell script that waits for a line on stdin and then becomes the server. The server must not run before its watchdog
/// does.
const GATE: &str = r#"read -r _ && exec "$@""#;
/// Shell script that waits until this process ends, and then kills process $1 and its children, even if they are
/// stopped.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r _
children=$(grep -ls "^PPid:.$1\$" /proc/[0-9]*/status | cut -d/ -f3)
kill -KILL "$1" $children"#;
/// Time that a server has to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A running server, or any other child process that must not outlive this process.
pub struct Process {
    server: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `command` in `directory` and appends its output to `log`.
    pub fn start(command: &[String], directory: &Path, log: &Path) -> Result<Self> {
        Self::start_as(None, command, directory, log)
    }

    /// Starts `command` like [`Process::start`]. If `user` is given, the command runs as this user.
    pub(super) fn start_as(user: Option<&User>, command: &[String], directory: &Path, log: &Path) -> Result<Self> {
        let action = format_args!("cannot start {}", command.first().map_or("nothing", String::as_str)).to_string();
        let output = files::append_to(log)?;
        let error_output = output.try_clone().map_err(|error| Error::new(&action, error))?;
        let mut gate = Command::new("sh");
        gate.args(["-c", GATE, "sh"]).args(command).current_dir(directory);
        gate.stdin(Stdio::piped()).stdout(output).stderr(error_output).process_group(0);
        // PGDATA, PGPORT and the like may be set for another Postgres.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            gate.env_remove(name);
        }
        if let Some(user) = user {
            gate.uid(user.uid).gid(user.gid);
        }
        let mut server = gate.spawn().map_err(|error| Error::new(&action, error))?;
        let watchdog = watch(server.id());
        let opened =
            watchdog.and_then(|dog| server.stdin.take().map_or(Ok(()), |mut gate| gate.write_all(b"\n")).map(|()| dog));
        match opened {
            Ok(watchdog) => Ok(Self { server, watchdog }),
            Err(error) => {
                let _ = server.kill();
                let _ = server.wait();
                Err(Error::new(&action, error))
            }
        }
    }

    /// Returns the ID of the server's main process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Whether the process has exited, for any reason.
    pub fn ended(&mut self) -> bool {
        !matches!(self.server.try_wait(), Ok(None))
    }

    /// Sends the server a signal. Resumes the server first, so that it can handle the signal.
    pub fn signal(&mut self, signal: libc::c_int) {
        if !self.ended() {
            self.resume();
            proc::signal(self.pid(), signal);
        }
    }

    /// Sends `signal` to stop the server and waits for its exit. Kills the server after a timeout.
    pub fn stop(&mut self, signal: libc::c_int) {
        self.signal(signal);
        let asked = Instant::now();
        while !self.ended() && asked.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Kills the server and its children, and waits until all of them are gone.
    pub fn kill(&mut self) {
        if !self.ended() {
            // A suspended server starts no more children, and its children can still be found by the ID of their
            // parent.
            let children = self.pause();
            proc::signal(self.pid(), libc::SIGKILL);
            for child in &children {
                proc::signal(*child, libc::SIGKILL);
            }
            let _ = self.server.wait();
            for child in children {
                proc::wait_until_gone(child);
            }
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }

    /// Suspends the server and its children (SIGSTOP). Returns the children.
    pub fn pause(&mut self) -> Vec<u32> {
        if self.ended() {
            return Vec::new();
        }
        proc::signal(self.pid(), libc::SIGSTOP);
        proc::wait_until_stopped(self.pid());
        let children = proc::children_of(self.pid());
        for child in &children {
            proc::signal(*child, libc::SIGSTOP);
            proc::wait_until_stopped(*child);
        }
        children
    }

    /// Resumes the server and its children (SIGCONT).
    pub fn resume(&mut self) {
        if !self.ended() {
            for child in proc::children_of(self.pid()) {
                proc::signal(child, libc::SIGCONT);
            }
            proc::signal(self.pid(), libc::SIGCONT);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn watch(pid: u32) -> std::io::Result<Child> {
    let mut watchdog = Command::new("sh");
    watchdog.args(["-c", WATCHDOG, "sh", &pid.to_string()]);
    watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = "HIGHWATER_TEST_DIRECTORY";

    /// Starts a server that has one child process.
    fn start(directory: &Path) -> Process {
        let command = ["sh", "-c", "sleep 600 & wait"].map(str::to_owned);
        let process = Process::start(&command, directory, &directory.join("log")).unwrap();
        while proc::children_of(process.pid()).is_empty() {
            std::thread::yield_now();
        }
        process
    }

    fn directory(name: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("highwater-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn paused_servers_can_be_stopped_and_killed_with_their_children() {
        let directory = directory("process");
        let sleep = ["sleep", "600"].map(str::to_owned);
        let mut stopped = Process::start(&sleep, &directory, &directory.join("log")).unwrap();
        stopped.pause();
        stopped.stop(libc::SIGTERM);
        assert!(stopped.ended());
        let mut paused = start(&directory);
        let family = paused.pause();
        paused.kill();
        assert!(family.into_iter().all(proc::wait_until_gone));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn server_outlives_the_thread_that_started_it() {
        let directory = directory("thread");
        let mut process = std::thread::scope(|scope| scope.spawn(|| start(&directory)).join().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!process.ended());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn paused_server_dies_with_its_killed_parent() {
        let directory = directory("parent");
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "dev::process::tests::parent"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pids = directory.join("pids");
        while !pids.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        parent.kill().unwrap();
        parent.wait().unwrap();
        let pids = std::fs::read_to_string(pids).unwrap();
        for pid in pids.split(' ').map(|pid| pid.parse().unwrap()) {
            assert!(proc::wait_until_gone(pid), "{pid} still exists");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    #[ignore = "runs as the process that paused_server_dies_with_its_killed_parent kills"]
    fn parent() {
        let directory = std::path::PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
        let mut process = start(&directory);
        let mut family = process.pause();
        family.push(process.pid());
        let pids = family.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        std::fs::write(directory.join("unfinished"), pids).unwrap();
        std::fs::rename(directory.join("unfinished"), directory.join("pids")).unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
}
