//! tenfour: the cluster map, failure domains and placement groups, as pure functions.
