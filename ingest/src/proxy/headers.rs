//! Header fields that end at a proxy (RFC 9110 section 7.6.1); every other field goes on as it came.

use hyper::HeaderMap;
use hyper::http::HeaderName;
use hyper::http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};

/// Fields that belong to one connection, listed in `Connection` or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields that belong to the connection they came over.
pub(super) fn end_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    retain(headers, |name| !HOP_BY_HOP.contains(name) && !listed.contains(name));
}

/// Keeps fields in their order, which removing one by one would not.
fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    let kept = headers.iter().filter(|(name, _)| keep(name)).map(|(name, value)| (name.clone(), value.clone()));
    let mut fields = HeaderMap::with_capacity(headers.keys_len());
    kept.for_each(|(name, value)| {
        fields.append(name, value);
    });
    *headers = fields;
}

/// The same for a request; its `Host` names us, the client side of the next connection sets the server's.
pub(super) fn end_hop_of_request(headers: &mut HeaderMap) {
    end_hop(headers);
    retain(headers, |name| *name != HOST);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_the_connection_is_taken_out() {
        let sent = [
            ("connection", "keep-alive, X-Hop"),
            ("connection", "mcp-trace"),
            ("x-hop", "1"),
            ("mcp-trace", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("host", "127.0.0.1:9000"),
            ("authorization", "Bearer t"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-11-25"),
            ("last-event-id", "7"),
            ("accept-encoding", "gzip, br"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("x-twice", "a"),
            ("x-twice", "b"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        end_hop_of_request(&mut headers);
        let left: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, &sent[10..]);
    }

    #[test]
    fn a_connection_field_that_names_nonsense_is_no_harm() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, "a b, ,\"".parse().unwrap());
        headers.append(HeaderName::from_static("accept"), "*/*".parse().unwrap());
        end_hop(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
