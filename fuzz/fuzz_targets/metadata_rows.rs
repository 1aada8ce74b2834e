//! Fuzzes `tenfour_metadata::fuzz::rows`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_metadata::fuzz::rows(bytes);
});
