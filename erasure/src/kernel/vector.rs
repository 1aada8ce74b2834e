//! What the loops are written over: a register's worth of field elements, and a checksum that is folded along.
//!
//! Every function is unsafe for one reason at least: its instructions must exist.

/// A register's worth of field elements.
pub(in crate::kernel) trait Vector: Copy {
    /// Bytes in a vector; divides 64.
    const BYTES: usize;
    /// A constant, prepared to multiply with.
    type Factor: Copy;

    /// # Safety
    /// The instruction set exists.
    unsafe fn factor(constant: u8) -> Self::Factor;
    /// # Safety
    /// The instruction set exists.
    unsafe fn multiply(self, factor: Self::Factor) -> Self;
    /// # Safety
    /// The instruction set exists.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// The instruction set exists, and `BYTES` bytes at `from` are readable.
    unsafe fn load(from: *const u8) -> Self;
    /// # Safety
    /// The instruction set exists, and `BYTES` bytes at `to` are writable.
    unsafe fn store(self, to: *mut u8);
    /// Around the cache.
    /// # Safety
    /// As [`Vector::store`], and `to` is a multiple of `BYTES`.
    unsafe fn stream(self, to: *mut u8);
    /// Orders streamed stores before later ones.
    /// # Safety
    /// The instruction set exists.
    unsafe fn fence();
}

/// A checksum of one stream, folded vector by vector while the loops have them in registers.
pub(in crate::kernel) trait Sum<V: Vector>: Copy {
    /// What was folded so far.
    type State: Copy;

    /// The constants.
    /// # Safety
    /// The instruction set exists.
    unsafe fn new() -> Self;
    /// Of no bytes yet.
    /// # Safety
    /// The instruction set exists.
    unsafe fn start(self) -> Self::State;
    /// # Safety
    /// The instruction set exists.
    unsafe fn fold(self, state: Self::State, next: V) -> Self::State;
    /// The line at `from`, which need not exist, will soon be read.
    /// # Safety
    /// The instruction set exists.
    unsafe fn ask_for(self, from: *const u8);
    /// The checksum of what was folded, at least one vector.
    /// # Safety
    /// The instruction set exists.
    unsafe fn finish(self, state: Self::State) -> u64;
}

/// No checksum.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Unsummed;

impl<V: Vector> Sum<V> for Unsummed {
    type State = ();

    #[inline(always)]
    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn start(self) {}

    #[inline(always)]
    unsafe fn fold(self, (): (), _next: V) {}

    #[inline(always)]
    unsafe fn ask_for(self, _from: *const u8) {}

    #[inline(always)]
    unsafe fn finish(self, (): ()) -> u64 {
        0
    }
}
