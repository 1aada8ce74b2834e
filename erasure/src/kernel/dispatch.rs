//! From checked slices to the generic loops, for one instruction set, one number of rows and one kind of store.

use std::ops::Range;

use tenfour_types::limits::{PARITY_SHARDS, SHARD_ALIGN_BYTES};

/// The kernel of an instruction set: the generic loops behind functions that enable it, with the checks that make them safe.
///
/// The module must have a vector type `V` and a type `$kernel` whose values exist only where the instructions do. With a second
/// set of instructions there must also be a [`Sum`](crate::kernel::vector::Sum) named `Folded`, and the kernel's field
/// `$carryless` says whether those exist.
macro_rules! kernel {
    ($kernel:ident, $name:literal $(, #[$enable:meta])? $(; $carryless:ident, #[$enable_sums:meta])?) => {
        mod plain {
            use super::V;
            use crate::kernel::{dispatch::loops, generic, vector::Unsummed};

            loops!(V, Unsummed $(, #[$enable])?);

            $(#[$enable])?
            pub(super) unsafe fn syndrome<const ROWS: usize, const COLUMNS: usize, const STREAM: bool>(
                data: &[*const u8; 10],
                stored: &[*const u8; 4],
                combine: &[[u8; 4]; 4],
                outputs: &[*mut u8; 4],
                bytes: usize,
            ) {
                // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
                unsafe {
                    generic::syndrome::<V, ROWS, COLUMNS, STREAM>(data, stored, combine, outputs, bytes);
                }
            }

            $(#[$enable])?
            pub(super) unsafe fn update(
                old: *const u8,
                new: *const u8,
                column: [u8; 4],
                parity: &[*mut u8; 4],
                bytes: usize,
            ) {
                // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
                unsafe { generic::update::<V>(old, new, column, parity, bytes) }
            }
        }

        $(mod summed {
            use super::{Folded, V};
            use crate::kernel::{dispatch::loops, generic};

            loops!(V, Folded, #[$enable_sums]);
        })?

        impl $crate::kernel::Kernel for $kernel {
            fn name(&self) -> &'static str {
                $name
            }

            fn encode(&self, data: &[&[u8]; 10], parity: &mut [&mut [u8]; 4], non_temporal: bool) {
                let bytes = $crate::kernel::dispatch::common_length(data, parity);
                let inputs = data.map(<[u8]>::as_ptr);
                let (outputs, aligned) = $crate::kernel::dispatch::places::<V>(parity);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    if non_temporal && aligned {
                        plain::encode::<true>(&inputs, &outputs, 0..bytes);
                    } else {
                        plain::encode::<false>(&inputs, &outputs, 0..bytes);
                    }
                }
            }

            $(fn encode_block(
                &self,
                data: &[&[u8]; 10],
                parity: &mut [&mut [u8]; 4],
                block: std::ops::Range<usize>,
                non_temporal: bool,
            ) -> [u64; 14] {
                if !self.$carryless {
                    return $crate::kernel::encode_then_sum(self, data, parity, block);
                }
                $crate::kernel::dispatch::check_block(&block, $crate::kernel::dispatch::common_length(data, parity));
                let inputs = data.map(<[u8]>::as_ptr);
                let (outputs, aligned) = $crate::kernel::dispatch::places::<V>(parity);
                // SAFETY: `self` exists and the field is set, so the instructions exist; the block lies in all slices; `&mut`
                // excludes overlap.
                unsafe {
                    if non_temporal && aligned {
                        summed::encode::<true>(&inputs, &outputs, block)
                    } else {
                        summed::encode::<false>(&inputs, &outputs, block)
                    }
                }
            })?

            fn product(
                &self,
                sources: &[&[u8]; 10],
                rows: &[[u8; 10]; 4],
                outputs: &mut [&mut [u8]],
                non_temporal: bool,
            ) {
                let bytes = $crate::kernel::dispatch::common_length(sources, outputs);
                let inputs = sources.map(<[u8]>::as_ptr);
                let (places, aligned) = $crate::kernel::dispatch::places::<V>(outputs);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    $crate::kernel::dispatch::by_rows!(outputs.len(), non_temporal && aligned,
                        plain::product(&inputs, rows, &places, 0..bytes));
                }
            }

            $(fn product_block(
                &self,
                sources: &[&[u8]; 10],
                rows: &[[u8; 10]; 4],
                outputs: &mut [&mut [u8]],
                block: std::ops::Range<usize>,
                non_temporal: bool,
            ) -> [u64; 14] {
                if !self.$carryless {
                    return $crate::kernel::product_then_sum(self, sources, rows, outputs, block);
                }
                $crate::kernel::dispatch::check_block(&block, $crate::kernel::dispatch::common_length(sources, outputs));
                let inputs = sources.map(<[u8]>::as_ptr);
                let (places, aligned) = $crate::kernel::dispatch::places::<V>(outputs);
                // SAFETY: `self` exists and the field is set, so the instructions exist; the block lies in all slices; `&mut`
                // excludes overlap.
                unsafe {
                    $crate::kernel::dispatch::by_rows!(outputs.len(), non_temporal && aligned,
                        summed::product(&inputs, rows, &places, block))
                }
            })?

            fn syndrome(
                &self,
                data: &[&[u8]; 10],
                stored: &[&[u8]; 4],
                combine: &[[u8; 4]; 4],
                outputs: &mut [&mut [u8]],
                non_temporal: bool,
            ) {
                let bytes = $crate::kernel::dispatch::common_length(data, outputs);
                assert_eq!($crate::kernel::dispatch::common_length(stored, outputs), bytes);
                let columns = $crate::kernel::dispatch::columns(&combine[..outputs.len()]);
                let inputs = data.map(<[u8]>::as_ptr);
                let stored = stored.map(<[u8]>::as_ptr);
                let (places, aligned) = $crate::kernel::dispatch::places::<V>(outputs);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    $crate::kernel::dispatch::by_rows!(outputs.len(), columns, non_temporal && aligned,
                        plain::syndrome(&inputs, &stored, combine, &places, bytes));
                }
            }

            fn update(&self, old: &[u8], new: &[u8], column: [u8; 4], parity: &mut [&mut [u8]; 4]) {
                let bytes = $crate::kernel::dispatch::common_length(&[old, new], parity);
                let (outputs, _) = $crate::kernel::dispatch::places::<V>(parity);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe { plain::update(old.as_ptr(), new.as_ptr(), column, &outputs, bytes) };
            }

            fn fence(&self) {
                // SAFETY: `self` exists, so the instructions do.
                unsafe { <V as $crate::kernel::vector::Vector>::fence() };
            }
        }
    };
}

/// The two loops that can sum along, for a vector and a sum.
macro_rules! loops {
    ($vector:ty, $sum:ty $(, #[$enable:meta])?) => {
        $crate::kernel::dispatch::encode_loop!($vector, $sum $(, #[$enable])?);

        $(#[$enable])?
        pub(super) unsafe fn product<const ROWS: usize, const STREAM: bool>(
            sources: &[*const u8; 10],
            rows: &[[u8; 10]; 4],
            outputs: &[*mut u8; 4],
            range: std::ops::Range<usize>,
        ) -> [u64; 14] {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { generic::product::<$vector, $sum, ROWS, STREAM>(sources, rows, outputs, range) }
        }
    };
}

/// The first of them.
macro_rules! encode_loop {
    ($vector:ty, $sum:ty $(, #[$enable:meta])?) => {
        $(#[$enable])?
        pub(super) unsafe fn encode<const STREAM: bool>(
            data: &[*const u8; 10],
            parity: &[*mut u8; 4],
            range: std::ops::Range<usize>,
        ) -> [u64; 14] {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { generic::encode::<$vector, $sum, STREAM>(data, parity, range) }
        }
    };
}

/// Calls the function for one to four rows, and for as many columns or, when they do not go with the rows, for all four.
macro_rules! by_rows {
    ($rows:expr, $stream:expr, $module:ident::$function:ident $arguments:tt) => {
        match ($rows, $stream) {
            (1, false) => $module::$function::<1, false> $arguments,
            (2, false) => $module::$function::<2, false> $arguments,
            (3, false) => $module::$function::<3, false> $arguments,
            (4, false) => $module::$function::<4, false> $arguments,
            (1, true) => $module::$function::<1, true> $arguments,
            (2, true) => $module::$function::<2, true> $arguments,
            (3, true) => $module::$function::<3, true> $arguments,
            (4, true) => $module::$function::<4, true> $arguments,
            (rows, _) => panic!("{rows} outputs, not one to four"),
        }
    };
    ($rows:expr, $columns:expr, $stream:expr, $module:ident::$function:ident $arguments:tt) => {
        match ($rows, $columns, $stream) {
            (2, 0..=2, false) => $module::$function::<2, 2, false> $arguments,
            (3, 0..=3, false) => $module::$function::<3, 3, false> $arguments,
            (1, _, false) => $module::$function::<1, 4, false> $arguments,
            (2, _, false) => $module::$function::<2, 4, false> $arguments,
            (3, _, false) => $module::$function::<3, 4, false> $arguments,
            (4, _, false) => $module::$function::<4, 4, false> $arguments,
            (2, 0..=2, true) => $module::$function::<2, 2, true> $arguments,
            (3, 0..=3, true) => $module::$function::<3, 3, true> $arguments,
            (1, _, true) => $module::$function::<1, 4, true> $arguments,
            (2, _, true) => $module::$function::<2, 4, true> $arguments,
            (3, _, true) => $module::$function::<3, 4, true> $arguments,
            (4, _, true) => $module::$function::<4, 4, true> $arguments,
            (rows, _, _) => panic!("{rows} outputs, not one to four"),
        }
    };
}

pub(super) use {by_rows, encode_loop, kernel, loops};

/// The length that all slices have.
pub(super) fn common_length(inputs: &[&[u8]], outputs: &[&mut [u8]]) -> usize {
    let bytes = inputs.first().map_or(0, |input| input.len());
    assert!(inputs.iter().all(|input| input.len() == bytes), "inputs of unequal length");
    assert!(outputs.iter().all(|output| output.len() == bytes), "outputs of unequal length");
    assert!(bytes.is_multiple_of(SHARD_ALIGN_BYTES), "not whole lines of 64 bytes");
    bytes
}

/// A block to sum: whole lines, at least one, inside the slices.
pub(super) fn check_block(block: &Range<usize>, bytes: usize) {
    assert!(block.start < block.end && block.end <= bytes, "no block of the shards");
    assert!(block.start.is_multiple_of(SHARD_ALIGN_BYTES), "not on a line of 64 bytes");
    assert!(block.end.is_multiple_of(SHARD_ALIGN_BYTES), "not whole lines of 64 bytes");
}

/// Where up to four outputs begin, and whether all of that is aligned to the vector; the places beyond them are not to be used.
pub(super) fn places<V: super::vector::Vector>(
    outputs: &mut [&mut [u8]],
) -> ([*mut u8; PARITY_SHARDS], bool) {
    assert!(outputs.len() <= PARITY_SHARDS, "more outputs than parities");
    let mut places = [std::ptr::null_mut(); PARITY_SHARDS];
    places.iter_mut().zip(outputs.iter_mut()).for_each(|(place, output)| *place = output.as_mut_ptr());
    let aligned = places.iter().all(|place| place.addr().is_multiple_of(V::BYTES));
    (places, aligned)
}

/// How many of the first columns hold all that is not zero.
pub(super) fn columns(combine: &[[u8; PARITY_SHARDS]]) -> usize {
    let used = |column: usize| combine.iter().any(|row| row[column] != 0);
    (0..PARITY_SHARDS).rev().find(|column| used(*column)).map_or(0, |last| last + 1)
}
