//! Lines by which people call a gateway: with what there is on this machine.

use std::net::SocketAddr;
use std::path::Path;

/// What such lines begin with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Caller {
    Grpcurl,
    Buf,
    /// The script beside the source, which brings buf along.
    Script,
    /// None of them.
    Missing,
}

/// Calls to one gateway.
pub struct Calls {
    caller: Caller,
    address: SocketAddr,
}

impl Calls {
    /// To the gateway at `address`.
    pub fn to(address: SocketAddr) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = |name: &str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
        let script = Path::new("dev").is_file() && Path::new("proto/highwater/v1").is_dir();
        let caller = match () {
            () if installed("grpcurl") => Caller::Grpcurl,
            () if script => Caller::Script,
            () if installed("buf") => Caller::Buf,
            () => Caller::Missing,
        };
        Self { caller, address }
    }

    /// The line that calls `SERVICE/METHOD` with a message in JSON.
    pub fn line(&self, method: &str, json: &str) -> String {
        let address = self.address;
        match self.caller {
            Caller::Grpcurl | Caller::Missing => {
                format!("grpcurl -plaintext -d '{json}' {address} highwater.v1.{method}")
            }
            Caller::Buf => format!("buf curl --protocol grpc -d '{json}' http://{address}/highwater.v1.{method}"),
            Caller::Script => format!("./dev curl {method} '{json}' {address}"),
        }
    }

    /// What must be there before such a line can run; nothing if it is.
    pub fn needed(&self) -> &'static str {
        match self.caller {
            Caller::Missing => " (needs grpcurl: https://github.com/fullstorydev/grpcurl)",
            Caller::Script => " in this directory",
            Caller::Grpcurl | Caller::Buf => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_own_way_to_say_the_same() {
        let address = "127.0.0.1:7070".parse().unwrap();
        let line = |caller| Calls { caller, address }.line("JobService/GetJob", r#"{"job_id":"a"}"#);
        let lines = [Caller::Grpcurl, Caller::Buf, Caller::Script].map(line);
        insta::assert_snapshot!(lines.join("\n"), @r#"
        grpcurl -plaintext -d '{"job_id":"a"}' 127.0.0.1:7070 highwater.v1.JobService/GetJob
        buf curl --protocol grpc -d '{"job_id":"a"}' http://127.0.0.1:7070/highwater.v1.JobService/GetJob
        ./dev curl JobService/GetJob '{"job_id":"a"}' 127.0.0.1:7070
        "#);
        assert_eq!(line(Caller::Missing), lines[0]);
    }
}
