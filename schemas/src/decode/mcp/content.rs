//! The human text inside MCP payloads: what a person would read of a result, a prompt or a list.

use crate::json::Json;

/// Text of a result: its content, messages or contents joined by line breaks, else the names it lists.
pub(super) fn of_result(result: &Json) -> Option<String> {
    let text = joined([result.get("content"), result.get("contents")].into_iter().flatten().flat_map(parts));
    text.or_else(|| messages(result))
        .or_else(|| result.get("structuredContent").map(Json::to_string))
        .or_else(|| result.get("task").and_then(of_task).or_else(|| of_task(result)))
        .or_else(|| ["action", "instructions"].iter().find_map(|key| result.str_at(key)).map(str::to_string))
        .or_else(|| listed(result))
}

/// Text of a request or notification: the prompt, question or message in it.
pub(super) fn of_params(method: &str, params: &Json) -> Option<String> {
    match method {
        "sampling/createMessage" => {
            let system = params.str_at("systemPrompt").map(str::to_string);
            joined(system.into_iter().chain(messages(params)))
        }
        "elicitation/create" | "notifications/progress" => params.str_at("message").map(str::to_string),
        "notifications/cancelled" => params.str_at("reason").map(str::to_string),
        "notifications/message" => params.get("data").map(shown),
        "notifications/tasks/status" | "notifications/tasks" => of_task(params),
        _ => None,
    }
}

/// What a task came to when that stands inside, else how it says it is.
fn of_task(task: &Json) -> Option<String> {
    task.get("taskId")?;
    let inner = task.get("result").and_then(of_result);
    let failed = || task.at(&["error", "message"]).and_then(Json::as_str).map(str::to_string);
    let says = || ["statusMessage", "status"].iter().find_map(|key| task.str_at(key)).map(str::to_string);
    inner.or_else(failed).or_else(says)
}

fn messages(value: &Json) -> Option<String> {
    joined(value.get("messages")?.items().iter().filter_map(|message| message.get("content")).flat_map(parts))
}

/// Text of a content block, or of each block of a list.
fn parts(content: &Json) -> Vec<String> {
    match content {
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items.iter().flat_map(parts).collect(),
        Json::Object(_) => {
            let text = content.str_at("text").or_else(|| content.at(&["resource", "text"]).and_then(Json::as_str));
            let nested = content.get("content").map(parts).unwrap_or_default();
            text.map(str::to_string).into_iter().chain(nested).collect()
        }
        _ => Vec::new(),
    }
}

fn listed(result: &Json) -> Option<String> {
    let lists = ["tools", "resources", "resourceTemplates", "prompts", "roots", "tasks"];
    let items = lists.iter().find_map(|key| result.get(key)).map(Json::items);
    let names = items.unwrap_or_default().iter().filter_map(|item| {
        ["name", "uri", "uriTemplate", "taskId"].iter().find_map(|key| item.str_at(key)).map(str::to_string)
    });
    let values = result.at(&["completion", "values"]).map(Json::items).unwrap_or_default();
    let all: Vec<String> = names.chain(values.iter().map(shown)).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn joined(texts: impl Iterator<Item = String>) -> Option<String> {
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn shown(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
