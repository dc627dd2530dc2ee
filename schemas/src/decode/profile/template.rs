//! Line formats as gateways and databases configure them, as one regular expression with named groups: nginx `log_format`,
//! Apache `LogFormat`, Envoy format strings and PostgreSQL `log_line_prefix`.
//!
//! Invariants
//! - the expression matches whole lines only and in linear time (crate `regex`)
//! - a variable takes what stands between quotes, between brackets, or up to the text that follows it

use super::entry::{Entry, text_member};
use crate::limits::profile::{REGEX_BYTES_MAX, VARIABLES_MAX};
use regex::Regex;

/// Whose template it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Nginx,
    Apache,
    Envoy,
    Postgres,
}

/// A line format that can be read.
#[derive(Debug, Clone)]
pub(super) struct Template {
    regex: Regex,
    /// Name of each group.
    names: Vec<String>,
}

enum Token {
    Literal(String),
    Variable(String),
    /// What follows need not be there (`%q`).
    Optional,
}

impl Template {
    /// Compiles a template. `expressions` replace what a variable takes by default.
    pub(super) fn compile(dialect: Dialect, text: &str, expressions: &[(String, String)]) -> Result<Template, String> {
        let tokens = match dialect {
            Dialect::Nginx => nginx(text),
            Dialect::Apache => apache(text)?,
            Dialect::Envoy => envoy(text)?,
            Dialect::Postgres => postgres(text),
        };
        let mut names = Vec::new();
        let mut pattern = String::from("^");
        let mut optional = 0;
        for (index, token) in tokens.iter().enumerate() {
            match token {
                Token::Literal(literal) => pattern.push_str(&regex::escape(literal)),
                Token::Optional => {
                    pattern.push_str("(?:");
                    optional += 1;
                }
                Token::Variable(name) => {
                    let before = index.checked_sub(1).and_then(|index| literal(&tokens[index])).unwrap_or_default();
                    let after = tokens.get(index + 1).and_then(literal).unwrap_or_default();
                    let own = expressions.iter().find(|(variable, _)| variable == name);
                    let known = POSTGRES_EXPRESSIONS
                        .iter()
                        .find(|(variable, _)| dialect == Dialect::Postgres && variable == name);
                    let taken = match (own, known) {
                        (Some((_, own)), _) => own.clone(),
                        (None, Some((_, known))) => known.to_string(),
                        (None, None) => default_expression(before, after),
                    };
                    pattern.push_str(&format!("(?<v{}>{taken})", names.len()));
                    names.push(name.clone());
                }
            }
        }
        if let Some((unknown, _)) = expressions.iter().find(|(name, _)| !names.contains(name)) {
            return Err(format!("the template has no variable {unknown}"));
        }
        if dialect == Dialect::Postgres {
            pattern.push_str(&")?".repeat(optional));
            names.extend(["level".to_string(), "message".to_string()]);
            let (level, message) = (names.len() - 2, names.len() - 1);
            pattern.push_str(&format!("(?<v{level}>[A-Z][A-Z0-9]*): +(?<v{message}>(?s:.*))"));
        }
        pattern.push('$');
        if names.is_empty() || names.len() > VARIABLES_MAX {
            return Err(format!("a template has between 1 and {VARIABLES_MAX} variables"));
        }
        Template::new(&pattern, names)
    }

    /// A regular expression of the profile's own; its named groups are the fields.
    pub(super) fn of_pattern(pattern: &str) -> Result<Template, String> {
        let regex = compile(pattern)?;
        let names: Vec<String> = regex.capture_names().flatten().map(str::to_string).collect();
        match names.is_empty() {
            true => Err("a pattern needs named groups such as (?<tool>\\S+)".into()),
            false => Ok(Template { regex, names: Vec::new() }),
        }
    }

    fn new(pattern: &str, names: Vec<String>) -> Result<Template, String> {
        Ok(Template { regex: compile(pattern)?, names })
    }

