//! Fuzzes `tenfour_erasure::fuzz::reconstruct`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_erasure::fuzz::reconstruct(bytes);
});
