//! A table of streams, each read whole, byte by byte and cut in odd places; random streams against
//! a naive reading of the standard; sizes and speed.

use std::{fmt::Write, time::Instant};

use proptest::prelude::*;

use super::*;

/// Reads `chunks` one after the other; short notation, so that a table stays readable:
/// `event|data|id` per event with `-` for "no id yet", `retry=…`, `oversized`, joined by spaces.
fn read<'a>(limit: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut parser = Parser::new(limit);
    let mut items = Vec::new();
    for chunk in chunks {
        parser.feed(chunk, &mut items);
    }
    let mut text = String::new();
    for item in items {
        let gap = if text.is_empty() { "" } else { " " };
        match item {
            Item::Event(SseEvent { event, data, id }) => {
                let id = id.as_deref().unwrap_or("-");
                write!(text, "{gap}{event}|{data}|{id}").unwrap();
            }
            Item::Retry(wait) => write!(text, "{gap}retry={}", wait.as_millis()).unwrap(),
            Item::Oversized { .. } => write!(text, "{gap}oversized").unwrap(),
        }
    }
    let last = parser.last_event_id().unwrap_or("-");
    if text.ends_with(&format!("|{last}")) || last == "-" { text } else { text + " at " + last }
}

const LIMIT: usize = 24;

#[track_caller]
fn check(input: &[u8], expected: &str) {
    let shown = String::from_utf8_lossy(input).into_owned();
    assert_eq!(read(LIMIT, [input]), expected, "whole: {shown:?}");
    assert_eq!(read(LIMIT, input.chunks(1)), expected, "byte by byte: {shown:?}");
    for size in [2, 3, 5, 7] {
        assert_eq!(read(LIMIT, input.chunks(size)), expected, "by {size}: {shown:?}");
    }
    for at in 0..input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(read(LIMIT, [head, b"", tail]), expected, "cut at {at}: {shown:?}");
    }
}

#[track_caller]
fn check_all(table: &[(&[u8], &str)]) {
    for (input, expected) in table {
        check(input, expected);
    }
}

#[test]
fn events_and_line_ends() {
    check_all(&[
        (b"", ""),
        (b"\n", ""),
        (b"\n\n\r\r\r\n\r\n", ""),
        (b"data: a\n\n", "message|a|-"),
        (b"data: a\r\r", "message|a|-"),
        (b"data: a\r\n\r\n", "message|a|-"),
        (b"data: a\n\r\n", "message|a|-"),
        (b"data: a\r\n\n", "message|a|-"),
        (b"data: a\n\r", "message|a|-"),
        (b"data: a\r\r\n", "message|a|-"),
        (b"data: a\r\n\r", "message|a|-"),
        (b"data: a\r\n\r\n\ndata: b\n\n", "message|a|- message|b|-"),
        (b"data: a\n\ndata: b\n\n", "message|a|- message|b|-"),
        (b"data: a\n\n\n\n\ndata: b\n\n", "message|a|- message|b|-"),
        (b"data: a\r\rdata: b\r\r", "message|a|- message|b|-"),
        (b"data: a\r\r\ndata: b\r\n\r\n", "message|a|- message|b|-"),
        (b"data: a\ndata: b\n\n", "message|a\nb|-"),
        (b"data: a\rdata: b\r\n\n", "message|a\nb|-"),
        (b"data: a\r\ndata: b\rdata: c\n\r\n", "message|a\nb\nc|-"),
        (b"data: a\x0bb\n\n", "message|a\x0bb|-"),
        (b"data: a\x0cb\n\n", "message|a\x0cb|-"),
        ("data: a\u{85}b\n\n".as_bytes(), "message|a\u{85}b|-"),
        ("data: a\u{2028}b\n\n".as_bytes(), "message|a\u{2028}b|-"),
    ]);
}

#[test]
fn an_unfinished_event_is_dropped() {
    check_all(&[
        (b"data: a", ""),
        (b"data: a\n", ""),
        (b"data: a\r", ""),
        (b"data: a\r\n", ""),
        (b"data: a\n\ndata: b", "message|a|-"),
        (b"data: a\n\ndata: b\n", "message|a|-"),
        (b"id: 1\ndata: a\n\nid: 2\ndata: b\n", "message|a|1"),
        (b"id: 7", ""),
        (b"id: 7\n", ""),
        (b"event: x\ndata: a\n", ""),
    ]);
}