    /// The fields of a line; what reads `-` or nothing is absent.
    pub(super) fn read(&self, line: &str) -> Result<Entry, String> {
        let captures = self.regex.captures(line).ok_or("the line has another form")?;
        let mut members = Vec::new();
        let mut add = |name: &str, group: Option<regex::Match<'_>>| {
            if let Some(group) = group.filter(|group| !matches!(group.as_str(), "" | "-")) {
                members.push(text_member(name, group.as_str()));
            }
        };
        if self.names.is_empty() {
            self.regex.capture_names().flatten().for_each(|name| add(name, captures.name(name)));
        } else {
            self.names.iter().enumerate().for_each(|(index, name)| add(name, captures.get(index + 1)));
        }
        split_request(&mut members);
        Ok(Entry::of(members))
    }
}

/// `GET /path HTTP/1.1` also by its parts, under nginx's names for them.
fn split_request(members: &mut Vec<crate::json::Member>) {
    let request = members.iter().find(|member| member.key == "request").and_then(|member| member.value.as_str());
    let parts: Vec<&str> = request.unwrap_or_default().split(' ').collect();
    let [method, uri, protocol] = parts[..] else { return };
    if !protocol.starts_with("HTTP/") {
        return;
    }
    let parts = [("request_method", method), ("request_uri", uri), ("server_protocol", protocol)];
    let parts = parts.map(|(name, value)| text_member(name, value));
    for part in parts {
        if !members.iter().any(|member| member.key == part.key) {
            members.push(part);
        }
    }
    // Said by its parts now.
    members.retain(|member| member.key != "request");
}

/// Compiles an expression of a profile within its bound.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("not a usable regular expression: {}", last.trim_start_matches("error: "))
    })
}

fn literal(token: &Token) -> Option<&str> {
    match token {
        Token::Literal(text) => Some(text),
        _ => None,
    }
}

fn default_expression(before: &str, after: &str) -> String {
    if before.ends_with('"') && after.starts_with('"') {
        return r#"(?:[^"\\]|\\.)*"#.into();
    }
    if before.ends_with('[') && after.starts_with(']') {
        return r"[^\]]*".into();
    }
    match after.chars().next() {
        None | Some(' ' | '\t') => r"\S*".into(),
        Some(c) => format!("[^{}]*", regex::escape(&c.to_string())),
    }
}

fn push_literal(tokens: &mut Vec<Token>, text: &str) {
    match tokens.last_mut() {
        _ if text.is_empty() => {}
        Some(Token::Literal(literal)) => literal.push_str(text),
        _ => tokens.push(Token::Literal(text.into())),
    }
}

/// `$name` and `${name}`.
fn nginx(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        push_literal(&mut tokens, before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        match name.is_empty() {
            true => push_literal(&mut tokens, "$"),
            false => tokens.push(Token::Variable(name.into())),
        }
        rest = after;
    }
    push_literal(&mut tokens, rest);
    tokens
}

/// `%h`, `%>s`, `%{Referer}i`, `%t` with its brackets; under nginx's names where both know the thing.
fn apache(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_literal(&mut tokens, &before.replace("\\\"", "\""));
        if let Some(after) = after.strip_prefix('%') {
            push_literal(&mut tokens, "%");
            rest = after;
            continue;
        }
        let after =
            after.trim_start_matches(|c: char| c == '>' || c == '<' || c == '!' || c == ',' || c.is_ascii_digit());
        let (argument, after) = match after.strip_prefix('{') {
            Some(inner) => {
                inner.split_once('}').map(|(argument, after)| (Some(argument), after)).ok_or("{ without }")?
            }
            None => (None, after),
        };
        let letter = after.chars().next().ok_or("a template ends in %")?;
        rest = &after[letter.len_utf8()..];
        let name = match (letter, argument) {
            ('h' | 'a', _) => "remote_addr".to_string(),
            ('l', _) => "ident".into(),
            ('u', _) => "remote_user".into(),
            ('r', _) => "request".into(),
            ('s', _) => "status".into(),
            ('b' | 'B' | 'O', _) => "body_bytes_sent".into(),
            ('v' | 'V', _) => "server_name".into(),
            ('p', _) => "server_port".into(),
            ('P', _) => "pid".into(),
            ('D', _) => "duration_us".into(),
            ('T', _) => "duration_s".into(),
            ('m', _) => "request_method".into(),
            ('U', _) => "uri".into(),
            ('L', _) => "request_id".into(),
            ('t', None) => {
                push_literal(&mut tokens, "[");
                tokens.push(Token::Variable("time_local".into()));
                push_literal(&mut tokens, "]");
                continue;
            }
            ('i', Some(header)) => format!("http_{}", header.to_ascii_lowercase().replace('-', "_")),
            ('o', Some(header)) => format!("sent_http_{}", header.to_ascii_lowercase().replace('-', "_")),
            (letter, None) => format!("apache_{letter}"),
            (letter, Some(argument)) => format!("{}_{letter}", argument.to_ascii_lowercase().replace('-', "_")),
        };
        tokens.push(Token::Variable(name));
    }
    push_literal(&mut tokens, &rest.replace("\\\"", "\""));
    Ok(tokens)
}

