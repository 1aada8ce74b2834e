//! tenfour: the 10+4 Reed-Solomon code, its SIMD kernels, checksums and stripe geometry.
