//! One immutable version of an object.

use crate::{Checksum, CommandId, ETag, Headers, StripeId, UploadId, Wire};
use serde::{Deserialize, Serialize};

/// One immutable object version. Committing it is the one moment at which a PUT happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The command that committed it: the version's identity.
    pub version: CommandId,
    /// Object bytes.
    pub size: u64,
    /// As clients expect it.
    pub etag: ETag,
    /// For `Last-Modified` alone, milliseconds since 1970; nothing is decided by it.
    pub modified_ms: u64,
    /// What was verified or computed on the way in.
    pub checksums: Vec<Checksum>,
    /// What the client stored beside the bytes.
    pub headers: Headers,
    /// Where the bytes are.
    pub body: Body,
}

impl Wire for Manifest {
    const NAME: &'static str = "manifest";
}

/// Where the bytes of an object are, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// Ranges of stripes; none for an empty object.
    Extents(Vec<Extent>),
    /// The parts of an upload, whose extents stay in the table of parts.
    Parts {
        /// The completed upload.
        upload: UploadId,
        /// The parts that Complete named, in ascending order.
        parts: Vec<PartRef>,
    },
}

/// A range of object bytes inside a stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// The stripe.
    pub stripe: StripeId,
    /// Where it begins among the stripe's data bytes.
    pub offset: u32,
    /// Its length.
    pub bytes: u32,
}

/// One part of a completed upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartRef {
    /// 1 to 10,000.
    pub number: u32,
    /// Which upload of that number (a part can be sent again): the command that committed it.
    pub version: CommandId,
    /// Its length.
    pub bytes: u64,
}
