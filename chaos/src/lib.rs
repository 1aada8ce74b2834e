//! tenfour: workloads, checkers, fault injectors and the process cluster.
