//! Estimates what a body takes in memory once it is decoded, before it is decoded: a few hundred kilobytes of empty spans
//! are hundreds of megabytes of records.
//!
//! Not here: whether a body is valid. What cannot be read is weighed as far as it can.

use threadline_schemas::decode::otlp::Encoding;

/// A record with its keys and its copy in the log.
const RECORD_BYTES: usize = 3 * 1024;
/// A value in a JSON tree, with its name.
const NODE_BYTES: usize = 112;
/// A length-delimited field of protobuf; a value with its name are two to four of them.
const FIELD_BYTES: usize = 80;
/// Nesting of protobuf messages that is followed: more than a decoder follows.
const MESSAGE_DEPTH_MAX: usize = 80;

/// What decoding one body takes.
pub(super) struct Weight {
    /// Bytes of memory.
    pub(super) bytes: usize,
    /// Records.
    pub(super) records: usize,
}

/// Weighs one OTLP body.
pub(super) fn otlp(body: &[u8], encoding: Encoding) -> Weight {
    let (values, records) = match encoding {
        Encoding::Protobuf => (protobuf_fields(body, 0).unwrap_or(0) * FIELD_BYTES, protobuf_records(body)),
        Encoding::Json => {
            let (nodes, records) = json_shape(body);
            (nodes * NODE_BYTES, records)
        }
    };
    Weight { bytes: body.len() * 4 + values + records * RECORD_BYTES, records }
}

/// Bytes that taking native events in batches of `batch` takes.
pub(super) fn events(body: &[u8], batch: usize, nodes_max: usize) -> usize {
    let (nodes, _) = json_shape(body);
    let lines = memchr::memchr_iter(b'\n', body).take(batch).count().max(nodes.min(batch));
    body.len() * 4 + nodes.min(nodes_max) * NODE_BYTES + lines * RECORD_BYTES
}

/// Values in all, and objects at the depth where OTLP has its records (body, resource, scope, record).
fn json_shape(body: &[u8]) -> (usize, usize) {
    const RECORD_DEPTH: usize = 4;
    let (mut nodes, mut records, mut depth) = (0, 0, 0usize);
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => {
                at += 1;
                while let Some(skip) = memchr::memchr2(b'"', b'\\', body.get(at..).unwrap_or_default()) {
                    at += skip;
                    if body[at] == b'"' {
                        break;
                    }
                    at += 2;
                }
            }
            b'{' => {
                depth += 1;
                nodes += 1;
                records += usize::from(depth == RECORD_DEPTH);
            }
            b'}' => depth = depth.saturating_sub(1),
            b',' | b'[' => nodes += 1,
            _ => {}
        }
        at += 1;
    }
    (nodes, records)
}

/// Field 2 within field 2 within field 1: spans or log records in scopes in resources.
fn protobuf_records(body: &[u8]) -> usize {
    let scopes = |resource| fields(resource, 2);
    fields(body, 1).flat_map(scopes).map(|scope| fields(scope, 2).count()).sum()
}

/// Length-delimited fields at all levels; `None` when `message` is none. Text that happens to look like a message is
/// counted as one, which only weighs more.
fn protobuf_fields(message: &[u8], depth: usize) -> Option<usize> {
    let mut count = 0;
    let mut rest = message;
    while !rest.is_empty() {
        let (_, value) = field(&mut rest)?;
        let inner = value.filter(|value| !value.is_empty() && depth < MESSAGE_DEPTH_MAX);
        count += usize::from(value.is_some()) + inner.and_then(|value| protobuf_fields(value, depth + 1)).unwrap_or(0);
    }
    Some(count)
}

/// The length-delimited fields with this number, as far as the framing can be followed.
fn fields(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let (found, value) = field(&mut rest)?;
            if let Some(value) = value.filter(|_| found == number) {
                return Some(value);
            }
        }
    })
}

/// The next field: its number, and its bytes if it is length-delimited. `None` at the end and where framing is broken.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let tag = varint(rest)?;
    let length = match tag & 7 {
        0 => {
            varint(rest)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((tag >> 3, (tag & 7 == 2).then_some(value)))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_before_they_are_made() {
        let json = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{},{"name":"},{\""},{}]}]},{"scopeSpans":[]}]}"#;
        assert_eq!(json_shape(json).1, 3);
        assert_eq!(json_shape(b"}}}\"").1, 0);
        let spans = [0x12, 0, 0x12, 2, 0x08, 1].as_slice();
        let scope = [&[0x12, spans.len() as u8], spans].concat();
        let resource = [&[0x0a, scope.len() as u8], &scope[..]].concat();
        assert_eq!(protobuf_records(&resource), 2);
        assert_eq!(protobuf_records(&[resource.clone(), resource].concat()), 4);
        assert_eq!(protobuf_records(&[0x0a, 0xff, 0xff]), 0);
        assert_eq!(protobuf_fields(&[0x0a, 4, 0x12, 0, 0x12, 0, 0x08, 1], 0), Some(3));
        assert_eq!(protobuf_fields(&[0x0a, 3, b'a', b'b', b'c'], 0), Some(1));
        assert_eq!(protobuf_fields(b"plain text", 0), None);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            otlp(&bytes, Encoding::Json);
            otlp(&bytes, Encoding::Protobuf);
        }
    }
}