#[test]
fn data() {
    check_all(&[
        (b"data\n\n", "message||-"),
        (b"data:\n\n", "message||-"),
        (b"data: \n\n", "message||-"),
        (b"data\ndata\n\n", "message|\n|-"),
        (b"data:\ndata: a\n\n", "message|\na|-"),
        (b"data: a\ndata:\n\n", "message|a\n|-"),
        (b"data: a\ndata\n\n", "message|a\n|-"),
        (b"data:a\n\n", "message|a|-"),
        (b"data:  a\n\n", "message| a|-"),
        (b"data: a \n\n", "message|a |-"),
        (b"data:\ta\n\n", "message|\ta|-"),
        (b"data: a:b\n\n", "message|a:b|-"),
        (b"data::a\n\n", "message|:a|-"),
        (b"data: : a\n\n", "message|: a|-"),
        (b"data: \x00\n\n", "message|\0|-"),
        (b"data\n\ndata\ndata\n\ndata:", "message||- message|\n|-"),
        (b"data:test\n\ndata: test\n\n", "message|test|- message|test|-"),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", "message|YHOO\n+2\n10|-"),
    ]);
}

#[test]
fn names_of_fields() {
    check_all(&[
        (b"Data: a\n\n", ""),
        (b"DATA: a\n\n", ""),
        (b" data: a\n\n", ""),
        (b"data : a\n\n", ""),
        (b"\tdata: a\n\n", ""),
        (b"dat: a\n\n", ""),
        (b"dataa: a\n\n", ""),
        (b"data\0: a\n\n", ""),
        (b"foo: a\n\n", ""),
        (b"foo\n\n", ""),
        (b"foo: x\ndata: a\nbar\n\n", "message|a|-"),
        (b"data a\n\n", ""),
        ("d\u{e4}ta: a\n\n".as_bytes(), ""),
        (b"\xff: a\ndata: b\n\n", "message|b|-"),
    ]);
}

#[test]
fn comments() {
    check_all(&[
        (b":\n\n", ""),
        (b": hello\n\n", ""),
        (b":data: a\n\n", ""),
        (b"::\n\n", ""),
        (b":\n:\n:\n", ""),
        (b": c\ndata: a\n\n", "message|a|-"),
        (b"data: a\n: c\ndata: b\n\n", "message|a\nb|-"),
        (b"data: a\n:\n\n", "message|a|-"),
        (b": \xff\xfe\ndata: a\n\n", "message|a|-"),
        (b": t\n\ndata: a\nid: 1\n\ndata:b\nid\n\n", "message|a|1 message|b|"),
    ]);
}

#[test]
fn types_of_events() {
    check_all(&[
        (b"event: x\ndata: a\n\n", "x|a|-"),
        (b"event:x\ndata: a\n\n", "x|a|-"),
        (b"data: a\nevent: x\n\n", "x|a|-"),
        (b"event: x\nevent: y\ndata: a\n\n", "y|a|-"),
        (b"event: x\nevent\ndata: a\n\n", "message|a|-"),
        (b"event: x\nevent:\ndata: a\n\n", "message|a|-"),
        (b"event:  x \ndata: a\n\n", " x |a|-"),
        (b"event: x\n\ndata: a\n\n", "message|a|-"),
        (b"event: x\ndata: a\n\ndata: b\n\n", "x|a|- message|b|-"),
        (b"event: message\ndata: a\n\n", "message|a|-"),
        (b"event: x\ndata\n\n", "x||-"),
        (b"event: x\nid: 1\n\n", " at 1"),
    ]);
}

