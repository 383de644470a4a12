//! Makes calls with any path, headers and message. A tonic channel would end a call at the deadline in its headers, and
//! so hide the response of the gateway.

use std::net::SocketAddr;

use highwater::grpc::pb;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

// The paths of the methods.
pub const CREATE_JOB: &str = "/highwater.v1.JobService/CreateJob";
pub const START_JOB: &str = "/highwater.v1.JobService/StartJob";
pub const CANCEL_JOB: &str = "/highwater.v1.JobService/CancelJob";
pub const GET_JOB: &str = "/highwater.v1.JobService/GetJob";
pub const RETRY_JOB: &str = "/highwater.v1.JobService/RetryJob";
pub const REPORT_RESULTS: &str = "/highwater.v1.ReportService/ReportResults";
pub const GET_PROGRESS: &str = "/highwater.v1.ProgressService/GetProgress";

/// The methods whose request has the job ID in field 1.
pub const JOB_METHODS: [&str; 6] = [START_JOB, CANCEL_JOB, GET_JOB, RETRY_JOB, REPORT_RESULTS, GET_PROGRESS];

/// A connection that makes calls. Clones share the connection.
#[derive(Clone)]
pub struct Wire {
    sender: SendRequest<Body>,
    address: SocketAddr,
}

/// A request with only a job ID, in field 1. The ID is stored as bytes, so that it can be invalid UTF-8.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobIdRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub job_id: Vec<u8>,
}

impl Wire {
    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, address }
    }

    /// Makes a call and discards the response. Returns the error if the call fails.
    pub async fn call<M>(&self, path: &'static str, message: M) -> Result<(), Status>
    where
        M: Message + 'static,
    {
        self.with_headers(path, message, &[]).await
    }

    pub async fn with_headers<M>(
        &self,
        path: &'static str,
        message: M,
        headers: &[(&'static str, &'static [u8])],
    ) -> Result<(), Status>
    where
        M: Message + 'static,
    {
        let service = service_fn(|mut request: http::Request<Body>| {
            for (name, value) in headers {
                request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
            }
            let mut sender = self.sender.clone();
            async move { sender.send_request(request).await }
        });
        let mut client = Grpc::with_origin(service, format!("http://{}", self.address).parse().unwrap());
        let codec = ProstCodec::<M, ()>::default();
        client.unary(Request::new(message), PathAndQuery::from_static(path), codec).await.map(|_| ())
    }
}

/// A request with only this job ID.
pub fn job_request(id: &str) -> JobIdRequest {
    JobIdRequest { job_id: id.as_bytes().to_vec() }
}

/// A report with these results.
pub fn report(id: &str, results: Vec<pb::TaskResult>) -> pb::ReportResultsRequest {
    pb::ReportResultsRequest { job_id: id.to_owned(), results }
}
