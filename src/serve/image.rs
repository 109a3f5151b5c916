//! What kind of picture some bytes are, by the bytes alone: what a sender says of them is no proof.
//! Pure.

/// A picture that browsers and agents can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    pub media_type: &'static str,
    /// Width and height in pixels, where its beginning tells.
    pub size: Option<(u32, u32)>,
}

/// None: it is none of the known kinds.
pub fn sniff(bytes: &[u8]) -> Option<Picture> {
    let image = |media_type, size: Option<(u32, u32)>| {
        let size = size.filter(|(width, height)| 0 < *width && 0 < *height);
        Some(Picture { media_type, size })
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let size = be(bytes, 16, 4).zip(be(bytes, 20, 4));
        image("image/png", size.filter(|_| bytes.get(12..16) == Some(b"IHDR")))
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        image("image/jpeg", jpeg_size(bytes))
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        image("image/gif", le(bytes, 6, 2).zip(le(bytes, 8, 2)))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        image("image/webp", webp_size(bytes))
    } else {
        None
    }
}

/// The size is in the first frame header, behind segments of any number.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        match *bytes.get(at + 1)? {
            // A marker may be preceded by fill bytes.
            0xff => at += 1,
            // SOF0 to SOF15, but for tables and extensions that lie between.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return be(bytes, at + 7, 2).zip(be(bytes, at + 5, 2));
            }
            // The picture begins, or ends, without a header.
            0xd9 | 0xda => return None,
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => at += 2 + usize::try_from(be(bytes, at + 2, 2)?).ok()?.max(2),
        }
    }
}

/// The three forms of the container's first chunk.
fn webp_size(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8X" => Some((le(bytes, 24, 3)? + 1, le(bytes, 27, 3)? + 1)),
        b"VP8L" if bytes.get(20) == Some(&0x2f) => {
            let bits = le(bytes, 21, 4)?;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8 " if bytes.get(23..26) == Some(b"\x9d\x01\x2a") => {
            Some((le(bytes, 26, 2)? & 0x3fff, le(bytes, 28, 2)? & 0x3fff))
        }
        _ => None,
    }
}

fn be(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    Some(bytes.get(at..at + length)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

fn le(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    Some(bytes.get(at..at + length)?.iter().rfold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], media_type: &'static str, size: Option<(u32, u32)>) {
        assert_eq!(sniff(bytes), Some(Picture { media_type, size }));
    }

    #[test]
    fn kinds_and_sizes_are_read_from_the_bytes() {
        check(
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\0\x02rest",
            "image/png",
            Some((256, 2)),
        );
        check(b"\x89PNG\r\n\x1a\n", "image/png", None);
        check(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0\0\0\0\x02", "image/png", None);
        check(b"GIF89a\x03\0\x04\0", "image/gif", Some((3, 4)));
        check(b"GIF87a", "image/gif", None);
        let jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc2\0\x11\x08\0\x05\0\x06\x03";
        check(jpeg, "image/jpeg", Some((6, 5)));
        check(b"\xff\xd8\xff\xda\0\0\0", "image/jpeg", None);
        check(b"\xff\xd8\xff\xe0\0\0\0\0", "image/jpeg", None);
        check(
            b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x09\0\0\x13\0\0",
            "image/webp",
            Some((10, 20)),
        );
        check(b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x09\xc0\x04\0", "image/webp", Some((10, 20)));
        check(
            b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x0a\0\x14\0",
            "image/webp",
            Some((10, 20)),
        );
        check(b"RIFF\0\0\0\0WEBP", "image/webp", None);
    }

    #[test]
    fn nothing_else_is_a_picture() {
        for bytes in [
            b"" as &[u8],
            b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
            b"<html>",
            b"%PDF-1.7",
            b"RIFF\0\0\0\0WAVE",
            b"GIF88a",
            b"\x89PNG\n",
            b"BM",
            b" \x89PNG\r\n\x1a\n",
        ] {
            assert_eq!(sniff(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(
            start in proptest::sample::select(vec![
                b"\x89PNG\r\n\x1a\n" as &[u8], b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8L",
                b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8 ",
            ]),
            rest in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let bytes = [start, &rest].concat();
            for end in 0..=bytes.len() {
                sniff(&bytes[..end]);
            }
        }
    }
}
