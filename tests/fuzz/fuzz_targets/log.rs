//! libFuzzer on the target log.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("log"), |bytes: &[u8]| threadline_fuzz::run("log", bytes));
