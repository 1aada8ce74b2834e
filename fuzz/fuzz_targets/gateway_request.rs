//! Fuzzes `tenfour_gateway::http::fuzz::request`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_gateway::http::fuzz::request(bytes);
});
