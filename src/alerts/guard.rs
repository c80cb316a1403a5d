//! Which addresses alerts are sent to: by default none that only this machine or its network can reach.
//!
//! A name is looked up by the guard itself, and the connection goes to the very addresses that it has looked at, so that
//! a name which says something else a moment later leads nowhere. Source: the special-purpose address registries of IANA.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Why a target is not written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// All its addresses are refused.
    #[error("its address is a private or reserved one; if that is meant, set `allow_private = true`")]
    Private,
    /// All its addresses are refused, and the administrator can't change that.
    #[error("its address is one that alerts are never sent to")]
    Never,
}

/// Looks names up and passes over addresses that are not allowed.
#[derive(Clone, Copy)]
pub(super) struct Guard {
    pub(super) allow_private: bool,
}

impl Guard {
    /// Looks at a host that is an address already, for which nothing is looked up.
    pub(super) fn check(self, url: &Url) -> Result<(), Refusal> {
        match url.host() {
            Some(Host::Ipv4(ip)) => self.admit(ip.into()),
            Some(Host::Ipv6(ip)) => self.admit(ip.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn admit(self, ip: IpAddr) -> Result<(), Refusal> {
        match reach(ip) {
            Reach::Public => Ok(()),
            Reach::Private if self.allow_private => Ok(()),
            Reach::Private if !self.allow_private => Err(Refusal::Private),
            Reach::Private | Reach::Never => Err(Refusal::Never),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refused = Refusal::Private;
            let mut allowed = Vec::new();
            for address in found {
                match guard.admit(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(refusal) => refused = refusal,
                }
            }
            if allowed.is_empty() { Err(refused.into()) } else { Ok(Box::new(allowed.into_iter()) as Addrs) }
        })
    }
}

/// Who can reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    /// This machine, or a network that an administrator has.
    Private,
    /// Nobody should be sent anything there: clouds keep secrets at link-local addresses.
    Never,
}

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [10 | 127, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        [0 | 224..=255, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Never,
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Reach::Private,
        // IPv4 in other clothes: mapped, translated, and 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            embedded(high, low)
        }
        [0x2001, 0..=0x1ff | 0xdb8, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: [&str; 12] = [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
    ];
    const NEVER: [&str; 18] = [
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "203.0.113.1",
        "::",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "::127.0.0.1",
    ];
    const PUBLIC: [&str; 8] = [
        "1.1.1.1",
        "172.15.0.1",
        "172.32.0.1",
        "100.128.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "2a00:1450::1",
    ];

    fn url(ip: &str) -> Url {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        format!("https://{host}/hook").parse().unwrap()
    }

    #[test]
    fn a_private_address_needs_permission_and_others_get_none() {
        let (strict, free) = (Guard { allow_private: false }, Guard { allow_private: true });
        for ip in PRIVATE {
            assert_eq!(strict.check(&url(ip)), Err(Refusal::Private), "{ip}");
            assert_eq!(free.check(&url(ip)), Ok(()), "{ip}");
        }
        for ip in NEVER {
            assert_eq!(strict.check(&url(ip)), Err(Refusal::Never), "{ip}");
            assert_eq!(free.check(&url(ip)), Err(Refusal::Never), "{ip}");
        }
        for ip in PUBLIC {
            assert_eq!(strict.check(&url(ip)), Ok(()), "{ip}");
        }
    }

    #[test]
    fn an_address_in_disguise_is_known() {
        for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:7f00:1]"] {
            let url: Url = format!("https://{host}/").parse().unwrap();
            assert_eq!(Guard { allow_private: false }.check(&url), Err(Refusal::Private), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_resolves_to_nothing_without_permission() {
        let resolve = |allow_private| Guard { allow_private }.resolve("localhost".parse().unwrap());
        let refused = resolve(false).await.err().unwrap();
        assert_eq!(refused.downcast_ref(), Some(&Refusal::Private));
        assert!(resolve(true).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
