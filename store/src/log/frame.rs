//! One frame: the unit that has an offset.
//!
//! Invariants
//! - a header is believed only when its own checksum holds, so a length is never trusted before that
//! - the checksum of a header starts from the segment's random salt: bytes inside a payload cannot pass for a frame
//! - a payload has at least one byte, so 24 zero bytes are never a frame; they mean "nothing written here"
//! - `group` counts the frames written since the last sync: every frame below `offset - group` was durable before
//!   this one was written. That is what tells a torn write from corruption (see `log::recover`).
//!
//! On disk, little endian: `length u32 | group u32 | offset u64 | payload crc32c u32 | header crc32c u32 | payload`.
//! Bit 31 of `length` is set on the last frame of a batch; a batch without it does not exist for any reader.

/// Bytes in front of every payload.
pub(super) const FRAME_HEADER_BYTES: usize = 24;

const ENDS_BATCH: u32 = 1 << 31;

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of payload that follow.
    pub(super) payload_bytes: u32,
    /// Whether the batch is complete with this frame.
    pub(super) ends_batch: bool,
    /// Frames of the same group commit before this one.
    pub(super) group: u32,
    /// The frame's place in the log.
    pub(super) offset: u64,
    /// CRC32C of the payload.
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// Every offset below this one was durable when the frame was written.
    pub(super) fn durable_below(&self) -> u64 {
        self.offset.saturating_sub(u64::from(self.group))
    }

    /// Reads a header; `None` when its checksum does not hold or it describes no possible frame.
    pub(super) fn decode(bytes: &[u8; FRAME_HEADER_BYTES], salt: u32) -> Option<FrameHeader> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        if crc32c::crc32c_append(salt, &bytes[..20]) != u32_at(20) {
            return None;
        }
        let length = u32_at(0);
        let header = FrameHeader {
            payload_bytes: length & !ENDS_BATCH,
            ends_batch: length & ENDS_BATCH != 0,
            group: u32_at(4),
            offset: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            payload_crc: u32_at(16),
        };
        (header.payload_bytes > 0 && u64::from(header.group) <= header.offset).then_some(header)
    }

    /// Whether `payload` is the one this header was written for.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes as usize && crc32c::crc32c(payload) == self.payload_crc
    }

    /// Appends the header to `out`; the payload comes next.
    pub(super) fn encode(&self, salt: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let flag = if self.ends_batch { ENDS_BATCH } else { 0 };
        out.extend_from_slice(&(self.payload_bytes | flag).to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(salt: u32) -> Vec<u8> {
        let payload = b"payload";
        let header = FrameHeader {
            payload_bytes: payload.len() as u32,
            ends_batch: true,
            group: 3,
            offset: 0x0102_0304_0506_0708,
            payload_crc: crc32c::crc32c(payload),
        };
        let mut out = Vec::new();
        header.encode(salt, &mut out);
        out.extend_from_slice(payload);
        out
    }

    fn decode(bytes: &[u8], salt: u32) -> Option<FrameHeader> {
        FrameHeader::decode(bytes[..FRAME_HEADER_BYTES].try_into().unwrap(), salt)
    }

    #[test]
    fn the_layout_is_fixed() {
        let expected = expect_test::expect!["070000800300000008070605040302017069e3f421c1fb077061796c6f6164"];
        expected.assert_eq(&hex::encode(encoded(7)));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = encoded(7);
        let header = decode(&good, 7).unwrap();
        assert_eq!(header.durable_below(), header.offset - 3);
        assert!(header.matches(&good[FRAME_HEADER_BYTES..]));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let believed = decode(&bad, 7).is_some_and(|h| h.matches(&bad[FRAME_HEADER_BYTES..]));
            assert!(!believed, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_segment_or_nothing_is_no_frame() {
        assert_eq!(decode(&encoded(7), 8), None);
        assert_eq!(decode(&[0; FRAME_HEADER_BYTES], 0), None);
        assert_eq!(decode(&[0; FRAME_HEADER_BYTES], 7), None);
    }
}
