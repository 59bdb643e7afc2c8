//! Who may talk to this endpoint. A web page in the user's browser must not: it could otherwise delete volumes with an image
//! tag. So requests whose `Host` is not one of ours (DNS rebinding), whose `Origin` is foreign, or which a browser marks as
//! sent by another site are refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderValue, Uri, header};

/// Where a real instance finds its metadata service; an agent in a real node may lead that address here.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// The names under which this endpoint is called.
#[derive(Debug, Clone)]
pub struct Guard {
    listen: IpAddr,
    /// Names beyond the loopback's, lower case: `host.docker.internal`.
    hosts: Vec<String>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    #[error("the Host {0:?} is not a name of this endpoint; call it by localhost or 127.0.0.1, or allow the name")]
    Host(String),
    #[error("requests from the web origin {0:?} are refused")]
    Origin(String),
    #[error("requests that a browser sends for another site are refused")]
    Site,
}

impl Guard {
    pub fn new(listen: SocketAddr, hosts: &[String]) -> Self {
        Self { listen: listen.ip(), hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect() }
    }

    /// Checks a request's addresses.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let host = headers.get(header::HOST).map(text).or_else(|| uri.authority().map(|authority| authority.to_string()));
        let host = host.unwrap_or_default();
        if !self.ours(&host) {
            return Err(Foreign::Host(host));
        }
        if let Some(origin) = headers.get(header::ORIGIN).map(text) {
            let name = origin.split_once("://").map_or("", |(_, name)| name);
            if !self.ours(name) {
                return Err(Foreign::Origin(origin));
            }
        }
        match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            None | Some(b"none" | b"same-origin") => Ok(()),
            Some(_) => Err(Foreign::Site),
        }
    }

    /// Whether `name[:port]` is this endpoint.
    fn ours(&self, authority: &str) -> bool {
        let name = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
                _ => return false,
            },
            None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
        };
        if let Ok(ip) = name.parse::<IpAddr>() {
            // A wildcard listener is reached by any address of the machine; an address cannot be rebound.
            return ip.is_loopback() || ip == self.listen || self.listen.is_unspecified() || ip == METADATA;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.ends_with(".localhost") || self.hosts.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&'static str, &'static str)]) -> Result<(), Foreign> {
        let guard = Guard::new("127.0.0.1:4566".parse().unwrap(), &["host.docker.internal".to_owned()]);
        let headers = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value))).collect();
        guard.check(&Uri::from_static("/"), &headers)
    }

    #[test]
    fn our_own_names_pass() {
        for host in [
            "localhost:4566",
            "127.0.0.1",
            "127.1.2.3:1",
            "[::1]:4566",
            "ec2.us-east-1.localhost",
            "LOCALHOST",
            "host.docker.internal:4566",
        ] {
            assert_eq!(check(&[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(check(&[("host", "localhost"), ("origin", "http://localhost:3000"), ("sec-fetch-site", "same-origin")]), Ok(()));
    }

    #[test]
    fn foreign_ones_do_not() {
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1", "127.0.0.1.evil.example:4566"] {
            assert!(matches!(check(&[("host", host)]), Err(Foreign::Host(_))), "{host}");
        }
        assert!(matches!(check(&[]), Err(Foreign::Host(_))));
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert!(matches!(check(&[("host", "localhost"), ("origin", origin)]), Err(Foreign::Origin(_))), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(check(&[("host", "localhost"), ("sec-fetch-site", site)]), Err(Foreign::Site), "{site}");
        }
    }
}
