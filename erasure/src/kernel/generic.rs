//! The loops, written once over [`Vector`] and [`Sum`] and inlined into a function per instruction set.
//!
//! Each step takes a vector of each stream, in order, which is what the hardware prefetcher follows best.
//!
//! No closures here: they would be compiled without the instruction set of the function they are inlined into. Nothing here
//! orders streamed stores: whoever asked for them ends with [`Vector::fence`].

use std::ops::Range;

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, SHARD_ALIGN_BYTES, TOTAL_SHARDS};

use crate::kernel::vector::{Sum, Vector};

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

/// Encodes a range of each shard, and sums all 14 over it.
///
/// # Safety
/// The instruction set exists; both ends of `range` are multiples of 64, and so many bytes as its end are readable at each of
/// `data` and writable at each of `parity`, no parity overlapping anything else; with `STREAM` each of `parity` is a multiple
/// of `V::BYTES`.
#[inline(always)]
pub(super) unsafe fn encode<V: Vector, S: Sum<V>, const STREAM: bool>(
    data: &[*const u8; DATA_SHARDS],
    parity: &[*mut u8; PARITY_SHARDS],
    range: Range<usize>,
) -> [u64; TOTAL_SHARDS] {
    // SAFETY: as the caller promises; a line begins 64 bytes or more before the range's end.
    unsafe {
        let constants = Constants::<V>::new();
        let sum = S::new();
        let mut states = [sum.start(); TOTAL_SHARDS];
        let mut offset = range.start;
        while offset < range.end {
            let values = load_all::<V>(data, offset);
            let parities = parity_of(&constants, &values);
            put_all::<V, PARITY_SHARDS, STREAM>(&parities, parity, offset);
            ask_ahead(sum, data, offset);
            fold_all(sum, &mut states, 0, &values);
            fold_all(sum, &mut states, DATA_SHARDS, &parities);
            offset += V::BYTES;
        }
        finish_all(sum, &states)
    }
}

/// How far ahead of its use a pair of lines is asked for, bytes.
const AHEAD_BYTES: usize = 256;

/// Asks for lines that come soon: for a pair of them (one request brings both) of the even streams at the first line of a pair, of
/// the odd streams at the second. While sums are multiplied the processor does not come far enough ahead by itself. More requests,
/// or all at once, or before the loads, cost more than they bring.
///
/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn ask_ahead<V: Vector, S: Sum<V>>(sum: S, streams: &[*const u8; DATA_SHARDS], offset: usize) {
    if !offset.is_multiple_of(SHARD_ALIGN_BYTES) {
        return;
    }
    let pair = offset - offset % (2 * SHARD_ALIGN_BYTES);
    // SAFETY: as the caller promises.
    unsafe {
        if pair == offset {
            ask_for_half::<V, S, 0>(sum, streams, pair);
        } else {
            ask_for_half::<V, S, 1>(sum, streams, pair);
        }
    }
}

/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn ask_for_half<V: Vector, S: Sum<V>, const FIRST: usize>(
    sum: S,
    streams: &[*const u8; DATA_SHARDS],
    pair: usize,
) {
    let mut stream = FIRST;
    while stream < DATA_SHARDS {
        // SAFETY: as the caller promises.
        unsafe { sum.ask_for(streams[stream].wrapping_add(pair).wrapping_add(AHEAD_BYTES)) };
        stream += 2;
    }
}

/// `outputs[n] = Σ rows[n][s] · sources[s]` for the first `ROWS` rows, over a range; the sums are those of the ten sources, then of
/// the outputs.
///
/// # Safety
/// As [`encode`], for `sources` and the first `ROWS` of `outputs`.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, S: Sum<V>, const ROWS: usize, const STREAM: bool>(
    sources: &[*const u8; DATA_SHARDS],
    rows: &[[u8; DATA_SHARDS]; PARITY_SHARDS],
    outputs: &[*mut u8; PARITY_SHARDS],
    range: Range<usize>,
) -> [u64; TOTAL_SHARDS] {
    // SAFETY: as the caller promises; every offset below is less than the range's end by a vector or more.
    unsafe {
        let factors = factors::<V, DATA_SHARDS, ROWS>(rows);
        let sum = S::new();
        let mut states = [sum.start(); TOTAL_SHARDS];
        let mut offset = range.start;
        while offset < range.end {
            let first = V::load(sources[0].add(offset));
            states[0] = sum.fold(states[0], first);
            let mut products = [first; ROWS];
            let mut row = 0;
            while row < ROWS {
                products[row] = first.multiply(factors[row][0]);
                row += 1;
            }
            let mut source = 1;
            while source < DATA_SHARDS {
                let value = V::load(sources[source].add(offset));
                states[source] = sum.fold(states[source], value);
                let mut row = 0;
                while row < ROWS {
                    products[row] = products[row].add(value.multiply(factors[row][source]));
                    row += 1;
                }
                source += 1;
            }
            fold_all(sum, &mut states, DATA_SHARDS, &products);
            put_all::<V, ROWS, STREAM>(&products, outputs, offset);
            offset += V::BYTES;
        }
        finish_all(sum, &states)
    }
}