/// `%START_TIME%`, `%REQ(X?:Y)%`: `start_time`, and of alternatives the last, `req_y`.
fn envoy(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_literal(&mut tokens, before);
        let (operator, after) = after.split_once('%').ok_or("% without a second %")?;
        rest = after;
        if operator.is_empty() {
            push_literal(&mut tokens, "%");
            continue;
        }
        let (operator, arguments) = operator.split_once('(').unwrap_or((operator, ""));
        let argument = arguments.trim_end_matches(|c: char| c == ')' || c == ':' || c.is_ascii_digit());
        let last = argument.rsplit('?').next().unwrap_or_default().trim_start_matches(':');
        let mut name = operator.to_ascii_lowercase();
        // The argument of START_TIME is a form, not a name.
        if !last.is_empty() && operator != "START_TIME" {
            name = format!("{name}_{}", last.to_ascii_lowercase().replace(['-', ':', '.'], "_"));
        }
        tokens.push(Token::Variable(name));
    }
    push_literal(&mut tokens, rest);
    Ok(tokens)
}

/// `%m [%p] %q%u@%d `
fn postgres(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_literal(&mut tokens, before);
        // Padding (%-10u) only adds spaces, which end up inside the value and are harmless.
        let after = after.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        let Some(letter) = after.chars().next() else { break };
        rest = &after[letter.len_utf8()..];
        let name = match letter {
            'q' => {
                tokens.push(Token::Optional);
                continue;
            }
            '%' => {
                push_literal(&mut tokens, "%");
                continue;
            }
            't' | 'm' => "log_time",
            'n' => "log_time_epoch",
            'p' => "process_id",
            'u' => "user_name",
            'd' => "database_name",
            'a' => "application_name",
            'r' => "connection_from",
            'h' => "remote_host",
            'b' => "backend_type",
            'P' => "leader_pid",
            'i' => "command_tag",
            'e' => "sql_state_code",
            'c' => "session_id",
            'l' => "session_line_num",
            's' => "session_start_time",
            'v' => "virtual_transaction_id",
            'x' => "transaction_id",
            'Q' => "query_id",
            'L' => "local_host",
            _ => "unknown",
        };
        tokens.push(Token::Variable(name.into()));
    }
    push_literal(&mut tokens, rest);
    tokens
}

