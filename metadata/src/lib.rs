//! tenfour: the Raft groups, their state machine and stores, leases and fences.
