//! tenfour: the 10+4 Reed-Solomon code, its SIMD kernels, checksums and stripe geometry.
//!
//! A stripe is 10 data shards and 4 parity shards of equal length; any 10 of the 14 give back the others. The code is the one
//! of `reed-solomon-erasure`'s `galois_8` (GF(2^8) over 0x11d, systematic Vandermonde), byte for byte, whatever kernel runs.
//!
//! Beside it, the checksums of the same bytes: block CRCs in the encoder's pass, and MD5 of many streams side by side.
//!
//! Not here, on purpose: I/O, GPUs, nodes, buffers (callers bring their own memory), threads. One call works on one core.
//!
//! Invariant: no length, alignment or set of lost shards makes a call panic; what cannot be done is a [`CodecError`], and then
//! no output byte was written, except where the bytes themselves turn out to be bad ([`CodecError::BadShard`]).

#[cfg(feature = "bench")]
pub mod bench;
mod checksum;
mod codec;
mod field;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod geometry;
mod kernel;
mod md5;
mod plan;

pub use checksum::{
    BadBlock, BlockSums, TooManyBlocks, block_sums, crc64, crc64_combine, crc64_of_blocks, verify_blocks,
};
pub use codec::{Codec, CodecError, Rebuilt, Source, all, best, by_name};
pub use field::PARITY_MATRIX;
pub use md5::{Md5, Md5Lanes};
pub use plan::Plan;
