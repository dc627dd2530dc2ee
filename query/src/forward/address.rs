//! Which addresses may be connected to: a destination is checked by the address that is really used.
//!
//! Invariants
//! - a name is resolved once per connection and the connection goes to an address that passed; there is no second
//!   look-up in between (DNS rebinding)
//! - without `allow_private`: no loopback, private, link-local, shared, multicast, reserved or unspecified address,
//!   also when it is wrapped in IPv6 (mapped, NAT64, 6to4, Teredo)
//! - the environment's proxy settings are not used, redirects are not followed

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Whether an address is none that the public internet routes.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
}

fn is_private_v6(v6: Ipv6Addr) -> bool {
    let segments = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return is_private_v4(v4);
    }
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, ..] => true,
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, which hides an address, and what else is set apart for protocols; addresses whose packets are dropped.
        [0x2001, 0..0x200, ..] | [0x100, 0, 0, 0, ..] => true,
        // IPv4-compatible, `::` and `::1`.
        [0, 0, 0, 0, 0, 0, ..] => true,
        [first, ..] => {
            v6.is_multicast() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0
        }
    }
}

/// The address that a host of a URL is, if it is none by name.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether a host is this machine by its spelling.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || literal(host).is_some_and(|address| address.is_loopback())
}

/// Refuses a host that is an address which may not be connected to; names are checked when they are resolved.
pub(super) fn check_literal(host: &str, allow_private: bool) -> Result<(), String> {
    match literal(host) {
        Some(address) if is_private(address) && !allow_private => {
            Err(format!("{address} is a private address, which needs allow_private = true"))
        }
        _ => Ok(()),
    }
}

/// The addresses of a host that may be connected to.
///
/// # Errors
/// A reason when the name cannot be resolved or has no address that is allowed.
pub async fn resolve(host: &str, port: u16, allow_private: bool) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = match literal(host) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => {
            let looked_up = tokio::net::lookup_host((host, port)).await;
            looked_up.map_err(|error| format!("{host} cannot be resolved: {error}"))?.collect()
        }
    };
    let allowed: Vec<SocketAddr> =
        found.iter().copied().filter(|address| allow_private || !is_private(address.ip())).collect();
    match (found.is_empty(), allowed.is_empty()) {
        (true, _) => Err(format!("{host} has no address")),
        (false, true) => Err(format!("{host} has private addresses only, which need allow_private = true")),
        _ => Ok(allowed),
    }
}

/// [`resolve`] for the HTTP client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guarded {
    pub(super) allow_private: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = resolve(name.as_str(), 0, allow_private).await;
            let addresses: Addrs = Box::new(found.map_err(std::io::Error::other)?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_every_wrapping() {
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "fec0::1",
            "64:ff9b:1::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "100::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in
            ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
        {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_unless_allowed() {
        let refused = resolve("localhost", 80, false).await.unwrap_err();
        assert!(refused.contains("allow_private"), "{refused}");
        assert!(!resolve("localhost", 80, true).await.unwrap().is_empty());
        assert!(resolve("[::ffff:169.254.169.254]", 80, false).await.is_err());
        assert!(check_literal("127.0.0.1", false).is_err() && check_literal("127.0.0.1", true).is_ok());
    }
}
