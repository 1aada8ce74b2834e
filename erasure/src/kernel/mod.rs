//! The kernels: the same loops of the code over vectors of several kinds, and MD5 of many streams side by side.
//!
//! `unsafe` is allowed here because vector instructions need it: raw loads and stores, and instructions that exist only on some
//! processors. Each kernel is a value that can only be made where its instructions exist.
//!
//! Invariant: a kernel looks at the lengths of all slices that it gets before it turns the first one into a pointer.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod cache;
mod dispatch;
mod generic;
pub(crate) mod md5;
#[cfg(feature = "bench")]
pub(crate) mod peers;
mod scalar;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt::Debug;
use std::ops::Range;

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::checksum::crc64;

pub(crate) use cache::private_cache_bytes;

/// The arithmetic of the code on one instruction set. All slices of a call are of one length, a multiple of 64, and there are one to
/// four outputs (checked: a breach is a bug of this crate and panics).
///
/// `non_temporal` writes around the cache where alignment allows it; [`fence`](Kernel::fence) must follow before anybody else is
/// told of those bytes.
pub(crate) trait Kernel: Send + Sync + Debug {
    /// The codec's name.
    fn name(&self) -> &'static str;

    /// The four parities of the ten data.
    fn encode(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        non_temporal: bool,
    );

    /// [`encode`](Kernel::encode) of a range, and the CRC-64/NVME of all 14 over it; unless a kernel can do better, in a second
    /// pass while the bytes are in cache.
    fn encode_block(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
        block: Range<usize>,
        _non_temporal: bool,
    ) -> [u64; TOTAL_SHARDS] {
        encode_then_sum(self, data, parity, block)
    }

    /// `outputs[n] = Σ rows[n][s] · sources[s]`.
    fn product(
        &self,
        sources: &[&[u8]; DATA_SHARDS],
        rows: &[[u8; DATA_SHARDS]; PARITY_SHARDS],
        outputs: &mut [&mut [u8]],
        non_temporal: bool,
    );

    /// [`product`](Kernel::product) of a range, and the CRC-64/NVME of the ten sources and then of the outputs over it, as with
    /// [`encode_block`](Kernel::encode_block).
    fn product_block(
        &self,
        sources: &[&[u8]; DATA_SHARDS],
        rows: &[[u8; DATA_SHARDS]; PARITY_SHARDS],
        outputs: &mut [&mut [u8]],
        block: Range<usize>,
        _non_temporal: bool,
    ) -> [u64; TOTAL_SHARDS] {
        product_then_sum(self, sources, rows, outputs, block)
    }

    /// `outputs[n] = stored[n] + Σ combine[n][q] · (parity(data)[q] + stored[q])`.
    fn syndrome(
        &self,
        data: &[&[u8]; DATA_SHARDS],
        stored: &[&[u8]; PARITY_SHARDS],
        combine: &[[u8; PARITY_SHARDS]; PARITY_SHARDS],
        outputs: &mut [&mut [u8]],
        non_temporal: bool,
    );

    /// `parity[q] += column[q] · (old + new)`.
    fn update(
        &self,
        old: &[u8],
        new: &[u8],
        column: [u8; PARITY_SHARDS],
        parity: &mut [&mut [u8]; PARITY_SHARDS],
    );

    /// Orders what was written around the cache before all that follows.
    fn fence(&self);
}

/// Every kernel whose instructions this machine has, fastest first.
pub(crate) fn all() -> Vec<Box<dyn Kernel>> {
    let mut kernels: Vec<Box<dyn Kernel>> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    kernels.extend(x86::all());
    #[cfg(target_arch = "aarch64")]
    kernels.extend(aarch64::all());
    kernels.push(Box::new(scalar::Scalar));
    kernels
}

/// The fastest of them.
pub(crate) fn best() -> Box<dyn Kernel> {
    all().into_iter().next().unwrap_or_else(|| Box::new(scalar::Scalar))
}

fn encode_then_sum<K: Kernel + ?Sized>(
    kernel: &K,
    data: &[&[u8]; DATA_SHARDS],
    parity: &mut [&mut [u8]; PARITY_SHARDS],
    block: Range<usize>,
) -> [u64; TOTAL_SHARDS] {
    let data = data.map(|shard| &shard[block.clone()]);
    let mut parity = parity.each_mut().map(|shard| &mut shard[block.clone()]);
    kernel.encode(&data, &mut parity, false);
    sums_of(&data, &parity)
}

fn product_then_sum<K: Kernel + ?Sized>(
    kernel: &K,
    sources: &[&[u8]; DATA_SHARDS],
    rows: &[[u8; DATA_SHARDS]; PARITY_SHARDS],
    outputs: &mut [&mut [u8]],
    block: Range<usize>,
) -> [u64; TOTAL_SHARDS] {
    let sources = sources.map(|shard| &shard[block.clone()]);
    let mut parts: [&mut [u8]; PARITY_SHARDS] = Default::default();
    let count = outputs.len();
    parts.iter_mut().zip(outputs).for_each(|(part, output)| *part = &mut output[block.clone()]);
    kernel.product(&sources, rows, &mut parts[..count], false);
    sums_of(&sources, &parts[..count])
}

/// The sums of the inputs, then of the outputs; 0 beyond them.
fn sums_of(inputs: &[&[u8]; DATA_SHARDS], outputs: &[&mut [u8]]) -> [u64; TOTAL_SHARDS] {
    let mut sums = [0; TOTAL_SHARDS];
    let slices = inputs.iter().copied().chain(outputs.iter().map(|output| &**output));
    sums.iter_mut().zip(slices).for_each(|(sum, slice)| *sum = crc64(slice));
    sums
}
