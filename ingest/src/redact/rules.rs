//! What counts as a secret: tables, so that they can be read, switched off and added to.
//!
//! Two kinds of rule: a [`Pattern`] recognises a secret by its own shape, a [`NAMES`] entry by the name it stands under
//! (JSON member, header, attribute, form field). `KEY=value` lines and upper-case members of an `env` object belong to
//! kind `env`.
//!
//! Not covered, by choice: secrets in base64 or UTF-16, passwords given as numbers, prose ("my password is ...").

/// A further test that a match must pass, where the shape alone is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// None.
    Any,
    /// The first part is base64url of a JSON object with `alg`.
    JwtHeader,
    /// Holds a digit: a name or a word of prose does not.
    Digit,
    /// Neither a placeholder (`$VAR`, `<token>`, `****`) nor shorter than four bytes.
    Value,
    /// The same, and the name before `=` is not among [`ENV_HARMLESS`].
    Env,
}

/// A secret that is recognised by its shape. Capture group 1 is the secret; the rest stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    pub(super) kind: &'static str,
    /// A cheap expression without which the pattern cannot match.
    pub(super) hint: &'static str,
    pub(super) expression: &'static str,
    pub(super) check: Check,
}

/// In order of preference: of two rules that match the same bytes the first names them.
pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        kind: "private-key",
        hint: r"PRIVATE KEY-----",
        expression: r"(?s)(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\z))",
        check: Check::Any,
    },
    Pattern {
        kind: "jwt",
        hint: r"eyJ",
        expression: r"\b(eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*)",
        check: Check::JwtHeader,
    },
    Pattern { kind: "aws-key", hint: r"A[KS]IA", expression: r"\b(A[KS]IA[A-Z0-9]{16})\b", check: Check::Any },
    Pattern {
        kind: "aws-secret",
        hint: r"(?i)aws_secret_access_key",
        expression: r#"(?i)aws_secret_access_key["'\\]*\s*[=:]\s*["'\\]*([A-Za-z0-9/+=]{40})"#,
        check: Check::Any,
    },
    Pattern {
        kind: "github-token",
        hint: r"gh[pousr]_|github_pat_",
        expression: r"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        check: Check::Any,
    },
    Pattern {
        kind: "slack-token",
        hint: r"xox[abeoprs]-",
        expression: r"\b(xox[abeoprs]-[A-Za-z0-9-]{10,})",
        check: Check::Digit,
    },
    Pattern { kind: "google-key", hint: r"AIza", expression: r"\b(AIza[0-9A-Za-z_-]{35})", check: Check::Any },
    Pattern {
        kind: "model-key",
        hint: r"\bsk-",
        expression: r"(?:^|[^A-Za-z0-9_-])(sk-[A-Za-z0-9_-]{20,})",
        check: Check::Digit,
    },
    Pattern {
        kind: "stripe-key",
        hint: r"[sr]k_(?:live|test)_",
        expression: r"\b([sr]k_(?:live|test)_[A-Za-z0-9]{10,})",
        check: Check::Any,
    },
    Pattern {
        kind: "authorization",
        hint: r"(?i)bearer\s",
        expression: r"(?i)\bbearer\s+([A-Za-z0-9._~+/=-]{8,})",
        check: Check::Digit,
    },
    Pattern {
        kind: "connection-password",
        hint: r#"://[^\s/:@"'<>]*:[^\s/@"'<>]+@"#,
        expression: r#"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@"'<>]*:([^\s/@"'<>\\]+)@"#,
        check: Check::Value,
    },
    Pattern {
        kind: ENV_KIND,
        hint: r"(?:_KEY|_TOKEN|_SECRET|PASSWORD)\s*=",
        expression: concat!(
            r"\b[A-Z0-9_]*(?:_KEY|_TOKEN|_SECRET|PASSWORD)[ \t]*=[ \t]*",
            r#"("[^"\n]*"|'[^'\n]*'|[^\s"'`;&<\\]+(?:\\[^nrtu"'\\\s][^\s"'`;&<\\]*)*)"#
        ),
        check: Check::Env,
    },
    Pattern {
        kind: "form-secret",
        hint: r"(?i)(?:password|passwd|secret|api_?key|access_token|refresh_token)=",
        expression: concat!(
            r"(?i)(?:^|[?&\s])(?:password|passwd|secret|client_secret|api_?key|access_token|refresh_token)=",
            r#"([^\s&"'<>\\#]+)"#
        ),
        check: Check::Value,
    },
];

/// Kind of `KEY=value` lines and of upper-case members such as `"GITHUB_TOKEN": "..."`.
pub(super) const ENV_KIND: &str = "env";

/// Endings of names whose value is a secret, upper-case names only.
const ENV_ENDINGS: &[&[u8]] = &[b"_KEY", b"_TOKEN", b"_SECRET", b"PASSWORD"];

