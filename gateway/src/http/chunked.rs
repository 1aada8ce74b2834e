//! The `aws-chunked` framing of request bodies, signed and unsigned, with trailers.
//!
//! A decoder over whatever frames the socket yields: it never copies data and never waits for a whole chunk, so that no
//! chunk size can make it hold memory. A signed chunk's data is handed on before its signature can be known: the signature
//! is verified at the chunk's end, and the caller makes nothing visible before [`Step::End`].

use super::chunk_signer::ChunkSigner;
use bytes::{Buf as _, Bytes};
use thiserror::Error;

/// Longest line that introduces a chunk, bytes.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Most bytes of trailers.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// A body whose framing is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FramingError {
    /// Not aws-chunked.
    #[error("the body is not aws-chunked as announced: {0}")]
    Malformed(&'static str),
    /// A chunk or the trailers are not what was signed.
    #[error("the signature of a chunk or of the trailers does not match")]
    Signature,
    /// It ended in the middle.
    #[error("the body ended early")]
    Truncated,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give it another frame, or say that there is none.
    More,
    /// So many bytes at the front of the frame are data: take them, and report them by [`Decoder::taken`].
    Data(usize),
    /// All was well.
    End,
}

enum State {
    /// The line before a chunk's data.
    Line(Vec<u8>),
    /// Data, so many bytes yet.
    Data(u64),
    /// The CRLF after it, so many bytes of it yet.
    AfterData(u8),
    /// Everything after the last, empty chunk.
    Trailers(Vec<u8>),
    End,
}

/// Takes the framing off.
pub struct Decoder {
    state: State,
    signer: Option<ChunkSigner>,
    trailers: Vec<(String, String)>,
    expects_trailers: bool,
}

impl Decoder {
    /// Unsigned chunks, when `signer` is `None`. `expects_trailers` tells whether signed trailers must follow.
    pub fn new(signer: Option<ChunkSigner>, expects_trailers: bool) -> Self {
        Self { state: State::Line(Vec::new()), signer, trailers: Vec::new(), expects_trailers }
    }

    /// Looks at the rest of a frame and takes framing off its front.
    pub fn step(&mut self, frame: &mut Bytes) -> Result<Step, FramingError> {
        loop {
            match &mut self.state {
                State::Line(line) => {
                    if !take_line(frame, line)? {
                        return Ok(Step::More);
                    }
                    let line = std::mem::take(line);
                    self.begin_chunk(&line)?;
                }
                State::Data(left) => {
                    let ready = usize::try_from(*left).unwrap_or(usize::MAX).min(frame.len());
                    return Ok(if ready == 0 { Step::More } else { Step::Data(ready) });
                }
                State::AfterData(left) => {
                    let Some(&byte) = frame.first() else { return Ok(Step::More) };
                    if byte != if *left == 2 { b'\r' } else { b'\n' } {
                        return Err(FramingError::Malformed("no line break after a chunk's data"));
                    }
                    frame.advance(1);
                    *left -= 1;
                    if *left == 0 {
                        self.state = State::Line(Vec::new());
                    }
                }
                State::Trailers(bytes) => {
                    if bytes.len() + frame.len() > TRAILER_BYTES_MAX {
                        return Err(FramingError::Malformed("the trailers are too long"));
                    }
                    bytes.extend_from_slice(frame);
                    frame.clear();
                    return Ok(Step::More);
                }
                State::End => return Ok(Step::End),
            }
        }
    }

    /// So many bytes of data were taken off the front of a frame: `bytes`.
    pub fn taken(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        let State::Data(left) = &mut self.state else {
            return Err(FramingError::Malformed("no data was due"));
        };
        if let Some(signer) = &mut self.signer {
            signer.update(bytes);
        }
        *left = left.saturating_sub(bytes.len() as u64);
        if *left == 0 {
            self.end_chunk()?;
            self.state = State::AfterData(2);
        }
        Ok(())
    }

    /// There are no more frames.
    pub fn end(&mut self) -> Result<(), FramingError> {
        match std::mem::replace(&mut self.state, State::End) {
            State::Trailers(bytes) => self.end_trailers(&bytes),
            State::End => Ok(()),
            _ => Err(FramingError::Truncated),
        }
    }

