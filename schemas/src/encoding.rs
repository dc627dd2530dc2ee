//! The bytes of a record in a log frame.
//!
//! On disk: `version u8 = 1 | field*`, field = `tag u16 LE | length u32 LE | bytes`, tags strictly
//! ascending, absent fields left out. Texts are UTF-8, integers 8 bytes little-endian, booleans one
//! byte, UUIDs and enums their text, lists `length u32 LE | bytes` per element.
//! A tag that this version does not know is an error: a newer writer raises the version byte.
//!
//! Not here: checksums and lengths of whole frames (the log has them).

use crate::columns::{COLUMNS, Record};

/// First byte of an encoded record.
pub const ENCODING_VERSION: u8 = 1;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by a newer threadline, or not a record at all.
    #[error("record encoding version {0} is not known to this build")]
    Version(u8),
    /// Ends in the middle of a field.
    #[error("encoded record ends inside a field at byte {0}")]
    Truncated(usize),
    /// Tags out of order or unknown.
    #[error("encoded record has tag {0} where it cannot stand")]
    Tag(u16),
    /// A field's bytes do not fit its type, or a required field is absent.
    #[error("encoded record has no usable value for column {0}")]
    Column(&'static str),
}

/// The record as bytes.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(ENCODING_VERSION);
    record.encode_fields(|tag, _, bytes| push_field(&mut out, tag, bytes));
    out
}

/// Appends one field.
pub(crate) fn push_field(out: &mut Vec<u8>, tag: u16, bytes: &[u8]) {
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The record that [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let Some((&version, mut rest)) = bytes.split_first() else {
        return Err(DecodeError::Truncated(0));
    };
    if version != ENCODING_VERSION {
        return Err(DecodeError::Version(version));
    }
    let last_tag = COLUMNS.last().map_or(0, |column| column.tag);
    let mut fields: Vec<Option<&[u8]>> = vec![None; usize::from(last_tag) + 1];
    let mut previous = 0;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let (head, tail) = rest.split_first_chunk::<6>().ok_or(DecodeError::Truncated(at))?;
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let (value, tail) = tail.split_at_checked(length).ok_or(DecodeError::Truncated(at))?;
        if tag <= previous || tag > last_tag {
            return Err(DecodeError::Tag(tag));
        }
        fields[usize::from(tag)] = Some(value);
        (previous, rest) = (tag, tail);
    }
    Record::decode_fields(|tag| fields[usize::from(tag)]).map_err(DecodeError::Column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Outcome};
    use proptest::prelude::*;

    fn sample() -> Record {
        let mut record = Record::new("acme", "tap:run:7", Kind::Result);
        record.set_time(Some(1), 2);
        record.outcome = Some(Outcome::Error);
        record.keys = vec!["rpc:c/1".into(), String::new()];
        record.raw = Some(vec![1, 2, 3]);
        record
    }

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
    }

    #[test]
    fn every_truncation_is_an_error_or_an_earlier_record() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            if let Ok(record) = decode(&bytes[..end]) {
                assert_ne!(record, sample());
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(decode(&bytes));
        }
    }
}
