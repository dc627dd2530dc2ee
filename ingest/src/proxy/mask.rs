//! Takes credentials out of what HTTP itself carries, before anything else sees it: the header fields that authenticate, and
//! the single-use secrets of OAuth in forms and query strings. Whatever rules of redaction are switched off later.
//!
//! Invariants
//! - what is left is `[redacted:<kind>:<fingerprint>]`, as redaction leaves it, the scheme of an authorization before it
//!
//! Not here: secrets in bodies and other fields; redaction finds those on the way to the log.

use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use threadline_schemas::digest::MatchKey;

/// Names of form fields and query parameters whose value is a secret.
const FORM_SECRETS: [&str; 11] = [
    "code",
    "code_verifier",
    "client_secret",
    "client_assertion",
    "assertion",
    "refresh_token",
    "access_token",
    "subject_token",
    "actor_token",
    "device_code",
    "token",
];

/// Start line and header fields as text, without credentials.
pub(super) fn head(start: &str, headers: &HeaderMap, key: &MatchKey) -> Vec<u8> {
    [start.as_bytes(), b"\r\n", &fields(headers, key), b"\r\n"].concat()
}

/// Header or trailer fields as lines, without credentials.
pub(super) fn fields(headers: &HeaderMap, key: &MatchKey) -> Vec<u8> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}\r\n", field(name, &String::from_utf8_lossy(value.as_bytes()), key))
    };
    headers.iter().map(line).collect::<String>().into_bytes()
}

/// The value of a header field without credentials.
fn field(name: &HeaderName, value: &str, key: &MatchKey) -> String {
    let kind = match name.as_str() {
        "authorization" | "proxy-authorization" => "authorization",
        "cookie" | "set-cookie" => "cookie",
        "x-api-key" => "api-key",
        "location" | "referer" => return url(value, key),
        _ => return value.into(),
    };
    match value.trim().split_once(' ') {
        Some((scheme, secret)) if kind == "authorization" => format!("{scheme} {}", token(kind, secret.trim(), key)),
        _ => token(kind, value.trim(), key),
    }
}

/// A URL or its path and query, without secrets in the query.
pub(super) fn url(url: &str, key: &MatchKey) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}?{}", form(query, key)),
        None => url.into(),
    }
}

/// A form body or query string without its secrets.
pub(super) fn form(text: &str, key: &MatchKey) -> String {
    let pairs = text.split('&').map(|pair| match pair.split_once('=') {
        Some((name, secret)) if !secret.is_empty() && FORM_SECRETS.contains(&name) => {
            format!("{name}={}", token("oauth", secret, key))
        }
        _ => pair.to_string(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn token(kind: &str, secret: &str, key: &MatchKey) -> String {
    format!("[redacted:{kind}:{}]", key.fingerprint(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn credentials_leave_their_fingerprint() {
        let key = MatchKey::new([7; 32]);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer s3cret-token"),
            ("proxy-authorization", "s3cret"),
            ("cookie", "a=s3cret; b=s3cret"),
            ("set-cookie", "s=s3cret; Path=/"),
            ("x-api-key", "s3cret"),
            ("location", "http://localhost:3000/callback?code=s3cret&state=x"),
            ("mcp-session-id", "kept"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("x-odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let text = String::from_utf8(head("POST /mcp HTTP/1.1", &headers, &key)).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        expect![[r#"
            POST /mcp HTTP/1.1
            authorization: Bearer [redacted:authorization:9de44c85802b794c0ab9628512e7a124]
            proxy-authorization: [redacted:authorization:7a90109db8254687f2ce26dc9a7cb4c4]
            cookie: [redacted:cookie:8cf0618a6223cdee1f0d802e55537fb3]
            set-cookie: [redacted:cookie:567f4d3c4b60af8af431fabd238f0065]
            x-api-key: [redacted:api-key:7a90109db8254687f2ce26dc9a7cb4c4]
            location: http://localhost:3000/callback?code=[redacted:oauth:7a90109db8254687f2ce26dc9a7cb4c4]&state=x
            mcp-session-id: kept
            x-odd: �

        "#]]
        .assert_eq(&text.replace('\r', ""));
        let text =
            form("grant_type=authorization_code&code=s3cret&code_verifier=s3cret&token=&resource=http%3A%2F%2Fx", &key);
        expect!["grant_type=authorization_code&code=[redacted:oauth:7a90109db8254687f2ce26dc9a7cb4c4]&code_verifier=[redacted:oauth:7a90109db8254687f2ce26dc9a7cb4c4]&token=&resource=http%3A%2F%2Fx"].assert_eq(&text);
        assert_eq!(url("/mcp", &key), "/mcp");
    }
}
