//! Which format a file is of: by its content first, by its name where the content cannot say.
//!
//! The head of a file may end anywhere, so its lines are not parsed: only the members at the top of
//! each object are looked at. Compressed files are recognised by what is inside, under the name without `.gz`.

use std::sync::Arc;

use super::claude_code::ClaudeCodeDecoder;
use super::codex::CodexDecoder;
use super::http_capture::HttpCapture;
use super::native::NativeDecoder;
use super::otlp::Signal;
use super::profile::{Catalogue, Profile, ProfileDecoder};
use super::stdio_capture::StdioCapture;
use super::{Context, Line, LineDecoder};
use crate::record::{Collector, Kind};

/// Bytes of a file that [`recognise`] wants to see, or all of it.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Lines that are looked at.
const LINES_MAX: usize = 8;

/// Lines that a profile is tried on; entries of several lines need more than one.
const PROFILE_LINES_MAX: usize = 24;

/// A format that can be imported.
#[derive(Debug, Clone)]
pub enum Format {
    /// Recorded stdio of an MCP server.
    McpStdioCapture,
    /// Recorded HTTP of an MCP server.
    McpHttpCapture,
    /// Claude Code session transcript.
    ClaudeCode,
    /// Codex rollout.
    Codex,
    /// One OTLP export body in JSON, or one per line.
    OtlpJson,
    /// One OTLP export body in protobuf.
    OtlpProtobuf,
    /// Native events.
    Native,
    /// Lines as a profile describes them.
    Profile(Arc<Profile>),
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        match (self, other) {
            (Format::Profile(one), Format::Profile(other)) => one.digest() == other.digest(),
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

impl Eq for Format {}

/// Why a file is not imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Skipped {
    /// For the report of an import.
    pub reason: &'static str,
}

impl Format {
    /// Every format that is built in.
    pub const BUILT_IN: &'static [Format] = &[
        Format::McpStdioCapture,
        Format::McpHttpCapture,
        Format::ClaudeCode,
        Format::Codex,
        Format::OtlpJson,
        Format::OtlpProtobuf,
        Format::Native,
    ];

    /// The name for `--as` and reports; also the decoder's name in records.
    pub fn as_str(&self) -> &str {
        match self {
            Format::McpStdioCapture => "mcp-stdio",
            Format::McpHttpCapture => "mcp-http",
            Format::ClaudeCode => "claude-code",
            Format::Codex => "codex",
            Format::OtlpJson => "otlp-json",
            Format::OtlpProtobuf => "otlp-protobuf",
            Format::Native => "native",
            Format::Profile(profile) => profile.name(),
        }
    }

    /// The format of this name, built in or a shipped profile.
    pub fn parse(name: &str) -> Option<Self> {
        Self::named(name, &Catalogue::shipped())
    }

    /// The format of this name, built in or one of these profiles.
    pub fn named(name: &str, catalogue: &Catalogue) -> Option<Self> {
        let built_in = Self::BUILT_IN.iter().find(|format| format.as_str() == name).cloned();
        built_in.or_else(|| catalogue.get(name).cloned().map(Format::Profile))
    }

    /// Whether the name is that of a built-in format.
    pub fn is_built_in(name: &str) -> bool {
        Self::BUILT_IN.iter().any(|format| format.as_str() == name)
    }

