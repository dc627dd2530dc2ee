//! Attribute values that the table names, each from what the record says; `None` where it says nothing.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Context;
use crate::json::Json;
use crate::ocsf::validate::{is_hostname, is_url};
use crate::record::{Kind, Outcome, Record, event_id};

pub(crate) fn operation(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let name = record.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(record.kind.as_str());
    Some(context.name(name).into())
}

/// Id of the turn, else of the event.
pub(crate) fn turn_uid(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let turn = record.turn_id.as_deref().or(record.turn_key.as_deref());
    Some(turn.map_or_else(|| record.event_id.to_string(), |turn| context.name(turn)).into())
}

/// The model's id of the tool use; else connection and JSON-RPC id, which alone would repeat.
pub(crate) fn call_uid(context: &Context<'_>) -> Option<Value> {
    match context.record.tool_call_id.as_deref() {
        Some(id) => Some(context.name(id).into()),
        None => request_uid(context),
    }
}

pub(crate) fn request_uid(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let uid = match (record.connection_id.as_deref(), record.rpc_id.as_deref(), record.call_key.as_deref()) {
        (Some(connection), Some(id), _) => context.name(&format!("{connection}/{id}")),
        (_, _, Some(call)) => context.name(call),
        _ => record.event_id.to_string(),
    };
    Some(uid.into())
}

fn content_data(context: &Context<'_>, name: &str, text: &str, digest: Option<&str>) -> Value {
    let digest = digest.map_or_else(|| hex::encode(Sha256::digest(text)), str::to_string);
    let mut data = json!({"length": text.len(), "digest": digest});
    if let Some(content) = context.content(text) {
        data[name] = content.into();
    }
    data
}

/// Prompt, answer or log text: length and SHA-256 of what is stored, and the text where allowed.
pub(crate) fn text_data(context: &Context<'_>) -> Option<Value> {
    let text = context.record.text.as_deref()?;
    Some(content_data(context, "text", text, None))
}

/// Arguments as one JSON text, never as an object: keys that attackers choose would become columns.
pub(crate) fn arguments_data(context: &Context<'_>) -> Option<Value> {
    let holder = context.request.filter(|request| request.arguments.is_some()).unwrap_or(context.record);
    let arguments = holder.arguments.as_deref()?;
    Some(content_data(context, "arguments", arguments, holder.arguments_digest.as_deref()))
}

pub(crate) fn response(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let message = match record.outcome? {
        Outcome::Ok => "ok",
        Outcome::Error if record.tool_is_error == Some(true) => "isError",
        Outcome::Error => "error",
        Outcome::Denied => "denied",
        Outcome::Cancelled => "cancelled",
        Outcome::InputRequired => "input_required",
    };
    let mut response = json!({"message": message});
    if let Some(code) = record.rpc_error_code {
        response["code"] = code.into();
        response["error"] = code.to_string().into();
    }
    if let Some(result) = &record.result {
        response["data"] = content_data(context, "result", result, record.result_digest.as_deref());
    }
    Some(response)
}

fn resource_of(context: &Context<'_>, kind: &str, name: &str, server: Option<&str>) -> Value {
    let record = context.record;
    let uid = server.map_or_else(|| name.to_string(), |server| format!("{server}/{name}"));
    let mut resource =
        json!({"name": context.name(name), "uid": context.name(&uid), "type": kind, "role_id": 1, "role": "Target"});
    if let Some(digest) = &record.definition_digest {
        resource["version"] = digest.chars().take(16).collect::<String>().into();
        resource["data"] = json!({"definition_sha256": digest});
    }
    json!([resource])
}

pub(crate) fn tool(context: &Context<'_>) -> Option<Value> {
    let (name, server) = context.tool()?;
    Some(resource_of(context, "mcp.tool", name, server))
}

pub(crate) fn resource(context: &Context<'_>) -> Option<Value> {
    let name = context.record.target.as_deref().filter(|name| !name.is_empty())?;
    Some(resource_of(context, "mcp.resource", name, context.record.server_name.as_deref()))
}

