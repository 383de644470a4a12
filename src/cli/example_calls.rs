//! Example command lines that call a gateway, for the tool that is available on this machine.

use std::net::SocketAddr;
use std::path::Path;

/// The program that an example uses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tool {
    Grpcurl,
    Buf,
    /// `./dev curl` in a checkout of the repository. The script installs buf.
    DevScript,
    /// No tool is installed. The examples use grpcurl and say where to get it.
    NotInstalled,
}

/// Writes example calls to one gateway.
pub struct ExampleCalls {
    tool: Tool,
    address: SocketAddr,
}

impl ExampleCalls {
    /// Creates examples for the gateway at `address`.
    pub fn to(address: SocketAddr) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = |name: &str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
        let in_checkout = Path::new("dev").is_file() && Path::new("proto/highwater/v1").is_dir();
        let tool = match () {
            () if installed("grpcurl") => Tool::Grpcurl,
            () if in_checkout => Tool::DevScript,
            () if installed("buf") => Tool::Buf,
            () => Tool::NotInstalled,
        };
        Self { tool, address }
    }

    /// Returns the command line that calls `SERVICE/METHOD` with a message in JSON.
    pub fn line(&self, method: &str, json: &str) -> String {
        let address = self.address;
        match self.tool {
            Tool::Grpcurl | Tool::NotInstalled => {
                format!("grpcurl -plaintext -d '{json}' {address} highwater.v1.{method}")
            }
            Tool::Buf => format!("buf curl --protocol grpc -d '{json}' http://{address}/highwater.v1.{method}"),
            Tool::DevScript => format!("./dev curl {method} '{json}' {address}"),
        }
    }

    /// Returns what the examples require, as the end of a sentence that introduces them. The text is empty if they
    /// require nothing.
    pub fn requirement(&self) -> &'static str {
        match self.tool {
            Tool::NotInstalled => " (requires grpcurl: https://github.com/fullstorydev/grpcurl)",
            Tool::DevScript => " in this directory",
            Tool::Grpcurl | Tool::Buf => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_has_its_own_command_line() {
        let address = "127.0.0.1:7070".parse().unwrap();
        let line = |tool| ExampleCalls { tool, address }.line("JobService/GetJob", r#"{"jobId":"a"}"#);
        let lines = [Tool::Grpcurl, Tool::Buf, Tool::DevScript].map(line);
        insta::assert_snapshot!(lines.join("\n"), @r#"
        grpcurl -plaintext -d '{"jobId":"a"}' 127.0.0.1:7070 highwater.v1.JobService/GetJob
        buf curl --protocol grpc -d '{"jobId":"a"}' http://127.0.0.1:7070/highwater.v1.JobService/GetJob
        ./dev curl JobService/GetJob '{"jobId":"a"}' 127.0.0.1:7070
        "#);
        assert_eq!(line(Tool::NotInstalled), lines[0]);
    }
}
