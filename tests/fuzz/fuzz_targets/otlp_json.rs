//! libFuzzer on the target otlp_json.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("otlp_json"), |bytes: &[u8]| threadline_fuzz::run("otlp_json", bytes));
