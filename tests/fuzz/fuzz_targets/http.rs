//! libFuzzer on the target http.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("http"), |bytes: &[u8]| threadline_fuzz::run("http", bytes));
