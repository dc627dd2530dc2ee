//! libFuzzer on the target stdio.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("stdio"), |bytes: &[u8]| threadline_fuzz::run("stdio", bytes));
