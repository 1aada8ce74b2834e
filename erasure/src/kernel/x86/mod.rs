//! The kernels of x86-64: AVX2 with nibble shuffles, GFNI on 256 bits, GFNI on 512 bits.
//!
//! With GFNI a product is one `gf2p8affineqb` by the constant's bit matrix (`gf2p8mulb` is for another polynomial); without, two
//! shuffles that look the nibbles' products up (Plank, Greenan, Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD
//! Instructions", FAST 2013).

mod avx2;
mod crc512;
mod gfni256;
mod gfni512;

pub(crate) use {avx2::Avx2, gfni256::Gfni256, gfni512::Gfni512};
