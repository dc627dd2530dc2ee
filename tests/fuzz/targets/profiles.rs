//! Source profiles: the TOML of one, and lines through each that is shipped.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use threadline_schemas::decode::Line;
use threadline_schemas::decode::profile::{Catalogue, Explaining, Profile, ProfileDecoder};

use super::records::{accounted, bounded, context, of_lines, sound};
use super::seeds::{chunked, files};

/// A profile that loads reads any lines, and is the same when its text is loaded again.
pub(super) fn toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let profile = match Profile::parse(text) {
        Ok(profile) => profile,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(profile.text(), text);
    assert_eq!(Profile::parse(text).expect("it loaded before").digest(), profile.digest());
    through(&Arc::new(profile), SAMPLES);
}

/// Lines of each format, good and bad.
const SAMPLES: &[u8] = b"{\"type\":\"mcp_tool_call\",\"time\":\"2026-11-20T10:00:00Z\",\"n\":1,\"params\":{\"name\":\"x\",\"arguments\":{\"a\":[1,2]}},\"messages\":[{\"content\":\"a\"},{\"content\":\"b\"}]}
time=2026-11-20T10:00:00Z level=info msg=\"tool call\" tool=orders__refund args=\"{\\\"id\\\":1}\"
10.0.0.1 - - [20/Nov/2026:10:00:00 +0000] \"POST /mcp HTTP/1.1\" 200 5 \"-\" \"agent/1\"
2026-11-20 10:00:00.123 UTC,\"app\",\"db\",1,\"[local]\",5,1,\"SELECT\",2026-11-20 10:00:00 UTC,3/4,0,LOG,00000,\"AUDIT: SESSION,1,1,READ,SELECT,,,select 1,<none>\"

not a line of any format \xff\xfe";

/// The first byte names the profile, the rest are lines.
pub(super) fn lines(bytes: &[u8]) {
    let Some((which, lines)) = bytes.split_first() else { return };
    let profiles = shipped();
    through(&profiles[usize::from(*which) % profiles.len()], lines);
}

fn through(profile: &Arc<Profile>, lines: &[u8]) {
    let decode = || of_lines(&mut ProfileDecoder::new(profile.clone()), lines);
    let records = decode();
    assert_eq!(records, decode());
    accounted(&records, lines, true);
    sound(&records);
    bounded(&records, lines.len(), 64 << 10, 1024);
    // What `source test` shows are these records.
    let mut explaining = Explaining::new(profile.clone());
    let mut explained = Vec::new();
    for (line, number) in lines.split(|byte| *byte == b'\n').zip(1..) {
        let key = format!("file:f:{number}");
        explained
            .extend(explaining.line(&context(), Line { bytes: line, file: Some("f"), number, delivery_key: &key }));
    }
    explained.extend(explaining.finish(&context()));
    assert!(explained.iter().map(|explained| &explained.record).eq(&records), "explained are other records");
    assert!(explained.iter().all(|explained| !explained.to_string().is_empty()));
}

fn shipped() -> &'static [Arc<Profile>] {
    static SHIPPED: LazyLock<Vec<Arc<Profile>>> = LazyLock::new(|| {
        let mut profiles = Catalogue::shipped().profiles().to_vec();
        profiles.sort_by(|a, b| a.name().cmp(b.name()));
        profiles
    });
    &SHIPPED
}

pub(super) fn toml_seeds(repository: &Path) -> Vec<Vec<u8>> {
    let shipped = files(&repository.join("schemas/sources"), &|name| name.ends_with(".toml"));
    shipped.into_iter().map(|(_, text)| text).collect()
}

pub(super) fn lines_seeds(repository: &Path) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (profile, which) in shipped().iter().zip(0u8..) {
        let sample = repository.join("tests/profiles").join(format!("{}.log", profile.name()));
        let sample = std::fs::read(sample).expect("a sample");
        seeds.extend(chunked(&[which], sample.split(|byte| *byte == b'\n'), b'\n'));
    }
    seeds
}