/// `outputs[n] = stored[n] + Σ combine[n][q] · (parity(data)[q] + stored[q])` for the first `ROWS` rows and the first `COLUMNS`
/// parities.
///
/// # Safety
/// As [`encode`], for `data`, the first `COLUMNS` of `stored`, the first `ROWS` of `outputs`, and the range from 0 to `bytes`; there
/// are no more rows than columns.
#[inline(always)]
pub(super) unsafe fn syndrome<V: Vector, const ROWS: usize, const COLUMNS: usize, const STREAM: bool>(
    data: &[*const u8; DATA_SHARDS],
    stored: &[*const u8; PARITY_SHARDS],
    combine: &[[u8; PARITY_SHARDS]; PARITY_SHARDS],
    outputs: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let constants = Constants::<V>::new();
        let factors = factors::<V, PARITY_SHARDS, ROWS>(combine);
        let mut offset = 0;
        while offset < bytes {
            let mut syndromes = parity_of(&constants, &load_all::<V>(data, offset));
            let mut values = [syndromes[0]; ROWS];
            let mut column = 0;
            while column < COLUMNS {
                let stored = V::load(stored[column].add(offset));
                syndromes[column] = syndromes[column].add(stored);
                if column < ROWS {
                    values[column] = stored;
                }
                column += 1;
            }
            let mut row = 0;
            while row < ROWS {
                let mut column = 0;
                while column < COLUMNS {
                    values[row] = values[row].add(syndromes[column].multiply(factors[row][column]));
                    column += 1;
                }
                row += 1;
            }
            put_all::<V, ROWS, STREAM>(&values, outputs, offset);
            offset += V::BYTES;
        }
    }
}

/// `parity[q] += column[q] · (old + new)`.
///
/// # Safety
/// As [`encode`], for `old`, `new` and `parity`, which is read too, and the range from 0 to `bytes`.
#[inline(always)]
pub(super) unsafe fn update<V: Vector>(
    old: *const u8,
    new: *const u8,
    column: [u8; PARITY_SHARDS],
    parity: &[*mut u8; PARITY_SHARDS],
    bytes: usize,
) {
    // SAFETY: as the caller promises; every offset below is less than `bytes` by a vector or more.
    unsafe {
        let factors = factors::<V, 1, PARITY_SHARDS>(&[[column[0]], [column[1]], [column[2]], [column[3]]]);
        let mut offset = 0;
        while offset < bytes {
            let change = V::load(old.add(offset)).add(V::load(new.add(offset)));
            let mut row = 0;
            while row < PARITY_SHARDS {
                let place = parity[row].add(offset);
                V::load(place).add(change.multiply(factors[row][0])).store(place);
                row += 1;
            }
            offset += V::BYTES;
        }
    }
}

/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn factors<V: Vector, const COLUMNS: usize, const ROWS: usize>(
    matrix: &[[u8; COLUMNS]; PARITY_SHARDS],
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
/// The instruction set exists, and `V::BYTES` bytes at `offset` from each of the first `ROWS` pointers are writable; with `STREAM`
/// those places are multiples of `V::BYTES`.
#[inline(always)]
pub(super) unsafe fn put_all<V: Vector, const ROWS: usize, const STREAM: bool>(
    values: &[V; ROWS],
    outputs: &[*mut u8; PARITY_SHARDS],
    offset: usize,
) {
    let mut row = 0;
    while row < ROWS {
        // SAFETY: as the caller promises.
        unsafe {
            if STREAM {
                values[row].stream(outputs[row].add(offset));
            } else {
                values[row].store(outputs[row].add(offset));
            }
        }
        row += 1;
    }
}

/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn fold_all<V: Vector, S: Sum<V>, const COUNT: usize>(
    sum: S,
    states: &mut [S::State; TOTAL_SHARDS],
    first: usize,
    values: &[V; COUNT],
) {
    let mut index = 0;
    while index < COUNT {
        // SAFETY: as the caller promises.
        states[first + index] = unsafe { sum.fold(states[first + index], values[index]) };
        index += 1;
    }
}

/// # Safety
/// The instruction set exists.
#[inline(always)]
unsafe fn finish_all<V: Vector, S: Sum<V>>(sum: S, states: &[S::State; TOTAL_SHARDS]) -> [u64; TOTAL_SHARDS] {
    let mut sums = [0; TOTAL_SHARDS];
    let mut shard = 0;
    while shard < TOTAL_SHARDS {
        // SAFETY: as the caller promises.
        sums[shard] = unsafe { sum.finish(states[shard]) };
        shard += 1;
    }
    sums
}
