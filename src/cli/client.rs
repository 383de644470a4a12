//! Calling a gateway: the channel, and trying again what may be tried again. Retries of every call are harmless.

use std::future::Future;
use std::time::{Duration, Instant};

use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::words::shown;
use super::{Failure, Misuse};

/// How long one call may take: more than a gateway gives it, so that the gateway's own answer comes first.
const CALL_WITHIN: Duration = Duration::from_secs(15);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a command that makes one call asks a gateway again that does not answer: to ask twice is to ask once.
pub const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);

/// Which gateway a command calls.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct Address {
    /// The gateway to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    pub address: String,
}

/// A channel to `HOST:PORT`, or to the address as a URL with `http://`. Connects when it is used, and again when that
/// breaks.
pub fn channel(address: &str) -> Result<Channel, Failure> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let wrong =
        |why: &str| Misuse(format!("`{}` is no address of a gateway, such as 127.0.0.1:7070: {why}", shown(address)));
    let endpoint = Endpoint::from_shared(url).map_err(|error| wrong(&error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(wrong("only http:// is spoken").into());
    }
    if endpoint.uri().port_u16().is_none() {
        return Err(wrong("it names no port").into());
    }
    Ok(endpoint.connect_timeout(CONNECT_WITHIN).timeout(CALL_WITHIN).connect_lazy())
}

/// Whether the same call may go well later: nobody was there, or somebody who could not say. The client's own timeout
/// is a CANCELLED.
pub fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled)
}

/// A status in words.
pub fn words(status: &Status) -> String {
    format!("{} ({:?})", shown(status.message()), status.code())
}

/// Makes a call of a service, with this request, until an answer comes that will not change by calling again, for at most
/// `patience`.
pub async fn again<C, R, T, F>(
    patience: Duration,
    service: &C,
    request: &R,
    mut call: impl FnMut(C, R) -> F,
) -> Result<T, Failure>
where
    C: Clone,
    R: Clone,
    F: Future<Output = Result<Response<T>, Status>>,
{
    let begun = Instant::now();
    loop {
        match call(service.clone(), request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if passes(&status) && begun.elapsed() < patience => tokio::time::sleep(PAUSE).await,
            Err(status) => return Err(words(&status).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_scheme_and_a_wrong_one_is_named() {
        for right in ["127.0.0.1:7070", "http://localhost:7070", "[::1]:7070"] {
            channel(right).unwrap();
        }
        for wrong in ["", "https://localhost:7070", "a b", "nonsense", "localhost:", "localhost:70700"] {
            let error = channel(wrong).unwrap_err();
            assert!(error.is::<Misuse>() && error.to_string().starts_with(&format!("`{wrong}` is no address")));
        }
    }
}
