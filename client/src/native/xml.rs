//! The little that the SDK reads out of S3's XML, and writes into it.

use tenfour_types::native::NamedPart;

/// The text of the first element of this name, unescaped.
pub(super) fn text_of(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    Some(text.replace("&amp;", "&"))
}

/// The body of CompleteMultipartUpload.
pub(super) fn complete(parts: &[NamedPart]) -> String {
    let mut xml = "<CompleteMultipartUpload>".to_owned();
    for NamedPart { number, etag, checksum } in parts {
        let checksum = checksum.as_ref().map(|checksum| {
            let name = super::http_words::checksum_name(checksum.kind).to_uppercase();
            format!("<Checksum{name}>{}</Checksum{name}>", super::http_words::base64(&checksum.value))
        });
        let checksum = checksum.unwrap_or_default();
        let part = format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag>{checksum}</Part>");
        xml.push_str(&part);
    }
    xml + "</CompleteMultipartUpload>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenfour_types::ETag;

    #[test]
    fn elements_are_found_and_unescaped() {
        let xml = "<Error><Code>NoSuchKey</Code><Message>a &lt;b&gt; &amp;amp;</Message></Error>";
        assert_eq!(text_of(xml, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(text_of(xml, "Message").as_deref(), Some("a <b> &amp;"));
        assert_eq!(text_of(xml, "Key"), None);
        assert_eq!(text_of("<Code>cut", "Code"), None);
    }

    #[test]
    fn parts_are_named() {
        let part = NamedPart { number: 3, etag: ETag { md5: [0xab; 16], parts: None }, checksum: None };
        let xml = complete(&[part]);
        assert!(xml.contains("<PartNumber>3</PartNumber><ETag>\"abababab"), "{xml}");
    }
}
