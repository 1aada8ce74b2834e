//! Fuzzes `tenfour_placement::fuzz::map`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_placement::fuzz::map(bytes);
});
