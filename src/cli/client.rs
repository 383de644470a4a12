//! Calling a gateway: the channel, trying again what may be tried again, and why it did not go well. Retries of every call
//! are harmless.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Response, Status, TimeoutExpired};

use super::words::shown;
use super::{Failure, Misuse, output};

/// How long one call may take: more than a gateway gives it, so that the gateway's own answer comes first.
const CALL_WITHIN: Duration = Duration::from_secs(15);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a command that makes one call asks a gateway again that does not answer: to ask twice is to ask once.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);
/// How long nothing is said of a call that is not answered.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Which gateway a command calls.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Address {
    /// The gateway to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    address: String,
}

/// Calls one gateway. Clones share a connection.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    channel: Channel,
    patience: Duration,
}

impl Address {
    /// A client of it.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::to(&self.address, PATIENCE)
    }
}

impl Client {
    /// To `HOST:PORT`, or to the address as a URL with `http://`. Connects when it is used, and again when that breaks.
    pub fn to(address: &str, patience: Duration) -> Result<Self, Failure> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let address = shown(address).into_owned();
        let wrong =
            |why: &str| Misuse(format!("`{address}` is no address of a gateway, such as 127.0.0.1:7070: {why}"));
        let endpoint = Endpoint::from_shared(url).map_err(|error| wrong(&error.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(wrong("only http:// is spoken").into());
        }
        if endpoint.uri().port_u16().is_none() {
            return Err(wrong("it names no port").into());
        }
        let channel = endpoint.connect_timeout(CONNECT_WITHIN).timeout(CALL_WITHIN).connect_lazy();
        Ok(Self { address, channel, patience })
    }

    /// What services are called by.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a call until an answer comes that will not change by calling again, but not for ever. Where nobody listens, or
    /// something that breaks off each time, that is said at once: who starts a gateway there can as well wait for it.
    pub async fn again<T>(
        &self,
        mut call: impl AsyncFnMut(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let (begun, mut told, mut broken) = (Instant::now(), false, false);
        loop {
            let status = match self.not_in_silence(call(self.channel())).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let lasts = match Trouble::of(&status) {
                Trouble::NotReached(_) => refused(&status),
                Trouble::BrokeOff(_) => std::mem::replace(&mut broken, true),
                Trouble::Silent | Trouble::Answered => !passes(&status),
            };
            if lasts || begun.elapsed() >= self.patience {
                return Err(self.failure(&status));
            }
            if !std::mem::replace(&mut told, true) {
                output::note(&format!("{}; trying again for {} s", self.words(&status), self.patience.as_secs()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits for an answer, and says so if that takes long.
    async fn not_in_silence<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        if let Ok(answer) = tokio::time::timeout(SILENT_FOR, &mut call).await {
            return answer;
        }
        output::note(&format!("waiting for an answer from {}", self.address));
        call.await
    }

    /// Why a call failed.
    pub fn failure(&self, status: &Status) -> Failure {
        let words = self.words(status);
        if status.code() == Code::InvalidArgument { Misuse(words).into() } else { words.into() }
    }

    /// That it did not answer for so long, in words.
    pub fn silent_for(&self, time: Duration) -> String {
        format!("the gateway at {} gave no answer within {time:?}", self.address)
    }

    /// Why there is no answer, or what it is, in words.
    pub fn words(&self, status: &Status) -> String {
        let address = &self.address;
        match Trouble::of(status) {
            Trouble::NotReached(why) => format!(
                "no gateway answers at {address}: {why}; start one there (highwater serve, or dev), or name another by \
                 --address"
            ),
            Trouble::BrokeOff(why) => format!(
                "what listens at {address} broke off ({why}): a gateway that stops, or none, such as an admin port; \
                 --address names another"
            ),
            Trouble::Silent => self.silent_for(CALL_WITHIN),
            Trouble::Answered => format!("{} ({:?})", shown(status.message()), status.code()),
        }
    }
}

/// Whether the same call may go well later: nobody was there, or somebody who could not say.
pub fn passes(status: &Status) -> bool {
    let says_so = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted);
    says_so || !matches!(Trouble::of(status), Trouble::Answered)
}

/// How far a call came that did not go well.
enum Trouble {
    /// Not to the other side, and why not.
    NotReached(String),
    /// To somebody who then cut the connection.
    BrokeOff(String),
    /// To somebody who did not answer in time.
    Silent,
    /// To an answer.
    Answered,
}

impl Trouble {
    /// A status that has a cause was made on this side.
    fn of(status: &Status) -> Self {
        let Some(last) = causes(status).last() else { return Self::Answered };
        if causes(status).any(<dyn Error>::is::<TimeoutExpired>) {
            Self::Silent
        } else if causes(status).any(<dyn Error>::is::<ConnectError>) {
            Self::NotReached(last.to_string())
        } else {
            Self::BrokeOff(last.to_string())
        }
    }
}

/// Whether the system of the other side says that nobody listens.
fn refused(status: &Status) -> bool {
    let mut errors = causes(status).filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The causes of a status, the nearest first.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_scheme_and_a_wrong_one_is_named() {
        for right in ["127.0.0.1:7070", "http://localhost:7070", "[::1]:7070"] {
            Client::to(right, PATIENCE).unwrap();
        }
        for wrong in ["", "https://localhost:7070", "a b", "nonsense", "localhost:", "localhost:70700"] {
            let error = Client::to(wrong, PATIENCE).unwrap_err();
            assert!(error.is::<Misuse>() && error.to_string().starts_with(&format!("`{wrong}` is no address")));
        }
    }
}
