//! tenfour: a lean S3 client for loads, demos and checks.
