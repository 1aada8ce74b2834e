//! On a CUDA device, with the feature `gpu-tests`: that it is used, and that its bytes are those of the reference.
#![cfg(feature = "gpu-tests")]
#![allow(clippy::unwrap_used)] // The helpers of tests are tests too.

mod on_device;

#[test]
fn encode_at_many_lengths_from_many_threads() {
    on_device::encode_at_many_lengths_from_many_threads();
}

#[test]
fn every_loss_pattern() {
    on_device::every_loss_pattern();
}

#[test]
fn registered_memory_is_read_where_it_is() {
    on_device::registered_memory_is_read_where_it_is();
}

#[test]
fn memory_of_the_device() {
    on_device::memory_of_the_device();
}

#[test]
fn both_sides_are_measured() {
    on_device::both_sides_are_measured();
}

#[test]
fn rows_for_a_table() {
    on_device::rows_for_a_table();
}
