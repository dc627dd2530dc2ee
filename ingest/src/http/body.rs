//! Reads a request body within the budgets and unpacks it.

use std::io::ErrorKind;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use threadline_schemas::limits::arrival::{BODY_BYTES_MAX, PAUSE_MAX, RATIO_MAX, TIME_MAX, ZSTD_WINDOW_LOG_MAX};

use super::{Collecting, Refusal, UNIT_BYTES};
use crate::decompress::{self, Coding, Limits};

/// A body, unpacked, with its share of the memory for such bodies.
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

/// A body as it arrived, with its share of the memory for such bodies.
pub(super) struct Arrived {
    pub(super) bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
}

/// The body of a request; 16 MiB at most, whatever it says about itself.
pub(super) async fn read(collecting: &Collecting, headers: &HeaderMap, body: Body) -> Result<Held, Refusal> {
    let coding = coding(headers)?;
    let arrived = arrive(collecting, headers, body).await?;
    unpack(collecting, arrived, coding).await
}

/// Receives a body as it is.
pub(super) async fn arrive(collecting: &Collecting, headers: &HeaderMap, body: Body) -> Result<Arrived, Refusal> {
    let reading = tokio::time::timeout(TIME_MAX, receive(collecting, headers, body));
    let (bytes, share) = reading.await.map_err(|_| Refusal::TimedOut)??;
    Ok(Arrived { bytes, share })
}

/// Unpacks what arrived.
pub(super) async fn unpack(collecting: &Collecting, arrived: Arrived, coding: Coding) -> Result<Held, Refusal> {
    let Arrived { bytes, share: arrived } = arrived;
    if coding == Coding::Identity {
        return Ok(Held { bytes, _share: arrived });
    }
    let mut share = collecting.unpack(unpacked_bytes_max(bytes.len(), coding)).await?;
    let unpacked = collecting.pipeline.compute(move || {
        let limits = Limits { bytes_max: BODY_BYTES_MAX as u64, ratio_max: RATIO_MAX };
        decompress::bytes(&bytes, coding, limits)
    });
    match unpacked.await? {
        Ok(bytes) => {
            // What was reserved for the worst case goes back, and what arrived is not needed any more.
            let surplus = share.num_permits().saturating_sub(bytes.len() / UNIT_BYTES + 1);
            drop((share.split(surplus), arrived));
            Ok(Held { bytes, _share: Some(share) })
        }
        Err(error) if error.kind() == ErrorKind::FileTooLarge => Err(Refusal::TooLarge(error.to_string())),
        Err(_) => Err(Refusal::Malformed(format!("body is not valid {}", coding.as_str()))),
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, Refusal> {
    let mut named = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = named.next() else { return Ok(Coding::Identity) };
    let coding = value.to_str().ok().and_then(Coding::of_header).ok_or(Refusal::ContentEncoding)?;
    // One coding is enough; a second one is how bombs are nested.
    if named.next().is_some() { Err(Refusal::ContentEncoding) } else { Ok(coding) }
}

async fn receive(
    collecting: &Collecting,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
    let too_large = || Refusal::TooLarge(format!("body is above the limit of {BODY_BYTES_MAX} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    loop {
        let next = tokio::time::timeout(PAUSE_MAX, stream.next()).await.map_err(|_| Refusal::TimedOut)?;
        let Some(chunk) = next else { return Ok((bytes, share)) };
        let chunk = chunk.map_err(|_| Refusal::Malformed("body ended early".into()))?;
        if bytes.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        let wanted = bytes.len() + chunk.len();
        if wanted > bytes.capacity() {
            // Room is weighed before it is taken: twice what came, because what is announced alone must not hold it.
            let announced = announced.map_or(BODY_BYTES_MAX, |announced| announced as usize);
            let room = (2 * wanted).min(announced).max(wanted);
            grow(collecting, &mut share, room)?;
            bytes.reserve_exact(room - bytes.len());
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// Takes what `share` lacks for `bytes`; without waiting, so that two bodies cannot wait for each other.
fn grow(collecting: &Collecting, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
    let wanted = bytes / UNIT_BYTES + 1;
    let lacking = wanted.saturating_sub(share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    if lacking == 0 {
        return Ok(());
    }
    let more = Arc::clone(&collecting.reading).try_acquire_many_owned(lacking as u32);
    let more = more.map_err(|_: TryAcquireError| Refusal::Busy)?;
    match share {
        Some(share) => share.merge(more),
        None => *share = Some(more),
    }
    Ok(())
}

/// What a body may take once unpacked.
fn unpacked_bytes_max(length: usize, coding: Coding) -> usize {
    let by_ratio = length.saturating_mul(RATIO_MAX as usize).saturating_add(UNIT_BYTES).min(BODY_BYTES_MAX);
    match coding {
        Coding::Identity => length,
        Coding::Gzip => by_ratio,
        Coding::Zstd => by_ratio + by_ratio.min(1 << ZSTD_WINDOW_LOG_MAX),
    }
}
