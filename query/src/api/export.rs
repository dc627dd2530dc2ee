//! `/api/v1/export`

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use futures::stream;

use super::Problem;
use super::params::Params;
use crate::engine::Engine;
use crate::error::QueryError;
use crate::export::{Encoder, Export, ExportQuestion};

/// Every record of a session, a search or a time range, streamed from one state of the store. The header
/// `threadline-records` says how many records it holds, `threadline-completeness` what it covers (JSON in base64).
#[utoipa::path(get, path = "/api/v1/export", tag = "search", params(ExportQuestion), responses(
    (status = 200, description = "The export", content(
        (Vec<u8> = "application/x-ndjson"), (Vec<u8> = "text/csv"), (Vec<u8> = "application/vnd.apache.parquet"))),
    (status = 400, description = "A parameter is not understood, or it would be too much", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "Nothing bears this id", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn export(
    State(engine): State<Arc<Engine>>,
    Params(question): Params<ExportQuestion>,
) -> Result<Response, Problem> {
    let export = engine.export(&question).await?;
    let statement = serde_json::to_vec(&export.completeness).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE.as_str(), export.format.content_type().to_string()),
        (
            header::CONTENT_DISPOSITION.as_str(),
            format!("attachment; filename=\"threadline.{}\"", export.format.extension()),
        ),
        ("threadline-records", export.records.to_string()),
        ("threadline-completeness", base64::prelude::BASE64_STANDARD.encode(statement)),
    ];
    let encoder = Encoder::new(&export.format)?;
    Ok((headers, body(export, encoder)).into_response())
}

/// One chunk per part, so the reader's pace decides how much is held here.
fn body(export: Export, encoder: Encoder) -> Body {
    let chunks = stream::try_unfold(Some((export, encoder)), |state| async move {
        let Some((mut export, mut encoder)) = state else { return Ok::<_, QueryError>(None) };
        let records = export.next().await?;
        if records.is_empty() {
            return Ok(Some((Bytes::from(encoder.end()?), None)));
        }
        Ok(Some((Bytes::from(encoder.part(records)?), Some((export, encoder)))))
    });
    Body::from_stream(chunks)
}
