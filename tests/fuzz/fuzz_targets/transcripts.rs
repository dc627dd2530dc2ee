//! libFuzzer on the target transcripts.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("transcripts"), |bytes: &[u8]| threadline_fuzz::run("transcripts", bytes));
