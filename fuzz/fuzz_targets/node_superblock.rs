//! Fuzzes `tenfour_node::target::fuzz::superblock`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tenfour_node::target::fuzz::superblock(bytes);
});