    /// Whether it is read line by line, so that a growing file can be followed.
    pub fn is_lines(&self) -> bool {
        !matches!(self, Format::OtlpJson | Format::OtlpProtobuf)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The format of a file by its head, or why it is none; profiles are those that are shipped.
pub fn recognise(file_name: &str, head: &[u8]) -> Result<Format, Skipped> {
    recognise_with(file_name, head, &Catalogue::shipped())
}

/// The same with these profiles.
pub fn recognise_with(file_name: &str, head: &[u8], catalogue: &Catalogue) -> Result<Format, Skipped> {
    let skipped = |reason| Err(Skipped { reason });
    let base = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    let base = base.strip_suffix(".gz").unwrap_or(base);
    if head.iter().all(u8::is_ascii_whitespace) {
        return skipped("empty");
    }
    // A protobuf body begins with field 1, length-delimited: 0x0a. In text that is an empty line, and text may be damaged.
    let is_binary_name = [".pb", ".binpb", ".protobuf"].iter().any(|suffix| base.ends_with(suffix));
    let is_text = std::str::from_utf8(head).is_ok_and(|text| !text.contains('\0'));
    if head[0] == 0x0a && (is_binary_name || !is_text) {
        if Signal::of_path(base).is_some() {
            return Ok(Format::OtlpProtobuf);
        }
        if is_binary_name {
            return skipped("protobuf, but its name does not say logs, traces or metrics");
        }
    }
    let lines = head.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).take(LINES_MAX);
    // A document over several lines shows its members only as a whole.
    let found = lines.map(top_members).chain([top_members(head)]).find_map(|members| of_members(&members));
    // What a built-in decoder reads goes first, then what a profile reads, then what is known not to be a log.
    match found {
        Some(Ok(format)) => Ok(format),
        other => match profile(file_name, head, catalogue) {
            Some(profile) => Ok(Format::Profile(profile)),
            None => other.unwrap_or_else(|| skipped("format not recognised")),
        },
    }
}

/// The profile that reads most of the first lines, if it reads half of them at least.
fn profile(file_name: &str, head: &[u8], catalogue: &Catalogue) -> Option<Arc<Profile>> {
    let head = head.strip_suffix(b"\n").unwrap_or(head);
    let all: Vec<&[u8]> = head.split(|byte| *byte == b'\n').take(PROFILE_LINES_MAX).collect();
    let members: Vec<Vec<TopMember<'_>>> = all.iter().map(|line| top_members(line)).collect();
    let mut best: Option<((usize, i32), &Arc<Profile>)> = None;
    for profile in catalogue.profiles().iter().filter(|profile| profile.is_recognisable()) {
        let lines: Vec<&[u8]> = match profile.json_members() {
            None => all.clone(),
            Some(wanted) => {
                let has =
                    |members: &[TopMember<'_>]| wanted.iter().all(|key| members.iter().any(|member| member.key == key));
                all.iter().zip(&members).filter(|(_, members)| has(members)).map(|(line, _)| *line).collect()
            }
        };
        // The last line of a head may be cut: then its first members have to do.
        let is_cut = |line: &&[u8]| line.first() == Some(&b'{') && line.last() != Some(&b'}');
        let cut = usize::from(profile.json_members().is_some_and(|wanted| !wanted.is_empty()))
            * usize::from(lines.last().is_some_and(is_cut));
        let fitting = fitting_lines(profile, file_name, &lines[..lines.len() - cut]) + cut;
        let said = all.iter().filter(|line| !line.trim_ascii().is_empty()).count();
        let rank = (fitting, profile.priority());
        if fitting > 0 && fitting * 2 >= said && best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, profile));
        }
    }
    best.map(|(_, profile)| profile.clone())
}

/// Lines that end up in a record which is not rejected; none when no record is more than a plain log line.
fn fitting_lines(profile: &Arc<Profile>, file_name: &str, lines: &[&[u8]]) -> usize {
    let context =
        Context { tenant: "", collector: Collector::Own, observed_time_unix_us: i64::MAX / 1000, match_key: None };
    let mut decoder = ProfileDecoder::new(profile.clone());
    let mut records = Vec::new();
    for (line, number) in lines.iter().zip(1..) {
        let line = Line { bytes: line, file: Some(file_name), number, delivery_key: "" };
        records.extend(decoder.line(&context, line));
    }
    records.extend(decoder.finish(&context));
    let read = records.iter().filter(|record| record.kind != Kind::Rejected);
    let lines_of =
        |record: &crate::Record| record.raw.as_deref().map_or(0, |raw| memchr::memchr_iter(b'\n', raw).count() + 1);
    match decoder.is_specific() {
        true => read.map(lines_of).sum(),
        false => 0,
    }
}

/// The signal of an OTLP body: in JSON by its content, in protobuf by the file's name.
pub fn otlp_signal(file_name: &str, head: &[u8]) -> Option<Signal> {
    let members = top_members(head);
    let has = |names: [&str; 2]| members.iter().any(|member| names.contains(&member.key));
    match () {
        () if has(["resourceLogs", "resource_logs"]) => Some(Signal::Logs),
        () if has(["resourceSpans", "resource_spans"]) => Some(Signal::Traces),
        () if has(["resourceMetrics", "resource_metrics"]) => Some(Signal::Metrics),
        () => Signal::of_path(file_name),
    }
}

