//! Fills an OCSF event from an occurrence and the row of the table that it falls under.
//!
//! What every event has is set here: time, `metadata`, severity, status, actor, endpoints, verdict,
//! observables, and `unmapped` for what OCSF has no place for, flat and bounded. The event is made in the
//! newest version and then fitted ([`super::fit`]).
//!
//! Limits: a name is cut at [`NAME_BYTES_MAX`] bytes, content at [`Policy::text_bytes_max`]; both leave a
//! mark, and a cut sets `metadata.is_truncated`.

use std::cell::{Cell, OnceCell};
use std::fmt::{self, Write};

use serde_json::{Map, Value, json};

use super::facts::Version;
use super::fit::fit;
use super::mapping::{self, Activity, Field, Role, Row};
use super::validate::{TIME_MS, any_at};
use crate::display::{Lines, visible};
use crate::json::{self, Json};
use crate::keys::{Key, KeyKind};
use crate::record::{Decision, Kind, Outcome, Record, SourceKind, TimeQuality};
use crate::stamp;

pub(super) mod fields;

/// Longest name, id or label in an event, bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// `metadata.labels` of a sample, and the name of `unmapped` that is true there.
pub const TEST_LABEL: &str = "threadline.test";
/// How `metadata.uid` of a sample begins; the id of a record is a UUID and never does.
pub const TEST_UID: &str = "threadline-test-";
const TEST_MESSAGE: &str = "Sample event of `threadline forward test`: nothing happened, nothing is recorded.";

/// One thing that happened, as one event tells it.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence<'a> {
    /// The record that tells how it ended.
    pub record: &'a Record,
    /// The request that `record` answers, where the same observer saw both.
    pub request: Option<&'a Record>,
    /// What other records of its session, chain and call say, for what this one leaves out.
    pub session: Option<&'a SessionFacts>,
    /// Nothing happened: a sample that tries a receiver, marked so that whoever gets it can drop it.
    pub is_test: bool,
}

impl<'a> Occurrence<'a> {
    /// A record by itself.
    pub fn of(record: &'a Record) -> Self {
        Occurrence { record, request: None, session: None, is_test: false }
    }
}

/// What the records of a session, and in it of a chain and a call, say, where all that say something say the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// The host's id of it.
    pub conversation: Option<String>,
    /// Who it is for.
    pub user: Option<String>,
    /// Whether an authentication proved the user.
    pub is_authenticated: bool,
    /// Agent or host program.
    pub agent: Option<String>,
    /// The chain from prompt to effect that the record is of; its own stamps when `None`.
    pub chain: Option<String>,
    /// The tool of its call.
    pub tool: Option<String>,
    /// The server of its call.
    pub server: Option<String>,
    /// Whether of all records that tell the end of its call this is the one to count.
    pub completes_call: bool,
}

/// What a receiver may be given.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Bytes of prompt, arguments, result or log text given as text; 0: digests and lengths only.
    pub text_bytes_max: usize,
    /// Where our pages are, for a link back to the session; `None`: no link.
    pub base_url: Option<String>,
}

/// Who, and how we know.
#[derive(Debug, Clone, Copy)]
pub(super) struct User<'a> {
    pub(super) name: &'a str,
    /// `authenticated` or only `claimed`.
    pub(super) basis: &'static str,
    /// Whether other records of the session say so, and this one does not.
    pub(super) is_of_session: bool,
}

/// What the fields of a row are filled from.
pub struct Context<'a> {
    pub(super) record: &'a Record,
    pub(super) request: Option<&'a Record>,
    pub(super) policy: &'a Policy,
    occurrence: Occurrence<'a>,
    attributes: OnceCell<Option<Json>>,
    cut_bytes: Cell<usize>,
}

