use super::*;
use crate::decode::tests::context;
use proptest::prelude::*;

#[test]
fn every_shipped_profile_is_valid_and_named_after_its_file() {
    let files = Catalogue::shipped_files();
    assert!(!files.is_empty());
    for (file, text) in &files {
        let profile = Profile::parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(*file, format!("{}.toml", profile.name()));
        assert!(!crate::decode::recognise::Format::is_built_in(profile.name()));
        assert!(profile.title().len() > 20 && profile.shape().len() > 20, "{file}: say what it reads and where from");
    }
    assert_eq!(files.len(), Catalogue::shipped().profiles().len());
}

fn read(decoder: &mut ProfileDecoder, lines: &[&[u8]]) -> Vec<Record> {
    let mut records = Vec::new();
    for (bytes, number) in lines.iter().zip(1..) {
        let key = format!("file:x:{number}");
        records.extend(decoder.line(&context(), Line { bytes, file: Some("x"), number, delivery_key: &key }));
    }
    records.extend(decoder.finish(&context()));
    records
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_lost(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "[\\[\\]{}\",:=a-z0-9 \n\t<>%/.-]{0,300}",
    ) {
        for profile in Catalogue::shipped().profiles() {
            for bytes in [&bytes[..], text.as_bytes()] {
                let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                let records = read(&mut ProfileDecoder::new(profile.clone()), &lines);
                let mut covered: usize = 0;
                for record in records.iter().filter(|record| record.raw.is_some()) {
                    covered += memchr::memchr_iter(b'\n', record.raw.as_deref().unwrap()).count() + 1;
                }
                prop_assert_eq!(covered, lines.len(), "{}", profile.name());
            }
        }
    }
}
