//! The kernel of AArch64: nibble tables looked up by `tbl`, 16 bytes at a time.
//!
//! Written from the instruction set's manual and compiled for no machine yet: no AArch64 toolchain was at hand.
//!
//! There are no stores around the cache: the architecture's non-temporal pair store is a hint that no intrinsic offers.

use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8,
};

use crate::field::NIBBLE_TABLES;
use crate::kernel::Kernel;
use crate::kernel::dispatch::kernel;
use crate::kernel::vector::Vector;

/// Exists only where NEON does.
#[derive(Debug)]
struct Neon(());

/// The kernel, where its instructions exist.
pub(super) fn all() -> Option<Box<dyn Kernel>> {
    std::arch::is_aarch64_feature_detected!("neon").then(|| Box::new(Neon(())) as Box<dyn Kernel>)
}

#[derive(Clone, Copy)]
struct V(uint8x16_t);

impl Vector for V {
    const BYTES: usize = 16;
    type Factor = [uint8x16_t; 2];

    #[inline(always)]
    unsafe fn factor(constant: u8) -> [uint8x16_t; 2] {
        let [low, high] = &NIBBLE_TABLES[usize::from(constant)];
        // SAFETY: the instruction set exists; the tables are 16 bytes.
        unsafe { [vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr())] }
    }

    #[inline(always)]
    unsafe fn multiply(self, [low, high]: [uint8x16_t; 2]) -> Self {
        // SAFETY: the instruction set exists.
        unsafe {
            let low = vqtbl1q_u8(low, vandq_u8(self.0, vdupq_n_u8(15)));
            let high = vqtbl1q_u8(high, vshrq_n_u8::<4>(self.0));
            Self(veorq_u8(low, high))
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the instruction set exists.
        Self(unsafe { veorq_u8(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the instruction set exists and 16 bytes are readable.
        Self(unsafe { vld1q_u8(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the instruction set exists and 16 bytes are writable.
        unsafe { vst1q_u8(to, self.0) };
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller promises at least what `store` needs.
        unsafe { self.store(to) };
    }

    #[inline(always)]
    unsafe fn fence() {}
}

kernel!(Neon, "neon", #[target_feature(enable = "neon")]);
