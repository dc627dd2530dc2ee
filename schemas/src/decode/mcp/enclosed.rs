//! Records for what one message encloses: tool definitions in a list, the questions of an `input_required`
//! result (2026-07-28), and the answers that its retry brings.

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
    pub(super) fn definitions(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, result: &Json, list: &Record) {
        if list.kind != Kind::ToolList {
            return;
        }
        for tool in result.get("tools").map(Json::items).unwrap_or_default() {
            let mut record = parts.begin(Kind::ToolDefinition);
            self.part_of(&mut record, parts, frame, list);
            record.name.clone_from(&list.name);
            record.tool_name = tool.str_at("name").map(str::to_string);
            record.text = tool.str_at("description").map(str::to_string);
            let digest = definition::digest(tool);
            record.add_key(Key::new(KeyKind::Definition, &digest));
            record.definition_digest = Some(digest);
            record.attributes = Some(tool.to_string());
            parts.push(record);
        }
    }

    /// One record per question inside an `input_required` result.
    pub(super) fn questions(&self, parts: &mut Parts<'_>, frame: &Frame<'_>, result: &Json, asking: &Record) {
        if result.str_at("resultType") != Some("input_required") {
            return;
        }
        for question in result.get("inputRequests").map(Json::members).unwrap_or_default() {
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
