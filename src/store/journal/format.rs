//! How the journal is laid out. Pure.
//!
//! The first line names the format and its version. Each record is a line of its own: the length of
//! its payload and its CRC-32, both in hexadecimal, and the payload, which never holds a
//! line break. So a record is read by its length even when the end of its line is damaged, and what
//! is damaged ends at the latest with its line. A person can read the file, and a search
//! for a line break cannot be misled by what people and engines wrote.

/// The version that this program reads and writes.
const VERSION: u32 = 1;

const NAME: &str = "obto-bridge journal ";

/// Length, blank, checksum, blank.
pub(super) const HEAD: usize = 18;

/// The first line.
pub(super) fn header() -> Vec<u8> {
    header_of(VERSION).into_bytes()
}

fn header_of(version: u32) -> String {
    let text = format!("{NAME}{version}");
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// What the first line of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The records begin after so many bytes. The end of the line may be missing or damaged.
    Ours { bytes: usize, is_ended: bool },
    /// A later program wrote it in its own format.
    Other(u32),
    /// The file ends in the middle of the first line.
    Torn,
    /// It is no such line, or a damaged one.
    Broken,
}

/// Reads the first line; `bytes` are the file's first ones, all of them if there are few.
pub(super) fn read_header(bytes: &[u8]) -> Header {
    let ours = header();
    let text = ours.len() - 1;
    if bytes.starts_with(&ours[..text]) {
        let length = ours.len().min(bytes.len());
        return Header::Ours { bytes: length, is_ended: bytes.starts_with(&ours) };
    }
    if ours.starts_with(bytes) {
        return Header::Torn;
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words = str::from_utf8(line).ok().and_then(|line| line.strip_prefix(NAME));
    let version = words.and_then(|words| words.split(' ').next()?.parse().ok());
    match version {
        Some(version) if header_of(version).trim_end().as_bytes() == line => Header::Other(version),
        _ => Header::Broken,
    }
}

/// Begins a record; what is written behind it, without a line break, is its payload.
pub(super) fn begin(capacity: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + capacity + 1);
    record.resize(HEAD, b' ');
    record
}

/// Ends a record that [`begin`] began.
pub(super) fn end(record: &mut Vec<u8>) {
    let payload = &record[HEAD..];
    debug_assert!(!payload.contains(&b'\n'), "a line break would end the record");
    let head = format!("{:08x} {:08x} ", payload.len(), crc32fast::hash(payload));
    record[..HEAD].copy_from_slice(head.as_bytes());
    record.push(b'\n');
}

/// What stands at some place of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record of so many bytes in all.
    Record { payload: &'a str, bytes: usize },
    /// So many bytes are damaged.
    Damage { bytes: usize },
    /// The file ends in the middle of a record, as after a crash.
    Torn,
    /// It can't be told from so few bytes.
    Incomplete,
    /// Nothing: the file ends here.
    End,
}

/// Looks at the bytes from some place on; `is_all`: the file ends with them.
pub(super) fn find(bytes: &[u8], is_all: bool) -> Found<'_> {
    if bytes.is_empty() {
        return if is_all { Found::End } else { Found::Incomplete };
    }
    if bytes.len() < HEAD && !is_all {
        return Found::Incomplete;
    }
    if let Some((length, sum)) = head(bytes) {
        let end = HEAD + length;
        match bytes.get(HEAD..end) {
            None if !is_all => return Found::Incomplete,
            Some(payload) if crc32fast::hash(payload) == sum => {
                // The line break behind it, unless the file ends here.
                let bytes = (end + 1).min(bytes.len());
                if bytes == end && !is_all {
                    return Found::Incomplete;
                }
                return match str::from_utf8(payload) {
                    Ok(payload) => Found::Record { payload, bytes },
                    Err(_) => Found::Damage { bytes },
                };
            }
            _ => {}
        }
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => Found::Damage { bytes: at + 1 },
        None if is_all => Found::Torn,
        None => Found::Incomplete,
    }
}

/// The length of the payload and its checksum.
fn head(bytes: &[u8]) -> Option<(usize, u32)> {
    let head = bytes.first_chunk::<HEAD>()?;
    if head[8] != b' ' || head[17] != b' ' {
        return None;
    }
    Some((usize::try_from(number(&head[..8])?).ok()?, number(&head[9..17])?))
}

fn number(digits: &[u8]) -> Option<u32> {
    let is_ours = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !digits.iter().all(is_ours) {
        return None;
    }
    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &str) -> Vec<u8> {
        let mut record = begin(payload.len());
        record.extend_from_slice(payload.as_bytes());
        end(&mut record);
        record
    }

    #[test]
    fn a_record_is_a_line_that_a_person_can_read() {
        assert_eq!(record("123456789"), b"00000009 cbf43926 123456789\n");
        let bytes = [record("one"), record("two")].concat();
        let first = find(&bytes, false);
        assert_eq!(first, Found::Record { payload: "one", bytes: 22 });
        assert_eq!(find(&bytes[22..], true), Found::Record { payload: "two", bytes: 22 });
        assert_eq!(find(&bytes[44..], true), Found::End);
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let whole = record("one");
        for end in 1..whole.len() {
            let is_all_there = end == whole.len() - 1;
            let found = find(&whole[..end], true);
            let expected = Found::Record { payload: "one", bytes: end };
            assert_eq!(found, if is_all_there { expected } else { Found::Torn }, "{end}");
            assert_eq!(find(&whole[..end], false), Found::Incomplete, "{end}");
        }
        let two = [record("one"), record("two")].concat();
        for bit in 0..8 * 22 {
            let mut bytes = two.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match find(&bytes, true) {
                Found::Record { payload: "one", bytes: 22 } => {
                    assert_eq!(bit / 8, 21, "its line break");
                }
                Found::Damage { bytes } => assert!(bytes <= 22, "{bit}"),
                other => panic!("{bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_later_version_is_known_by_its_number() {
        let ours = header();
        let whole = Header::Ours { bytes: ours.len(), is_ended: true };
        assert_eq!(read_header(&ours), whole);
        let not_ended = Header::Ours { bytes: ours.len() - 1, is_ended: false };
        assert_eq!(read_header(&ours[..ours.len() - 1]), not_ended);
        assert_eq!(read_header(&ours[..7]), Header::Torn);
        assert_eq!(read_header(b""), Header::Torn);
        assert_eq!(read_header(header_of(23).as_bytes()), Header::Other(23));
        assert_eq!(read_header(b"obto-bridge journal 2 00000000\n"), Header::Broken);
        for bit in 0..8 * ours.len() {
            let mut bytes = ours.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let is_end = bit / 8 == ours.len() - 1;
            let damaged = Header::Ours { bytes: ours.len(), is_ended: false };
            let expected = if is_end { damaged } else { Header::Broken };
            assert_eq!(read_header(&bytes), expected, "{bit}");
        }
    }
}
