//! libFuzzer on the target profile_toml.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("profile_toml"), |bytes: &[u8]| threadline_fuzz::run("profile_toml", bytes));