pub(crate) fn prompt_template(context: &Context<'_>) -> Option<Value> {
    let name = context.record.target.as_deref().filter(|name| !name.is_empty())?;
    Some(resource_of(context, "mcp.prompt", name, context.record.server_name.as_deref()))
}

fn text_attribute(context: &Context<'_>, names: &[&str]) -> Option<String> {
    let text = match context.attribute(names)? {
        Json::String(text) => context.name(text),
        Json::Number(number) => context.name(number),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn number_attribute(context: &Context<'_>, names: &[&str]) -> Option<Value> {
    text_attribute(context, names)?.parse::<i64>().ok().filter(|number| *number >= 0).map(Value::from)
}

/// `ai_model` needs a name and a provider; with one of them unknown it is left out.
pub(crate) fn model(context: &Context<'_>) -> Option<Value> {
    let name = text_attribute(context, &["gen_ai.request.model", "gen_ai.response.model", "model"])?;
    let provider = text_attribute(context, &["gen_ai.provider.name", "gen_ai.system"])?;
    Some(json!({"name": name, "ai_provider": provider}))
}

pub(crate) fn prompt_tokens(context: &Context<'_>) -> Option<Value> {
    number_attribute(context, &["gen_ai.usage.input_tokens", "input_tokens", "input_token_count"])
}

pub(crate) fn completion_tokens(context: &Context<'_>) -> Option<Value> {
    number_attribute(context, &["gen_ai.usage.output_tokens", "output_tokens", "output_token_count"])
}

/// The trace; with its span where start and end are known.
pub(crate) fn trace(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let mut trace = json!({"uid": record.trace_id.as_deref()?});
    if let (Some(span), Some(duration)) = (&record.span_id, context.duration_ms()) {
        let end = context.time_ms();
        trace["span"] = json!({"uid": span, "start_time": end - duration, "end_time": end});
        if let Some(parent) = &record.parent_span_id {
            trace["span"]["parent_uid"] = parent.as_str().into();
        }
    }
    Some(trace)
}

/// The person or service: what authentication proved, else what was claimed (`unmapped` says which).
pub(crate) fn user(context: &Context<'_>) -> Option<Value> {
    let name = context.name(context.user()?.name);
    (!name.is_empty()).then(|| json!({"name": name.clone(), "uid": name, "type_id": 1, "type": "User"}))
}

pub(crate) fn user_or_unknown(context: &Context<'_>) -> Option<Value> {
    let credential = context.record.credential_fingerprint.as_deref();
    let unknown = || match credential {
        Some(fingerprint) => json!({"uid": context.name(fingerprint), "type_id": 99, "type": "credential"}),
        None => json!({"name": "unknown", "type_id": 0, "type": "Unknown"}),
    };
    Some(user(context).unwrap_or_else(unknown))
}

pub(crate) fn session(context: &Context<'_>) -> Option<Value> {
    Some(json!({"uid": context.session()}))
}

pub(crate) fn service(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let name = record.server_name.as_deref().unwrap_or(&record.source_name);
    Some(json!({"name": if name.is_empty() { "unknown".into() } else { context.name(name) }}))
}

/// The MCP server concerned.
pub(crate) fn server(context: &Context<'_>) -> Option<Value> {
    let name = context.record.server_name.as_deref().filter(|name| !name.is_empty())?;
    Some(json!({"name": context.name(name)}))
}

pub(crate) fn protocol_version(context: &Context<'_>) -> Option<Value> {
    text_attribute(context, &["mcp.protocol.version", "threadline.protocol_version", "protocolVersion"])
        .map(Value::from)
}

/// Why a session ended, in the source's word.
pub(crate) fn reason(context: &Context<'_>) -> Option<Value> {
    let said = context.record.error_type.as_deref().or(context.record.transport_status.as_deref());
    said.map(|text| context.name(text)).or_else(|| text_attribute(context, &["reason"])).map(Value::from)
}

/// What an agent may do without asking: its permission mode, as a privilege.
pub(crate) fn privileges(context: &Context<'_>) -> Option<Value> {
    let said = text_attribute(context, &["permissionMode", "mode"]);
    let mode = said.or_else(|| context.record.authority.as_deref().map(|authority| context.name(authority)))?;
    Some(json!([mode]))
}

/// The token that was shown or given, by its keyed fingerprint; never its value.
pub(crate) fn token(context: &Context<'_>) -> Option<Value> {
    let fingerprint = context.record.credential_fingerprint.as_deref()?;
    Some(json!({"uid": context.name(fingerprint), "type_id": 99, "type": "Access Token"}))
}

/// `activity_id` of Authentication: which step of OAuth, as the name or target says.
pub(crate) fn auth_activity(record: &Record) -> i64 {
    let said = [&record.name, &record.target].map(|text| text.as_deref().unwrap_or_default().to_ascii_lowercase());
    let has = |words: &[&str]| said.iter().any(|text| words.iter().any(|word| text.contains(word)));
    match () {
        () if has(&["exchange"]) => 4,
        () if has(&["refresh"]) => 5,
        () if has(&["logout", "logoff", "revoke"]) => 2,
        () if has(&["token", "authorize", "register"]) => 3,
        () => 1,
    }
}

/// The agent or host program, as the application whose life the event tells.
pub(crate) fn agent_product(context: &Context<'_>) -> Option<Value> {
    let mut product = json!({"name": context.name(context.agent().unwrap_or("unknown"))});
    agent_uid(context).into_iter().for_each(|uid| product["uid"] = uid);
    Some(product)
}

/// The agent's own id, where the source gives one.
pub(crate) fn agent_uid(context: &Context<'_>) -> Option<Value> {
    text_attribute(context, &["gen_ai.agent.id"]).map(Value::from)
}

/// The method of a request to a system behind a server: from the attributes, else from its name (`GET /orders`).
pub(crate) fn http_method(record: &Record) -> Option<&str> {
    let named = record.name.as_deref().and_then(|name| name.split_whitespace().next());
    let is_method = |word: &&str| ACTIVITIES.iter().any(|(method, _)| method == word);
    named.filter(is_method)
}

const ACTIVITIES: &[(&str, i64)] = &[
    ("CONNECT", 1),
    ("DELETE", 2),
    ("GET", 3),
    ("HEAD", 4),
    ("OPTIONS", 5),
    ("POST", 6),
    ("PUT", 7),
    ("TRACE", 8),
    ("PATCH", 9),
];

/// The file of a downstream record: a `file:` target, a path after a verb of a file system, or an attribute.
pub(crate) fn file_path(record: &Record) -> Option<&str> {
    let target = record.target.as_deref().unwrap_or_default();
    let path = target.strip_prefix("file://").or_else(|| {
        let is_verb = FILE_VERBS.iter().any(|(word, _)| has_word(record.name.as_deref(), word));
        Some(target).filter(|target| is_verb && target.starts_with('/'))
    });
    let is_told = || record.attributes.as_deref().is_some_and(|text| text.contains("\"file.path\""));
    path.filter(|path| !path.is_empty()).or_else(|| is_told().then_some(target))
}

const FILE_VERBS: &[(&str, i64)] = &[
    ("create", 1),
    ("read", 2),
    ("open", 14),
    ("write", 3),
    ("update", 3),
    ("append", 3),
    ("delete", 4),
    ("unlink", 4),
    ("remove", 4),
    ("rename", 5),
    ("chmod", 7),
    ("stat", 8),
];

fn has_word(name: Option<&str>, word: &str) -> bool {
    let mut words = name.unwrap_or_default().split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|own| own.eq_ignore_ascii_case(word))
}

/// `activity_id` of File System Activity.
pub(crate) fn file_activity(record: &Record) -> i64 {
    let found = FILE_VERBS.iter().find(|(word, _)| has_word(record.name.as_deref(), word));
    found.map_or(99, |(_, id)| *id)
}

pub(crate) fn file(context: &Context<'_>) -> Option<Value> {
    let told = text_attribute(context, &["file.path"]);
    let path = told.or_else(|| file_path(context.record).map(|path| context.name(path)))?;
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&path).to_string();
    (!name.is_empty()).then(|| json!({"name": name, "path": path, "type_id": 0, "type": "Unknown"}))
}