/// The decoder of a line format, `None` for formats of one body. `first_line_digest` names the file
/// in connection ids; it must not change when the file grows.
pub fn decoder(format: &Format, file_name: &str, first_line_digest: &str) -> Option<Box<dyn LineDecoder>> {
    Some(match format {
        Format::McpStdioCapture => Box::new(StdioCapture::new(file_name, first_line_digest)),
        Format::McpHttpCapture => Box::new(HttpCapture::new(file_name, first_line_digest)),
        Format::ClaudeCode => Box::new(ClaudeCodeDecoder::new()),
        Format::Codex => Box::new(CodexDecoder::new()),
        Format::Native => Box::new(NativeDecoder),
        Format::Profile(profile) => Box::new(ProfileDecoder::new(profile.clone())),
        Format::OtlpJson | Format::OtlpProtobuf => return None,
    })
}

/// What the members of one object say; `None`: nothing.
fn of_members(members: &[TopMember<'_>]) -> Option<Result<Format, Skipped>> {
    let has = |keys: &[&str]| keys.iter().all(|key| members.iter().any(|member| member.key == *key));
    let text = |key: &str| members.iter().find(|member| member.key == key).and_then(|member| member.text);
    let is_event = || text("kind").and_then(Kind::parse).is_some();
    let skipped = |reason| Some(Err(Skipped { reason }));
    match () {
        () if has(&["dir", "raw"]) => Some(Ok(Format::McpStdioCapture)),
        () if has(&["xchg", "kind"]) => Some(Ok(Format::McpHttpCapture)),
        () if [
            "resourceSpans",
            "resourceLogs",
            "resourceMetrics",
            "resource_spans",
            "resource_logs",
            "resource_metrics",
        ]
        .iter()
        .any(|key| has(&[key])) =>
        {
            Some(Ok(Format::OtlpJson))
        }
        () if has(&["timestamp", "type", "payload"]) => Some(Ok(Format::Codex)),
        () if has(&["type", "sessionId"]) || has(&["type", "leafUuid"]) => Some(Ok(Format::ClaudeCode)),
        () if text("type") == Some("file-history-snapshot") => Some(Ok(Format::ClaudeCode)),
        () if has(&["type", "session_id"]) => {
            skipped("standard output of a Claude Code run; its transcript is the source")
        }
        () if text("type").is_some_and(|name| name.starts_with("thread.") || name.starts_with("turn.")) => {
            skipped("standard output of a Codex run; its rollout is the source")
        }
        () if has(&["agentType", "toolUseId"]) => skipped("description of a sub-agent; its transcript is the source"),
        () if has(&["content_type", "file", "path"]) => skipped("index of recorded OTLP bodies"),
        () if has(&["line_id", "session", "kind"]) => skipped("ground truth of a corpus"),
        () if has(&["session", "turns"]) || has(&["session", "steps"]) => skipped("ground truth of a recording"),
        () if has(&["jsonrpc"]) => skipped("JSON-RPC messages that do not say which way they went"),
        () if is_event() => Some(Ok(Format::Native)),
        () => None,
    }
}

/// A member of the outermost object, with its value if that is a string without escapes.
struct TopMember<'a> {
    key: &'a str,
    text: Option<&'a str>,
}

/// Members of the outermost object of text that may end anywhere, first 64.
fn top_members(text: &[u8]) -> Vec<TopMember<'_>> {
    let mut members: Vec<TopMember<'_>> = Vec::new();
    let mut depth = 0usize;
    let mut expects_key = false;
    let mut at = 0;
    while at < text.len() && members.len() < 64 {
        match text[at] {
            b'"' => {
                let start = at + 1;
                let Some(length) = string_length(&text[start..]) else { break };
                let content = std::str::from_utf8(&text[start..start + length]).ok();
                let is_value = depth == 1 && !expects_key;
                if depth == 1 && expects_key {
                    members.extend(content.map(|key| TopMember { key, text: None }));
                    expects_key = false;
                } else if let Some(last) = members.last_mut().filter(|_| is_value) {
                    last.text = content.filter(|content| !content.contains('\\'));
                }
                at = start + length;
            }
            b'{' | b'[' => {
                depth += 1;
                expects_key = depth == 1 && text[at] == b'{';
            }
            b'}' | b']' if depth <= 1 => break,
            b'}' | b']' => depth -= 1,
            b',' if depth == 1 => expects_key = true,
            byte if depth == 0 && !byte.is_ascii_whitespace() => break,
            _ => {}
        }
        at += 1;
    }
    members
}

