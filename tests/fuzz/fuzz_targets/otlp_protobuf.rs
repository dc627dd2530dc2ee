//! libFuzzer on the target otlp_protobuf.
#![no_main]
libfuzzer_sys::fuzz_target!(init: threadline_fuzz::begin("otlp_protobuf"), |bytes: &[u8]| threadline_fuzz::run("otlp_protobuf", bytes));
