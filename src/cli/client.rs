//! Client of a gateway: the channel, retries, and messages for calls that fail.
//!
//! Every call of the interface is safe to retry.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Response, Status, TimeoutExpired};

use super::wording::escaped;
use super::{Failure, UsageError, output};

/// Time limit of one call. It is longer than the gateway's default `request-timeout`, so that the gateway's own error
/// arrives first.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command retries its call.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Time after which the command prints to stderr that it still waits for the answer.
const NOTE_AFTER: Duration = Duration::from_secs(2);
/// The commands that start a gateway, for messages.
const GATEWAY_COMMANDS: &str =
    if cfg!(feature = "private-servers") { "`highwater serve` or `highwater dev`" } else { "`highwater serve`" };

/// The gateway that a command calls.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Address {
    /// Address of the gateway to call; the default is the same as for `highwater serve --listen`
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    address: String,
}

/// Calls one gateway. Clones share a connection.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    channel: Channel,
    retry_timeout: Duration,
}

impl Address {
    /// Returns a client of this gateway. The client connects when it is first used.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::to(&self.address, RETRY_TIMEOUT)
    }
}

impl Client {
    /// Creates a client of the gateway at `HOST:PORT` or `http://HOST:PORT`. The client retries calls for
    /// `retry_timeout`.
    ///
    /// The client connects when it is first used, and reconnects when the connection breaks.
    pub fn to(address: &str, retry_timeout: Duration) -> Result<Self, Failure> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let address = escaped(address).into_owned();
        let invalid =
            |why: &str| UsageError(format!("`{address}` is not a gateway address such as 127.0.0.1:7070: {why}"));
        let endpoint = Endpoint::from_shared(url).map_err(|error| invalid(&error.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid("only http:// is supported").into());
        }
        if endpoint.uri().port_u16().is_none() {
            return Err(invalid("the port is missing").into());
        }
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Self { address, channel, retry_timeout })
    }

    /// Returns the channel for generated service clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a call, and retries it until the result is final or the retry timeout has passed.
    ///
    /// A refused connection is final, and so is the second connection that breaks. In both cases, there is probably no
    /// gateway at the address.
    pub async fn retry<T>(
        &self,
        mut call: impl AsyncFnMut(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let (begun, mut noted, mut broken) = (Instant::now(), false, false);
        loop {
            let status = match self.note_if_slow(call(self.channel())).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let is_final = match CallOutcome::of(&status) {
                CallOutcome::NotConnected(_) => is_refused_connection(&status),
                CallOutcome::Broken(_) => std::mem::replace(&mut broken, true),
                CallOutcome::TimedOut | CallOutcome::Answered => !is_retryable(&status),
            };
            if is_final || begun.elapsed() >= self.retry_timeout {
                return Err(self.failure(&status));
            }
            if !std::mem::replace(&mut noted, true) {
                output::note(&format!("{}; retrying for {} s", self.describe(&status), self.retry_timeout.as_secs()));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits for a call. Prints a note to stderr if the call takes longer than [`NOTE_AFTER`].
    async fn note_if_slow<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        if let Ok(answer) = tokio::time::timeout(NOTE_AFTER, &mut call).await {
            return answer;
        }
        output::note(&format!("waiting for an answer from {}", self.address));
        call.await
    }

    /// Returns the failure of a command whose call failed. If the status is INVALID_ARGUMENT, the failure is a usage
    /// error.
    pub fn failure(&self, status: &Status) -> Failure {
        let description = self.describe(status);
        if status.code() == Code::InvalidArgument { UsageError(description).into() } else { description.into() }
    }

    /// Returns the message for a call that got no answer within `time`.
    pub fn no_answer_within(&self, time: Duration) -> String {
        format!("the gateway at {} did not answer within {time:?}", self.address)
    }

    /// Returns the message for a call that failed: what happened and, if there was no connection, what to do.
    pub fn describe(&self, status: &Status) -> String {
        let address = &self.address;
        match CallOutcome::of(status) {
            CallOutcome::NotConnected(why) => format!(
                "no gateway answers at {address}: {why}; start one with {GATEWAY_COMMANDS}, or choose another address \
                 with --address"
            ),
            CallOutcome::Broken(why) => format!(
                "the connection to {address} broke ({why}): the gateway is stopping, or the address does not belong to \
                 a gateway but, for example, to an admin port; if this persists, choose another address with --address"
            ),
            CallOutcome::TimedOut => self.no_answer_within(CALL_TIMEOUT),
            CallOutcome::Answered => format!("{} ({:?})", escaped(status.message()), status.code()),
        }
    }
}

/// Whether the same call may succeed later. It may if no answer arrived, or if the answer says that the gateway cannot
/// serve the call now.
pub fn is_retryable(status: &Status) -> bool {
    let is_temporary = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted);
    is_temporary || !matches!(CallOutcome::of(status), CallOutcome::Answered)
}

/// The point at which a call failed.
enum CallOutcome {
    /// The connection could not be made, for this reason.
    NotConnected(String),
    /// The peer closed or broke the connection, for this reason.
    Broken(String),
    /// The peer did not answer in time.
    TimedOut,
    /// The peer answered with an error.
    Answered,
}

impl CallOutcome {
    /// Finds the point at which a call failed. Only a status that was created on the client's side has a source.
    fn of(status: &Status) -> Self {
        let Some(root_cause) = causes(status).last() else { return Self::Answered };
        if causes(status).any(<dyn Error>::is::<TimeoutExpired>) {
            Self::TimedOut
        } else if causes(status).any(<dyn Error>::is::<ConnectError>) {
            Self::NotConnected(root_cause.to_string())
        } else {
            Self::Broken(root_cause.to_string())
        }
    }
}

/// Whether the connection was refused, which means that no process listens on the port.
fn is_refused_connection(status: &Status) -> bool {
    let mut errors = causes(status).filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Returns the chain of sources of a status, from the direct source to the root cause.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn scheme_is_optional_and_invalid_addresses_are_quoted() {
        for valid in ["127.0.0.1:7070", "http://localhost:7070", "[::1]:7070"] {
            Client::to(valid, RETRY_TIMEOUT).unwrap();
        }
        for invalid in ["", "https://localhost:7070", "a b", "nonsense", "localhost:", "localhost:70700"] {
            let error = Client::to(invalid, RETRY_TIMEOUT).unwrap_err();
            let begins = format!("`{invalid}` is not a gateway address");
            assert!(error.is::<UsageError>() && error.to_string().starts_with(&begins));
        }
    }
}
