//! The `Authorization` header of SigV4, for clients that send every header of theirs signed and no body.
//!
//! After <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use super::Hexadecimal;
use crate::native::login::SigningKey;
use sha2::{Digest as _, Sha256};

/// A request, as it is signed.
#[derive(Debug)]
pub struct Unsigned<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, percent-encoded as it is sent.
    pub path: &'a str,
    /// Names and values of its query, percent-encoded, sorted.
    pub query: &'a [(&'a str, &'a str)],
    /// All of its headers, `host`, `x-amz-date` and `x-amz-content-sha256` among them: lower-case names, sorted, values without spaces around.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Who signs, for where and when.
#[derive(Debug)]
pub struct Signer<'a> {
    /// The access key.
    pub access_key: &'a str,
    /// The secret key.
    pub secret_key: &'a str,
    /// The region.
    pub region: &'a str,
    /// As in `x-amz-date`: `YYYYMMDDTHHMMSSZ`.
    pub stamp: &'a str,
}

/// The value of the header `authorization`.
pub fn authorization(request: &Unsigned<'_>, signer: &Signer<'_>) -> String {
    let Signer { access_key, secret_key, region, stamp } = signer;
    let date = stamp.get(..8).unwrap_or_default();
    let value =
        |name: &str| request.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let lines: String = request.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let payload = value("x-amz-content-sha256").unwrap_or("UNSIGNED-PAYLOAD");
    let (method, path) = (request.method, request.path);
    let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{payload}", query.join("&"));
    let hash: [u8; 32] = Sha256::digest(canonical).into();
    let scope = format!("{date}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", Hexadecimal(&hash));
    let signature = SigningKey::derive(secret_key, date, region).sign(text.as_bytes());
    let signature = Hexadecimal(&signature);
    format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of the document.
    #[test]
    fn the_published_example_is_signed_as_published() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let request = Unsigned {
            method: "GET",
            path: "/test.txt",
            query: &[],
            headers: &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("range", "bytes=0-9"),
                ("x-amz-content-sha256", empty),
                ("x-amz-date", "20130524T000000Z"),
            ],
        };
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            stamp: "20130524T000000Z",
        };
        assert_eq!(
            authorization(&request, &signer),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }
}
