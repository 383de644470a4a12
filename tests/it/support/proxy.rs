//! A TCP proxy between a gateway and a store that simulates network faults. The proxy runs on its own thread, so that a
//! test that blocks its thread does not block the proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of the link. Bytes that are held back are delivered once the link is open again, as TCP does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The link forwards everything without delay.
    Open,
    /// The link delays everything in both directions.
    Slow(Duration),
    /// The link forwards nothing in either direction. Connections stay open, and new connections are accepted.
    Blackhole,
    /// The link forwards requests but no responses.
    HalfOpen,
    /// The link closes all connections, including new ones.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// A proxy in front of a port of 127.0.0.1. It stops when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

/// The state that every connection follows.
#[derive(Debug, Clone, Copy)]
struct State {
    link: Link,
    /// The port to which connections are made.
    target: u16,
    /// The number of times that all connections were closed.
    closed_count: u64,
}

impl Proxy {
    pub fn start(target: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(State { link: Link::Open, target, closed_count: 0 });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { accept(TcpListener::from_std(listener).unwrap(), states).await });
        });
        Self { address, state }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the state of the link.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| state.link = link);
    }

    /// Directs new connections to this port. Existing connections keep their target.
    pub fn set_target(&self, target: u16) {
        self.state.send_modify(|state| state.target = target);
    }

    /// Closes all connections. New connections are accepted as before.
    pub fn close_connections(&self) {
        self.state.send_modify(|state| state.closed_count += 1);
    }
}

/// Accepts connections until the proxy is dropped.
async fn accept(listener: TcpListener, mut states: watch::Receiver<State>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                tokio::spawn(connection(client, states.clone()));
            }
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(client: TcpStream, mut states: watch::Receiver<State>) {
    let State { link, target, closed_count } = *states.borrow();
    if link == Link::Cut {
        return;
    }
    // If the store refuses the connection, the proxy closes the connection of the gateway. A proxy cannot refuse it any
    // more.
    let Ok(store) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    let _ = (client.set_nodelay(true), store.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_store, to_store) = store.into_split();
    let requests = pump(from_client, to_store, Direction::Request, states.clone());
    let responses = pump(from_store, to_client, Direction::Response, states.clone());
    tokio::select! {
        _ = async { tokio::join!(requests, responses) } => {}
        _ = states.wait_for(|now| now.link == Link::Cut || now.closed_count != closed_count) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut states: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let passes = |state: &State| passes(state.link, direction);
        let Ok(now) = states.wait_for(passes).await.map(|state| state.link) else { return };
        if let Link::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if read == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn passes(link: Link, direction: Direction) -> bool {
    match link {
        Link::Open | Link::Slow(_) => true,
        Link::HalfOpen => direction == Direction::Request,
        Link::Blackhole | Link::Cut => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server behind a proxy, and a connection to it.
    async fn echo() -> (Proxy, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, stream)
    }

    /// Sends one byte and returns the echo. `None` if no echo arrives soon, and 0 at the end of the connection.
    async fn ask(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_all(&[byte]).await.ok()?;
        answer(stream).await
    }

    async fn answer(stream: &mut TcpStream) -> Option<u8> {
        let answer = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.ok()?;
        Some(answer.unwrap_or(0))
    }

    #[tokio::test]
    async fn held_back_bytes_arrive_after_the_link_reopens() {
        for link in [Link::Blackhole, Link::HalfOpen] {
            let (proxy, mut stream) = echo().await;
            assert_eq!(ask(&mut stream, 1).await, Some(1));
            proxy.set(link);
            assert_eq!(ask(&mut stream, 2).await, None);
            proxy.set(Link::Open);
            assert_eq!(answer(&mut stream).await, Some(2));
        }
    }

    #[tokio::test]
    async fn cut_link_closes_existing_and_new_connections() {
        let (proxy, mut stream) = echo().await;
        proxy.set(Link::Cut);
        assert_eq!(answer(&mut stream).await, Some(0));
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(answer(&mut stream).await, Some(0));
        proxy.set(Link::Open);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(ask(&mut stream, 3).await, Some(3));
    }

    #[tokio::test]
    async fn set_target_applies_only_to_new_connections() {
        let (proxy, mut stream) = echo().await;
        // The exchange shows that the connection is established.
        assert_eq!(ask(&mut stream, 4).await, Some(4));
        let (other, _) = echo().await;
        other.set(Link::Cut);
        proxy.set_target(other.port());
        assert_eq!(ask(&mut stream, 5).await, Some(5));
        proxy.close_connections();
        assert_eq!(answer(&mut stream).await, Some(0));
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(ask(&mut stream, 6).await, Some(0));
    }

    #[tokio::test]
    async fn slow_link_delays_both_directions() {
        let (proxy, mut stream) = echo().await;
        let delay = Duration::from_millis(20);
        proxy.set(Link::Slow(delay));
        let begun = std::time::Instant::now();
        assert_eq!(ask(&mut stream, 4).await, Some(4));
        assert!(begun.elapsed() >= 2 * delay);
    }
}
