//! Intel's ISA-L, loaded at run time from a file that the user names.

use std::ffi::c_int;
use std::fmt;
use std::path::Path;

use libloading::Library;
use tenfour_types::limits::DATA_SHARDS;

use crate::kernel::dispatch::common_length;

/// Bytes of tables per coefficient.
const TABLE_BYTES: usize = 32;

type InitTables = unsafe extern "C" fn(c_int, c_int, *mut u8, *mut u8);
type EncodeData = unsafe extern "C" fn(c_int, c_int, c_int, *mut u8, *mut *mut u8, *mut *mut u8);

/// A function of the library that multiplies with a matrix.
pub(crate) struct IsaL {
    init_tables: InitTables,
    encode_data: EncodeData,
    /// The functions lie in it.
    _library: Library,
}

/// A matrix, prepared by the library.
#[derive(Debug)]
pub(crate) struct Tables {
    bytes: Vec<u8>,
    rows: usize,
}

/// Why a file cannot be used as ISA-L.
#[derive(Debug, thiserror::Error)]
#[error("{path} is no ISA-L: {reason}")]
pub(crate) struct NoIsaL {
    path: String,
    reason: String,
}

impl IsaL {
    /// What the library chooses for this processor.
    pub(crate) fn best(path: &Path) -> Result<Self, NoIsaL> {
        Self::load(path, "ec_encode_data", &["ec_init_tables"])
    }

    /// What it would choose if the processor had AVX2 and nothing newer. Newer versions prepare tables for GFNI unless told otherwise.
    pub(crate) fn avx2(path: &Path) -> Result<Self, NoIsaL> {
        Self::load(path, "ec_encode_data_avx2", &["ec_init_tables_base", "ec_init_tables"])
    }

    fn load(path: &Path, encode_data: &str, init_tables: &[&str]) -> Result<Self, NoIsaL> {
        let refused = |reason: String| NoIsaL { path: path.display().to_string(), reason };
        // SAFETY: the user vouches for the file; loading ISA-L runs nothing of it.
        let library = unsafe { Library::new(path) }.map_err(|error| refused(error.to_string()))?;
        // SAFETY: the functions have had these types in all versions of `erasure_code.h`.
        let found = unsafe {
            let encode_data = library.get::<EncodeData>(encode_data).ok().map(|symbol| *symbol);
            let mut init_tables = init_tables.iter().filter_map(|name| library.get::<InitTables>(*name).ok());
            encode_data.zip(init_tables.next().map(|symbol| *symbol))
        };
        let (encode_data, init_tables) = found
            .ok_or_else(|| refused(format!("it has no {encode_data} and {}", init_tables.join(" or "))))?;
        Ok(Self { init_tables, encode_data, _library: library })
    }

    /// Prepares a matrix, a row for each output.
    pub(crate) fn tables(&self, rows: &[[u8; DATA_SHARDS]]) -> Tables {
        let mut matrix = rows.concat();
        let mut tables = Tables { bytes: vec![0; TABLE_BYTES * matrix.len()], rows: rows.len() };
        // SAFETY: the matrix has a byte, the tables 32 for each of so many rows and columns.
        unsafe {
            (self.init_tables)(
                DATA_SHARDS as c_int,
                rows.len() as c_int,
                matrix.as_mut_ptr(),
                tables.bytes.as_mut_ptr(),
            );
        }
        tables
    }

    /// `outputs[n] = Σ rows[n][s] · sources[s]`.
    pub(crate) fn product(
        &self,
        tables: &mut Tables,
        sources: &[&[u8]; DATA_SHARDS],
        outputs: &mut [&mut [u8]],
    ) {
        assert_eq!(outputs.len(), tables.rows, "a row for each output");
        let bytes = c_int::try_from(common_length(sources, outputs)).unwrap_or_default();
        let mut inputs = sources.map(|source| source.as_ptr().cast_mut());
        let mut places: Vec<*mut u8> = outputs.iter_mut().map(|output| output.as_mut_ptr()).collect();
        // SAFETY: ten inputs, which are only read, and the outputs are all at least `bytes` long; `&mut` excludes overlap.
        unsafe {
            (self.encode_data)(
                bytes,
                DATA_SHARDS as c_int,
                tables.rows as c_int,
                tables.bytes.as_mut_ptr(),
                inputs.as_mut_ptr(),
                places.as_mut_ptr(),
            );
        }
    }
}

impl fmt::Debug for IsaL {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("IsaL").finish_non_exhaustive()
    }
}
