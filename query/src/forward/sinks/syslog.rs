//! Syslog: RFC 5424 messages over TLS (RFC 5425) or TCP with octet counting (RFC 6587), the OCSF event as the message.
//!
//! Invariants
//! - PRI has facility 13 (log audit) and a severity made of `severity_id`; MSGID is the kind of event, the structured data
//!   bears uid, class and correlation id, so that a receiver can route a message that it does not parse
//! - a message is at most `event_bytes_max` bytes of JSON (8 KiB unless set otherwise); what was cut says so
//!
//! What at least once means here, because syslog has no acknowledgement: after each batch we close our side and wait until
//! the receiver closes its own, which it does when it has read everything; only then the batch counts as delivered. A receiver
//! that dies with messages in its memory has lost them nevertheless: after a connection that failed, what was sent in the last
//! `resend_s` seconds (1 MiB at most) is sent again, before anything new, with the same ids. What a receiver
//! loses later, or when both sides die at once, is lost: use a receiver that acknowledges where that matters.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::DateTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Outcome, Sink, SinkError};
use crate::forward::address;
use crate::forward::config::Common;
use crate::forward::event::Event;

/// `type = "syslog"`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// Host name or address of the receiver.
    pub host: String,
    /// Port; 6514 is the one for TLS.
    #[serde(default = "port")]
    pub port: u16,
    /// TLS; without it `allow_plain` is needed for another machine.
    #[serde(default = "yes")]
    pub tls: bool,
    /// Our own certificate chain (PEM), where the receiver wants one.
    pub client_cert: Option<std::path::PathBuf>,
    /// Its key.
    pub client_key: Option<std::path::PathBuf>,
    /// APP-NAME.
    #[serde(default = "app_name")]
    pub app_name: String,
    /// Seconds of messages that are sent again after a connection that failed.
    #[serde(default = "resend_s")]
    pub resend_s: u64,
}

fn port() -> u16 {
    6514
}

fn yes() -> bool {
    true
}

fn app_name() -> String {
    "threadline".into()
}

fn resend_s() -> u64 {
    30
}

impl SyslogConfig {
    pub(super) fn check(&self, common: &Common) -> Vec<String> {
        let mut wrong: Vec<String> =
            address::check_literal(&self.host, common.allow_private).err().into_iter().collect();
        if !self.tls && !common.allow_plain && !address::is_loopback_host(&self.host) {
            wrong.push("tls = false needs allow_plain = true".into());
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            wrong.push("client_cert and client_key go together".into());
        }
        if !is_word(&self.app_name, 48) {
            wrong.push("app_name is printable, at most 48 characters".into());
        }
        wrong
    }
}

