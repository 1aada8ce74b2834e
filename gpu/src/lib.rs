//! tenfour: the 10+4 code on CUDA, found at run time.
