//! Tasks: a request that is answered with a handle, and what is done with the handle afterwards.
//!
//! 2025-11-25 wraps the handle (`result.task.taskId`) and gives the outcome as the result of `tasks/result`; the
//! extension of 2026-07-28 marks it (`resultType: "task"`) and gives the outcome inside `tasks/get` and
//! `notifications/tasks`. Both name the task of other messages by `_meta["io.modelcontextprotocol/related-task"]`.
//!
//! Invariants
//! - the origins of at most [`TASKS_MAX`] tasks are remembered per connection, the oldest is forgotten first
//! - a `task` key is scoped by the server, because that is who makes the ids

use super::pending::Asked;
use super::{McpDecoder, method};
use crate::columns::Record;
use crate::decode::transcript::{Remembered, short};
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::limits::keys::VALUE_BYTES_MAX;
use crate::limits::mcp::TASKS_MAX;
use crate::record::{Kind, Outcome};
use std::sync::Arc;

/// What the request of a task says about every message of that task.
#[derive(Debug, Default)]
struct Origin {
    method: Option<Arc<str>>,
    tool_name: Option<Arc<str>>,
    tool_call_id: Option<Arc<str>>,
    conversation_id: Option<Arc<str>>,
    turn_id: Option<Arc<str>>,
    trace_id: Option<Arc<str>>,
}

/// The tasks of one connection.
#[derive(Debug)]
pub(super) struct Tasks(Remembered<Origin>);

impl Default for Tasks {
    fn default() -> Self {
        Tasks(Remembered::new(TASKS_MAX))
    }
}

impl Tasks {
    /// At most what they take: an id and six values that are [`short`], twice what they are for their place in maps.
    pub(super) fn bytes(&self) -> usize {
        const TASK_BYTES: usize = 14 * VALUE_BYTES_MAX;
        self.0.len() * TASK_BYTES
    }
}

/// The handle that a result gives instead of an outcome.
pub(super) fn created(result: &Json) -> Option<&str> {
    let is_marked = result.str_at("resultType") == Some("task");
    let wrapped = result.at(&["task", "taskId"]).and_then(Json::as_str);
    wrapped.or_else(|| result.str_at("taskId").filter(|_| is_marked))
}

/// The task of a message that belongs to one: `params` of a request or notification, or a result.
pub(super) fn related(value: &Json) -> Option<&str> {
    value.at(&["_meta", "io.modelcontextprotocol/related-task", "taskId"]).and_then(Json::as_str)
}

/// The task that a method is about.
pub(super) fn named<'a>(method: &str, params: &'a Json) -> Option<&'a str> {
    let is_about_one = method.starts_with("tasks/") || method.starts_with("notifications/tasks");
    params.str_at("taskId").filter(|_| is_about_one)
}

/// The outcome of a task by its status; one that works has none yet.
pub(super) fn outcome(status: Option<&str>) -> Option<Outcome> {
    match status? {
        "completed" => Some(Outcome::Ok),
        "failed" => Some(Outcome::Error),
        "cancelled" => Some(Outcome::Cancelled),
        "input_required" => Some(Outcome::InputRequired),
        _ => None,
    }
}

impl McpDecoder {
    /// A request was answered with a handle.
    pub(super) fn remember_task(&mut self, id: &str, asked: &Asked, record: &Record) {
        let origin = Origin {
            method: short(Some(&asked.method)),
            tool_name: short(record.tool_name.as_deref()),
            tool_call_id: short(record.tool_call_id.as_deref()),
            conversation_id: short(record.conversation_id.as_deref()),
            turn_id: short(record.turn_id.as_deref()),
            trace_id: short(record.trace_id.as_deref()),
        };
        self.tasks.0.insert(id, origin);
    }

    /// Gives a record of a task its key, and what is known from the request that made the task.
    pub(super) fn of_task(&self, record: &mut Record, id: &str) {
        let server = self.server_name.as_deref().unwrap_or(&self.source_name);
        record.add_key(Key::scoped(KeyKind::Task, server, id));
        let Some(origin) = self.tasks.0.get(id) else { return };
        let known = [
            (&mut record.tool_name, &origin.tool_name),
            (&mut record.tool_call_id, &origin.tool_call_id),
            (&mut record.conversation_id, &origin.conversation_id),
            (&mut record.turn_id, &origin.turn_id),
            (&mut record.trace_id, &origin.trace_id),
        ];
        for (to, from) in known {
            if to.is_none() {
                *to = from.as_deref().map(str::to_string);
            }
        }
    }

    /// The kind of what a task came to, for `tasks/result`, or for a status that brings the outcome along.
    pub(super) fn kind_of_task(&self, id: &str) -> Option<Kind> {
        self.tasks.0.get(id)?.method.as_deref().map(method::response_kind)
    }
}
