//! Records for what one message encloses: tool definitions in a list, the questions of an `input_required`
//! result (2026-07-28), and the answers that its retry brings.

use super::inventory::Change;
use super::outcome::URL_ELICITATION_REQUIRED;
use super::parts::{Attributes, Parts};
use super::pending::Asked;
use super::{Frame, McpDecoder, Transport, content, definition, method, request_state_key};
use crate::columns::Record;
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::record::Kind;

impl McpDecoder {
    /// The answers that a retry brings to the questions of an `input_required` result.
    pub(super) fn answers(
        &self,
        parts: &mut Parts<'_>,
        frame: &Frame<'_>,
        params: &Json,
        asked: &Asked,
        transport: &Transport,
    ) {
        let answers = params.get("inputResponses").map(Json::members).unwrap_or_default();
        for answer in answers {
            if parts.leaves_out() {
                continue;
            }
            let method = match method::kind_by_shape(&answer.value) {
                (Kind::Approval, _) => "elicitation/create",
                _ if answer.value.get("roots").is_some() => "roots/list",
                _ => "sampling/createMessage",
            };
            let mut record = parts.begin(method::response_kind(method));
            self.frame_columns(&mut record, parts, frame, transport);
            asked.carry(&mut record);
            record.name = Some(method.into());
            if let Some(state) = params.get("requestState").and_then(Json::as_str) {
                record.add_key(request_state_key(state));
            }
            self.concluded(&mut record, parts, frame, answer);
            let mut attributes = Attributes::default();
            attributes.text("threadline.input_request", answer.key.clone());
            attributes.finish(&mut record);
            parts.push(record);
        }
    }

    /// One record per tool of a tools/list result.
    pub(super) fn definitions(&mut self, parts: &mut Parts<'_>, frame: &Frame<'_>, result: &Json, list: &Record) {
        if list.kind != Kind::ToolList {
            return;
        }
        let mut changes = Vec::new();
        for tool in result.get("tools").map(Json::items).unwrap_or_default() {
            let digest = definition::digest(tool);
            let change = self.told.take(tool, &digest);
            changes.extend(change.map(|change| (change, tool.str_at("name").map(str::to_string), digest.clone())));
            if parts.leaves_out() {
                continue;
            }
            let mut record = parts.begin(Kind::ToolDefinition);
            self.part_of(&mut record, parts, frame, list);
            record.name.clone_from(&list.name);
            record.tool_name = tool.str_at("name").map(str::to_string);
            record.text = tool.str_at("description").map(str::to_string);
            record.add_key(Key::new(KeyKind::Definition, &digest));
            record.definition_digest = Some(digest);
            record.attributes = Some(tool.to_string());
            parts.push(record);
        }
        self.told.page(result.str_at("nextCursor"));
        for (change, tool, digest) in changes {
            if parts.leaves_out() {
                continue;
            }
            let mut record = parts.begin(Kind::Finding);
            self.part_of(&mut record, parts, frame, list);
            changed(&mut record, change, tool, digest);
            parts.push(record);
        }
    }

    /// One record per question inside an `input_required` result.
    pub(super) fn questions(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, result: &Json, asking: &Record) {
        let asks = |key: &str| result.str_at(key) == Some("input_required");
        // A result, or in 2026-07-28 a task, that waits for answers.
        if !asks("resultType") && !asks("status") {
            return;
        }
        for question in result.get("inputRequests").map(Json::members).unwrap_or_default() {
            if parts.leaves_out() {
                continue;
            }
            let method = question.value.str_at("method").unwrap_or_default();
            let params = question.value.get("params").unwrap_or(&Json::Null);
            let mut record = parts.begin(method::request_kind(method));
            self.part_of(&mut record, parts, frame, asking);
            record.tool_name.clone_from(&asking.tool_name);
            record.name = Some(method.into());
            record.target = method::target(method, params).map(str::to_string);
            record.text = content::of_params(method, params);
            let mut attributes = Attributes::default();
            attributes.text("threadline.input_request", question.key.clone());
            attributes.rest_of(params, &[]);
            attributes.finish(&mut record);
            parts.push(record);
        }
    }

    /// One record per URL that the user has to visit before a call may go on (2025-11-25).
    pub(super) fn urls(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, error: &Json, asking: &Record) {
        if asking.rpc_error_code != Some(URL_ELICITATION_REQUIRED) {
            return;
        }
        for question in error.at(&["data", "elicitations"]).map(Json::items).unwrap_or_default() {
            if parts.leaves_out() {
                continue;
            }
            let mut record = parts.begin(Kind::Elicitation);
            self.part_of(&mut record, parts, frame, asking);
            record.tool_name.clone_from(&asking.tool_name);
            record.name = Some("elicitation/create".into());
            record.target = question.str_at("url").map(str::to_string);
            record.text = question.str_at("message").map(str::to_string);
            let mut attributes = Attributes::default();
            attributes.rest_of(question, &[]);
            attributes.finish(&mut record);
            parts.push(record);
        }
    }

    /// Columns that a further part shares with the record of its message.
    pub(super) fn part_of(&self, record: &mut Record, parts: &Parts<'_>, frame: &Frame<'_>, whole: &Record) {
        self.frame_columns(record, parts, frame, &Transport::default());
        record.transport_status.clone_from(&whole.transport_status);
        record.rpc_id.clone_from(&whole.rpc_id);
        record.trace_id.clone_from(&whole.trace_id);
        record.parent_span_id.clone_from(&whole.parent_span_id);
        record.conversation_id.clone_from(&whole.conversation_id);
        record.turn_id.clone_from(&whole.turn_id);
        record.tool_call_id.clone_from(&whole.tool_call_id);
        record.keys.clone_from(&whole.keys);
    }
}

/// A definition that is another than in the list before: what a client agreed to is not what it calls now.
fn changed(record: &mut Record, change: Change, tool: Option<String>, digest: String) {
    let shown = tool.as_deref().unwrap_or_default();
    record.name = Some("tools/definition_changed".into());
    record.text = Some(format!("definition of tool {shown} changed between two lists: {}", change.members.join(", ")));
    record.tool_name = tool;
    let mut attributes = Attributes::default();
    attributes.text("threadline.definition_before", change.was.as_str());
    attributes.texts("threadline.changed_members", change.members.iter().map(|member| (*member).into()).collect());
    attributes.finish(record);
    for digest in [&digest, &change.was] {
        record.add_key(Key::new(KeyKind::Definition, digest));
    }
    record.definition_digest = Some(digest);
}
