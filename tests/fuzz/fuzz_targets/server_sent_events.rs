#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::server_sent_events(bytes));
