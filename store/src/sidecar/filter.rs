//! The two filters of an id sidecar and their bytes.

use xorf::{BinaryFuse8, BinaryFuse16, Filter};

use super::Probe;

const DESCRIPTOR_BYTES: usize = 20;

/// Says no for almost every file that does not hold an id.
#[derive(Debug)]
pub(crate) struct IdFilter {
    events: BinaryFuse16,
    keys: BinaryFuse8,
}

/// The bytes of a 16-bit filter: one false yes in 65,536.
pub(super) fn encode16(hashes: &[u64]) -> Vec<u8> {
    let filter = BinaryFuse16::try_from(hashes).expect("distinct hashes make a filter within a thousand seeds");
    let d = &filter.descriptor;
    let mut out = descriptor(d.seed, d.segment_length, d.segment_length_mask, d.segment_count_length);
    out.extend(filter.fingerprints.iter().flat_map(|f| f.to_le_bytes()));
    out
}

/// The bytes of an 8-bit filter: one false yes in 256.
pub(super) fn encode8(hashes: &[u64]) -> Vec<u8> {
    let filter = BinaryFuse8::try_from(hashes).expect("distinct hashes make a filter within a thousand seeds");
    let d = &filter.descriptor;
    let mut out = descriptor(d.seed, d.segment_length, d.segment_length_mask, d.segment_count_length);
    out.extend_from_slice(&filter.fingerprints);
    out
}

fn descriptor(seed: u64, lengths: u32, mask: u32, count: u32) -> Vec<u8> {
    let mut out = seed.to_le_bytes().to_vec();
    [lengths, mask, count].iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    out
}

/// Reads a descriptor and checks that no lookup can leave the fingerprints.
fn take_descriptor(bytes: &[u8], width: usize) -> Option<(u64, [u32; 3], &[u8])> {
    let (head, fingerprints) = bytes.split_at_checked(DESCRIPTOR_BYTES)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let (length, mask, count) = (u32_at(8), u32_at(12), u32_at(16));
    let reach = u64::from(count) + 2 * u64::from(length);
    let safe = length.is_power_of_two() && mask == length - 1 && reach <= (fingerprints.len() / width) as u64;
    let seed = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    (safe && fingerprints.len().is_multiple_of(width)).then_some((seed, [length, mask, count], fingerprints))
}

impl IdFilter {
    /// Reads what [`encode16`] and [`encode8`] wrote.
    pub(super) fn decode(events: &[u8], keys: &[u8]) -> Option<IdFilter> {
        let (seed, [length, mask, count], fingerprints) = take_descriptor(events, 2)?;
        let mut events = BinaryFuse16::try_from(&[][..]).ok()?;
        events.descriptor.seed = seed;
        events.descriptor.segment_length = length;
        events.descriptor.segment_length_mask = mask;
        events.descriptor.segment_count_length = count;
        let (pairs, _) = fingerprints.as_chunks::<2>();
        events.fingerprints = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();

        let (seed, [length, mask, count], fingerprints) = take_descriptor(keys, 1)?;
        let mut keys = BinaryFuse8::try_from(&[][..]).ok()?;
        keys.descriptor.seed = seed;
        keys.descriptor.segment_length = length;
        keys.descriptor.segment_length_mask = mask;
        keys.descriptor.segment_count_length = count;
        keys.fingerprints = fingerprints.into();
        Some(IdFilter { events, keys })
    }

    /// `false`: the file does not hold it.
    pub(crate) fn may_contain(&self, probe: Probe) -> bool {
        match probe {
            Probe::Event(id) => self.events.contains(&((id.as_u128() >> 64) as u64)),
            Probe::Key(hash) => self.keys.contains(&hash),
        }
    }

    /// Bytes it takes in memory.
    pub(crate) fn weight(&self) -> u64 {
        (self.events.fingerprints.len() * 2 + self.keys.fingerprints.len()) as u64
    }
}
