//! libFuzzer on the target profile_lines.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("profile_lines"), |bytes: &[u8]| threadline_fuzz::run("profile_lines", bytes));
