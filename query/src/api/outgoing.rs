//! Large answers on their way to readers who take their time: together they hold a bounded number of bytes.
//!
//! Invariants
//! - a large answer keeps its size of [`BYTES_MAX`] until its last piece is with the connection; one above it needs all
//! - who finds no room for a moment is told to come back, and holds nothing
//!
//! Not here: answers that are streamed (exports, `links` as NDJSON), which hold a part at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::Semaphore;

use super::problem::{Problem, RETRY_SECONDS};

/// Bytes of large answers on their way (48 MiB).
pub(crate) const BYTES_MAX: usize = 48 << 20;
/// Smaller answers are not counted.
const LARGE_BYTES_MIN: u64 = 256 * 1024;
/// How long a large answer waits for room, its turn in hand: readers who read have taken theirs by then.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// What a connection gets at once; it asks for more when it has room.
const PIECE_BYTES: usize = 64 * 1024;

/// `response`, counted until it is sent if it is large.
pub(super) async fn counted(response: Response, room: &Arc<Semaphore>) -> Response {
    let Some(bytes) = response.body().size_hint().exact().filter(|bytes| *bytes >= LARGE_BYTES_MIN) else {
        return response;
    };
    let share = usize::try_from(bytes).unwrap_or(BYTES_MAX).min(BYTES_MAX) as u32;
    let held = tokio::time::timeout(WAIT_MAX, Arc::clone(room).acquire_many_owned(share)).await;
    let Ok(Ok(held)) = held else { return busy() };
    let (mut parts, body) = response.into_parts();
    // It is one piece already.
    let Ok(whole) = to_bytes(body, usize::MAX).await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    let pieces = stream::unfold((whole, held), |(mut rest, held)| async move {
        let piece: Bytes = rest.split_to(rest.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, held)))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

fn busy() -> Response {
    let detail = "large answers of others are on their way and not read yet; ask again soon".to_string();
    let title = "Too many large answers at once";
    let problem = Problem {
        retry_after: Some(RETRY_SECONDS),
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", title, detail.clone())
    };
    // The text is for pages; the API's problem takes its place.
    let mut response =
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_SECONDS.to_string())], detail).into_response();
    response.extensions_mut().insert(problem);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Response {
        Response::new(Body::from(vec![b'x'; 3 << 20]))
    }

    #[tokio::test]
    async fn what_is_not_read_yet_is_bounded() {
        let room = Arc::new(Semaphore::new(8 << 20));
        let unread = [counted(large(), &room).await, counted(large(), &room).await];
        let refused = counted(large(), &room).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(counted(Response::new(Body::from("small")), &room).await.status(), StatusCode::OK);
        for response in unread {
            assert_eq!(response.headers()[header::CONTENT_LENGTH], (3 << 20).to_string());
            assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap(), vec![b'x'; 3 << 20]);
        }
        assert_eq!(room.available_permits(), 8 << 20);
        assert_eq!(counted(large(), &room).await.status(), StatusCode::OK);
    }
}
