//! The kernels: the same three loops of the code over vectors of four kinds, and MD5 of many streams side by side.
//!
//! `unsafe` is allowed here because vector instructions need it: raw loads and stores, and instructions that exist only on some
//! processors. Each kernel is a value that can only be made where its instructions exist.
//!
//! Invariant: a kernel looks at the lengths of all slices that it gets before it turns the first one into a pointer.
#![allow(unsafe_code)]

mod dispatch;
mod generic;
pub(crate) mod md5;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt::Debug;

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::checksum::crc64;

pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Gfni256, Gfni512};

/// The arithmetic of the code on one instruction set. All slices of a call are of one length, a multiple of 64 (checked: a
/// breach is a bug of this crate and panics).
pub(crate) trait Kernel: Send + Sync + Debug {
    /// The codec's name.
    fn name(&self) -> &'static str;

    /// The four parities of the ten data; `non_temporal` writes around the cache where alignment allows it.
    fn encode(&self, data: &[&[u8]; DATA_SHARDS], parity: [&mut [u8]; PARITY_SHARDS], non_temporal: bool);

    /// [`encode`](Kernel::encode), and the CRC-64/NVME of all 14 slices; unless a kernel can do better, in a second pass while
    /// the bytes are in cache.
    fn encode_and_sum(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: [&mut [u8]; PARITY_SHARDS],
        _non_temporal: bool,
    ) -> [u64; TOTAL_SHARDS] {
        encode_then_sum(self, data, parity)
    }

    /// `outputs[n] = Σ rows[n][s] · sources[s]`, 1 to 4 outputs.
    fn product(&self, sources: &[&[u8]; DATA_SHARDS], rows: &[[u8; DATA_SHARDS]], outputs: &mut [&mut [u8]]);

    /// `outputs[n] = Σ combine[n][q] · (parity(data)[q] + stored[q])`, 1 to 4 outputs.
    fn syndrome(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        stored: &[&[u8]; PARITY_SHARDS],
        combine: &[[u8; PARITY_SHARDS]],
        outputs: &mut [&mut [u8]],
    );
}

fn encode_then_sum<K: Kernel + ?Sized>(
    kernel: &K,
    data: &[&[u8]; DATA_SHARDS],
    mut parity: [&mut [u8]; PARITY_SHARDS],
) -> [u64; TOTAL_SHARDS] {
    kernel.encode(data, parity.each_mut().map(|shard| &mut **shard), false);
    std::array::from_fn(|shard| match shard.checked_sub(DATA_SHARDS) {
        None => crc64(data[shard]),
        Some(row) => crc64(parity[row]),
    })
}
