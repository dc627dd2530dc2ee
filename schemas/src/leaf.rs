//! The Merkle leaf of a record: what the ledger commits to, without revealing content.
//!
//! Byte for byte (all integers little-endian):
//! ```text
//! entry   = "threadline/leaf/v1" 0x00
//!           header_len u32 | header          present Header columns as `tag u16 | length u32 | bytes`
//!           details 32 B                     SHA-256("threadline/details/v1" 0x00 | salt(0) | present Detail columns, encoded the same way)
//!           key_count u32 | tag 32 B each    SHA-256("threadline/key/v1" 0x00 | salt(43) | key text), sorted ascending, duplicates removed
//!           payload_count u16 | (tag u16 | commitment 32 B) each, ascending tag
//!                                            SHA-256("threadline/payload/v1" 0x00 | tag u16 | salt(tag) | bytes)
//! salt(t) = HMAC-SHA-256(leaf_salt, "threadline/salt/v1" 0x00 | t u16)
//! leaf    = SHA-256(0x00 | entry)            RFC 6962 section 2.1
//! ```
//! A column is present unless it is null: a text column that may not be null is present when it is empty, too.
//! Each part has a salt of its own, so one payload and its derived salt can be erased while every
//! other commitment stays checkable. Bodies kept beside the row are committed by their bytes, like
//! any payload; `bodies`, `log_position` and the salt itself are outside, because they say where
//! things are kept.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::columns::{Record, Role};
use crate::encoding::push_field;

const DETAILS_SALT: u16 = 0;
const KEYS_TAG: u16 = 43;
const BODIES_TAG: u16 = 56;

/// The leaf entry of a record whose payload fields are all in place.
pub fn entry(record: &Record) -> Vec<u8> {
    let salt = record.leaf_salt.as_deref().unwrap_or_default();
    let mut header = Vec::new();
    let mut details = Vec::new();
    let mut payloads = Vec::new();
    record.encode_fields(|tag, role, bytes| match role {
        Role::Header => push_field(&mut header, tag, bytes),
        Role::Detail if tag != BODIES_TAG => push_field(&mut details, tag, bytes),
        Role::Payload => payloads.push((tag, payload_commitment(salt, tag, bytes))),
        Role::Detail | Role::Keys | Role::Outside => {}
    });
    let mut tags: Vec<[u8; 32]> = record.keys.iter().map(|key| key_tag(salt, key)).collect();
    tags.sort_unstable();
    tags.dedup();

    let mut out = b"threadline/leaf/v1\0".to_vec();
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&digest(&[b"threadline/details/v1\0", &derived_salt(salt, DETAILS_SALT), &details]));
    out.extend_from_slice(&(tags.len() as u32).to_le_bytes());
    tags.iter().for_each(|tag| out.extend_from_slice(tag));
    out.extend_from_slice(&(payloads.len() as u16).to_le_bytes());
    for (tag, commitment) in payloads {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&commitment);
    }
    out
}

/// RFC 6962 leaf hash of a record.
pub fn hash(record: &Record) -> [u8; 32] {
    digest(&[&[0], &entry(record)])
}

/// The tag by which the leaf commits to one key.
pub fn key_tag(leaf_salt: &[u8], key: &str) -> [u8; 32] {
    digest(&[b"threadline/key/v1\0", &derived_salt(leaf_salt, KEYS_TAG), key.as_bytes()])
}

/// The commitment to one payload field.
pub fn payload_commitment(leaf_salt: &[u8], tag: u16, bytes: &[u8]) -> [u8; 32] {
    digest(&[b"threadline/payload/v1\0", &tag.to_le_bytes(), &derived_salt(leaf_salt, tag), bytes])
}

/// The salt of one part of the leaf.
pub fn derived_salt(leaf_salt: &[u8], tag: u16) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(leaf_salt).expect("HMAC takes keys of any length");
    mac.update(b"threadline/salt/v1\0");
    mac.update(&tag.to_le_bytes());
    mac.finalize().into_bytes().into()
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use expect_test::expect;

    fn sample() -> Record {
        let mut record = Record::new("acme", "api:1", Kind::Prompt);
        record.set_time(Some(1_700_000_000_000_000_000), 1_700_000_000_000_001);
        record.leaf_salt = Some(vec![7; 32]);
        record.keys = vec!["turn:t1".into(), "conversation:c1".into()];
        record.text = Some("hello".into());
        record
    }

    #[test]
    fn vectors() {
        expect!["194e1e8592b57173681b9948b03e6aaf919cf008e6bac0eb9271edfae81d6958"]
            .assert_eq(&hex::encode(hash(&sample())));
        expect!["3dbde803e6157f7fe851575cb9237c036460503a5c9c2f7486b53ac9c008befa"]
            .assert_eq(&hex::encode(hash(&Record::new("acme", "api:1", Kind::Prompt))));
        expect!["7468726561646c696e652f6c6561662f7631009200000001002400000062323363633337352d353634612d383734352d393833382d386534663137393134373030020008000000010000000000000003000400000061636d6505000800000000002a36fe9c9717060006000000736f7572636507000800000001401e18240a0600090007000000756e6b6e6f776e0a00000000000b000300000061706910000600000070726f6d70742e48551bef39edb382fbfb2fc15193d2cc4b009dad47b76185e916d502173661020000004237866bc086969ee21020385d647f91608c1331d5ab73edeeda80ee52c3c03898d5b4431b7d16df60438b926b49d8bad839bddfdda1c013d9f70fafe104127e010032007489098313310274fdaa222b142e4675d68d25968b4baae849c43fe616fac029"].assert_eq(&hex::encode(entry(&sample())));
    }

    #[test]
    fn position_and_key_order_do_not_matter_but_content_does() {
        let mut other = sample();
        other.keys.reverse();
        other.log_position = Some("0/9".into());
        other.bodies = Some("{}".into());
        assert_eq!(hash(&other), hash(&sample()));
        other.text = Some("hellO".into());
        assert_ne!(hash(&other), hash(&sample()));
    }
}
