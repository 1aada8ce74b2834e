//! tenfour: the one binary.
