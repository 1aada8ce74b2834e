//! Fuzzes `tenfour_rdma::fuzz::message`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_rdma::fuzz::message(bytes);
});
