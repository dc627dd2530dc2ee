//! The reading commands: ask the API, print the answer.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;
use threadline_schemas::display::{self, Lines};

use super::client::{Client, Refused, segment};
use super::output::{self, Column};
use super::{
    EXIT_EMPTY, EventArguments, Format, LinksArguments, Printing, SearchArguments, SessionListArguments,
    SessionShowArguments, SqlArguments,
};

/// Rows asked for at a time.
const PAGE_ROWS: usize = 1000;

const SESSION_COLUMNS: &[Column] = &[
    ("START (UTC)", "start"),
    ("SESSION", "id"),
    ("AGENT", "agents"),
    ("USER", "users"),
    ("PROMPT", "title"),
    ("SERVERS", "servers"),
    ("CALLS", "calls"),
    ("ERRORS", "errors"),
    ("DENIED", "denials"),
    ("RECORDS", "coverage"),
];

const HIT_COLUMNS: &[Column] = &[
    ("TIME (UTC)", "event/time"),
    ("KIND", "event/kind"),
    ("SOURCE", "event/source_name"),
    ("SESSION", "session_id"),
    ("EVENT", "event/event_id"),
    ("IN", "column"),
    ("BEFORE", "before"),
    ("MATCH", "matched"),
    ("AFTER", "after"),
];

const LINK_COLUMNS: &[Column] = &[
    ("FILE", "file"),
    ("LINE", "line"),
    ("EVENT", "event_id"),
    ("KIND", "kind"),
    ("SESSION", "session"),
    ("TURN", "turn"),
    ("CALL", "call"),
    ("PARENT", "parent"),
    ("PARENT EVENT", "parent_event_id"),
    ("RELATION", "relation"),
    ("GRADE", "grade"),
    ("RULE", "rule"),
    ("SCORE", "score"),
    ("COMPARED", "compared"),
];

/// `threadline session list`.
pub(crate) async fn session_list(arguments: SessionListArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    let mut query = Vec::new();
    for (name, value) in [
        ("user", arguments.user),
        ("agent", arguments.agent),
        ("tool", arguments.tool),
        ("server", arguments.server),
        ("outcome", arguments.outcome),
        ("from", arguments.from),
        ("to", arguments.to),
    ] {
        query.extend(value.map(|value| (name, value)));
    }
    query.extend(arguments.all.then(|| ("all", "true".to_string())));
    let answer = pages(&client, "/api/v1/sessions", query, arguments.limit).await?;
    let rows = array(&answer);
    match output::terminal_width(&arguments.printing).filter(|width| *width < WIDE_COLUMNS) {
        Some(width) => {
            let text: String = rows.iter().map(|row| session_lines(row, width)).collect();
            output::write(None, text.as_bytes())?;
            output::completeness(&answer);
        }
        None => output::rows(&arguments.printing, &answer, &rows, SESSION_COLUMNS)?,
    }
    Ok(emptiness(&arguments.printing, rows.is_empty()))
}

/// Characters of one name on those lines.
const NAME_CHARACTERS_MAX: usize = 24;

/// Columns below which a session is shown on lines of its own instead of in a table.
const WIDE_COLUMNS: usize = 150;

/// One session on lines that fit: time, id, agent and counts, then its prompt, then who else took part. What does not
/// fit is cut with a mark; ids are whole.
fn session_lines(row: &Value, width: usize) -> String {
    let calls = plural(row["calls"].as_u64().unwrap_or(0) as usize, "call");
    let notable = [("errors", "failed"), ("denials", "denied")].map(|(key, word)| match row[key].as_u64() {
        Some(count) if count > 0 => format!(", {count} {word}"),
        _ => String::new(),
    });
    let first = text(row, "start").get(..19).unwrap_or_default().replace('T', " ");
    let head = format!("{first}  {}  {calls}{}", text(row, "id"), notable.concat());
    // A long name must not push the next ones out.
    let names = |key: &str| {
        let names = each(row, key).filter_map(Value::as_str).map(|name| output::fitted(name, NAME_CHARACTERS_MAX));
        names.collect::<Vec<_>>().join(" ")
    };
    let title = match text(row, "title") {
        "" => "(no prompt recorded)".to_string(),
        title => format!("“{title}”"),
    };
    let parties = [names("agents"), names("users"), names("servers")]
        .map(|names| if names.is_empty() { "-".into() } else { names });
    let last = format!("{} | {}", parties.join(" | "), counts(&row["coverage"]));
    [head, format!("    {title}"), format!("    {last}")].map(|line| output::fitted(&line, width) + "\n").concat()
}

