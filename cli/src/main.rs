//! The tenfour binary.
fn main() {}
