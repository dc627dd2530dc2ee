//! `/api/v1/export`

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::stream;
use serde::Deserialize;
use threadline_schemas::display;

use super::Problem;
use super::params::Params;
use crate::engine::Engine;
use crate::error::QueryError;
use crate::export::{Export, ExportFormat, ExportQuestion, Progress, Recorded};

/// Every record of a session, a search or a time range, streamed from one state of the store. Headers:
/// `threadline-records` says how many records it holds, `threadline-completeness` what it covers (JSON in base64),
/// `threadline-access` the id of the record that this export leaves (or `not recorded` and why), `threadline-sha256`
/// the digest of a bundle's manifest or of a report.
#[utoipa::path(get, path = "/api/v1/export", tag = "search", params(ExportQuestion), responses(
    (status = 200, description = "The export", content(
        (Vec<u8> = "application/x-ndjson"), (Vec<u8> = "text/csv"), (Vec<u8> = "application/vnd.apache.parquet"),
        (Vec<u8> = "application/x-tar"), (Vec<u8> = "text/html"))),
    (status = 400, description = "A parameter is not understood, or it would be too much", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "Nothing bears this id", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "There is no room to prepare a bundle or report", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn export(
    State(engine): State<Arc<Engine>>,
    headers: HeaderMap,
    Params(mut question): Params<ExportQuestion>,
) -> Result<Response, Problem> {
    question.by = question.by.filter(|by| !by.trim().is_empty()).or_else(|| basic_user(&headers));
    let export = engine.export(&question).await?;
    let statement = serde_json::to_vec(&export.completeness).unwrap_or_default();
    let recorded = match &export.recorded {
        Recorded::As(id) => id.to_string(),
        Recorded::Not(why) => format!("not recorded: {}", ascii(why)),
    };
    let mut headers = vec![
        (header::CONTENT_TYPE.as_str(), export.format.content_type().to_string()),
        (
            header::CONTENT_DISPOSITION.as_str(),
            format!("attachment; filename=\"threadline.{}\"", export.format.extension()),
        ),
        ("threadline-records", export.records.to_string()),
        ("threadline-completeness", BASE64_STANDARD.encode(statement)),
        ("threadline-access", recorded),
    ];
    headers.extend(export.sha256.clone().map(|sha256| ("threadline-sha256", sha256)));
    if matches!(export.format, ExportFormat::Html) {
        // The report's own policy, also where the header counts more than the document.
        headers.push((
            header::CONTENT_SECURITY_POLICY.as_str(),
            "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'".to_string(),
        ));
    }
    let mut response = body(export).into_response();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// Which export.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct ProgressQuestion {
    /// The `progress` that the export was asked for with.
    of: String,
}

/// How far the preparation of an export is. Nothing is known before it is asked for and after its first byte.
#[utoipa::path(get, path = "/api/v1/export/progress", tag = "search", params(ProgressQuestion), responses(
    (status = 200, description = "How far it is", body = Progress),
    (status = 404, description = "No export of this name is being prepared", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn progress(
    State(engine): State<Arc<Engine>>,
    Params(question): Params<ProgressQuestion>,
) -> Result<Json<Progress>, Problem> {
    let found = engine.preparations().get(&question.of);
    Ok(Json(found.ok_or_else(|| QueryError::not_found(&question.of, &["exports that are being prepared"]))?))
}

/// One chunk per part, so the reader's pace decides how much is held here.
fn body(export: Export) -> Body {
    let chunks = stream::try_unfold(export, |mut export| async move {
        Ok::<_, QueryError>(export.next().await?.map(|bytes| (bytes, export)))
    });
    Body::from_stream(chunks)
}

/// The name that a browser gave beside the token: a claim, like `by`.
fn basic_user(headers: &HeaderMap) -> Option<String> {
    let basic = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(basic.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, _)| user.to_string()).filter(|user| !user.is_empty())
}

fn ascii(text: &str) -> String {
    let shown = display::visible(text, display::Lines::Show);
    shown.chars().map(|c| if c.is_ascii() { c } else { '?' }).take(200).collect()
}
