//! Request bodies: bytes at hand, or a pattern that is made as it is sent, so that a load of any size costs next to nothing.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::io::Read;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

/// The block that every pattern is cut from: a prime number of bytes, so that no alignment of a store hides a mix-up.
const BLOCK_BYTES: usize = 1_048_573;
/// Bytes of one frame on the way out.
const FRAME_BYTES: usize = 256 << 10;

/// Content that is known from its seed and length alone: byte *i* is `block[(seed + i) mod BLOCK_BYTES]`, its first eight
/// bytes being the seed itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
    len: u64,
}

impl Pattern {
    /// The content of `seed`, `len` bytes long.
    pub fn new(seed: u64, len: u64) -> Self {
        Self { seed, len }
    }

    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `data` is what stands at `position`.
    pub fn matches(&self, mut position: u64, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let expected = self.run(position, data.len());
            let (head, rest) = data.split_at(expected.len());
            if expected.is_empty() || head != &expected[..] {
                return false;
            }
            position += head.len() as u64;
            data = rest;
        }
        true
    }

    /// All of it, for small objects.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(usize::try_from(self.len).unwrap_or(0));
        while (out.len() as u64) < self.len {
            out.extend_from_slice(&self.run(out.len() as u64, usize::MAX));
        }
        out.into()
    }

    /// As much of it as there is room for.
    pub fn copy_to(&self, mut into: &mut [u8]) {
        let mut position = 0;
        while !into.is_empty() {
            let run = self.run(position, into.len());
            if run.is_empty() {
                return;
            }
            let (now, rest) = into.split_at_mut(run.len().min(into.len()));
            now.copy_from_slice(run.get(..now.len()).unwrap_or_default());
            position += run.len() as u64;
            into = rest;
        }
    }

    /// Up to `most` bytes from `position` on, without copying; empty at the end.
    fn run(&self, position: u64, most: usize) -> Bytes {
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX).min(most);
        let seed = self.seed.to_le_bytes();
        if let Some(head) = usize::try_from(position)
            .ok()
            .and_then(|position| seed.get(position..))
            .filter(|head| !head.is_empty())
        {
            return Bytes::copy_from_slice(head.get(..left).unwrap_or(head));
        }
        let at = ((self.seed % BLOCK_BYTES as u64 + position) % BLOCK_BYTES as u64) as usize;
        block().slice(at..BLOCK_BYTES.min(at.saturating_add(left)))
    }
}

/// Pseudo-random bytes, the same on every machine (splitmix64, Steele, Lea and Flood 2014).
fn block() -> &'static Bytes {
    static BLOCK: OnceLock<Bytes> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x1004_u64;
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        words.flat_map(u64::to_le_bytes).take(BLOCK_BYTES).collect::<Vec<u8>>().into()
    })
}

/// A request body.
pub struct Body(Kind);

enum Kind {
    Bytes(Full<Bytes>),
    Pattern { pattern: Pattern, position: u64 },
    File { file: std::fs::File, left: u64 },
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(Kind::Bytes(Full::default()))
    }

    /// A file, read as it is sent, as long as it is now.
    pub fn file(path: &std::path::Path) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        let left = file.metadata()?.len();
        Ok(Self(Kind::File { file, left }))
    }
}
impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(Full::new(bytes)))
    }
}
impl From<Pattern> for Body {
    fn from(pattern: Pattern) -> Self {
        Self(Kind::Pattern { pattern, position: 0 })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().0 {
            Kind::Bytes(bytes) => Pin::new(bytes).poll_frame(context).map_err(|never| match never {}),
            Kind::File { file, left } => {
                let bytes = FRAME_BYTES.min(usize::try_from(*left).unwrap_or(FRAME_BYTES));
                let mut frame = vec![0; bytes];
                *left -= bytes as u64;
                Poll::Ready(
                    (bytes > 0).then(|| file.read_exact(&mut frame).map(|()| Frame::data(frame.into()))),
                )
            }
            Kind::Pattern { pattern, position } => {
                let run = pattern.run(*position, FRAME_BYTES);
                *position += run.len() as u64;
                Poll::Ready((!run.is_empty()).then(|| Ok(Frame::data(run))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.is_end_stream(),
            Kind::Pattern { pattern, position } => *position >= pattern.len,
            Kind::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.size_hint(),
            Kind::Pattern { pattern, position } => SizeHint::with_exact(pattern.len - position),
            Kind::File { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_itself_and_nothing_else() {
        let pattern = Pattern::new(7_777_777, 3_000_001);
        let bytes = pattern.to_bytes();
        assert_eq!(bytes.len(), 3_000_001);
        assert!(pattern.matches(0, &bytes));
        let mut copied = vec![0; 2_000_000];
        pattern.copy_to(&mut copied);
        assert!(copied == bytes[..2_000_000]);
        let mut longer = [9; 6];
        Pattern::new(1, 3).copy_to(&mut longer);
        assert_eq!(longer, [1, 0, 0, 9, 9, 9]);
        assert!(pattern.matches(5, &bytes[5..1_500_000]));
        assert!(!Pattern::new(7_777_778, 3_000_001).matches(0, &bytes));
        assert!(!pattern.matches(1, &bytes));
        assert!(!pattern.matches(1, &bytes[..]), "past the end");
        let mut damaged = bytes.to_vec();
        damaged[2_000_000] ^= 1;
        assert!(!pattern.matches(0, &damaged));
    }
}