/// `activity_id` of Datastore Activity: what the first word of the statement does.
pub(crate) fn datastore_activity(record: &Record) -> i64 {
    let first = |text: &Option<String>| {
        let word = text.as_deref()?.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty())?;
        STATEMENTS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, id)| *id)
    };
    first(&record.name).or_else(|| first(&record.target)).or_else(|| first(&record.text)).unwrap_or(4)
}

const STATEMENTS: &[(&str, i64)] = &[
    ("SELECT", 4),
    ("WITH", 4),
    ("UPDATE", 2),
    ("MERGE", 2),
    ("CONNECT", 3),
    ("INSERT", 5),
    ("COPY", 5),
    ("CREATE", 6),
    ("DELETE", 7),
    ("TRUNCATE", 7),
    ("DROP", 7),
];

/// `activity_id` of HTTP Activity.
pub(crate) fn http_activity(record: &Record) -> i64 {
    let method = http_method(record).unwrap_or_default();
    ACTIVITIES.iter().find(|(name, _)| *name == method).map_or(99, |(_, id)| *id)
}

pub(crate) fn http_request(context: &Context<'_>) -> Option<Value> {
    let method = http_method(context.record)?;
    let named =
        context.record.name.as_deref().and_then(|name| name.split_whitespace().nth(1)).map(|path| context.name(path));
    let target = context.record.target.as_deref().map(|target| context.name(target));
    let path = text_attribute(context, &["url.path", "http.target", "http.route"]).or(named);
    let whole = text_attribute(context, &["url.full", "http.url"]).or(target);
    let mut request = json!({"http_method": method, "uid": call_uid(context)?});
    let mut url = serde_json::Map::new();
    // What follows `?` may hold secrets and content.
    let bare = |url: String| url.split(['?', '#']).next().unwrap_or_default().to_string();
    if let Some(path) = path.map(bare).filter(|path| !path.is_empty()) {
        url.insert("path".into(), path.into());
    }
    if let Some(whole) = whole.map(bare).filter(|whole| whole.contains("://") && is_url(whole)) {
        url.insert("url_string".into(), whole.into());
    }
    if !url.is_empty() {
        request["url"] = url.into();
    }
    if let Some(agent) = text_attribute(context, &["user_agent.original", "http.user_agent"]) {
        request["user_agent"] = agent.into();
    }
    Some(request)
}

