//! The three loops, written once over [`Vector`] and inlined into a function per instruction set.
//!
//! Each step takes 64 bytes of each stream: one cache line, in order, which is what the hardware prefetcher follows best;
//! software prefetching was measured and did not help.
//!
//! No closures here: they would be compiled without the instruction set of the function they are inlined into.

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES};

/// A register's worth of field elements. Every function is unsafe for one reason: its instructions must exist.
pub(super) trait Vector: Copy {
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

/// The constants of the ten-multiplication form.
#[derive(Clone, Copy)]
pub(super) struct Constants<V: Vector> {
    by_2: V::Factor,
    by_4: V::Factor,
    by_6: V::Factor,
    by_8: V::Factor,
    by_22: V::Factor,
    by_104: V::Factor,
    by_10: V::Factor,
    by_12: V::Factor,
}

impl<V: Vector> Constants<V> {
    /// # Safety
    /// The instruction set exists.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                by_2: V::factor(2),
                by_4: V::factor(4),
                by_6: V::factor(6),
                by_8: V::factor(8),
                by_22: V::factor(22),
                by_104: V::factor(104),
                by_10: V::factor(10),
                by_12: V::factor(12),
            }
        }
    }
}

/// Four parities of one vector of each data shard, in ten multiplications instead of forty.
///
/// The evaluation points 0 to 13 of the code lie in the 16 elements {0..15}, a subspace over GF(2), so the sums split in pairs as
/// an additive FFT's do (Gao and Mateer, "Additive Fast Fourier Transforms over Finite Fields", 2010). Holds for this matrix only;
/// the test of the 80 unit bits compares both maps.
///
/// # Safety
/// The instruction set exists.
#[inline(always)]
pub(super) unsafe fn parity_of<V: Vector>(
    constants: &Constants<V>,
    data: &[V; DATA_SHARDS],
) -> [V; PARITY_SHARDS] {
    let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9] = *data;
    // SAFETY: as the caller promises.
    unsafe {
        let (a0, b0) = (d0.add(d1), d1);
        let a1 = d2.add(d3);
        let b1 = d3.add(a1.multiply(constants.by_2));
        let a2 = d4.add(d5);
        let b2 = d5.add(a2.multiply(constants.by_4));
        let a3 = d6.add(d7);
        let b3 = d7.add(a3.multiply(constants.by_6));
        let a4 = d8.add(d9);
        let b4 = d9.add(a4.multiply(constants.by_8));

        let [a5, a6] = fold(constants, [a0, a1, a2, a3, a4]);
        let [b5, b6] = fold(constants, [b0, b1, b2, b3, b4]);
        let e5 = b5.add(a5.multiply(constants.by_10));
        let e6 = b6.add(a6.multiply(constants.by_12));
        [a5.add(e5), e5, a6.add(e6), e6]
    }
}

/// From five pairs the two that are missing.
///
/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn fold<V: Vector>(constants: &Constants<V>, pairs: [V; 5]) -> [V; 2] {
    let [x0, x1, x2, x3, x4] = pairs;
    // SAFETY: as the caller promises.
    unsafe {
        let x01 = x0.add(x1);
        let x04 = x0.add(x4);
        let all = x01.add(x2.add(x3));
        [x04.add(x1).add(all.multiply(constants.by_22)), x04.add(x2).add(all.multiply(constants.by_104))]
    }
}

/// Encodes `bytes` of each shard.
///
/// # Safety
/// The instruction set exists; `bytes` is a multiple of 64, and so many are readable at each of `data` and writable at each of
/// `parity`, no parity overlapping anything else; with `STREAM` each of `parity` is a multiple of `V::BYTES`.
#[inline(always)]
pub(super) unsafe fn encode<V: Vector, const STREAM: bool>(
    data: &[*const u8; DATA_SHARDS],
    parity: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let constants = Constants::<V>::new();
        let mut line = 0;
        while line < bytes {
            let mut offset = line;
            line += SHARD_ALIGN_BYTES;
            while offset < line {
                let sums = parity_of(&constants, &load_all(data, offset));
                let mut row = 0;
                while row < PARITY_SHARDS {
                    if STREAM {
                        sums[row].stream(parity[row].add(offset));
                    } else {
                        sums[row].store(parity[row].add(offset));
                    }
                    row += 1;
                }
                offset += V::BYTES;
            }
        }
        if STREAM {
            V::fence();
        }
    }
}