fn is_word(text: &str, length_max: usize) -> bool {
    (1..=length_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Bytes that are kept to be sent again.
const RESEND_BYTES_MAX: usize = 1 << 20;
/// How long connecting, and the receiver's close, may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// See the head of this file.
pub struct SyslogSink {
    config: SyslogConfig,
    allow_private: bool,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host: String,
    /// Batches that were delivered lately.
    sent: VecDeque<(Instant, Vec<u8>)>,
    is_doubtful: bool,
}

impl SyslogSink {
    pub(super) fn open(config: &SyslogConfig, common: &Common) -> Result<SyslogSink, String> {
        let tls = match config.tls {
            false => None,
            true => {
                let name =
                    ServerName::try_from(config.host.clone()).map_err(|_| "host is no name of a server".to_string())?;
                Some((TlsConnector::from(Arc::new(tls(config, common)?)), name))
            }
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
        let host = if is_word(&host, 255) { host } else { "-".into() };
        let (sent, allow_private) = (VecDeque::new(), common.allow_private);
        Ok(SyslogSink { config: config.clone(), allow_private, tls, host, sent, is_doubtful: false })
    }

    /// One message with its length before it.
    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        const FACILITY: i64 = 13;
        // OCSF severity 1 to 6 and 0: informational, notice, warning, error, critical, alert.
        let severity = [6, 6, 5, 4, 3, 2, 1].get(event.severity_id as usize).copied().unwrap_or(6);
        let time = DateTime::from_timestamp_millis(event.time_ms).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let msgid = event.code.get(..32).unwrap_or(&event.code);
        let msgid = if is_word(msgid, 32) { msgid } else { "-" };
        let mut message = format!(
            "<{}>1 {time} {} {} {} {msgid} [ocsf@32473 uid=\"{}\" class_uid=\"{}\" correlation_uid=\"{}\"] ",
            FACILITY * 8 + severity,
            self.host,
            self.config.app_name,
            std::process::id(),
            parameter(&event.uid),
            event.class_uid,
            parameter(&event.correlation),
        );
        message.push_str(&event.text);
        let mut length = String::new();
        // Writing into a String cannot fail.
        let _written = write!(length, "{} ", message.len());
        out.extend_from_slice(length.as_bytes());
        out.extend_from_slice(message.as_bytes());
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), SinkError> {
        let addresses = address::resolve(&self.config.host, self.config.port, self.allow_private).await;
        let addresses = addresses.map_err(SinkError::unavailable)?;
        let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(|error| failed("cannot connect", &error))?;
        match &self.tls {
            None => exchange(tcp, bytes).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                exchange(tls.map_err(|error| failed("no TLS with the receiver", &error))?, bytes).await
            }
        }
    }

    /// Forgets what is too old or too much to be sent again.
    fn forget(&mut self) {
        let window = Duration::from_secs(self.config.resend_s);
        let total = |sent: &VecDeque<(Instant, Vec<u8>)>| sent.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        while self.sent.front().is_some_and(|(at, _)| at.elapsed() > window) || total(&self.sent) > RESEND_BYTES_MAX {
            self.sent.pop_front();
        }
    }
}

fn tls(config: &SyslogConfig, common: &Common) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let chain = |path: &std::path::Path| {
        let wrong = || format!("cannot read PEM certificates from {}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).map_err(|_| wrong())?;
        let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
        if certificates.is_empty() { Err(wrong()) } else { Ok(certificates) }
    };
    if let Some(path) = &common.ca {
        for certificate in chain(path)? {
            roots.add(certificate).map_err(|_| format!("{} holds no certificate authority", path.display()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match (&config.client_cert, &config.client_key) {
        (Some(certificate), Some(key)) => {
            let read =
                PrivateKeyDer::from_pem_file(key).map_err(|_| format!("cannot read a key from {}", key.display()))?;
            let built = builder.with_client_auth_cert(chain(certificate)?, read);
            built.map_err(|_| "client_cert and client_key do not fit together".into())
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Writes all, closes our side, and waits for the receiver to close its own.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Result<(), SinkError> {
    stream.write_all(bytes).await.map_err(|error| failed("the connection broke", &error))?;
    stream.shutdown().await.map_err(|error| failed("the connection broke", &error))?;
    let mut rest = [0; 64];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            // Some receivers greet; nothing is expected from them.
            Ok(_) => {}
            // A TLS peer that ends without a word has read everything all the same; a reset says that it has not.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(failed("the receiver did not close in order", &error)),
        }
    }
}

fn failed(what: &str, error: &std::io::Error) -> SinkError {
    SinkError::unavailable(format!("{what}: {error}"))
}

/// A value of structured data, escaped as RFC 5424 section 6.3.3 says.
fn parameter(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[async_trait]
impl Sink for SyslogSink {
    async fn deliver(&mut self, events: &[Event]) -> Result<Vec<Outcome>, SinkError> {
        self.forget();
        let mut bytes = Vec::new();
        events.iter().for_each(|event| self.frame(event, &mut bytes));
        let mut all: Vec<u8> = Vec::new();
        if self.is_doubtful {
            self.sent.iter().for_each(|(_, batch)| all.extend_from_slice(batch));
        }
        all.extend_from_slice(&bytes);
        let sent = tokio::time::timeout(TIMEOUT, self.send(&all)).await;
        let sent =
            sent.unwrap_or_else(|_| Err(SinkError::unavailable("the receiver took nothing or did not close in time")));
        self.is_doubtful = sent.is_err();
        sent?;
        self.sent.push_back((Instant::now(), bytes));
        Ok(vec![Outcome::Delivered; events.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::event;

    fn sink() -> SyslogSink {
        let config: SyslogConfig = toml::from_str("host = \"localhost\"\ntls = false").unwrap();
        let mut sink = SyslogSink::open(&config, &Common { allow_private: true, ..Common::default() }).unwrap();
        sink.host = "h".into();
        sink
    }

    #[test]
    fn a_message_is_counted_and_has_its_header() {
        let mut bytes = Vec::new();
        let event = event(1);
        sink().frame(&event, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len());
        let pid = std::process::id();
        let expected = format!(
            "<109>1 2026-07-24T13:33:20.124Z h threadline {pid} mcp.tools.call [ocsf@32473 uid=\"{}\" ",
            event.uid
        );
        let head = if event.severity_id == 1 { expected.replace("<109>", "<110>") } else { expected };
        assert!(message.starts_with(&head), "{message}");
        assert!(message.ends_with(&event.text));
        assert_eq!(parameter(r#"a"]\b"#), r#"a\"\]\\b"#);
    }
}
