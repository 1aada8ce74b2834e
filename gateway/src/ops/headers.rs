//! Which headers an object keeps, and how much of them.

use super::refusal::Refusal;
use tenfour_types::Headers;
use tenfour_types::limits::HEADERS_BYTES_MAX;

/// Standard headers that are kept beside the bytes.
const STANDARD: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
/// What user metadata begins with.
pub const USER: &str = "x-amz-meta-";
/// Most user metadata, names without the prefix and values together, bytes (the S3 limit).
const USER_BYTES_MAX: usize = 2 << 10;

/// Whether a header of this lower-case name is kept.
pub fn is_kept(name: &str) -> bool {
    name.starts_with(USER) || STANDARD.contains(&name)
}

/// Refuses more than an object may have.
pub fn check_size(headers: &Headers) -> Result<(), Refusal> {
    let user = headers.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(USER)?, value)));
    let user_bytes: usize = user.map(|(name, value)| name.len() + value.len()).sum();
    if user_bytes > USER_BYTES_MAX {
        let text = format!(
            "Your metadata headers exceed the maximum allowed metadata size of {USER_BYTES_MAX} bytes."
        );
        return Err(Refusal::new("MetadataTooLarge", text));
    }
    if headers.bytes() > HEADERS_BYTES_MAX {
        let text = format!("The headers to be kept exceed {HEADERS_BYTES_MAX} bytes.");
        return Err(Refusal::new("MetadataTooLarge", text));
    }
    Ok(())
}
