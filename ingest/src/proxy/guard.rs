//! Who may talk through the proxy: requests that name us, not a site that a browser was tricked into confusing with us.
//!
//! Invariants
//! - a request whose `Host` is none of ours is refused (421), so a page cannot reach the server by DNS rebinding
//! - a request of a browser (`Origin`) is refused (403) unless its page is on this machine, on the host the request names, or
//!   allowed by name
//!
//! Not here: who may use the server; that is for the server to say, whose authorization passes through.

use std::net::{IpAddr, SocketAddr};

use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::http::{StatusCode, header};
use url::Url;

/// What requests may name.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    is_loopback: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
}

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) detail: &'static str,
}

const HOST_REFUSED: Refusal = Refusal {
    status: StatusCode::MISDIRECTED_REQUEST,
    reason: "refused_host",
    detail: "the Host header does not name this proxy: --allow-host adds a name",
};
const ORIGIN_REFUSED: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    reason: "refused_origin",
    detail: "the request comes from a page of another site: --allow-origin adds one",
};

impl Guard {
    /// `hosts` with or without port, `origins` as browsers send them.
    pub(super) fn new(listen: SocketAddr, public_url: &Url, hosts: &[String], origins: &[String]) -> Guard {
        let lower =
            |texts: &[String]| texts.iter().map(|text| text.trim_end_matches('/').to_ascii_lowercase()).collect();
        let mut hosts: Vec<String> = lower(hosts);
        hosts.push(listen.to_string());
        hosts.extend(public_url.host_str().map(|host| match public_url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        }));
        Guard { is_loopback: listen.ip().is_loopback(), hosts, origins: lower(origins) }
    }

    pub(super) fn refusal(&self, request: &Parts) -> Option<Refusal> {
        let named = request.uri.authority().map(Authority::as_str);
        let mut hosts =
            request.headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?")).chain(named);
        if !hosts.all(|host| self.is_ours(host)) {
            return Some(HOST_REFUSED);
        }
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(named);
        let mut origins = request.headers.get_all(header::ORIGIN).iter().map(|origin| origin.to_str().unwrap_or("?"));
        (!origins.all(|origin| self.may_call(origin, host))).then_some(ORIGIN_REFUSED)
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(authority) = authority(host) else { return false };
        let (whole, name) = (authority.as_str().to_ascii_lowercase(), authority.host().to_ascii_lowercase());
        (self.is_loopback && is_loopback_name(&name)) || self.hosts.iter().any(|ours| *ours == whole || *ours == name)
    }

    fn may_call(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        let Some((_, page)) = origin.split_once("://") else { return false };
        let Some(page) = authority(page) else { return false };
        self.origins.contains(&origin)
            || host.is_some_and(|host| host.eq_ignore_ascii_case(page.as_str()))
            || (self.is_loopback && is_loopback_name(page.host()))
    }
}

fn authority(text: &str) -> Option<Authority> {
    text.parse().ok().filter(|_| !text.contains('@'))
}

fn is_loopback_name(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn refused(listen: &str, host: &str, origin: Option<&str>) -> Option<u16> {
        let public = Url::parse("https://mcp.corp.example/mcp").unwrap();
        let hosts = ["proxy.lan".to_string(), "other.lan:9000".to_string()];
        let origins = ["https://inspector.example".to_string()];
        let guard = Guard::new(listen.parse().unwrap(), &public, &hosts, &origins);
        let mut request = Request::builder().uri("/mcp").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        guard.refusal(&request.body(()).unwrap().into_parts().0).map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn hosts_that_are_not_ours_are_refused() {
        const LOCAL: &str = "127.0.0.1:9000";
        for host in [
            "127.0.0.1:9000",
            "localhost:1",
            "LocalHost",
            "[::1]:9000",
            "mcp.corp.example",
            "proxy.lan:77",
            "other.lan:9000",
        ] {
            assert_eq!(refused(LOCAL, host, None), None, "{host}");
        }
        for host in
            ["evil.example:9000", "localhost:x@evil.example", "localhost.evil.example", "other.lan:1", "", "a b"]
        {
            assert_eq!(refused(LOCAL, host, None), Some(421), "{host}");
        }
        assert_eq!(refused("192.0.2.7:9000", "192.0.2.7:9000", None), None);
        assert_eq!(refused("192.0.2.7:9000", "localhost:9000", None), Some(421));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        const LOCAL: &str = "127.0.0.1:9000";
        for origin in ["http://localhost:6274", "http://127.0.0.1:9000", "https://inspector.example", "http://[::1]"] {
            assert_eq!(refused(LOCAL, LOCAL, Some(origin)), None, "{origin}");
        }
        for origin in
            ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost@evil.example", ""]
        {
            assert_eq!(refused(LOCAL, LOCAL, Some(origin)), Some(403), "{origin}");
        }
        assert_eq!(refused("192.0.2.7:9000", "proxy.lan", Some("http://localhost")), Some(403));
        assert_eq!(refused("192.0.2.7:9000", "proxy.lan", Some("https://proxy.lan")), None);
    }
}