/// One hit on lines that fit: when and what, the match with the text around it, session and event.
fn hit_lines(row: &Value, width: usize) -> String {
    let event = &row["event"];
    let head = format!(
        "{}  {} {}  {}  in {}",
        output::to_millis(text(event, "time")),
        text(event, "kind"),
        text(event, "tool_name"),
        text(event, "source_name"),
        text(row, "column")
    );
    let matched = text(row, "matched");
    let room = width.saturating_sub(matched.chars().count() + 8) / 2;
    let before = text(row, "before");
    let from = before.chars().count().saturating_sub(room);
    let before: String = before.chars().skip(from).collect();
    let around = format!("    {}{before}»{matched}«{}", if from > 0 { "…" } else { "" }, text(row, "after"));
    let ids = match text(row, "session_id") {
        "" => format!("    event {}", text(event, "event_id")),
        session => format!("    {session}  event {}", text(event, "event_id")),
    };
    [head, around, ids].map(|line| output::fitted(&line, width) + "\n").concat()
}

/// `threadline session show`.
pub(crate) async fn session_show(arguments: SessionShowArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    let known_at = arguments.as_known_at.map(|at| ("as_known_at", at));
    let query: Vec<(&str, String)> =
        arguments.grade.map(|grade| ("grade", grade)).into_iter().chain(known_at).collect();
    let answer = client.get(&format!("/api/v1/sessions/{}", segment(&arguments.id)), &query).await;
    let answer = match answer {
        Err(error) => return nothing(arguments.printing.fail_empty, error),
        Ok(answer) => answer,
    };
    if arguments.printing.format == Format::Table {
        let text = session_text(&answer["data"]);
        output::write(arguments.printing.output.as_deref(), text.as_bytes())?;
        output::completeness(&answer);
    } else {
        let rows = session_rows(&answer["data"]);
        output::rows(&arguments.printing, &answer, &rows, RECORD_COLUMNS)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `threadline event show`.
pub(crate) async fn event_show(arguments: EventArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    let answer = match client.get(&format!("/api/v1/events/{}", segment(&arguments.id)), &[]).await {
        Err(error) => return nothing(arguments.printing.fail_empty, error),
        Ok(answer) => answer,
    };
    let record = answer.pointer("/data/record").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut rows: Vec<Value> = record
        .into_iter()
        .filter(|(name, _)| name != "raw")
        .map(|(name, value)| serde_json::json!({"column": name, "value": value}))
        .collect();
    for link in answer.pointer("/data/links").and_then(Value::as_array).into_iter().flatten() {
        rows.push(serde_json::json!({"column": "link", "value": link_text(link)}));
    }
    rows.push(serde_json::json!({"column": "leaf_hash", "value": answer.pointer("/data/leaf_hash")}));
    rows.push(serde_json::json!({"column": "session", "value": answer.pointer("/data/session_id")}));
    output::rows(&arguments.printing, &answer, &rows, &[("COLUMN", "column"), ("VALUE", "value")])?;
    Ok(ExitCode::SUCCESS)
}

/// `threadline event raw`.
pub(crate) async fn event_raw(arguments: EventArguments) -> anyhow::Result<ExitCode> {
    if output::to_terminal(&arguments.printing) {
        bail!("raw bytes could steer your terminal: add `-o FILE` or pipe them, e.g. `| xxd`");
    }
    let client = Client::open(&arguments.place)?;
    let bytes = client.get_bytes(&format!("/api/v1/events/{}/raw", segment(&arguments.id)), &[]).await?;
    output::write(arguments.printing.output.as_deref(), &bytes)?;
    Ok(ExitCode::SUCCESS)
}

/// `threadline search`.
pub(crate) async fn search(arguments: SearchArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    let mut query = vec![("q", arguments.query)];
    query.extend(arguments.from.map(|value| ("from", value)));
    query.extend(arguments.to.map(|value| ("to", value)));
    let answer = pages(&client, "/api/v1/search", query, arguments.limit).await?;
    let rows = array(&answer);
    match output::terminal_width(&arguments.printing).filter(|width| *width < WIDE_COLUMNS) {
        Some(width) => {
            let text: String = rows.iter().map(|row| hit_lines(row, width)).collect();
            output::write(None, text.as_bytes())?;
            output::completeness(&answer);
        }
        None => output::rows(&arguments.printing, &answer, &rows, HIT_COLUMNS)?,
    }
    Ok(emptiness(&arguments.printing, rows.is_empty()))
}

/// `threadline sql`.
pub(crate) async fn sql(arguments: SqlArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    let answer = client.post("/api/v1/sql", &serde_json::json!({"query": arguments.query})).await?;
    let names: Vec<String> = answer
        .pointer("/data/columns")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect();
    let rows: Vec<Value> = answer
        .pointer("/data/rows")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|row| {
            names
                .iter()
                .enumerate()
                .map(|(index, _)| (index.to_string(), row[index].clone()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        })
        .collect();
    if arguments.printing.format == Format::Ndjson {
        let named: Vec<Value> = rows.iter().map(|row| named(row, &names)).collect();
        output::rows(&arguments.printing, &answer, &named, &[])?;
        return Ok(emptiness(&arguments.printing, named.is_empty()));
    }
    // Headings live as long as the process: a command prints one table.
    let columns: Vec<Column> =
        names.iter().enumerate().map(|(index, name)| (&*name.clone().leak(), &*index.to_string().leak())).collect();
    output::rows(&arguments.printing, &answer, &rows, &columns)?;
    Ok(emptiness(&arguments.printing, rows.is_empty()))
}

/// `threadline links`.
pub(crate) async fn links(arguments: LinksArguments) -> anyhow::Result<ExitCode> {
    let client = Client::open(&arguments.place)?;
    if let Some(event) = &arguments.explain {
        return explain(&client, event, &arguments.printing).await;
    }
    if arguments.findings {
        let answer = client.get("/api/v1/links/findings", &[]).await?;
        let rows = array(&answer);
        output::rows(&arguments.printing, &answer, &rows, FINDING_COLUMNS)?;
        return Ok(emptiness(&arguments.printing, rows.is_empty()));
    }
    let query: Vec<(&str, String)> = arguments.session.map(|id| ("session", id)).into_iter().collect();
    let answer = match pages(&client, "/api/v1/links", query, 0).await {
        Err(error) => return nothing(arguments.printing.fail_empty, error),
        Ok(answer) => answer,
    };
    let rows = array(&answer);
    output::rows(&arguments.printing, &answer, &rows, LINK_COLUMNS)?;
    Ok(emptiness(&arguments.printing, rows.is_empty()))
}

const FINDING_COLUMNS: &[Column] = &[
    ("FINDING", "kind"),
    ("NAME", "name"),
    ("RECORDS", "records"),
    ("FROM (UTC)", "from"),
    ("TO (UTC)", "to"),
    ("MEANS", "description"),
    ("FIRST EVENTS", "event_ids"),
];

const EXPLAIN_COLUMNS: &[Column] = &[
    ("RELATION", "relation"),
    ("PARENT", "to"),
    ("GRADE", "grade"),
    ("RULE", "rule"),
    ("SCORE", "score"),
    ("COMPARED", "what"),
    ("CHILD'S", "from_value"),
    ("PARENT'S OR WEIGHT", "to_value"),
];

/// Each piece of evidence for where one record stands, and the rivals that it beat.
async fn explain(client: &Client, event: &str, printing: &super::Printing) -> anyhow::Result<ExitCode> {
    let answer = client.get(&format!("/api/v1/events/{}", segment(event)), &[]).await?;
    let own = each(&answer["data"], "links").filter(|link| link["from"] == answer["data"]["record"]["event_id"]);
    let mut rows = Vec::new();
    for link in own {
        let mut row = link.clone();
        let compared: Vec<&Value> = each(link, "compared").collect();
        if compared.is_empty() {
            rows.push(row.clone());
        }
        for part in compared {
            (row["what"], row["from_value"], row["to_value"]) =
                (part["what"].clone(), part["from"].clone(), part["to"].clone());
            rows.push(row.clone());
        }
    }
    output::rows(printing, &answer, &rows, EXPLAIN_COLUMNS)?;
    Ok(emptiness(printing, rows.is_empty()))
}

/// Follows cursors until `limit` rows (0: all) are there. What the limit leaves out is said.
async fn pages(client: &Client, path: &str, query: Vec<(&str, String)>, limit: usize) -> anyhow::Result<Value> {
    let mut rows: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let wanted = if limit == 0 { PAGE_ROWS } else { (limit - rows.len()).min(PAGE_ROWS) };
        let mut query = query.clone();
        query.push(("limit", wanted.to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let mut answer = client.get(path, &query).await?;
        rows.extend(array(&answer));
        cursor = answer["next_cursor"].as_str().map(str::to_string);
        let enough = limit > 0 && rows.len() >= limit;
        if cursor.is_none() || enough {
            if cursor.is_some() {
                say_cut(&mut answer, rows.len());
            }
            answer["data"] = Value::Array(rows);
            return Ok(answer);
        }
    }
}

/// The limit left something out: the answer is partial and says how to get the rest.
fn say_cut(answer: &mut Value, rows: usize) {
    let reason = format!("the limit of {rows} rows was reached and more match: --limit 0 gives them all");
    answer["completeness"]["state"] = "partial".into();
    match answer["completeness"]["reasons"].as_array_mut() {
        Some(reasons) => reasons.push(reason.into()),
        None => answer["completeness"]["reasons"] = serde_json::json!([reason]),
    }
}

fn array(answer: &Value) -> Vec<Value> {
    answer["data"].as_array().cloned().unwrap_or_default()
}

fn named(row: &Value, names: &[String]) -> Value {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.clone(), row[index.to_string()].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// An id that nothing bears is nothing found, where that has an exit code of its own.
pub(super) fn nothing(fail_empty: bool, error: anyhow::Error) -> anyhow::Result<ExitCode> {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.is_empty() && fail_empty => {
            output::talk(&refused.to_string());
            Ok(ExitCode::from(EXIT_EMPTY))
        }
        _ => Err(error),
    }
}

fn emptiness(printing: &Printing, empty: bool) -> ExitCode {
    if empty && printing.fail_empty { ExitCode::from(EXIT_EMPTY) } else { ExitCode::SUCCESS }
}

const RECORD_COLUMNS: &[Column] = &[
    ("TURN", "turn"),
    ("CALL", "call"),
    ("TIME (UTC)", "time"),
    ("KIND", "kind"),
    ("SOURCE", "source_name"),
    ("SERVER", "server_name"),
    ("TOOL", "tool_name"),
    ("OUTCOME", "outcome"),
    ("GRADE", "link/grade"),
    ("RULE", "link/rule"),
    ("EXCERPT", "excerpt"),
    ("EVENT", "event_id"),
];

/// Every record of a session as a row that names its turn and call.
fn session_rows(session: &Value) -> Vec<Value> {
    let mut rows = Vec::new();
    for (number, turn) in numbered(session) {
        let mut push = |event: &Value, call: Option<&Value>| {
            let mut row = event.clone();
            row["turn"] = number.into();
            row["call"] = call.map_or(Value::Null, |call| call["id"].clone());
            rows.push(row);
        };
        turn.get("prompt").filter(|prompt| !prompt.is_null()).into_iter().for_each(|prompt| push(prompt, None));
        for call in each(turn, "calls") {
            each(call, "records").for_each(|record| push(record, Some(call)));
        }
        each(turn, "events").for_each(|event| push(event, None));
    }
    rows
}

/// Turns with the number of their prompt: what has none is not counted, here and on the pages.
fn numbered(session: &Value) -> impl Iterator<Item = (Option<u64>, &Value)> {
    let mut prompts = 0;
    each(session, "turns").map(move |turn| {
        let prompt = turn.get("prompt").filter(|prompt| !prompt.is_null());
        prompts += u64::from(prompt.is_some());
        (prompt.map(|_| prompts), turn)
    })
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn each<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A session for people: header, turns, calls with their evidence, gaps.
fn session_text(session: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = write_session(&mut out, session);
    out
}

/// How far clocks were ahead; times are shown as the sources said them.
fn write_clocks(out: &mut String, session: &Value) -> std::fmt::Result {
    let ahead = |clock: &Value| {
        let steps: Vec<String> =
            each(clock, "ahead_ms").filter_map(Value::as_f64).map(|ms| format!("{:+.3} s", ms / 1e3)).collect();
        format!("{} {}", one_line(clock, "clock"), steps.join(" then "))
    };
    let clocks: Vec<String> = each(session, "clocks").map(ahead).collect();
    if clocks.is_empty() {
        return Ok(());
    }
    writeln!(out, "  clocks ahead of the reference (times are raw): {}", clocks.join(", "))
}

fn write_session(out: &mut String, session: &Value) -> std::fmt::Result {
    let summary = &session["summary"];
    writeln!(out, "Session {}", one_line(summary, "id"))?;
    writeln!(
        out,
        "  {} to {} UTC  ({})",
        moment(summary, "start"),
        moment(summary, "end"),
        duration(&summary["duration_nano"])
    )?;
    for (label, key) in [
        ("agent", "agents"),
        ("user", "users"),
        ("acted as", "acted_as"),
        ("conversation", "conversation_ids"),
        ("servers", "servers"),
    ] {
        let names: Vec<String> =
            each(summary, key).filter_map(Value::as_str).map(|text| display::terminal(text, Lines::Show)).collect();
        if !names.is_empty() {
            writeln!(out, "  {label}: {}", names.join(", "))?;
        }
    }
    let many = |key: &str, what: &str| plural(summary[key].as_u64().unwrap_or(0) as usize, what);
    writeln!(
        out,
        "  {}, {} ({}, {} denied), {} ({})",
        many("prompts", "prompt"),
        many("calls", "call"),
        many("errors", "error"),
        summary["denials"],
        many("records", "record"),
        counts(&summary["coverage"])
    )?;
    write_clocks(out, session)?;
    let mut prompts = 0;
    let has_prompts = numbered(session).any(|(number, _)| number.is_some());
    for (number, turn) in numbered(session) {
        prompts = number.unwrap_or(prompts);
        let title = match number {
            Some(number) => format!("Turn {number}"),
            None if prompts == 0 && has_prompts => "Before any prompt".into(),
            None => "Without a prompt".into(),
        };
        writeln!(out, "\n{title}  {}", moment(turn, "start"))?;
        match turn["prompt_text"].as_str().or(turn["prompt"]["excerpt"].as_str()) {
            Some(text) => writeln!(out, "  “{}”", short(text, 400))?,
            None if each(turn, "events").next().is_none() => {}
            None => writeln!(out, "  {} beside calls", plural(each(turn, "events").count(), "record"))?,
        }
        for call in each(turn, "calls") {
            write_call(out, call)?;
        }
        // Transcript and telemetry both tell what the model said; people need it once.
        let mut said = std::collections::HashSet::new();
        for event in each(turn, "events").filter(|event| event["kind"] == "completion") {
            let excerpt = event["excerpt"].as_str().unwrap_or("");
            if said.insert(excerpt) {
                writeln!(out, "  says  {}", short(excerpt, 200))?;
            }
        }
    }
    let gaps: Vec<&Value> = each(session, "gaps").collect();
    writeln!(out, "\nGaps: {}", if gaps.is_empty() { "none found" } else { "" })?;
    for gap in gaps {
        writeln!(out, "  - {} ({})", one_line(gap, "description"), one_line(gap, "kind"))?;
    }
    Ok(())
}

fn write_call(out: &mut String, call: &Value) -> std::fmt::Result {
    let mark = match call["outcome"].as_str() {
        Some("ok") => "✓ ok",
        Some("error") => "! error",
        Some("denied") => "⊘ denied",
        Some("cancelled") => "✗ cancelled",
        Some("input_required") => "☑ input required",
        _ => "? no result seen",
    };
    let server = call["server"].as_str().map(|server| format!("{}.", short(server, 60))).unwrap_or_default();
    writeln!(
        out,
        "  {mark}  {server}{}  {}  [{}]",
        short(call["tool"].as_str().unwrap_or("?"), 80),
        moment(call, "start"),
        one_line(call, "grade")
    )?;
    if let Some(arguments) = call["arguments"].as_str() {
        writeln!(out, "      with   {}", short(arguments, 300))?;
    }
    if let Some(result) = call["result"].as_str() {
        writeln!(out, "      gave   {}", short(result, 300))?;
    }
    if call["execution"] == "never_executed" {
        writeln!(out, "      never reached a server")?;
    }
    writeln!(out, "      seen   {}", seen(call))
}

/// Who told of a call, in order; what one side tells several times in a row stands once, with its number.
fn seen(call: &Value) -> String {
    let mut runs: Vec<(String, usize)> = Vec::new();
    for record in each(call, "records") {
        let told = format!("{} {}", one_line(record, "source_kind"), one_line(record, "kind"));
        match runs.last_mut() {
            Some((last, count)) if *last == told => *count += 1,
            _ => runs.push((told, 1)),
        }
    }
    let runs = runs.into_iter().map(|(told, count)| if count > 1 { format!("{told} ×{count}") } else { told });
    runs.collect::<Vec<_>>().join(", ")
}

fn link_text(link: &Value) -> String {
    let compared: Vec<String> = each(link, "compared")
        .map(|c| format!("{} {} = {}", text(c, "what"), text(c, "from"), text(c, "to")))
        .collect();
    format!(
        "{} {} -> {} [{} by {}] {}",
        text(link, "relation"),
        text(link, "from"),
        text(link, "to"),
        text(link, "grade"),
        text(link, "rule"),
        compared.join("; ")
    )
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn one_line(value: &Value, key: &str) -> String {
    display::terminal(text(value, key), Lines::Show)
}

/// A time as people read it; other formats keep every digit.
fn moment(value: &Value, key: &str) -> String {
    output::to_millis(&one_line(value, key))
}

/// The first `max` characters on one line, saying how many were left out.
fn short(text: &str, max: usize) -> String {
    let (shown, left) = display::cut(text, max);
    let shown = display::terminal(&shown, Lines::Show);
    if left > 0 { format!("{shown}… (+{left} characters)") } else { shown }
}

fn counts(map: &Value) -> String {
    map.as_object()
        .into_iter()
        .flatten()
        .map(|(name, count)| format!("{} {count}", display::terminal(name, Lines::Show)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn duration(nanos: &Value) -> String {
    let nanos = nanos.as_i64().unwrap_or(0);
    match nanos {
        n if n < 1_000_000 => format!("{} µs", n / 1_000),
        n if n < 1_000_000_000 => format!("{} ms", n / 1_000_000),
        n => format!("{:.1} s", n as f64 / 1e9),
    }
}