/// Names with these endings that are no secrets.
pub(super) const ENV_HARMLESS: &[&str] =
    &["PRIMARY_KEY", "FOREIGN_KEY", "PUBLIC_KEY", "SORT_KEY", "PARTITION_KEY", "CACHE_KEY"];

/// Names whose text value is a secret, and the kind; compared in lower case without `-` and `_`, for dotted names
/// (`http.request.header.authorization`) the last segment.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("authorization", "authorization"),
    ("proxyauthorization", "authorization"),
    ("cookie", "cookie"),
    ("setcookie", "cookie"),
    ("xapikey", "api-key"),
    ("apikey", "api-key"),
    ("password", "password"),
    ("passwd", "password"),
    ("secret", "secret"),
    ("clientsecret", "secret"),
    ("privatekey", "private-key"),
    ("accesstoken", "token"),
    ("refreshtoken", "token"),
    // What an MCP server lets a client carry between the rounds of a call: opaque, and its hash is a key already.
    ("requeststate", "request-state"),
    ("registrationaccesstoken", "token"),
];

/// Finds a sensitive name before a quoted value in text that is not JSON as a whole; groups: name, backslashes before the
/// quote of the value. `added` are further names, as expressions.
pub(super) fn quoted_name(added: &[String]) -> String {
    const BUILT_IN: &str = concat!(
        "authorization|proxy-authorization|cookie|set-cookie|x-api-key|password|passwd|secret|client_?secret|api[_-]?key",
        "|private_?key|access_?token|refresh_?token|request_?state"
    );
    const ENV: &str = "(?-i:[A-Z0-9_]*(?:_KEY|_TOKEN|_SECRET|PASSWORD))";
    let added: String = added.iter().map(|name| format!("|{name}")).collect();
    format!(r#"(?i)["']((?:[a-z0-9.]+\.)?(?:{BUILT_IN}{added})|{ENV})\\*["']\s*:\s*(\\*)["']"#)
}

/// An expression for a name that may be spelled with or without separators.
pub(super) fn spelled_anyhow(name: &str) -> String {
    let letters: Vec<String> = name
        .chars()
        .filter(|letter| !matches!(letter, '-' | '_'))
        .map(|letter| regex::escape(letter.encode_utf8(&mut [0; 4])))
        .collect();
    letters.join("[_-]?")
}

/// Finds a header line in text; groups: name, value.
pub(super) const HEADER_LINE: &str = concat!(
    r#"(?im)(?:^|["'\s])(authorization|proxy-authorization|cookie|set-cookie|x-api-key)[ \t]*:[ \t]*"#,
    r#"([^\r\n"'\\]+)"#
);

/// Finds a sensitive attribute name in protobuf (`KeyValue { 1: key, 2: value }`); group: name.
pub(super) const PROTOBUF_NAME: &str = concat!(
    r"(?i)(authorization|proxy-authorization|cookie|set-cookie|x-api-key|password|passwd|secret|client_secret",
    r"|api_?key|access_token|refresh_token)\x12"
);

/// All that stands where a secret was.
pub(super) const LEFT_BY_REDACTION: &str = r"^(?:\[redacted:[a-z0-9-]+:[0-9a-f]{32}\])?\**$";

/// Hints that a sensitive name may occur: a quoted name (also escaped), a header line, a protobuf attribute, an upper-case
/// member; and `\u00`, by which ASCII can be spelled so that no other hint sees it.
pub(super) const NAME_HINTS: &[&str] = &[
    r#"(?i)(?:authorization|cookie|api[_-]?key|passwd|password|secret|private_?key|access_?token|refresh_?token|request_?state)(?:\\*["']|\x12|[ \t]*:)"#,
    r#"(?:_KEY|_TOKEN|_SECRET|PASSWORD)\\*["']"#,
    r"\\u00",
];

/// Whether `name` is a header whose value is dropped, as the first of a pair.
pub(super) fn is_header(name: &[u8]) -> bool {
    const HEADERS: [&str; 5] = ["authorization", "proxyauthorization", "cookie", "setcookie", "xapikey"];
    name.len() <= 32 && HEADERS.contains(&plain_name(name).as_str())
}

/// Lower case without `-` and `_`.
pub(super) fn plain_name(name: &[u8]) -> String {
    let letters = name.iter().filter(|byte| !matches!(byte, b'-' | b'_'));
    letters.map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

/// Whether `name` is upper case and ends like a secret's.
pub(super) fn is_env_name(name: &[u8]) -> bool {
    let shape = name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    shape && ENV_ENDINGS.iter().any(|ending| name.ends_with(ending)) && !is_env_harmless(name)
}

/// Whether an upper-case name ends like a secret but is known not to be one.
pub(super) fn is_env_harmless(name: &[u8]) -> bool {
    ENV_HARMLESS.iter().any(|harmless| name.ends_with(harmless.as_bytes()))
}

/// Every kind of the built-in rules.
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    PATTERNS.iter().map(|pattern| pattern.kind).chain(NAMES.iter().map(|(_, kind)| *kind))
}