pub(crate) fn http_response(context: &Context<'_>) -> Option<Value> {
    let said = number_attribute(context, &["http.response.status_code", "http.status_code"]);
    let status = context.record.transport_status.as_deref().and_then(|status| status.parse::<i64>().ok());
    let code = said.or(status.map(Value::from))?;
    code.as_i64().filter(|code| (100..600).contains(code)).map(|code| json!({"code": code}))
}

pub(crate) fn downstream_endpoint(context: &Context<'_>) -> Option<Value> {
    let host = text_attribute(context, &["server.address", "net.peer.name", "http.host"])?;
    // Older versions know no host names with underscores.
    let is_name = is_hostname(&host) && !host.contains('_');
    let mut endpoint = if is_name { json!({"hostname": host}) } else { json!({"svc_name": host}) };
    let port = number_attribute(context, &["server.port", "net.peer.port"]);
    if let Some(port) = port.filter(|port| port.as_i64().is_some_and(|port| port <= 65535)) {
        endpoint["port"] = port;
    }
    Some(endpoint)
}

pub(crate) fn datastore_type(_: &Context<'_>) -> Option<Value> {
    Some("Database".into())
}

pub(crate) fn database(context: &Context<'_>) -> Option<Value> {
    let named = text_attribute(context, &["db.namespace", "db.name", "db.system.name", "db.system"]);
    let source = context.record.server_name.as_deref().unwrap_or(&context.record.source_name);
    let name = named.unwrap_or_else(|| context.name(source));
    let name = if name.is_empty() { "unknown".to_string() } else { name };
    Some(json!({"name": name, "type_id": 0, "type": "Unknown"}))
}

pub(crate) fn own_database(_: &Context<'_>) -> Option<Value> {
    Some(json!({"name": "threadline", "type_id": 1, "type": "Relational"}))
}

