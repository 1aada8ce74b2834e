//! Which sums give back a lost shard: the coefficients of one reconstruction.
//!
//! Only the lost *data* shards need a matrix inverted, at most 4×4; that takes well under a microsecond, less than a lock around
//! a cache of the 1,471 cases would, so there is no cache.
//!
//! Invariant: with at least 10 shards present every plan exists (the code is MDS); all loss patterns are tested.

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS, TOTAL_SHARDS};

use crate::field::{PARITY_MATRIX, invert, multiply};

type Square = [[u8; PARITY_SHARDS]; PARITY_SHARDS];

/// Two forms of the same linear map, one row for each wanted shard.
///
/// Let `T[q]` be parity `q` computed with the lost data as zeros, plus the stored parity `q`, or nothing where that is lost. Then
/// wanted shard `n` is the sum of `combine[n][q] · T[q]` (the syndrome form), and the sum of `rows[n][s]` times shard `sources[s]`.
#[derive(Debug)]
pub struct Plan {
    /// The syndrome form.
    pub combine: Square,
    /// The form over ten shards.
    pub rows: [[u8; DATA_SHARDS]; PARITY_SHARDS],
    /// Those ten.
    pub sources: [usize; DATA_SHARDS],
}

impl Plan {
    /// `present` has at least 10 shards; `wanted` are different shards that are not among them.
    #[must_use]
    pub fn new(present: [bool; TOTAL_SHARDS], wanted: &[usize]) -> Self {
        let (have_data, have_parity) = present.split_at(DATA_SHARDS);
        let lost = list((0..DATA_SHARDS).filter(|shard| !have_data[*shard]));
        let lost = &lost.0[..lost.1];
        let parity = list((0..PARITY_SHARDS).filter(|row| have_parity[*row]).take(lost.len()));
        let parity = &parity.0[..parity.1];
        debug_assert_eq!(parity.len(), lost.len(), "10 shards are present");

        let inverse = invert_matrix(lost, parity);
        let mut combine = [[0; PARITY_SHARDS]; PARITY_SHARDS];
        for (coefficients, want) in combine.iter_mut().zip(wanted) {
            *coefficients = combination(*want, lost, parity, &inverse);
        }
        let mut sources = std::array::from_fn(|shard| shard);
        for (shard, row) in lost.iter().zip(parity) {
            sources[*shard] = DATA_SHARDS + row;
        }
        Self { combine, rows: combine.map(|coefficients| row_over(&coefficients, &sources)), sources }
    }

    /// Data and stored parity for the syndrome form without a stream of zeros: whatever takes a lost shard's place comes out again.
    ///
    /// Let `f` stand where data shard `n` is lost. `T` grows by that column of the parity matrix times `f`; the combination that
    /// solves for `n` makes `f` of it, every other one nothing. With `f` added at the end, it is gone. The same holds for a
    /// wanted parity shard, which has its own `T` alone. So wanted shard `n` is `stored[n]`, counted by its place among the
    /// wanted ones, plus the sum of `combine[n][q] · T[q]`, if `stored[n]` is what takes its place.
    pub(crate) fn filled<'a>(
        &self,
        present: &[Option<&'a [u8]>; TOTAL_SHARDS],
        wanted: &[usize],
    ) -> ([&'a [u8]; DATA_SHARDS], [&'a [u8]; PARITY_SHARDS]) {
        let any = present[self.sources[0]].unwrap_or_default();
        let mut stored: [&[u8]; PARITY_SHARDS] =
            std::array::from_fn(|row| present[DATA_SHARDS + row].unwrap_or(any));
        // A wanted parity's filling may itself be that of another wanted parity, and so on.
        for _ in 0..PARITY_SHARDS {
            for (place, want) in wanted.iter().enumerate() {
                if let Some(row) = want.checked_sub(DATA_SHARDS) {
                    stored[row] = stored[place];
                }
            }
        }
        let mut data: [&[u8]; DATA_SHARDS] = std::array::from_fn(|shard| present[shard].unwrap_or(any));
        for (place, want) in wanted.iter().enumerate() {
            if let Some(slot) = data.get_mut(*want) {
                *slot = stored[place];
            }
        }
        (data, stored)
    }
}

/// At most four shard numbers.
fn list(numbers: impl Iterator<Item = usize>) -> ([usize; PARITY_SHARDS], usize) {
    let mut array = [0; PARITY_SHARDS];
    let mut length = 0;
    for (slot, number) in array.iter_mut().zip(numbers) {
        *slot = number;
        length += 1;
    }
    (array, length)
}

/// A lost data shard is its row of the inverse times the syndromes; a lost parity shard is the parity of the survivors plus that
/// of the lost data.
fn combination(want: usize, lost: &[usize], parity: &[usize], inverse: &Square) -> [u8; PARITY_SHARDS] {
    let mut coefficients = [0; PARITY_SHARDS];
    for (position, shard) in lost.iter().enumerate() {
        let share = match want.checked_sub(DATA_SHARDS) {
            None => u8::from(*shard == want),
            Some(row) => PARITY_MATRIX[row][*shard],
        };
        for (column, row) in parity.iter().enumerate() {
            coefficients[*row] ^= multiply(share, inverse[position][column]);
        }
    }
    if let Some(row) = want.checked_sub(DATA_SHARDS) {
        coefficients[row] ^= 1;
    }
    coefficients
}

/// The same combination, written over the ten shards that it is computed from.
fn row_over(coefficients: &[u8; PARITY_SHARDS], sources: &[usize; DATA_SHARDS]) -> [u8; DATA_SHARDS] {
    std::array::from_fn(|slot| match sources[slot].checked_sub(DATA_SHARDS) {
        Some(row) => coefficients[row],
        None => {
            (0..PARITY_SHARDS).fold(0, |sum, row| sum ^ multiply(coefficients[row], PARITY_MATRIX[row][slot]))
        }
    })
}

/// The inverse of the parity matrix's part at rows `parity` and columns `lost`, by Gauss and Jordan. No pivot is ever zero:
/// every square part of an MDS code's parity matrix is regular, so every leading minor is.
fn invert_matrix(lost: &[usize], parity: &[usize]) -> Square {
    let size = lost.len();
    let mut left: Square = [[0; PARITY_SHARDS]; PARITY_SHARDS];
    let mut right: Square = [[0; PARITY_SHARDS]; PARITY_SHARDS];
    for (row, parity_row) in parity.iter().enumerate() {
        for (column, shard) in lost.iter().enumerate() {
            left[row][column] = PARITY_MATRIX[*parity_row][*shard];
        }
        right[row][row] = 1;
    }
    for pivot in 0..size {
        let scale = invert(left[pivot][pivot]);
        debug_assert_ne!(scale, 0, "a leading minor of an MDS matrix is regular");
        left[pivot] = left[pivot].map(|value| multiply(value, scale));
        right[pivot] = right[pivot].map(|value| multiply(value, scale));
        for row in (0..size).filter(|row| *row != pivot) {
            let factor = left[row][pivot];
            for column in 0..size {
                left[row][column] ^= multiply(factor, left[pivot][column]);
                right[row][column] ^= multiply(factor, right[pivot][column]);
            }
        }
    }
    right
}
