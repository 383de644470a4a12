//! A real gateway process.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater::dev::Process;
use highwater::fault::POINTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Client;
use super::proxy::Proxy;
use super::wait::eventually;

const LISTENING: &str = "listening on ";
/// The number of lines of the log that a failing test prints.
const SHOWN_LINES: usize = 200;

/// The action of a gateway when it reaches a fault point.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The task blocks at the point until it is released.
    Stall,
    /// The gateway kills itself with SIGKILL.
    Kill,
    /// The task that reaches the point panics. The gateway keeps running.
    Panic,
}

/// A gateway process. It dereferences to its [`Client`].
pub struct Gateway {
    directory: PathBuf,
    flags: Vec<String>,
    process: Process,
    address: SocketAddr,
    client: Client,
    links: Option<Links>,
}

/// The proxies between one gateway and its stores.
pub struct Links {
    pub redis: Proxy,
    pub postgres: Proxy,
}

impl Gateway {
    /// Starts a gateway with these flags. Returns once the gateway listens, even if it is not ready yet.
    pub async fn start(directory: PathBuf, flags: Vec<String>, links: Option<Links>) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let (process, address) = run(&directory, &flags).await;
        Self { directory, flags, process, address, client: Client::new(address), links }
    }

    /// The memory that the process has in RAM.
    pub fn resident_bytes(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most memory that the process ever had in RAM.
    pub fn peak_bytes(&self) -> usize {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// The CPU time that the process has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // The fields after the name of the program: the user time and the system time are fields 14 and 15, in ticks of
        // ten milliseconds.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Waits until the gateway reports that it is ready.
    pub async fn wait_until_ready(&self) {
        let ready = async || self.client.is_ready().await.is_ok_and(|ready| ready).then_some(());
        eventually("a gateway is ready", ready).await;
    }

    /// Kills the process and starts the gateway again with empty memory. Returns once it listens, even if it is not
    /// ready yet.
    pub async fn restart(&mut self) {
        self.process.kill();
        let (process, address) = run(&self.directory, &self.flags).await;
        self.process = process;
        self.address = address;
        self.client = Client::new(address);
    }

    /// Restarts the gateway so that it listens at an address that other clients already use.
    pub async fn restart_at(&mut self, address: &str) {
        self.process.kill();
        self.flags.extend([format!("--listen={address}"), "--admin-listen=127.0.0.1:0".to_owned()]);
        self.restart().await;
    }

    /// The address of the admin port.
    pub fn admin(&self) -> SocketAddr {
        let log = self.log();
        let admin = log.rsplit_once("admin=").expect("the log has the admin port").1;
        admin.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Sends a GET request to the admin port. Returns the status and the body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        let admin = self.admin();
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("the response is complete");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM and waits until the process has exited. The client runs meanwhile, because both sides must close a
    /// connection.
    pub async fn terminate(&mut self) {
        self.process.signal(libc::SIGTERM);
        self.wait_for_exit().await;
    }

    /// Sends a signal without waiting.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }

    /// Sends SIGSTOP: the process stops with its connections open.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Sends SIGCONT.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// The address for calls, for clients other than [`Client`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process has exited.
    pub async fn wait_for_exit(&mut self) {
        eventually("a gateway exits", async || self.process.ended().then_some(())).await;
    }

    /// The proxies between this gateway and the stores; the stack must have been built with links.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the stack was built without links")
    }

    /// Returns a clone of the client, which can be moved into a task.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The whole log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log(&self.directory)).unwrap_or_default()
    }

    /// The last lines of the log, for a test that fails.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Injects a fault that the first task to reach `point` triggers.
    pub fn inject(&self, point: &str, fault: Fault) {
        let order = match fault {
            Fault::Stall => "stall",
            Fault::Kill => "kill",
            Fault::Panic => "panic",
        };
        // The file is renamed into place, because the gateway may read it at any time.
        let unfinished = faults(&self.directory).join("unfinished");
        std::fs::write(&unfinished, order).unwrap();
        std::fs::rename(unfinished, self.order_file(point)).unwrap();
    }

    /// Waits until a task has reached `point` and triggered the fault.
    pub async fn wait_until_reached(&self, point: &str) {
        let reached = self.reached_file(point);
        eventually(point, async || reached.exists().then_some(())).await;
    }

    /// Releases the task that is stalled at `point`.
    pub fn release(&self, point: &str) {
        std::fs::remove_file(self.reached_file(point)).unwrap();
    }

    fn order_file(&self, point: &str) -> PathBuf {
        assert!(POINTS.contains(&point), "there is no fault point {point}");
        faults(&self.directory).join(point)
    }

    fn reached_file(&self, point: &str) -> PathBuf {
        self.order_file(point).with_file_name(format!("{point}.reached"))
    }
}

impl Deref for Gateway {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}

fn faults(directory: &Path) -> PathBuf {
    directory.join("faults")
}

/// Runs the program with an empty environment and without the fault orders of an earlier run.
async fn run(directory: &Path, flags: &[String]) -> (Process, SocketAddr) {
    let faults = faults(directory);
    let _ = std::fs::remove_dir_all(&faults);
    std::fs::create_dir(&faults).unwrap();
    let environment = [format!("HIGHWATER_FAULT_DIR={}", faults.display()), "RUST_BACKTRACE=1".to_owned()];
    let program = [env!("CARGO_BIN_EXE_highwater"), "serve"].map(str::to_owned);
    let mut command = vec!["env".to_owned(), "-i".to_owned()];
    command.extend(environment.into_iter().chain(program).chain(flags.iter().cloned()));
    if !flags.iter().any(|flag| flag.starts_with("--listen=")) {
        command.push("--listen=127.0.0.1:0".to_owned());
    }
    let log = log(directory);
    let before = std::fs::metadata(&log).map_or(0, |log| usize::try_from(log.len()).unwrap());
    let mut process = Process::start(&command, directory, &log).unwrap();
    let address = eventually("a gateway listens", async || {
        let written = std::fs::read_to_string(&log).unwrap();
        assert!(!process.ended(), "the gateway did not start: {}", &written[before..]);
        let (line, _) = written[before..].split_once(LISTENING)?.1.split_once('\n')?;
        Some(line.parse().expect("an address"))
    });
    let address = address.await;
    (process, address)
}