    /// The trailers, lower-case names, once it has ended.
    pub fn trailers(&self) -> &[(String, String)] {
        &self.trailers
    }

    fn begin_chunk(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let malformed = FramingError::Malformed("a chunk's size is not hexadecimal");
        let text = std::str::from_utf8(line).map_err(|_| malformed.clone())?;
        let (size, extension) = text.split_once(';').map_or((text, None), |(size, rest)| (size, Some(rest)));
        let digits =
            !size.is_empty() && size.len() <= 16 && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = u64::from_str_radix(size, 16).ok().filter(|_| digits).ok_or(malformed)?;
        if let Some(signer) = &mut self.signer {
            let signature = extension.and_then(|extension| extension.strip_prefix("chunk-signature="));
            signer.begin_chunk(signature.ok_or(FramingError::Malformed("a chunk has no signature"))?);
        }
        if size > 0 {
            self.state = State::Data(size);
        } else {
            self.end_chunk()?;
            self.state = State::Trailers(Vec::new());
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), FramingError> {
        self.signer.as_mut().map_or(Ok(()), ChunkSigner::end_chunk)
    }

    fn end_trailers(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        let text =
            std::str::from_utf8(bytes).map_err(|_| FramingError::Malformed("the trailers are not UTF-8"))?;
        let mut signature = None;
        for line in text.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or(FramingError::Malformed("a trailer without a colon"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            if name == "x-amz-trailer-signature" {
                signature = Some(value);
            } else {
                self.trailers.push((name, value));
            }
        }
        self.trailers.sort();
        match (&self.signer, signature) {
            (Some(signer), Some(signature)) => signer.verify_trailers(&self.trailers, &signature),
            (Some(_), None) if self.expects_trailers => Err(FramingError::Signature),
            (Some(_), None) if !self.trailers.is_empty() => Err(FramingError::Signature),
            _ => Ok(()),
        }
    }
}

/// Moves bytes of `frame` to `line` up to a CRLF, which is taken and dropped. Whether the line is whole.
fn take_line(frame: &mut Bytes, line: &mut Vec<u8>) -> Result<bool, FramingError> {
    let end = frame.iter().position(|&byte| byte == b'\n');
    let taken = frame.split_to(end.map_or(frame.len(), |at| at + 1));
    if line.len() + taken.len() > CHUNK_LINE_BYTES_MAX {
        return Err(FramingError::Malformed("a chunk's first line is too long"));
    }
    line.extend_from_slice(&taken);
    if end.is_none() {
        return Ok(false);
    }
    line.pop();
    if line.pop() != Some(b'\r') {
        return Err(FramingError::Malformed("a chunk's first line ends without CR"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::chunk_signer::hmac_sha256;
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    /// Feeds `body`, cut at `cuts`, and gives the data and the trailers.
    #[allow(clippy::type_complexity, reason = "the body and its trailers, named nowhere else")]
    fn decode(
        mut decoder: Decoder,
        body: &[u8],
        cuts: &[usize],
    ) -> Result<(Vec<u8>, Vec<(String, String)>), FramingError> {
        let mut data = Vec::new();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        for ends in cuts.windows(2) {
            let mut frame = Bytes::copy_from_slice(&body[ends[0]..ends[1]]);
            while let Step::Data(ready) = decoder.step(&mut frame)? {
                let taken = frame.split_to(ready);
                data.extend_from_slice(&taken);
                decoder.taken(&taken)?;
            }
        }
        decoder.end()?;
        Ok((data, decoder.trailers().to_vec()))
    }

    /// The worked example of the S3 documentation: 65,536 + 1,024 bytes of 'a'.
    fn documented() -> (ChunkSigner, Vec<u8>) {
        let signer = ChunkSigner::new(
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "20130524T000000Z",
            "20130524/us-east-1/s3/aws4_request",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        );
        let mut body = Vec::new();
        for (size, signature) in [
            (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ] {
            body.extend(format!("{size:x};chunk-signature={signature}\r\n").bytes());
            body.extend(std::iter::repeat_n(b'a', size));
            body.extend(b"\r\n");
        }
        (signer, body)
    }

    #[test]
    fn the_documented_signed_chunks_are_verified() {
        let (signer, body) = documented();
        let (data, trailers) =
            decode(Decoder::new(Some(signer), false), &body, &[5, 70_000, 66_000]).unwrap();
        assert_eq!(data, vec![b'a'; 66_560]);
        assert!(trailers.is_empty());
    }

    #[test]
    fn one_changed_byte_is_noticed() {
        let (_, body) = documented();
        for at in [100, 65_536 + 150, body.len() - 10] {
            let (signer, mut body) = documented();
            body[at] ^= 1;
            assert!(decode(Decoder::new(Some(signer), false), &body, &[]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_missing_signature_or_end_is_noticed() {
        let (signer, body) = documented();
        let cut = decode(Decoder::new(Some(signer), false), &body[..body.len() - 90], &[]);
        assert_eq!(cut, Err(FramingError::Truncated));
        let (signer, _) = documented();
        let unsigned = decode(Decoder::new(Some(signer), false), b"3\r\nabc\r\n0\r\n\r\n", &[]);
        assert_eq!(unsigned, Err(FramingError::Malformed("a chunk has no signature")));
        let (signer, body) = documented();
        assert_eq!(decode(Decoder::new(Some(signer), true), &body, &[]), Err(FramingError::Signature));
    }

    #[test]
    fn signed_trailers_are_verified() {
        let secret = "secret";
        let (date, scope) = ("20261123T000000Z", "20261123/r/s3/aws4_request");
        let body = |tamper: bool| {
            let signer = ChunkSigner::new(secret, date, scope, "00");
            let sign = |text: String| hex::encode(hmac_sha256(signer.key(), text.as_bytes()));
            let empty = hex::encode(Sha256::digest(b""));
            let chunk = |previous: &str, data: &[u8]| {
                sign(format!(
                    "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{empty}\n{}",
                    hex::encode(Sha256::digest(data))
                ))
            };
            let first = chunk("00", b"abc");
            let last = chunk(&first, b"");
            let trailer = sign(format!(
                "AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{last}\n{}",
                hex::encode(Sha256::digest(b"x-amz-checksum-crc32:NSRBwg==\n"))
            ));
            let value = if tamper { "AAAAAA==" } else { "NSRBwg==" };
            format!(
                "3;chunk-signature={first}\r\nabc\r\n0;chunk-signature={last}\r\nx-amz-checksum-crc32:{value}\r\nx-amz-trailer-signature:{trailer}\r\n\r\n"
            )
        };
        let decoder = || Decoder::new(Some(ChunkSigner::new(secret, date, scope, "00")), true);
        let (data, trailers) = decode(decoder(), body(false).as_bytes(), &[]).unwrap();
        assert_eq!(data, b"abc");
        assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), "NSRBwg==".to_owned())]);
        assert_eq!(decode(decoder(), body(true).as_bytes(), &[]), Err(FramingError::Signature));
    }

    proptest! {
        #[test]
        fn unsigned_chunks_survive_any_cut(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..5), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:X}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\nX-Amz-Checksum-Crc32: AAAAAA==\r\n\r\n");
            let (data, trailers) = decode(Decoder::new(None, true), &body, &cuts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers, vec![("x-amz-checksum-crc32".to_owned(), "AAAAAA==".to_owned())]);
        }

        #[test]
        fn no_bytes_make_it_panic_or_loop(body in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(any::<usize>(), 0..5)) {
            let _ = decode(Decoder::new(None, false), &body, &cuts);
        }
    }

    #[test]
    fn absurd_sizes_and_lines_are_refused_without_holding_memory() {
        let huge = b"FFFFFFFFFFFFFFFFF\r\n";
        assert!(decode(Decoder::new(None, false), huge, &[]).is_err());
        assert!(decode(Decoder::new(None, false), b"+5\r\nabcde\r\n0\r\n\r\n", &[]).is_err());
        assert!(decode(Decoder::new(None, false), &[b'0'; 1000], &[]).is_err());
        let mut decoder = Decoder::new(None, false);
        let mut frame = Bytes::from_static(b"7FFFFFFFFFFFFFFF\r\nabc");
        assert_eq!(decoder.step(&mut frame), Ok(Step::Data(3)));
    }
}