/// The event of `version` for `occurrence`, complete and valid.
pub fn event(occurrence: Occurrence<'_>, policy: &Policy, version: Version) -> Value {
    let row = mapping::row(occurrence.record);
    let context = Context {
        record: occurrence.record,
        request: occurrence.request,
        policy,
        occurrence,
        attributes: OnceCell::new(),
        cut_bytes: Cell::new(0),
    };
    let made = context.fill(row, row.class_uid, row.activity, row.fields);
    fit(made, version).unwrap_or_else(|| {
        let activity = Activity::Other(context.activity_word(row));
        let made = context.fill(row, mapping::API, activity, mapping::FALLBACK);
        fit(made, version).unwrap_or_else(|| context.bare(row, version))
    })
}

/// The event as JSON text on one line, `time` first: Splunk reads the first `"time":` of the text.
pub fn to_text(event: &Value) -> String {
    let Some(members) = event.as_object() else { return event.to_string() };
    let mut out = String::with_capacity(2048);
    out.push('{');
    let time = members.get("time").map(|time| ("time", time));
    let rest = members.iter().filter(|(name, _)| *name != "time").map(|(name, value)| (name.as_str(), value));
    for (index, (name, value)) in time.into_iter().chain(rest).enumerate() {
        if index > 0 {
            out.push(',');
        }
        // Writing to a text cannot fail.
        let _written = write!(out, "{}:{value}", Name(name));
    }
    out.push('}');
    out
}

/// A member's name as JSON. Those of the schema are plain.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            write!(f, "\"{}\"", self.0)
        } else {
            Value::from(self.0).fmt(f)
        }
    }
}

