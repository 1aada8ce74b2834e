//! tenfour: S3 over HTTP, the PUT and GET pipelines, the fan-out.
