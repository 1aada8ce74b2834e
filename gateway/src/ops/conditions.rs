//! Conditions on an object (RFC 9110, section 13, as S3 applies them), and what a range means for its size.

use crate::transfer::Wanted;
use tenfour_types::{ETag, Manifest};

/// An ETag that a client named, or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// `*`
    Any,
    /// One of these; those that no object here could have are left out.
    OneOf(Vec<ETag>),
}

impl Tag {
    fn matches(&self, etag: ETag) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => tags.contains(&etag),
        }
    }
}

/// Reads an ETag without its quotes: 32 hexadecimal digits and, of a multipart object, `-` and the number of parts, as we write it.
pub fn parse_etag(text: &str) -> Option<ETag> {
    let as_written = |parts: &str| parts.parse().ok().filter(|_| !parts.starts_with(['0', '+']));
    let (digits, parts) = match text.split_once('-') {
        Some((digits, parts)) => (digits, Some(as_written(parts)?)),
        None => (text, None),
    };
    let mut md5 = [0; 16];
    hex::decode_to_slice(digits, &mut md5).ok()?;
    Some(ETag { md5, parts })
}

/// What a read is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// `If-Match`
    pub matches: Option<Tag>,
    /// `If-None-Match`
    pub none_matches: Option<Tag>,
    /// `If-Modified-Since`, seconds since 1970.
    pub modified_since: Option<i64>,
    /// `If-Unmodified-Since`, seconds since 1970.
    pub unmodified_since: Option<i64>,
}

/// What a range is bound to (`If-Range`): of another object, all is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfRange {
    /// This ETag.
    Is(ETag),
    /// Modified exactly then, seconds since 1970.
    Date(i64),
    /// What no object has.
    Never,
}

impl IfRange {
    /// Whether it is this object.
    pub fn holds(&self, manifest: &Manifest) -> bool {
        match self {
            Self::Is(tag) => *tag == manifest.etag,
            Self::Date(seconds) => {
                u64::try_from(*seconds).is_ok_and(|date| date == manifest.modified_ms / 1000)
            }
            Self::Never => false,
        }
    }
}

/// What the conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Holds,
    /// 412.
    Failed,
    /// 304.
    NotModified,
}

impl Conditions {
    /// Judges an object.
    pub fn judge(&self, manifest: &Manifest) -> Verdict {
        let modified = i64::try_from(manifest.modified_ms / 1000).unwrap_or(i64::MAX);
        let matches = self.matches.as_ref().map(|tag| tag.matches(manifest.etag));
        let none_matches = self.none_matches.as_ref().map(|tag| tag.matches(manifest.etag));
        let changed_after = |since: Option<i64>| since.map(|since| modified > since);
        match (matches, changed_after(self.unmodified_since)) {
            (Some(false), _) | (None, Some(true)) => return Verdict::Failed,
            _ => {}
        }
        match (none_matches, changed_after(self.modified_since)) {
            (Some(true), _) | (None, Some(false)) => Verdict::NotModified,
            _ => Verdict::Holds,
        }
    }
}

/// The bytes (first, past the last) that are wanted of an object of this size; `None` when there are none such.
/// Parts are not resolved here.
pub fn resolve(wanted: Wanted, size: u64) -> Option<(u64, u64)> {
    match wanted {
        Wanted::Head | Wanted::All | Wanted::Part(_) => Some((0, size)),
        Wanted::From(first, end) => {
            let end = end.unwrap_or(size).min(size);
            (first < end).then_some((first, end))
        }
        Wanted::Last(bytes) => (bytes > 0 && size > 0).then(|| (size.saturating_sub(bytes), size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_types::{Body, CommandId, Headers, LeaseId};

    fn manifest() -> Manifest {
        Manifest {
            version: CommandId { lease: LeaseId(1), sequence: 1 },
            size: 10,
            etag: ETag { md5: [1; 16], parts: None },
            modified_ms: 1_000_900,
            checksums: Vec::new(),
            headers: Headers::default(),
            body: Body::Extents(Vec::new()),
        }
    }

    fn judge(
        matches: Option<bool>,
        unmodified: Option<i64>,
        none: Option<bool>,
        modified: Option<i64>,
    ) -> Verdict {
        let tag = |hit: bool| Tag::OneOf(vec![ETag { md5: [if hit { 1 } else { 2 }; 16], parts: None }]);
        Conditions {
            matches: matches.map(tag),
            none_matches: none.map(tag),
            modified_since: modified,
            unmodified_since: unmodified,
        }
        .judge(&manifest())
    }

    #[test]
    fn conditions_are_judged_as_s3_documents_them() {
        use Verdict::{Failed, Holds, NotModified};
        assert_eq!(judge(None, None, None, None), Holds);
        assert_eq!(judge(Some(true), None, None, None), Holds);
        assert_eq!(judge(Some(false), None, None, None), Failed);
        assert_eq!(judge(None, Some(999), None, None), Failed);
        assert_eq!(judge(None, Some(1000), None, None), Holds);
        // If-Match that holds outweighs If-Unmodified-Since that does not.
        assert_eq!(judge(Some(true), Some(999), None, None), Holds);
        assert_eq!(judge(None, None, Some(true), None), NotModified);
        assert_eq!(judge(None, None, Some(false), None), Holds);
        assert_eq!(judge(None, None, None, Some(1000)), NotModified);
        assert_eq!(judge(None, None, None, Some(999)), Holds);
        // If-None-Match that holds outweighs If-Modified-Since that does not, and the reverse.
        assert_eq!(judge(None, None, Some(false), Some(1000)), Holds);
        assert_eq!(judge(None, None, Some(true), Some(999)), NotModified);
        assert_eq!(judge(Some(false), None, Some(true), None), Failed);
        assert_eq!(
            Conditions { none_matches: Some(Tag::Any), ..Conditions::default() }.judge(&manifest()),
            NotModified
        );
        assert_eq!(
            Conditions { matches: Some(Tag::OneOf(Vec::new())), ..Conditions::default() }.judge(&manifest()),
            Failed
        );
    }

    #[test]
    fn ranges_are_cut_to_the_size() {
        assert_eq!(resolve(Wanted::All, 0), Some((0, 0)));
        assert_eq!(resolve(Wanted::From(0, None), 0), None);
        assert_eq!(resolve(Wanted::From(3, Some(5)), 10), Some((3, 5)));
        assert_eq!(resolve(Wanted::From(3, Some(500)), 10), Some((3, 10)));
        assert_eq!(resolve(Wanted::From(9, None), 10), Some((9, 10)));
        assert_eq!(resolve(Wanted::From(10, None), 10), None);
        assert_eq!(resolve(Wanted::Last(3), 10), Some((7, 10)));
        assert_eq!(resolve(Wanted::Last(30), 10), Some((0, 10)));
        assert_eq!(resolve(Wanted::Last(0), 10), None);
        assert_eq!(resolve(Wanted::Last(1), 0), None);
    }

    #[test]
    fn etags_are_read() {
        let text = "ab".repeat(16);
        assert_eq!(parse_etag(&text), Some(ETag { md5: [0xab; 16], parts: None }));
        assert_eq!(parse_etag(&format!("{text}-12")), Some(ETag { md5: [0xab; 16], parts: Some(12) }));
        let endings = ["-", "-0", "-01", "-+1", "x"].map(|ending| format!("{text}{ending}"));
        for bad in ["", "ab", "zz"].into_iter().chain(endings.iter().map(String::as_str)) {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }
}