impl Context<'_> {
    fn fill(&self, row: &Row, class_uid: i64, activity: Activity, fields: &[(&str, Field)]) -> Value {
        let mut event = Map::new();
        let mut set = |path: &str, value: Value| set_at(&mut event, path, value);
        let time = self.time_ms();
        set("time", time.into());
        if let Some(duration) = self.duration_ms() {
            set("start_time", (time - duration).into());
            set("end_time", time.into());
            set("duration", duration.into());
        }
        self.classify(class_uid, activity, &mut set);
        self.metadata(row, &mut set);
        self.outcome(class_uid, &mut set);
        self.actors(row.role, &mut set);
        if row.profiles.contains(&"security_control") {
            self.verdict(&mut set);
        }
        if row.profiles.contains(&"trace") {
            fields::trace(self).into_iter().for_each(|trace| set("trace", trace));
        }
        for (path, field) in fields {
            let value = match field {
                Field::Text(text) => Some(Value::from(*text)),
                Field::Number(number) => Some(Value::from(*number)),
                Field::From(from) => from(self),
            };
            value.into_iter().for_each(|value| set(path, value));
        }
        self.unmapped(&mut set);
        if self.cut_bytes.get() > 0 {
            set("metadata.is_truncated", true.into());
        }
        let mut event = Value::Object(event);
        let observables = observables(&event);
        if !observables.is_empty() {
            event["observables"] = observables.into();
        }
        if self.cut_bytes.get() > 0 {
            // OCSF counts in kilobytes.
            let whole = event.to_string().len() + self.cut_bytes.get();
            event["metadata"]["untruncated_size"] = whole.div_ceil(1024).into();
        }
        event
    }

    fn classify(&self, class_uid: i64, activity: Activity, set: &mut impl FnMut(&str, Value)) {
        let schema = Version::NEWEST.schema();
        let Some(class) = schema.classes.get(&class_uid) else { return };
        let (activity_id, word) = match activity {
            Activity::Known(id) => (id, None),
            Activity::Other(word) => (99, Some(word)),
            Activity::By(id, word) => (id(self.record), Some(word)),
        };
        let captions = class.shape.attributes.get("activity_id");
        let caption = captions.and_then(|captions| captions.caption(&activity_id.into()));
        let caption = caption.unwrap_or("Unknown");
        set("activity_id", activity_id.into());
        set("activity_name", word.filter(|_| activity_id == 99).unwrap_or(caption).into());
        set("category_name", class.category.into());
        set("category_uid", class.category_uid.into());
        set("class_name", class.caption.into());
        set("class_uid", class_uid.into());
        set("type_name", format!("{}: {caption}", class.caption).into());
        set("type_uid", (class_uid * 100 + activity_id).into());
    }

    /// The word for the activity where the class itself is not available.
    fn activity_word(&self, row: &Row) -> &'static str {
        match (row.activity, row.kind) {
            (Activity::Other(word), _) => word,
            (_, Kind::Downstream) => "Downstream Request",
            (_, Kind::Session) => "Session Mode",
            (_, Kind::Access) => "Access",
            (_, Kind::Auth) => "Authenticate",
            (_, Kind::Process) => "Process",
            _ => "Record",
        }
    }

    fn metadata(&self, row: &Row, set: &mut impl FnMut(&str, Value)) {
        let record = self.record;
        set("metadata.version", Version::NEWEST.as_str().into());
        set("metadata.uid", self.uid().into());
        set("metadata.correlation_uid", self.chain().into());
        if !record.delivery_key.is_empty() {
            set("metadata.original_event_uid", self.name(&record.delivery_key).into());
        }
        set("metadata.event_code", row.code.into());
        set(
            "metadata.product",
            json!({"name": "threadline", "vendor_name": "threadline", "version": env!("CARGO_PKG_VERSION")}),
        );
        set("metadata.log_name", "records".into());
        set("metadata.tenant_uid", self.name(&record.tenant).into());
        set("metadata.logged_time", plausible(record.observed_time_unix_us / 1000).unwrap_or(self.time_ms()).into());
        let provider = self.name(&record.source_name);
        if !provider.is_empty() {
            set("metadata.log_provider", provider.clone().into());
        }
        set("metadata.loggers", json!([{"name": provider, "log_name": record.decoder}]));
        if !row.profiles.is_empty() {
            set("metadata.profiles", row.profiles.into());
        }
        // The order in which records became durable: the same in every delivery and export.
        let offset = record.log_position.as_deref().and_then(|at| at.rsplit_once('/')?.1.parse::<i64>().ok());
        offset.into_iter().for_each(|offset| set("metadata.sequence", offset.into()));
        let labels = [record.redactions.as_ref().map(|_| "redacted"), self.occurrence.is_test.then_some(TEST_LABEL)];
        let labels: Vec<&str> = labels.into_iter().flatten().collect();
        if !labels.is_empty() {
            set("metadata.labels", labels.into());
        }
        if self.occurrence.is_test {
            set("message", TEST_MESSAGE.into());
        }
    }

    /// Severity and status; a finding has its own states.
    fn outcome(&self, class_uid: i64, set: &mut impl FnMut(&str, Value)) {
        let record = self.record;
        let is_denied = record.outcome == Some(Outcome::Denied) || matches!(record.decision, Some(Decision::Deny));
        let severity = match record.kind {
            Kind::Finding => 4,
            Kind::Gap => 3,
            Kind::Rejected => 2,
            _ if is_denied => 3,
            _ if matches!(record.outcome, Some(Outcome::Error)) => 2,
            _ => 1,
        };
        let severities = ["Unknown", "Informational", "Low", "Medium", "High"];
        set("severity_id", severity.into());
        set("severity", severities.get(severity).copied().unwrap_or("Unknown").into());
        if class_uid == mapping::FINDING {
            set("status_id", 1.into());
            return set("status", "New".into());
        }
        let status = match (record.outcome, record.decision) {
            (Some(Outcome::Ok), _) | (None, Some(Decision::Allow | Decision::Redact)) => 1,
            (Some(Outcome::Error | Outcome::Denied | Outcome::Cancelled), _) => 2,
            (None, Some(Decision::Deny | Decision::Cancel)) => 2,
            (Some(Outcome::InputRequired), _) | (None, Some(Decision::Ask) | None) => 0,
        };
        set("status_id", status.into());
        set("status", ["Unknown", "Success", "Failure"].get(status).copied().unwrap_or("Unknown").into());
        self.status_code().into_iter().for_each(|code| set("status_code", code.into()));
    }

    /// The most telling code of the layers: decision, JSON-RPC, tool, transport.
    fn status_code(&self) -> Option<String> {
        let record = self.record;
        let by_person = record.decision_by.as_deref().is_some_and(|by| by.contains("user"));
        match (record.decision, record.outcome) {
            (Some(Decision::Allow), _) => Some(if by_person { "approved" } else { "policy_allowed" }.into()),
            (Some(Decision::Deny), _) => Some(if by_person { "rejected" } else { "policy_denied" }.into()),
            (Some(Decision::Ask), _) => Some("approval_requested".into()),
            (Some(Decision::Redact), _) => Some("policy_modified".into()),
            (Some(Decision::Cancel), _) | (None, Some(Outcome::Cancelled)) => Some("cancelled".into()),
            (None, Some(Outcome::InputRequired)) => Some("input_required".into()),
            // What lasted has ended; how, its source does not say.
            (None, None) if record.kind == Kind::Call && record.duration_nano.is_none() => Some("no_result".into()),
            (None, Some(Outcome::Error | Outcome::Denied)) => {
                let layers = [
                    record.rpc_error_code.map(|code| code.to_string()),
                    record.tool_is_error.filter(|is_error| *is_error).map(|_| "isError".to_string()),
                    record.error_type.as_deref().map(|text| self.name(text)),
                    record.transport_status.as_deref().map(|text| self.name(text)),
                ];
                Some(layers.into_iter().flatten().next().unwrap_or_else(|| "error".into()))
            }
            _ => None,
        }
    }

    fn actors(&self, role: Role, set: &mut impl FnMut(&str, Value)) {
        let record = self.record;
        let agent = self.agent();
        let server = record.server_name.as_deref();
        let server = server.or((record.source_kind == SourceKind::Server).then_some(record.source_name.as_str()));
        let (acting, other) = if role == Role::Tool { (server, agent) } else { (agent, server) };
        let acting = acting.map(|name| self.name(name)).filter(|name| !name.is_empty());
        if let Some(app) = acting.clone().or_else(|| self.emitter()) {
            set("actor.app_name", app.into());
        }
        if let Some(uid) = fields::agent_uid(self).filter(|_| role != Role::Tool) {
            set("actor.app_uid", uid);
        }
        let acting_name = acting.unwrap_or_else(|| "unknown".into());
        set("actor.session.uid", self.session().into());
        if let Some(user) = fields::user(self) {
            set("actor.user", user);
        }
        set("src_endpoint.svc_name", acting_name.clone().into());
        if let Some(other) = other {
            set("dst_endpoint.svc_name", self.name(other).into());
        }
        set("message_context.uid", self.name(self.session_id()).into());
        set("message_context.ai_role_id", (role as i64).into());
        set("message_context.ai_role", format!("{role:?}").into());
        match server {
            Some(server) => set("message_context.service.name", self.name(server).into()),
            None => set("message_context.application.name", acting_name.into()),
        }
    }

    /// The agent or host program; where the record says nothing of it and a host wrote it, that one. Who recorded it is in
    /// `metadata.log_provider`, and no actor.
    pub(super) fn agent(&self) -> Option<&str> {
        let record = self.record;
        let told = record.agent_name.as_deref().or(record.client_name.as_deref());
        let told = told.or(self.occurrence.session.and_then(|session| session.agent.as_deref()));
        let host = (record.source_kind == SourceKind::Host).then_some(record.source_name.as_str());
        told.or(host).filter(|name| !name.is_empty())
    }

    /// The service that tells of itself, where nobody says who called it: better a name than none, and marked as that.
    fn emitter(&self) -> Option<String> {
        let is_unknown =
            self.record.source_kind == SourceKind::Server && self.agent().is_none() && self.user().is_none();
        Some(self.name(&self.record.source_name)).filter(|name| is_unknown && !name.is_empty())
    }

    /// The tool of the call, and its server: as the record says, else as other records of the call do.
    pub(super) fn tool(&self) -> Option<(&str, Option<&str>)> {
        let record = self.record;
        let own = record.tool_name.as_deref().filter(|name| !name.is_empty());
        let server = record.server_name.as_deref();
        match (own, self.occurrence.session) {
            (Some(tool), _) => Some((tool, server)),
            (None, Some(told)) => Some((told.tool.as_deref()?, server.or(told.server.as_deref()))),
            (None, None) => None,
        }
    }

    /// The profile `security_control`: what was decided, by whom.
    fn verdict(&self, set: &mut impl FnMut(&str, Value)) {
        let by = self.record.decision_by.as_deref();
        let by_person = by.is_some_and(|by| by.contains("user")) || self.record.kind == Kind::Approval;
        let is_refused = self.record.outcome == Some(Outcome::Denied);
        let (action, disposition) = match self.record.decision {
            None if is_refused => ((2, "Denied"), (2, "Blocked")),
            Some(Decision::Allow) => ((1, "Allowed"), if by_person { (8, "Approved") } else { (1, "Allowed") }),
            Some(Decision::Deny | Decision::Cancel) => {
                ((2, "Denied"), if by_person { (25, "Rejected") } else { (2, "Blocked") })
            }
            Some(Decision::Redact) => ((4, "Modified"), (11, "Corrected")),
            Some(Decision::Ask) | None => ((3, "Observed"), (14, "Delayed")),
        };
        set("action_id", action.0.into());
        set("action", action.1.into());
        set("disposition_id", disposition.0.into());
        set("disposition", disposition.1.into());
        let policy = by.filter(|_| !by_person).map(|by| json!({"name": self.name(by), "is_applied": true}));
        if let Some(decision) = self.record.decision {
            let mut authorization = json!({"decision": decision.as_str()});
            policy.iter().for_each(|policy| authorization["policy"] = policy.clone());
            set("authorizations", json!([authorization]));
        }
        policy.into_iter().for_each(|policy| set("policy", policy));
    }

    /// What has no place in OCSF: flat, scalar, bounded.
    fn unmapped(&self, set: &mut impl FnMut(&str, Value)) {
        let record = self.record;
        let mut flat = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            value.into_iter().for_each(|value| drop(flat.insert(name.into(), value)));
        };
        let text = |value: &Option<String>| value.as_deref().map(|value| Value::from(self.name(value)));
        put(TEST_LABEL, self.occurrence.is_test.then_some(true.into()));
        put("threadline.kind", Some(record.kind.as_str().into()));
        put("threadline.source_kind", Some(record.source_kind.as_str().into()));
        put("threadline.session_key", Some(self.name(&record.session_key).into()));
        put("threadline.turn_key", text(&record.turn_key));
        put("threadline.call_key", text(&record.call_key));
        let request = self.request.map(|request| Value::from(request.event_id.to_string()));
        put("threadline.request_event_id", request);
        if record.time_quality != TimeQuality::Source {
            put("threadline.time_quality", Some(record.time_quality.as_str().into()));
        }
        put("threadline.arguments_digest", text(&record.arguments_digest));
        put("threadline.result_digest", text(&record.result_digest));
        put("threadline.outcome", record.outcome.map(|outcome| outcome.as_str().into()));
        put("threadline.decision_by", text(&record.decision_by));
        put("mcp.jsonrpc_id", text(&record.rpc_id));
        put(
            "threadline.call_completed",
            self.occurrence.session.and_then(|told| told.completes_call.then_some(true.into())),
        );
        put("mcp.tool", self.tool().map(|(tool, _)| self.name(tool).into()));
        let server = record.server_name.as_deref().or(self.tool().and_then(|(_, server)| server));
        put("mcp.server", server.map(|server| self.name(server).into()));
        put("ai.turn_id", text(&record.turn_id));
        put("ai.tool_call_id", text(&record.tool_call_id));
        put("otel.trace_id", text(&record.trace_id));
        put("otel.span_id", text(&record.span_id));
        put("user.credential_fingerprint", text(&record.credential_fingerprint));
        put("user.authority", text(&record.authority));
        put("actor.basis", self.emitter().map(|_| "emitter".into()));
        put("user.basis", self.user().map(|user| user.basis.into()));
        put("user.said_by", self.user().and_then(|user| user.is_of_session.then_some("session".into())));
        if record.kind == Kind::Access
            && let Some(export) = self.attribute(&["export"])
        {
            // What was taken: numbers, digests and the reason, not the words that were asked for.
            let word = |name: &str| export.get(name).and_then(Json::as_str).map(|word| Value::from(self.name(word)));
            put("access.records", export.get("records").and_then(Json::as_i64).map(Value::from));
            put("access.format", word("format"));
            put("access.sha256", word("sha256"));
            put("access.reason", word("reason"));
        }
        if record.kind == Kind::Access
            && let Some(count) = self.attribute(&["read"]).and_then(|read| read.get("count")?.as_i64())
        {
            put("access.count", Some(count.into()));
        }
        if let Some(base) = &self.policy.base_url {
            // Pages take blanks off an id that somebody typed; one that has some of its own is found by its stamp.
            let id = Some(self.session_id()).filter(|id| id.trim() == *id).unwrap_or(&record.session_key);
            let link = format!("{}/sessions/{}", base.trim_end_matches('/'), fields::percent(id));
            put("threadline.session_url", Some(link.into()));
        }
        set("unmapped", Value::Object(flat));
    }

    /// An event that holds only what every version knows; for what could not be fitted otherwise.
    fn bare(&self, row: &Row, version: Version) -> Value {
        let mut event = Map::new();
        let mut set = |path: &str, value: Value| set_at(&mut event, path, value);
        set("time", self.time_ms().into());
        self.classify(mapping::API, Activity::Other("Record"), &mut set);
        set("severity_id", 1.into());
        set("metadata.version", version.as_str().into());
        set("metadata.uid", self.uid().into());
        set("metadata.correlation_uid", self.chain().into());
        set("metadata.product", json!({"name": "threadline", "vendor_name": "threadline"}));
        if self.occurrence.is_test {
            set("message", TEST_MESSAGE.into());
        }
        set("actor.session.uid", self.session().into());
        set("api.operation", row.code.into());
        set("src_endpoint.svc_name", self.name(&self.record.source_name).into());
        Value::Object(event)
    }

    /// When it happened, epoch milliseconds; when we saw it, where the source's time is not plausible.
    fn time_ms(&self) -> i64 {
        let seen = plausible(self.record.observed_time_unix_us / 1000);
        plausible(self.record.time_unix_nano / 1_000_000).or(seen).unwrap_or(*TIME_MS.start())
    }

    fn duration_ms(&self) -> Option<i64> {
        let duration = self.record.duration_nano? / 1_000_000;
        let is_plausible = duration >= 0 && plausible(self.time_ms().checked_sub(duration)?).is_some();
        is_plausible.then_some(duration)
    }

    /// The id of the event.
    fn uid(&self) -> String {
        format!("{}{}", if self.occurrence.is_test { TEST_UID } else { "" }, self.record.event_id)
    }

    /// What leads from a prompt to its effects; else what the record itself bears, and of a session alone its stamp.
    fn chain(&self) -> String {
        let record = self.record;
        let told = self.occurrence.session;
        let own = record.trace_id.as_deref().or(record.turn_key.as_deref()).or(record.call_key.as_deref());
        let session = || {
            let known = told.and_then(|told| told.conversation.as_deref());
            let known = known.map(|id| stamp::name("session", &Key::new(KeyKind::Conversation, id).to_string()));
            known.unwrap_or_else(|| record.session_key.clone())
        };
        let chain = told.and_then(|told| told.chain.as_deref()).or(own).map_or_else(session, str::to_string);
        if chain.is_empty() { record.event_id.to_string() } else { self.name(&chain) }
    }

    fn session_id(&self) -> &str {
        let record = self.record;
        let told = || self.occurrence.session.and_then(|session| session.conversation.as_deref());
        record.conversation_id.as_deref().or_else(told).unwrap_or(&record.session_key)
    }

    /// The person or service: what the record says, what authentication proved first; else what its session says. Who
    /// authenticates, answers a question or reads this store is only who the record itself names.
    pub(super) fn user(&self) -> Option<User<'_>> {
        let record = self.record;
        let basis = |is_authenticated| if is_authenticated { "authenticated" } else { "claimed" };
        let own = [(&record.user_authenticated, true), (&record.user_claimed, false)];
        let mut own = own.into_iter().filter_map(|(name, is)| Some((name.as_deref()?, is)));
        let own = own.find(|(name, _)| !name.is_empty());
        let is_own = matches!(record.kind, Kind::Approval | Kind::Access | Kind::Auth);
        let session = self.occurrence.session.filter(|_| !is_own);
        let told = || session.and_then(|session| Some((session.user.as_deref()?, session.is_authenticated)));
        let (name, is_authenticated) = own.or_else(told)?;
        Some(User { name, basis: basis(is_authenticated), is_of_session: own.is_none() })
    }

    fn session(&self) -> String {
        let session = self.name(self.session_id());
        if session.is_empty() { self.record.event_id.to_string() } else { session }
    }

    /// `text` as a name: nothing hidden in it, on one line, bounded.
    pub(super) fn name(&self, text: &str) -> String {
        self.bounded(text, NAME_BYTES_MAX)
    }

    /// `text` as content, if the policy gives content at all.
    pub(super) fn content(&self, text: &str) -> Option<String> {
        (self.policy.text_bytes_max > 0).then(|| self.bounded(text, self.policy.text_bytes_max))
    }

    fn bounded(&self, text: &str, bytes_max: usize) -> String {
        let cut = text.floor_char_boundary(bytes_max);
        let mut shown = visible(&text[..cut], Lines::Show);
        if cut < text.len() {
            self.cut_bytes.set(self.cut_bytes.get() + text.len() - cut);
            shown.push('…');
        }
        shown
    }

    /// A member of the record's attributes.
    pub(super) fn attribute(&self, names: &[&str]) -> Option<&Json> {
        let parse = || {
            self.record
                .attributes
                .as_deref()
                .and_then(|text| json::parse(text.as_bytes()).ok())
                .map(|parsed| parsed.value)
        };
        let attributes = self.attributes.get_or_init(parse).as_ref()?;
        names.iter().find_map(|name| attributes.get(name))
    }
}

fn plausible(time_ms: i64) -> Option<i64> {
    TIME_MS.contains(&time_ms).then_some(time_ms)
}

/// Where a SIEM finds the values that it pivots on: path, type of observable.
const OBSERVABLES: &[(&str, i64)] = &[
    ("actor.user.name", 4),
    ("dst_endpoint.hostname", 1),
    ("http_request.url.url_string", 6),
    ("file.path", 45),
    ("process.name", 9),
    ("resources.name", 38),
    ("resources.uid", 10),
];

fn observables(event: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for (path, type_id) in OBSERVABLES {
        any_at(event, path, &mut |value| {
            let value = value.as_str();
            found.extend(value.map(|value| json!({"name": path, "type_id": type_id, "value": value})));
            false
        });
    }
    found
}

/// Sets `value` at a dotted path, making the objects on the way.
fn set_at(event: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(event.insert(path.into(), value)),
        Some((first, rest)) => {
            let inner = event.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                set_at(inner, rest, value);
            }
        }
    }
}

pub mod samples;
#[cfg(test)]
mod tests;