/// The statement where text is allowed; else its operation and digest.
pub(crate) fn query(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let said = text_attribute(context, &["db.query.text", "db.statement"]);
    let statement = record.target.as_deref().or(record.text.as_deref()).map(str::to_string).or(said);
    let name = operation(context)?;
    let shown = statement.as_deref().and_then(|statement| context.content(statement));
    let digest = statement.map(|statement| format!("sha256:{}", hex::encode(Sha256::digest(statement))));
    let query = shown.or(digest).unwrap_or_else(|| name.as_str().unwrap_or("unknown").to_string());
    Some(json!({"name": name, "uid": call_uid(context)?, "query_string": query}))
}

/// What was read: its id, or the digest of the question, which is no content.
pub(crate) fn asked(context: &Context<'_>) -> Option<Value> {
    let name = operation(context)?;
    let object = context.record.target.as_deref().map(|object| Value::from(context.name(object)));
    Some(json!({"name": name, "uid": request_uid(context)?, "query_string": object.unwrap_or(name)}))
}

/// Where a reader's connection came from.
pub(crate) fn reader_address(context: &Context<'_>) -> Option<Value> {
    let address = context.attribute(&["read"])?.get("address")?.as_str()?;
    address.parse::<std::net::IpAddr>().ok().map(|address| address.to_string().into())
}

pub(crate) fn process(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let uid = record.connection_id.as_deref().map_or_else(|| record.event_id.to_string(), |id| context.name(id));
    let name = record.server_name.as_deref().unwrap_or(&record.source_name);
    let mut process = json!({"uid": uid});
    if !name.is_empty() {
        process["name"] = context.name(name).into();
    }
    if let Some(pid) = number_attribute(context, &["process.pid", "pid"]) {
        process["pid"] = pid;
    }
    Some(process)
}

/// `exit 3`, as a number.
pub(crate) fn exit_code(context: &Context<'_>) -> Option<Value> {
    let status = context.record.transport_status.as_deref()?.strip_prefix("exit ")?;
    status.parse::<i64>().ok().map(Value::from)
}

pub(crate) fn device(context: &Context<'_>) -> Option<Value> {
    let named = text_attribute(context, &["host.name", "host.id"]);
    let name = named.unwrap_or_else(|| "unknown".into());
    Some(json!({"name": name, "type_id": 0, "type": "Unknown"}))
}

/// A finding of ours: a gap in the recording, or what a rule noticed.
pub(crate) fn finding(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let title = record.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(record.kind.as_str());
    let title = context.name(title);
    let kind = if record.kind == Kind::Gap { "Recording gap" } else { "Audit finding" };
    let (type_id, analytic) = if record.definition_digest.is_some() { (5, "Fingerprinting") } else { (1, "Rule") };
    let mut finding = json!({
        "uid": record.event_id.to_string(), "title": title.clone(), "types": [kind],
        "analytic": {"name": title, "type_id": type_id, "type": analytic}, "created_time": context.time_ms(),
    });
    // A finding that was made of a line names the record of that line.
    if let Some((line, _)) = record.delivery_key.rsplit_once('#') {
        finding["related_events"] = json!([{"uid": event_id(&record.tenant, line).to_string()}]);
    }
    Some(finding)
}

/// The definition before and after, as digests.
pub(crate) fn definitions(context: &Context<'_>) -> Option<Value> {
    let after = context.record.definition_digest.as_deref()?;
    let before = text_attribute(context, &["threadline.definition_before"]);
    Some(json!([{"data": {"definition_sha256": after, "definition_before_sha256": before.unwrap_or_default()}}]))
}

pub(crate) fn origin(context: &Context<'_>) -> Option<Value> {
    let record = context.record;
    let file = record.origin_file.as_deref().unwrap_or(&record.source_name);
    let file = if file.is_empty() { "unknown" } else { file };
    let line = record.origin_line.map(|line| format!(":{line}")).unwrap_or_default();
    Some(format!("{}{line}", context.name(file)).into())
}

pub(crate) fn yes(_: &Context<'_>) -> Option<Value> {
    Some(true.into())
}

/// A path segment: everything but unreserved characters as `%XX` (RFC 3986 section 2).
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
