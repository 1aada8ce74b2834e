//! tenfour: the fabric: registered memory, grants, connections, one-sided operations.
