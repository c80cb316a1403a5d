//! Addresses that the bridge listens on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path of a unix socket, in bytes (`sun_path` less its final NUL, `unix(7)`).
const SOCKET_PATH_MAX: usize = 107;

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP on an IP address and a port.
    Tcp(SocketAddr),
    /// A unix socket at an absolute path.
    Unix(PathBuf),
}

/// The rule that an address broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Neither an IP address with a port nor a socket.
    #[error("`{0}` is no address; write `127.0.0.1:8000`, `[::1]:8000` or `unix:/run/ci-bridge/http.sock`")]
    Form(String),
    /// A socket's path that depends on the directory the daemon was started in.
    #[error("the socket's path `{0}` must start with `/`")]
    RelativePath(String),
    /// A path that no unix socket can have.
    #[error("the socket's path `{0}` is longer than {SOCKET_PATH_MAX} bytes")]
    PathTooLong(String),
}

impl Listen {
    /// The address that is used when the configuration names none: `127.0.0.1:8000`.
    #[must_use]
    pub fn default_address() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))
    }

    /// The beginning of a URL that reaches this address from the same machine, without a final `/`; for a unix socket
    /// the host is only a placeholder.
    #[must_use]
    pub fn local_url(&self) -> String {
        match self {
            Self::Tcp(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                    ip => ip,
                };
                format!("http://{}", SocketAddr::new(ip, address.port()))
            }
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }

    /// The path of a unix socket.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| ListenError::Form(text.to_owned()));
        };
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(ListenError::RelativePath(path.to_owned()));
        }
        if path.len() > SOCKET_PATH_MAX {
            return Err(ListenError::PathTooLong(path.to_owned()));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_address_are_one() {
        for text in ["127.0.0.1:8000", "[::1]:8000", "unix:/run/ci-bridge/http.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_name_a_bare_port_and_a_relative_path_are_refused() {
        for text in
            ["", "8000", ":8000", "localhost:8000", "127.0.0.1", "::1:8000:x", "unix:", "unix:http.sock", "unix:/run/"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
        let long = format!("unix:/{}", "a".repeat(SOCKET_PATH_MAX));
        assert!(matches!(long.parse::<Listen>(), Err(ListenError::PathTooLong(_))));
    }

    #[test]
    fn the_url_of_every_address_is_one_of_this_machine() {
        for (text, url) in [
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:8000", "http://[::1]:8000"),
            ("10.0.0.7:8000", "http://10.0.0.7:8000"),
            ("unix:/run/http.sock", "http://localhost"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().local_url(), url);
        }
    }
}