#[test]
fn ids_are_sticky() {
    check_all(&[
        (b"id: 1\ndata: a\n\n", "message|a|1"),
        (b"id:1\ndata: a\n\n", "message|a|1"),
        (b"data: a\nid: 1\n\n", "message|a|1"),
        (b"id: 1\ndata: a\n\ndata: b\n\n", "message|a|1 message|b|1"),
        (b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n", "message|a|1 message|b|2"),
        (b"id: 1\nid: 2\ndata: a\n\n", "message|a|2"),
        (b"id: 1\ndata: a\n\nid\ndata: b\n\n", "message|a|1 message|b|"),
        (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", "message|a|1 message|b|"),
        (b"id: a\0b\ndata: a\n\n", "message|a|-"),
        (b"id: 1\ndata: a\n\nid: \0\ndata: b\n\n", "message|a|1 message|b|1"),
        (b"id: 1\n\ndata: a\n\n", "message|a|1"),
        (b"id: 1\n\n", " at 1"),
        (b"data: a\n\nid: 1\n\n", "message|a|- at 1"),
        (b"id:  1 \ndata: a\n\n", "message|a| 1 "),
        ("id: \u{2603}\ndata: a\n\n".as_bytes(), "message|a|\u{2603}"),
        (b"ID: 1\ndata: a\n\n", "message|a|-"),
    ]);
}

#[test]
fn retry_takes_digits_only() {
    check_all(&[
        (b"retry: 3000\n", "retry=3000"),
        (b"retry:3000\n", "retry=3000"),
        (b"retry: 0\n", "retry=0"),
        (b"retry: 007\n", "retry=7"),
        (b"retry\n", ""),
        (b"retry:\n", ""),
        (b"retry:  1\n", ""),
        (b"retry: 1 \n", ""),
        (b"retry: -1\n", ""),
        (b"retry: +1\n", ""),
        (b"retry: 1.5\n", ""),
        (b"retry: 1e3\n", ""),
        (b"retry: x\n", ""),
        ("retry: \u{663}\n".as_bytes(), ""),
        (b"retry: 3000", ""),
        (b"retry: 1\nretry: 2\n", "retry=1 retry=2"),
        (b"data: a\nretry: 5\n\n", "retry=5 message|a|-"),
        (b"retry: 1000000000000000\n", "retry=1000000000000000"),
        // Longer than the limit of this table.
        (b"retry:18446744073709551616\n", "oversized"),
    ]);
    let wide = b"retry: 99999999999999999999999\n";
    assert_eq!(read(1_000, [&wide[..]]), format!("retry={}", u64::MAX));
}

#[test]
fn byte_order_marks() {
    check_all(&[
        (b"\xEF\xBB\xBFdata: a\n\n", "message|a|-"),
        (b"\xEF\xBB\xBF\ndata: a\n\n", "message|a|-"),
        (b"\xEF\xBB\xBF", ""),
        (b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n", ""),
        (b"\ndata: a\n\n\xEF\xBB\xBFdata: b\n\n", "message|a|-"),
        (b"\n\xEF\xBB\xBFdata: a\n\n", ""),
        (b"\xEF\xBBdata: a\n\n", ""),
        (b"\xFE\xFFdata: a\n\n", ""),
        (b"data: \xEF\xBB\xBFa\n\n", "message|\u{feff}a|-"),
        (b"\xEF\xBB\xBF: c\ndata: a\n\n", "message|a|-"),
    ]);
}

#[test]
fn text_that_is_no_utf8() {
    check_all(&[
        (b"data: \xff\n\n", "message|\u{fffd}|-"),
        (b"data: \xc3\n\n", "message|\u{fffd}|-"),
        (b"data: \xe2\x82\n\n", "message|\u{fffd}|-"),
        (b"data: \xf0\x9f\x98\ndata: x\n\n", "message|\u{fffd}\nx|-"),
        (b"data: \xed\xa0\x80\n\n", "message|\u{fffd}\u{fffd}\u{fffd}|-"),
        (b"data: \xc0\x80\n\n", "message|\u{fffd}\u{fffd}|-"),
        (b"event: \xff\ndata: a\n\n", "\u{fffd}|a|-"),
        (b"id: \xff\ndata: a\n\n", "message|a|\u{fffd}"),
        ("data: \u{1f600}\u{e9}\n\n".as_bytes(), "message|\u{1f600}\u{e9}|-"),
        ("data: \u{1f600}\r\rdata: \u{e9}\r\r".as_bytes(), "message|\u{1f600}|- message|\u{e9}|-"),
    ]);
}

#[test]
fn what_is_too_long_is_dropped_and_the_next_is_not() {
    check_all(&[
        (b"data: 123456789012345678\n\n", "message|123456789012345678|-"),
        (b"data: 1234567890123456789\n\n", "oversized"),
        (b"data: 1234567890123456789", "oversized"),
        (b"data: 12345678901234567890123456789\n\ndata: a\n\n", "oversized message|a|-"),
        (b"data: 1234567890\ndata: 1234567890\ndata: 1\n\n", "message|1234567890\n1234567890\n1|-"),
        (
            b"data: 1234567890\ndata: 1234567890\ndata: 12\n\n",
            "message|1234567890\n1234567890\n12|-",
        ),
        (b"data: 1234567890\ndata: 1234567890\ndata: 123\n\ndata: a\n\n", "oversized message|a|-"),
        (b"id: 5\ndata: 1234567890123456789\n\n", "oversized at 5"),
        (b"data: 1234567890123456789\nid: 5\n\ndata: b\n\n", "oversized message|b|5"),
        (b"data: 1234567890123456789\ndata: a\n\ndata: b\n\n", "oversized message|b|-"),
        (b": 1234567890123456789012345\r\n\r\ndata: b\r\n\r\n", "oversized message|b|-"),
        (b"event: 1234567890123456789\n\ndata: b\n\n", "oversized message|b|-"),
        (b"data: 1234567890123456789\n12345678901234567890123456\n\n\n", "oversized"),
    ]);
}

#[test]
fn an_endless_line_does_not_grow() {
    let mut parser = Parser::new(1_000_000);
    let mut items = Vec::new();
    for _ in 0..1_000 {
        parser.feed(&vec![b'x'; 65_536], &mut items);
        assert!(parser.line.capacity() <= 2_000_000 && parser.data.is_none());
    }
    assert_eq!(items, [Item::Oversized { limit: 1_000_000 }], "said once");
    parser.feed(b"\n\ndata: a\n\n", &mut items);
    assert_eq!(items.len(), 2, "and the next event is read");
}

#[test]
fn endless_data_lines_do_not_grow() {
    let mut parser = Parser::new(100_000);
    let mut items = Vec::new();
    for _ in 0..10_000 {
        parser.feed(b"data: 12345678901234567890\n", &mut items);
        assert!(parser.data.as_ref().is_none_or(|data| data.capacity() <= 200_000));
    }
    assert_eq!(items, [Item::Oversized { limit: 100_000 }]);
}

#[test]
fn a_big_event_is_not_paid_for_twice() {
    let mut parser = Parser::default();
    let mut items = Vec::new();
    let started = Instant::now();
    parser.feed(b"event: reply\ndata: ", &mut items);
    for _ in 0..160 {
        parser.feed(&vec![b'a'; 65_536], &mut items);
    }
    let buffer = parser.line.as_ptr();
    parser.feed(b"\n\n", &mut items);
    let Some(Item::Event(event)) = items.first() else { panic!("no event") };
    assert_eq!(event.data.len(), 10_485_760);
    assert_eq!(event.data.as_ptr(), buffer, "the line has become the data");
    assert!(parser.line.capacity() <= KEEP_BYTES, "the buffer is given back");
    // Milliseconds when optimised; quadratic reading would take minutes even so.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

/// The standard read naively: decode everything, cut into lines, go through them.
fn naive(stream: &[u8]) -> String {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    let (mut data, mut event, mut id, mut last) = (String::new(), String::new(), None, None);
    let mut out = Vec::new();
    for line in lines {
        if line.is_empty() {
            last.clone_from(&id);
            if !data.is_empty() {
                data.pop();
                let name = if event.is_empty() { "message" } else { &event };
                out.push(format!("{name}|{data}|{}", id.as_deref().unwrap_or("-")));
            }
            data.clear();
            event.clear();
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut event),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                out.push(format!("retry={}", value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
    let text = out.join(" ");
    match last {
        Some(last) if !text.ends_with(&format!("|{last}")) && last != "-" => text + " at " + &last,
        _ => text,
    }
}

/// Streams made of the pieces that matter, so that random ones reach every branch.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"data"[..],
        b"event",
        b"id",
        b"retry",
        b":",
        b": ",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"a",
        b"42",
        b"\0",
        b"\xEF\xBB\xBF",
        b"\xff",
        b"\xe2\x82",
        b"\xe2\x82\xac",
        b"data: x\n",
        b"id: y\n",
        b"event: z\r",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Cuts `stream` at the given places.
fn cut(stream: &[u8], mut places: Vec<usize>) -> Vec<&[u8]> {
    for at in &mut places {
        *at %= stream.len() + 1;
    }
    places.sort_unstable();
    places.push(stream.len());
    let mut from = 0;
    places.into_iter().map(|to| &stream[mem::replace(&mut from, to)..to]).collect()
}

proptest! {
    #[test]
    fn agrees_with_the_naive_reading(
        stream in streams(), places in prop::collection::vec(any::<usize>(), 0..20)
    ) {
        prop_assert_eq!(read(MAX_BYTES, cut(&stream, places)), naive(&stream));
    }

    #[test]
    fn cuts_do_not_matter_whatever_the_limit(
        stream in streams(), places in prop::collection::vec(any::<usize>(), 0..20), limit in 0..40_usize
    ) {
        prop_assert_eq!(read(limit, cut(&stream, places)), read(limit, [&stream[..]]));
    }

    #[test]
    fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert_eq!(read(MAX_BYTES, stream.chunks(1)), naive(&stream));
    }
}