/// Bytes up to the quote that ends a string.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', &text[from..])?;
        if text[at] == b'"' {
            return Some(at);
        }
        from = at + 2;
        if from > text.len() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::stdio_capture::tests::folder;
    use expect_test::expect;
    use proptest::prelude::*;

    fn shown(name: &str, head: &[u8]) -> String {
        recognise(name, head).map_or_else(|skipped| format!("skipped: {skipped}"), |format| format.to_string())
    }

    #[test]
    fn every_recorded_file_is_recognised_or_skipped_with_a_reason() {
        let mut seen = std::collections::BTreeSet::new();
        let mut folders = vec![folder()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().to_string();
                let whole = shown(&name, &bytes);
                // However much of it is seen, and even if the name says nothing.
                for length in [4000, HEAD_BYTES] {
                    assert_eq!(shown(&name, &bytes[..length.min(bytes.len())]), whole, "{name} {length}");
                }
                if !name.ends_with(".pb") {
                    assert_eq!(shown("x", &bytes), whole, "{name}");
                }
                let suffix = name.rsplit_once('.').unwrap().1;
                seen.insert(format!("{suffix}: {whole}\n"));
            }
        }
        expect![[r#"
            json: otlp-json
            json: skipped: ground truth of a recording
            jsonl: claude-code
            jsonl: codex
            jsonl: contextforge-log
            jsonl: contextforge-tables
            jsonl: mcp-http
            jsonl: mcp-stdio
            jsonl: skipped: index of recorded OTLP bodies
            jsonl: skipped: standard output of a Claude Code run; its transcript is the source
            jsonl: skipped: standard output of a Codex run; its rollout is the source
            md: skipped: format not recognised
            pb: otlp-protobuf
        "#]]
        .assert_eq(&seen.into_iter().collect::<String>());
    }

    #[test]
    fn heads_of_other_files() {
        let all = [
            ("a.jsonl", r#"{"id":"1","kind":"call","tool_name":"x"}"#),
            ("a.jsonl", r#"{"kind":"something"}"#),
            ("a.jsonl", r#"{"jsonrpc":"2.0","id":1}"#),
            ("t.jsonl", "{\"type\":\"summary\",\"summary\":\"\\\"x\\\\\",\"leafUuid\":\"u\"}"),
            ("t.jsonl", "{\"odd\":1}\n{\"type\":\"user\",\"sessionId\":\"s\",\"message\":{\"content\":\"cut he"),
            ("a.json", "[{\"resourceSpans\":[]}]"),
            ("a.json", "{\n  \"resourceSpans\": [\n"),
            ("README.md", "# Read me"),
            ("a.jsonl", "\n{\"id\":\"1\",\"kind\":\"call\",\"tool_name\":\"x\"}\nd\u{0}"),
            ("x.pb", "\n\u{0}\u{1}"),
            ("0001-logs.pb", "\n\u{0}\u{1}"),
            ("empty", "\n\n"),
            ("nothing", ""),
        ];
        let text: String =
            all.iter().map(|(name, head)| format!("{name}: {}\n", shown(name, head.as_bytes()))).collect();
        expect![[r#"
            a.jsonl: native
            a.jsonl: skipped: format not recognised
            a.jsonl: skipped: JSON-RPC messages that do not say which way they went
            t.jsonl: claude-code
            t.jsonl: claude-code
            a.json: skipped: format not recognised
            a.json: otlp-json
            README.md: skipped: format not recognised
            a.jsonl: native
            x.pb: skipped: protobuf, but its name does not say logs, traces or metrics
            0001-logs.pb: otlp-protobuf
            empty: skipped: empty
            nothing: skipped: empty
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn names_parse_back_and_every_line_format_has_a_decoder() {
        for format in Format::BUILT_IN {
            assert_eq!(Format::parse(format.as_str()).as_ref(), Some(format));
            assert_eq!(decoder(format, "f", "d").is_some(), format.is_lines());
        }
        assert_eq!(Format::parse("auto"), None);
    }

    proptest! {
        #[test]
        fn no_head_panics(head in proptest::collection::vec(any::<u8>(), 0..100), json in "[\\[{}\\],:\"\\\\a\n ]{0,40}") {
            prop_assert!(!shown("x", &head).is_empty());
            prop_assert!(!shown("x-logs.pb", json.as_bytes()).is_empty());
            prop_assert!(otlp_signal("x-logs.pb", json.as_bytes()).is_some());
        }
    }
}
