//! From checked slices to the generic loops, for one instruction set and one number of rows.

use tenfour_types::limits::SHARD_ALIGN_BYTES;

/// The kernel of an instruction set: the generic loops behind functions that enable it, with the checks that make them safe.
/// The module must have a vector type `V` and a type `$kernel` whose values exist only where the instructions do; it may bring
/// a better `encode_and_sum`.
macro_rules! kernel {
    ($kernel:ident, $name:literal $(, #[$enable:meta])? $(; $($better:tt)*)?) => {
        $(#[$enable])?
        unsafe fn encode<const STREAM: bool>(data: &[*const u8; 10], parity: &[*mut u8; 4], bytes: usize) {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { $crate::kernel::generic::encode::<V, STREAM>(data, parity, bytes) }
        }

        $(#[$enable])?
        unsafe fn product<const ROWS: usize>(
            sources: &[*const u8; 10],
            rows: &[[u8; 10]; ROWS],
            outputs: &[*mut u8; ROWS],
            bytes: usize,
        ) {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { $crate::kernel::generic::product::<V, ROWS>(sources, rows, outputs, bytes) }
        }

        $(#[$enable])?
        unsafe fn syndrome<const ROWS: usize>(
            data: &[*const u8; 10],
            stored: &[*const u8; 4],
            combine: &[[u8; 4]; ROWS],
            outputs: &[*mut u8; ROWS],
            bytes: usize,
        ) {
            // SAFETY: the caller promises what the loop asks for, and the instructions are enabled.
            unsafe { $crate::kernel::generic::syndrome::<V, ROWS>(data, stored, combine, outputs, bytes) }
        }

        impl $crate::kernel::Kernel for $kernel {
            fn name(&self) -> &'static str {
                $name
            }

            fn encode(&self, data: &[&[u8]; 10], mut parity: [&mut [u8]; 4], non_temporal: bool) {
                let bytes = $crate::kernel::dispatch::common_length(data, &parity);
                let inputs = data.map(<[u8]>::as_ptr);
                let outputs = parity.each_mut().map(|shard| shard.as_mut_ptr());
                let vector_bytes = <V as $crate::kernel::generic::Vector>::BYTES;
                let aligned = outputs.iter().all(|output| output.addr().is_multiple_of(vector_bytes));
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    if non_temporal && aligned {
                        encode::<true>(&inputs, &outputs, bytes);
                    } else {
                        encode::<false>(&inputs, &outputs, bytes);
                    }
                }
            }

            $($($better)*)?

            fn product(&self, sources: &[&[u8]; 10], rows: &[[u8; 10]], outputs: &mut [&mut [u8]]) {
                let bytes = $crate::kernel::dispatch::common_length(sources, outputs);
                let inputs = sources.map(<[u8]>::as_ptr);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    $crate::kernel::dispatch::by_rows!(rows, outputs, |rows, outputs| product(
                        &inputs, rows, outputs, bytes
                    ));
                }
            }

            fn syndrome(
                &self,
                data: &[&[u8]; 10],
                stored: &[&[u8]; 4],
                combine: &[[u8; 4]],
                outputs: &mut [&mut [u8]],
            ) {
                let bytes = $crate::kernel::dispatch::common_length(data, outputs);
                assert_eq!($crate::kernel::dispatch::common_length(stored, outputs), bytes);
                let inputs = data.map(<[u8]>::as_ptr);
                let stored = stored.map(<[u8]>::as_ptr);
                // SAFETY: `self` exists, so the instructions do; all slices are `bytes` long; `&mut` excludes overlap.
                unsafe {
                    $crate::kernel::dispatch::by_rows!(combine, outputs, |rows, outputs| syndrome(
                        &inputs, &stored, rows, outputs, bytes
                    ));
                }
            }
        }
    };
}

/// Calls the function for as many rows as there are, one to four; with none there is nothing to do.
macro_rules! by_rows {
    ($rows:expr, $outputs:expr, |$r:ident, $o:ident| $call:expr) => {
        match ($rows, $outputs) {
            ([], []) => {}
            ([a], [x]) => by_rows!(@ [a], [x], $r, $o, $call),
            ([a, b], [x, y]) => by_rows!(@ [a, b], [x, y], $r, $o, $call),
            ([a, b, c], [x, y, z]) => by_rows!(@ [a, b, c], [x, y, z], $r, $o, $call),
            ([a, b, c, d], [x, y, z, w]) => by_rows!(@ [a, b, c, d], [x, y, z, w], $r, $o, $call),
            (rows, outputs) => panic!("{} rows for {} outputs", rows.len(), outputs.len()),
        }
    };
    (@ [$($row:ident),*], [$($output:ident),*], $r:ident, $o:ident, $call:expr) => {{
        let $r = &[$(*$row),*];
        let $o = &[$($output.as_mut_ptr()),*];
        $call
    }};
}

pub(super) use {by_rows, kernel};

/// The length that all slices have.
pub(super) fn common_length(inputs: &[&[u8]], outputs: &[&mut [u8]]) -> usize {
    let bytes = inputs.first().map_or(0, |input| input.len());
    assert!(inputs.iter().all(|input| input.len() == bytes), "inputs of unequal length");
    assert!(outputs.iter().all(|output| output.len() == bytes), "outputs of unequal length");
    assert!(bytes.is_multiple_of(SHARD_ALIGN_BYTES), "not whole lines of 64 bytes");
    bytes
}
