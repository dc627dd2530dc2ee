//! A generic webhook, signed as Standard Webhooks does it: a POST with a JSON array of events.
//!
//! | header | holds |
//! | --- | --- |
//! | `webhook-id` | id of the delivery: the same when the same events are sent again |
//! | `webhook-timestamp` | seconds since the Unix epoch when it was sent |
//! | `webhook-signature` | `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body` |
//!
//! The secret is base64, with or without the prefix `whsec_`. Any 2xx means that the receiver has all of it.

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Client;
use serde::Deserialize;
use sha2::Sha256;
use url::Url;

use super::{Outcome, Sink, SinkError};
use crate::forward::config::{Common, SecretRef, check_url};
use crate::forward::event::Event;
use crate::forward::{http, state};

/// `type = "webhook"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to.
    pub url: String,
    /// Secret of the signature.
    pub secret: SecretRef,
    /// Sent as `Authorization: Bearer`, too.
    pub token: Option<SecretRef>,
}

impl WebhookConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        check_url(&self.url, common).err().into_iter().collect()
    }
}

/// See the head of this file.
pub struct WebhookSink {
    client: Client,
    url: Url,
    key: Vec<u8>,
    token: Option<crate::forward::config::Secret>,
}

/// Bytes that a secret must have.
const KEY_BYTES_MIN: usize = 24;

impl WebhookSink {
    pub(super) fn open(config: &WebhookConfig, common: &Common) -> Result<WebhookSink, String> {
        let secret = config.secret.read()?;
        let text = secret.expose().strip_prefix("whsec_").unwrap_or(secret.expose());
        let key = BASE64_STANDARD.decode(text).ok().filter(|key| key.len() >= KEY_BYTES_MIN);
        let key = key.ok_or_else(|| format!("secret is base64 of {KEY_BYTES_MIN} bytes or more"))?;
        let token = config.token.as_ref().map(SecretRef::read).transpose()?;
        Ok(WebhookSink { client: http::client(common)?, url: check_url(&config.url, common)?, key, token })
    }
}

fn signature(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

#[async_trait]
impl Sink for WebhookSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
        let body = format!("[{}]", texts.join(","));
        let (id, timestamp) = (
            format!("msg_{}", state::batch_id(events.iter().map(|event| event.uid.as_str())).simple()),
            Utc::now().timestamp(),
        );
        let signature = signature(&self.key, &id, timestamp, body.as_bytes())
            .ok_or_else(|| SinkError::unavailable("the key cannot sign"))?;
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        http::send(request.body(body)).await?;
        Ok(vec![Outcome::Delivered; events.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
