//! Which host a request names. Where it could be read in two ways it is refused: the app behind might
//! read it in the other one.

use std::net::Ipv6Addr;

use http::Uri;
use http::header::{self, HeaderMap};

/// Longest name that DNS knows.
const MAX_NAME: usize = 253;

/// Why a request names no host that could be looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HostError {
    /// Neither the target nor a header names one.
    Missing,
    /// Several `Host` headers, or one that contradicts an HTTP/2 target.
    Ambiguous,
    /// What is named is no host.
    Malformed,
}

/// The host a request is for: without port and final dot, in lower case; an IPv6 address in brackets.
///
/// A target with a host of its own counts before the header (RFC 9112, 3.2.2), which in HTTP/2 must
/// then say the same (RFC 9113, 8.3.1).
pub(crate) fn requested_host(http2: bool, uri: &Uri, headers: &HeaderMap) -> Result<String, HostError> {
    let mut named = headers.get_all(header::HOST).iter();
    let header = named.next();
    if named.next().is_some() {
        return Err(HostError::Ambiguous);
    }
    let header = header.map(|value| value.to_str().map_err(|_| HostError::Malformed)).transpose()?;
    match (uri.authority(), header) {
        (None, None) => Err(HostError::Missing),
        (None, Some(header)) => host_in(header),
        (Some(target), None) => host_in(target.as_str()),
        (Some(target), Some(header)) => {
            let (target, header) = (host_in(target.as_str())?, host_in(header)?);
            if http2 && target != header { Err(HostError::Ambiguous) } else { Ok(target) }
        }
    }
}

/// The host in `host[:port]`.
fn host_in(authority: &str) -> Result<String, HostError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(HostError::Malformed)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostError::Malformed)?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(HostError::Malformed)?) };
        (format!("[{address}]"), port)
    } else {
        let (name, port) = match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        };
        (name_in(name)?, port)
    };
    // An empty port is the scheme's own.
    let usable =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok());
    if port.is_none_or(usable) { Ok(host) } else { Err(HostError::Malformed) }
}

fn name_in(name: &str) -> Result<String, HostError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let valid = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > MAX_NAME || !name.split('.').all(valid) {
        return Err(HostError::Malformed);
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(http2: bool, target: &str, hosts: &[&str]) -> Result<String, HostError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        requested_host(http2, &target.parse().unwrap(), &headers)
    }

    #[test]
    fn hosts_lose_port_case_and_final_dot() {
        for (given, expected) in [
            ("Web.Example.org:8080", "web.example.org"),
            ("web.example.org.", "web.example.org"),
            ("web.example.org.:", "web.example.org"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[::1]:80", "[::1]"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host(false, "/", &[given]), Ok(expected.to_owned()), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for given in [
            "",
            ".",
            ":80",
            "a..b",
            "web..",
            "user@web.example.org",
            "web.example.org:http",
            "web:1:2",
            "web:99999",
            "::1",
            "[::1",
            "[::1]80",
            "[web]",
            "web example",
            "web/..",
            "a,b",
            "web%2e",
        ] {
            assert_eq!(host(false, "/", &[given]), Err(HostError::Malformed), "{given}");
        }
        assert_eq!(host(false, "/", &[&"a.".repeat(200)]), Err(HostError::Malformed));
    }

    #[test]
    fn one_host_is_named_and_the_target_counts_first() {
        let absolute = "http://real.example.org/x";
        assert_eq!(host(false, "/", &[]), Err(HostError::Missing));
        assert_eq!(host(false, "/", &["a", "a"]), Err(HostError::Ambiguous));
        assert_eq!(host(false, absolute, &["other"]), Ok("real.example.org".to_owned()));
        assert_eq!(host(true, absolute, &["other"]), Err(HostError::Ambiguous));
        assert_eq!(host(true, absolute, &["Real.example.org:80"]), Ok("real.example.org".to_owned()));
        assert_eq!(host(false, absolute, &["a@b"]), Err(HostError::Malformed));
    }
}
