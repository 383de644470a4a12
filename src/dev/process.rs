//! One process of ours and what belongs to it: never outlives us, in a process group of its own (Ctrl-C at the
//! terminal reaches only us, who stop the servers in order), its output in a file.
//!
//! The kernel's own way, `PR_SET_PDEATHSIG`, fires when the *thread* ends that started the child, which threads of
//! tokio and of the test harness do at any time. So a watchdog, a small shell, reads from a pipe whose other end only
//! we hold: its end means ours.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::user::User;
use super::{Error, Result, children, files};

/// Becomes the server once told to, so that no server ever runs without its watchdog.
const GATE: &str = r#"read -r _ && exec "$@""#;
/// Waits for our end; then kills process $1 and its children, stopped ones too.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r _
children=$(grep -ls "^PPid:.$1\$" /proc/[0-9]*/status | cut -d/ -f3)
kill -KILL "$1" $children"#;
/// How long a server may take to stop before it is killed.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// A running server, or any other process that must not outlive us.
pub struct Process {
    server: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `command` in `directory`, with its output appended to `log`.
    pub fn start(command: &[String], directory: &Path, log: &Path) -> Result<Self> {
        Self::start_as(None, command, directory, log)
    }

    /// Starts `command`, as `user` if there is one.
    pub(super) fn start_as(user: Option<&User>, command: &[String], directory: &Path, log: &Path) -> Result<Self> {
        let doing = format_args!("cannot start {}", command.first().map_or("nothing", String::as_str)).to_string();
        let output = files::append_to(log)?;
        let error_output = output.try_clone().map_err(|error| Error::new(&doing, error))?;
        let mut gate = Command::new("sh");
        gate.args(["-c", GATE, "sh"]).args(command).current_dir(directory);
        gate.stdin(Stdio::piped()).stdout(output).stderr(error_output).process_group(0);
        // What is set for the clients of another Postgres is not meant for this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            gate.env_remove(name);
        }
        if let Some(user) = user {
            gate.uid(user.uid).gid(user.gid);
        }
        let mut server = gate.spawn().map_err(|error| Error::new(&doing, error))?;
        let watchdog = watch(server.id());
        let opened =
            watchdog.and_then(|dog| server.stdin.take().map_or(Ok(()), |mut gate| gate.write_all(b"\n")).map(|()| dog));
        match opened {
            Ok(watchdog) => Ok(Self { server, watchdog }),
            Err(error) => {
                let _ = server.kill();
                let _ = server.wait();
                Err(Error::new(&doing, error))
            }
        }
    }

    /// The server's main process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Whether it has ended, by itself or by us.
    pub fn ended(&mut self) -> bool {
        !matches!(self.server.try_wait(), Ok(None))
    }

    /// Sends the server a signal, and lets it go on so that it takes notice.
    pub fn signal(&mut self, signal: libc::c_int) {
        if !self.ended() {
            self.resume();
            children::signal(self.pid(), signal);
        }
    }

    /// Asks the server to stop by `signal` and waits; kills it if it takes too long.
    pub fn stop(&mut self, signal: libc::c_int) {
        self.signal(signal);
        let asked = Instant::now();
        while !self.ended() && asked.elapsed() < STOPS_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    /// Kills the server and its children, and waits until all are gone.
    pub fn kill(&mut self) {
        if !self.ended() {
            // Standing still it makes no more children, and those that it has are still known as its own.
            let children = self.pause();
            children::signal(self.pid(), libc::SIGKILL);
            for child in &children {
                children::signal(*child, libc::SIGKILL);
            }
            let _ = self.server.wait();
            for child in children {
                children::wait_until_gone(child);
            }
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }

    /// Stops the clocks of the server and its children (SIGSTOP), and returns the children.
    pub fn pause(&mut self) -> Vec<u32> {
        if self.ended() {
            return Vec::new();
        }
        children::signal(self.pid(), libc::SIGSTOP);
        children::wait_until_stopped(self.pid());
        let children = children::of(self.pid());
        for child in &children {
            children::signal(*child, libc::SIGSTOP);
            children::wait_until_stopped(*child);
        }
        children
    }

    /// Lets the server and its children go on.
    pub fn resume(&mut self) {
        if !self.ended() {
            for child in children::of(self.pid()) {
                children::signal(child, libc::SIGCONT);
            }
            children::signal(self.pid(), libc::SIGCONT);
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

    /// A server with one child of its own.
    fn start(directory: &Path) -> Process {
        let command = ["sh", "-c", "sleep 600 & wait"].map(str::to_owned);
        let process = Process::start(&command, directory, &directory.join("log")).unwrap();
        while children::of(process.pid()).is_empty() {
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
    fn a_server_can_be_stopped_and_a_paused_one_killed_with_its_children() {
        let directory = directory("process");
        let sleep = ["sleep", "600"].map(str::to_owned);
        let mut stopped = Process::start(&sleep, &directory, &directory.join("log")).unwrap();
        stopped.pause();
        stopped.stop(libc::SIGTERM);
        assert!(stopped.ended());
        let mut paused = start(&directory);
        let family = paused.pause();
        paused.kill();
        assert!(family.into_iter().all(children::wait_until_gone));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_server_outlives_the_thread_that_started_it() {
        let directory = directory("thread");
        let mut process = std::thread::scope(|scope| scope.spawn(|| start(&directory)).join().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!process.ended());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_server_dies_with_its_parent_however_that_dies_and_even_if_paused() {
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
            assert!(children::wait_until_gone(pid), "{pid} is still there");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    #[ignore = "the process that the test above kills"]
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
