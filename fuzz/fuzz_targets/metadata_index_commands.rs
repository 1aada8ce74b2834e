//! Fuzzes `tenfour_metadata::fuzz::index_commands`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_metadata::fuzz::index_commands(bytes);
});