/// What a variable of `log_line_prefix` takes, beyond the default: times hold spaces, and so do the
/// names that drivers and tools give themselves; such a name ends before the first thing that reads as a level.
/// A user has no colon in it, so that the message of a line without the optional part is not read as one.
const POSTGRES_EXPRESSIONS: &[(&str, &str)] = &[
    ("log_time", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \S+"),
    ("session_start_time", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+"),
    ("process_id", r"\d+"),
    ("command_tag", r"[A-Z ]*?"),
    ("user_name", r"[^@:]*?"),
    ("application_name", r".*?"),
    ("backend_type", r".*?"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(dialect: Dialect, template: &str, line: &str, expected: Expect) {
        let shown = match Template::compile(dialect, template, &[]).and_then(|template| template.read(line)) {
            Ok(entry) => entry.root.to_string(),
            Err(reason) => reason,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn nginx_formats() {
        let format =
            r#"$remote_addr - $remote_user [$time_local] "$request" $status ${body_bytes_sent}B "$http_user_agent""#;
        check(
            Dialect::Nginx,
            format,
            r#"10.0.0.1 - - [02/Mar/2026:08:00:02 +0000] "GET /a?b=\"c HTTP/1.1" 200 17B "x [y]""#,
            expect![[
                r#"{"remote_addr":"10.0.0.1","time_local":"02/Mar/2026:08:00:02 +0000","status":"200","body_bytes_sent":"17","http_user_agent":"x [y]","request_method":"GET","request_uri":"/a?b=\\\"c","server_protocol":"HTTP/1.1"}"#
            ]],
        );
        check(
            Dialect::Nginx,
            format,
            "10.0.0.1 - - [x] \"GET\" 200 17B \"y\" more",
            expect!["the line has another form"],
        );
    }

    #[test]
    fn apache_formats() {
        check(
            Dialect::Apache,
            r#"%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %D"#,
            r#"shop:443 ::1 - bob [02/Mar/2026:08:00:02 +0000] "-" 408 0 "-" "-" 15"#,
            expect![[
                r#"{"server_name":"shop","server_port":"443","remote_addr":"::1","remote_user":"bob","time_local":"02/Mar/2026:08:00:02 +0000","status":"408","body_bytes_sent":"0","duration_us":"15"}"#
            ]],
        );
    }

    #[test]
    fn envoy_formats() {
        check(
            Dialect::Envoy,
            r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %DURATION% "%REQ(X-REQUEST-ID)%""#,
            r#"[2026-03-02T08:00:02.001Z] "POST /mcp HTTP/2" 200 12 "r-1""#,
            expect![[
                r#"{"start_time":"2026-03-02T08:00:02.001Z","req_method":"POST","req_path":"/mcp","protocol":"HTTP/2","response_code":"200","duration":"12","req_x_request_id":"r-1"}"#
            ]],
        );
    }

    #[test]
    fn postgres_prefixes() {
        let template = Template::compile(Dialect::Postgres, "%m [%p] %q%u@%d ", &[]).unwrap();
        let read = |line: &str| template.read(line).map_or_else(|reason| reason, |entry| entry.root.to_string());
        expect![[r#"{"log_time":"2026-03-02 08:00:00.123 UTC","process_id":"7","user_name":"app","database_name":"shop","level":"LOG","message":"statement: SELECT 1\n\tFROM x"}"#]]
            .assert_eq(&read("2026-03-02 08:00:00.123 UTC [7] app@shop LOG:  statement: SELECT 1\n\tFROM x"));
        expect![[r#"{"log_time":"2026-03-02 08:00:00.123 UTC","process_id":"7","level":"LOG","message":"checkpoint starting"}"#]]
            .assert_eq(&read("2026-03-02 08:00:00.123 UTC [7] LOG:  checkpoint starting"));
        let template = Template::compile(Dialect::Postgres, "%m [%p] %q%u@%d/%a ", &[]).unwrap();
        let name = |line: &str| {
            let entry = template.read(&format!("2026-03-02 08:00:00.123 UTC [7] app@shop/{line}")).unwrap();
            let said = |name: &str| entry.root.str_at(name).unwrap_or("-").to_string();
            format!("{} | {} | {}", said("application_name"), said("level"), said("message"))
        };
        expect!["PostgreSQL JDBC Driver | LOG | statement: select 'a ERROR:  b'"]
            .assert_eq(&name("PostgreSQL JDBC Driver LOG:  statement: select 'a ERROR:  b'"));
        expect!["pgAdmin 4 - DB:shop | ERROR | boom"].assert_eq(&name("pgAdmin 4 - DB:shop ERROR:  boom"));
        expect!["- | LOG | x"].assert_eq(&name(" LOG:  x"));
        let entry = template.read("2026-03-02 08:00:00.123 UTC [7] LOG:  sent to a@b/c with ERROR: d").unwrap();
        assert_eq!(entry.root.str_at("message"), Some("sent to a@b/c with ERROR: d"));
    }
}
