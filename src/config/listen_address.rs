//! An address to listen on, whose host may be a name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// Address to listen on: a host name or an IP address, and a port. The name is resolved when the port is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// Returns the address of a port on 127.0.0.1.
    pub fn loopback(port: u16) -> Self {
        Self::of(Ipv4Addr::LOCALHOST.into(), port)
    }

    /// Returns the host and the port, in the form in which they can be resolved and bound.
    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    fn of(ip: IpAddr, port: u16) -> Self {
        Self { host: ip.to_string(), port }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::of(address.ip(), address.port()));
        }
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            // The name server decides which names exist. Only an IPv6 address contains a colon, and needs brackets.
            Some((host, port)) if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err("an address must be HOST:PORT, such as 127.0.0.1:7070, localhost:7070 or [::1]:7070".to_owned()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ip_addresses_are_parsed_and_displayed() {
        for address in ["127.0.0.1:7070", "[::1]:0", "localhost:7070", "gateway.example.org:65535"] {
            assert_eq!(address.parse::<ListenAddress>().unwrap().to_string(), address);
        }
        for invalid in ["", "7070", ":7070", "localhost", "localhost:", "localhost:65536", "::1:7070", "http://a:1"] {
            assert!(invalid.parse::<ListenAddress>().is_err(), "{invalid}");
        }
    }
}
