//! The memory traffic of the code without its arithmetic: ten streams read, one to four written. No encoder can be faster.

use std::arch::asm;
use std::arch::x86_64::{__m256i, __m512i};

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS};

use crate::kernel::dispatch::{common_length, places};
use crate::kernel::generic::{load_all, put_all};
use crate::kernel::vector::Vector;
use crate::kernel::x86::{avx2, gfni512};

/// The same traffic by registers of one width.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Traffic {
    /// AVX2 exists.
    Bits256(Exists),
    /// AVX-512F exists.
    Bits512(Exists),
}

/// Made by [`Traffic::all`] alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exists(());

impl Traffic {
    /// The widths that this machine has.
    pub(crate) fn all() -> Vec<Self> {
        let widths = [
            (is_x86_feature_detected!("avx2"), Self::Bits256(Exists(()))),
            (is_x86_feature_detected!("avx512f"), Self::Bits512(Exists(()))),
        ];
        widths.into_iter().filter_map(|(exists, width)| exists.then_some(width)).collect()
    }

    /// Reads all of `sources` and writes as much to each of one or four outputs.
    pub(crate) fn run(self, sources: &[&[u8]; DATA_SHARDS], outputs: &mut [&mut [u8]], non_temporal: bool) {
        let bytes = common_length(sources, outputs);
        let inputs = sources.map(<[u8]>::as_ptr);
        let (places, aligned) = places::<gfni512::V>(outputs);
        // SAFETY: the width exists; all slices are `bytes` long; `&mut` excludes overlap.
        unsafe {
            match (self, outputs.len(), non_temporal && aligned) {
                (Self::Bits256(_), 1, false) => move_256::<1, false>(&inputs, &places, bytes),
                (Self::Bits256(_), 1, true) => move_256::<1, true>(&inputs, &places, bytes),
                (Self::Bits256(_), 4, false) => move_256::<4, false>(&inputs, &places, bytes),
                (Self::Bits256(_), 4, true) => move_256::<4, true>(&inputs, &places, bytes),
                (Self::Bits512(_), 1, false) => move_512::<1, false>(&inputs, &places, bytes),
                (Self::Bits512(_), 1, true) => move_512::<1, true>(&inputs, &places, bytes),
                (Self::Bits512(_), 4, false) => move_512::<4, false>(&inputs, &places, bytes),
                (Self::Bits512(_), 4, true) => move_512::<4, true>(&inputs, &places, bytes),
                (_, outputs, _) => panic!("{outputs} outputs, not one or four"),
            }
        }
    }
}

/// A vector of which the compiler must not forget that it was loaded.
trait Kept: Vector {
    /// # Safety
    /// The instruction set exists.
    unsafe fn keep(self);
}

impl Kept for avx2::V {
    #[inline(always)]
    unsafe fn keep(self) {
        // SAFETY: the instruction set exists.
        unsafe { keep_256(self.0) };
    }
}

impl Kept for gfni512::V {
    #[inline(always)]
    unsafe fn keep(self) {
        // SAFETY: the instruction set exists.
        unsafe { keep_512(self.0) };
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn keep_256(value: __m256i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", in(ymm_reg) value, options(nostack, nomem, preserves_flags)) };
}

#[target_feature(enable = "avx512f")]
#[inline]
fn keep_512(value: __m512i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", in(zmm_reg) value, options(nostack, nomem, preserves_flags)) };
}

/// # Safety
/// AVX2 exists; as [`crate::kernel::generic::encode`] otherwise.
#[target_feature(enable = "avx2")]
unsafe fn move_256<const WRITES: usize, const STREAM: bool>(
    inputs: &[*const u8; DATA_SHARDS],
    outputs: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises.
    unsafe { move_all::<avx2::V, WRITES, STREAM>(inputs, outputs, bytes) };
}

/// # Safety
/// AVX-512F exists; as [`crate::kernel::generic::encode`] otherwise.
#[target_feature(enable = "avx512f")]
unsafe fn move_512<const WRITES: usize, const STREAM: bool>(
    inputs: &[*const u8; DATA_SHARDS],
    outputs: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises.
    unsafe { move_all::<gfni512::V, WRITES, STREAM>(inputs, outputs, bytes) };
}

/// # Safety
/// The instruction set exists; as [`crate::kernel::generic::encode`] otherwise.
#[inline(always)]
unsafe fn move_all<V: Kept, const WRITES: usize, const STREAM: bool>(
    inputs: &[*const u8; DATA_SHARDS],
    outputs: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let mut offset = 0;
        while offset < bytes {
            let values = load_all::<V>(inputs, offset);
            let mut index = 0;
            while index < DATA_SHARDS {
                values[index].keep();
                index += 1;
            }
            put_all::<V, WRITES, STREAM>(&[values[0]; WRITES], outputs, offset);
            offset += V::BYTES;
        }
        if STREAM {
            V::fence();
        }
    }
}
