//! The 64-bit hash under which the id sidecar files a key. Part of the on-disk format: it never changes within a
//! sidecar version.
//!
//! Not cryptographic: whoever looks up must compare the row's own keys, so a collision costs a read and nothing else.

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xD6E8_FEB8_6659_FD93;

/// What a hashed text is, so that equal texts of different meaning do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    /// A key in its text form, `kind:scope/value`.
    Typed = 1,
    /// The bare value of a scoped key, or a stamp.
    Bare = 2,
}

/// Folded 128-bit multiplication over 8-byte words, length and domain mixed in.
pub(crate) fn hash(domain: Domain, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = fold((bytes.len() as u64).wrapping_add(domain as u64) ^ K0, K1);
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), K0);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(state ^ u64::from_le_bytes(last), K1)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // The first operand is added again, so that a zero does not swallow what came before.
    (product as u64) ^ ((product >> 64) as u64) ^ a.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use expect_test::expect;

    use super::*;

    #[test]
    fn vectors() {
        let shown = ["", "a", "toolcall:toolu_01", "conversation:7f1d8f0e-2f5e-4b5c-9f3c-5a1f6c1a2b3c"]
            .map(|text| format!("{:016x} {:016x}", hash(Domain::Typed, text), hash(Domain::Bare, text)));
        expect![[r#"
            06e94f1fc143ede1 00ceb98d7b2b0d8e
            b4f666332941dd52 a05c7d55e93c846b
            d86d3066240fa4a7 008eb5e2f9f6082a
            9dab4a95cdde9ec6 02162a6b8a04a624"#]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn similar_texts_do_not_collide() {
        let texts = (0..200_000).map(|i| format!("rpc:connection/{i}"));
        assert_eq!(texts.map(|t| hash(Domain::Typed, &t)).collect::<HashSet<_>>().len(), 200_000);
    }
}
