//! What a client of an OAuth-protected server is told about itself, when it reaches the server under our URL.
//!
//! A client takes the URL it uses for the identity of the resource (RFC 9728 section 3.3): the official Python and
//! TypeScript SDKs refuse metadata whose `resource` has another origin. With `--rewrite-resource` two things, and nothing
//! else, are changed on their way to the client:
//! - the origin of `resource` in the protected resource metadata (`/.well-known/oauth-protected-resource...`)
//! - the origin of `resource_metadata` in `WWW-Authenticate`
//!
//! For the first, the metadata is asked for uncompressed.
//!
//! Not here: the authorization server. It is told our URL as `resource` (RFC 8707); where it binds tokens to that, the
//! server refuses them, and the proxy must run under the server's own name instead.

use threadline_schemas::json;

/// Longest metadata that is changed.
pub(super) const METADATA_BYTES_MAX: usize = 256 * 1024;

/// What is changed, for the record.
pub(super) const REWRITTEN: &str = "resource";

/// The origins that change places: `https://mcp.example`, without a slash at the end.
#[derive(Debug, Clone)]
pub(super) struct Rewrite {
    pub(super) upstream: String,
    pub(super) public: String,
}

/// Whether a path is that of protected resource metadata.
pub(super) fn is_metadata(path: &str) -> bool {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    path.strip_prefix(WELL_KNOWN).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Rewrite {
    /// The metadata with our origin in `resource`; `None` when there is nothing to change.
    pub(super) fn metadata(&self, document: &[u8]) -> Option<Vec<u8>> {
        let parsed = json::parse(document).ok()?.value;
        let resource = parsed.member("resource")?;
        let changed = serde_json::Value::from(self.url(resource.value.as_str()?)?).to_string();
        Some([&document[..resource.span.start], changed.as_bytes(), &document[resource.span.end..]].concat())
    }

    /// A challenge with our origin in `resource_metadata`; `None` when there is nothing to change.
    pub(super) fn challenge(&self, value: &str) -> Option<String> {
        const PARAMETER: &str = "resource_metadata=";
        let start = value.to_ascii_lowercase().find(PARAMETER)? + PARAMETER.len();
        let start = start + usize::from(value[start..].starts_with('"'));
        let end = value[start..].find(['"', ',', ' ']).map_or(value.len(), |length| start + length);
        Some([&value[..start], &self.url(&value[start..end])?, &value[end..]].concat())
    }

    fn url(&self, url: &str) -> Option<String> {
        let (origin, rest) = url.split_at_checked(self.upstream.len())?;
        let is_ours = origin.eq_ignore_ascii_case(&self.upstream) && (rest.is_empty() || rest.starts_with(['/', '?']));
        is_ours.then(|| format!("{}{rest}", self.public))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite() -> Rewrite {
        Rewrite { upstream: "https://mcp.example".into(), public: "http://127.0.0.1:9000".into() }
    }

    #[test]
    fn only_the_resource_of_the_server_is_changed() {
        let changed = |text: &str| rewrite().metadata(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(
            changed(r#"{ "authorization_servers":["https://mcp.example/"],"resource": "https:\/\/MCP.example/mcp" }"#),
            Some(
                r#"{ "authorization_servers":["https://mcp.example/"],"resource": "http://127.0.0.1:9000/mcp" }"#
                    .into()
            )
        );
        assert_eq!(
            changed(r#"{"resource":"https://mcp.example"}"#),
            Some(r#"{"resource":"http://127.0.0.1:9000"}"#.into())
        );
        for other in [
            r#"{"resource":"https://mcp.example.evil/mcp"}"#,
            r#"{"resource":"https://mcp.example:8443/mcp"}"#,
            r#"{"resource":"urn:x"}"#,
            r#"{"resource":7}"#,
            r#"["https://mcp.example/mcp"]"#,
            "{}",
            "not json",
        ] {
            assert_eq!(changed(other), None, "{other}");
        }
    }

    #[test]
    fn a_challenge_points_to_our_metadata() {
        let changed = |text: &str| rewrite().challenge(text);
        assert_eq!(
            changed(r#"Bearer error="invalid_token", resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/mcp", scope="a b""#),
            Some(r#"Bearer error="invalid_token", resource_metadata="http://127.0.0.1:9000/.well-known/oauth-protected-resource/mcp", scope="a b""#.into())
        );
        assert_eq!(
            changed("Bearer Resource_Metadata=https://mcp.example/x"),
            Some("Bearer Resource_Metadata=http://127.0.0.1:9000/x".into())
        );
        assert_eq!(changed(r#"Bearer resource_metadata="https://other.example/x""#), None);
        assert_eq!(changed("Bearer"), None);
        assert_eq!(changed("Bearer resource_metadata="), None);
        assert_eq!(changed("Bearer resource_metadata=\"\u{e9}"), None);
    }

    #[test]
    fn metadata_is_known_by_its_path() {
        assert!(is_metadata("/.well-known/oauth-protected-resource"));
        assert!(is_metadata("/.well-known/oauth-protected-resource/mcp"));
        assert!(!is_metadata("/.well-known/oauth-protected-resources"));
        assert!(!is_metadata("/.well-known/oauth-authorization-server"));
    }
}
