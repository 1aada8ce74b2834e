//! GF(2^8) with the polynomial 0x11d, its tables, and the parity matrix of the 10+4 code.
//!
//! All tables are computed by the compiler from the polynomial; nothing here is fast on purpose, the kernels are.
//!
//! Invariant: [`PARITY_MATRIX`] is what `reed-solomon-erasure` and klauspost/reedsolomon make of 10 and 4: it is what lies on
//! disks, and a test holds it against the former.

use tenfour_types::limits::{DATA_SHARDS, PARITY_SHARDS};

const POLYNOMIAL: u16 = 0x11d;

/// The parity rows: parity shard `r` is the sum of `PARITY_MATRIX[r][c]` times data shard `c`.
///
/// `V · inv(V[0..10])` for the Vandermonde matrix `V[r][c] = r^c`, rows 10 to 13.
pub const PARITY_MATRIX: [[u8; DATA_SHARDS]; PARITY_SHARDS] = [
    [0x81, 0x96, 0xaf, 0xb8, 0xd2, 0xc4, 0xfe, 0xe8, 0x03, 0x02],
    [0x96, 0x81, 0xb8, 0xaf, 0xc4, 0xd2, 0xe8, 0xfe, 0x02, 0x03],
    [0xbf, 0xd6, 0x62, 0x0a, 0x06, 0x6f, 0xdf, 0xb7, 0x05, 0x04],
    [0xd6, 0xbf, 0x0a, 0x62, 0x6f, 0x06, 0xb7, 0xdf, 0x04, 0x05],
];

/// Product by definition: shift and reduce.
const fn multiply_slowly(a: u8, b: u8) -> u8 {
    let mut product = 0;
    let mut power = a as u16;
    let mut bits = b;
    while bits != 0 {
        if bits & 1 != 0 {
            product ^= power;
        }
        power <<= 1;
        if power & 0x100 != 0 {
            power ^= POLYNOMIAL;
        }
        bits >>= 1;
    }
    product as u8
}

/// `PRODUCTS[a][b]` is `a · b`.
pub(crate) static PRODUCTS: [[u8; 256]; 256] = products();

const fn products() -> [[u8; 256]; 256] {
    let mut table = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        // The row is linear in its index: eight products give all 256.
        let mut bit = 0;
        while bit < 8 {
            let unit = multiply_slowly(a as u8, 1 << bit);
            let mut low = 0;
            while low < 1 << bit {
                table[a][(1 << bit) | low] = table[a][low] ^ unit;
                low += 1;
            }
            bit += 1;
        }
        a += 1;
    }
    table
}

/// `a · b`.
pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    PRODUCTS[usize::from(a)][usize::from(b)]
}

/// `1 / a` (0 for 0): `a^254`.
pub(crate) fn invert(a: u8) -> u8 {
    let mut result = 1;
    let mut power = a;
    for _ in 0..7 {
        power = multiply(power, power);
        result = multiply(result, power);
    }
    result
}

/// [`bit_matrix`] of every constant.
pub(crate) static BIT_MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut constant = 0;
    while constant < 256 {
        matrices[constant] = bit_matrix(constant as u8);
        constant += 1;
    }
    matrices
};

/// [`nibble_tables`] of every constant.
pub(crate) static NIBBLE_TABLES: [[[u8; 16]; 2]; 256] = {
    let mut tables = [[[0; 16]; 2]; 256];
    let mut constant = 0;
    while constant < 256 {
        tables[constant] = nibble_tables(constant as u8);
        constant += 1;
    }
    tables
};

/// Multiplication by a constant as the 8×8 bit matrix that `gf2p8affineqb` takes: byte `7 - i` says which bits of the operand
/// make bit `i` of the product.
const fn bit_matrix(constant: u8) -> u64 {
    let mut matrix = 0;
    let mut bit = 0;
    while bit < 8 {
        let product = multiply_slowly(constant, 1 << bit);
        let mut row = 0;
        while row < 8 {
            if product >> row & 1 != 0 {
                matrix |= 1 << (8 * (7 - row) + bit);
            }
            row += 1;
        }
        bit += 1;
    }
    matrix
}

/// Multiplication by a constant as two tables of 16: products of the low and of the high nibble.
const fn nibble_tables(constant: u8) -> [[u8; 16]; 2] {
    let mut tables = [[0; 16]; 2];
    let mut nibble = 0;
    while nibble < 16 {
        tables[0][nibble] = multiply_slowly(constant, nibble as u8);
        tables[1][nibble] = multiply_slowly(constant, (nibble as u8) << 4);
        nibble += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_and_inverse() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                assert_eq!(multiply(a, b), multiply_slowly(a, b));
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0), "1/{a}");
        }
    }

    #[test]
    fn the_tables_multiply() {
        for constant in 0..=255_u8 {
            let [low, high] = NIBBLE_TABLES[usize::from(constant)];
            let matrix = BIT_MATRICES[usize::from(constant)].to_be_bytes();
            for x in 0..=255_u8 {
                let product = multiply(constant, x);
                assert_eq!(low[usize::from(x & 15)] ^ high[usize::from(x >> 4)], product);
                let affine =
                    (0..8).fold(0, |bits, row| bits | ((matrix[row] & x).count_ones() as u8 & 1) << row);
                assert_eq!(affine, product, "{constant} · {x}");
            }
        }
    }

    #[test]
    fn the_matrix_is_that_of_reed_solomon_erasure() {
        let code = reed_solomon_erasure::galois_8::ReedSolomon::new(DATA_SHARDS, PARITY_SHARDS).unwrap();
        for column in 0..DATA_SHARDS {
            let data: Vec<[u8; 1]> = (0..DATA_SHARDS).map(|shard| [u8::from(shard == column)]).collect();
            let mut parity = vec![[0_u8; 1]; PARITY_SHARDS];
            code.encode_sep(&data, &mut parity).unwrap();
            for (row, [product]) in PARITY_MATRIX.iter().zip(parity) {
                assert_eq!(row[column], product);
            }
        }
    }
}