/// `outputs[n] = Σ rows[n][s] · sources[s]`.
///
/// # Safety
/// As [`encode`], for `sources` and `outputs`.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const ROWS: usize>(
    sources: &[*const u8; DATA_SHARDS],
    rows: &[[u8; DATA_SHARDS]; ROWS],
    outputs: &[*mut u8; ROWS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let factors = factors::<V, DATA_SHARDS, ROWS>(rows);
        let mut offset = 0;
        while offset < bytes {
            let first = V::load(sources[0].add(offset));
            let mut sums = [first; ROWS];
            let mut row = 0;
            while row < ROWS {
                sums[row] = first.multiply(factors[row][0]);
                row += 1;
            }
            let mut source = 1;
            while source < DATA_SHARDS {
                let value = V::load(sources[source].add(offset));
                let mut row = 0;
                while row < ROWS {
                    sums[row] = sums[row].add(value.multiply(factors[row][source]));
                    row += 1;
                }
                source += 1;
            }
            store_all(&sums, outputs, offset);
            offset += V::BYTES;
        }
    }
}

/// `outputs[n] = Σ combine[n][q] · (parity(data)[q] + stored[q])`.
///
/// # Safety
/// As [`encode`], for `data`, `stored` and `outputs`.
#[inline(always)]
pub(super) unsafe fn syndrome<V: Vector, const ROWS: usize>(
    data: &[*const u8; DATA_SHARDS],
    stored: &[*const u8; PARITY_SHARDS],
    combine: &[[u8; PARITY_SHARDS]; ROWS],
    outputs: &[*mut u8; ROWS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let constants = Constants::<V>::new();
        let factors = factors::<V, PARITY_SHARDS, ROWS>(combine);
        let mut offset = 0;
        while offset < bytes {
            let [t0, t1, t2, t3] = parity_of(&constants, &load_all(data, offset));
            let t0 = t0.add(V::load(stored[0].add(offset)));
            let t1 = t1.add(V::load(stored[1].add(offset)));
            let t2 = t2.add(V::load(stored[2].add(offset)));
            let t3 = t3.add(V::load(stored[3].add(offset)));
            let mut sums = [t0; ROWS];
            let mut row = 0;
            while row < ROWS {
                let low = t0.multiply(factors[row][0]).add(t1.multiply(factors[row][1]));
                let high = t2.multiply(factors[row][2]).add(t3.multiply(factors[row][3]));
                sums[row] = low.add(high);
                row += 1;
            }
            store_all(&sums, outputs, offset);
            offset += V::BYTES;
        }
    }
}

/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn factors<V: Vector, const COLUMNS: usize, const ROWS: usize>(
    matrix: &[[u8; COLUMNS]; ROWS],
) -> [[V::Factor; COLUMNS]; ROWS] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut factors = [[V::factor(0); COLUMNS]; ROWS];
        let mut row = 0;
        while row < ROWS {
            let mut column = 0;
            while column < COLUMNS {
                factors[row][column] = V::factor(matrix[row][column]);
                column += 1;
            }
            row += 1;
        }
        factors
    }
}

/// # Safety
/// The instruction set exists, and `V::BYTES` bytes at `offset` from each pointer are readable.
#[inline(always)]
pub(super) unsafe fn load_all<V: Vector>(
    inputs: &[*const u8; DATA_SHARDS],
    offset: usize,
) -> [V; DATA_SHARDS] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut values = [V::load(inputs[0].add(offset)); DATA_SHARDS];
        let mut input = 1;
        while input < DATA_SHARDS {
            values[input] = V::load(inputs[input].add(offset));
            input += 1;
        }
        values
    }
}

/// # Safety
/// The instruction set exists, and `V::BYTES` bytes at `offset` from each pointer are writable.
#[inline(always)]
unsafe fn store_all<V: Vector, const ROWS: usize>(
    sums: &[V; ROWS],
    outputs: &[*mut u8; ROWS],
    offset: usize,
) {
    let mut row = 0;
    while row < ROWS {
        // SAFETY: as the caller promises.
        unsafe { sums[row].store(outputs[row].add(offset)) };
        row += 1;
    }
}
