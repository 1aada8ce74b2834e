//! The kernels of x86-64: GFNI on 512 and on 256 bits, nibble shuffles with AVX2 and with SSSE3.
//!
//! With GFNI a product is one `gf2p8affineqb` by the constant's bit matrix (`gf2p8mulb` is for another polynomial); without, two
//! shuffles that look the nibbles' products up (Plank, Greenan, Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD
//! Instructions", FAST 2013).

pub(super) mod avx2;
mod cache;
mod crc256;
pub(super) mod crc512;
pub(super) mod crc64;
mod gfni256;
pub(super) mod gfni512;
mod ssse3;

pub(super) use cache::second_level_cache_bytes;

use crate::kernel::Kernel;

/// Those whose instructions this machine has, fastest first.
pub(super) fn all() -> Vec<Box<dyn Kernel>> {
    fn boxed<K: Kernel + 'static>(kernel: K) -> Box<dyn Kernel> {
        Box::new(kernel)
    }
    let found = [
        gfni512::Gfni512::detect().map(boxed),
        gfni256::Gfni256::detect().map(boxed),
        avx2::Avx2::detect().map(boxed),
        ssse3::Ssse3::detect().map(boxed),
    ];
    found.into_iter().flatten().collect()
}
