//! `google.rpc.Status` with the one detail that OTLP exporters look at: how long to wait before they try again.

use prost::Message;

/// Type URL of [`RetryInfo`] inside a status.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

impl RetryInfo {
    pub(super) fn after(seconds: u64) -> Self {
        RetryInfo { retry_delay: Some(Delay { seconds: i64::try_from(seconds).unwrap_or(i64::MAX) }) }
    }
}

impl RpcStatus {
    /// A status; with a delay it says that trying again is worth while.
    pub(super) fn new(code: tonic::Code, message: String, retry: Option<&RetryInfo>) -> Self {
        let details = retry.map(|retry| Any { type_url: RETRY_INFO.into(), value: retry.encode_to_vec() });
        RpcStatus { code: code as i32, message, details: details.into_iter().collect() }
    }
}
