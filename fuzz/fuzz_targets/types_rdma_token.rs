//! Fuzzes `tenfour_types::fuzz::rdma_token`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_types::fuzz::rdma_token(bytes);
});
