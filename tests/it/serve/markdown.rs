//! What a page is given to show has only the tags that we write, whatever was said. The check is a
//! small parser of its own: it knows no Markdown, only what may come out.

use std::time::{Duration, Instant};

use obto_bridge::serve::markdown::{Breaks, render};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use serde_json::json;

use crate::{serve::Bridge, util::patience::is_quick};

/// Attempts to run a script or to put an element into the page; the browser's tests use them too.
pub(super) fn corpus() -> Vec<String> {
    serde_json::from_str(include_str!("../../fixtures/xss.json")).unwrap()
}

/// Tags with a start and an end, and those that are alone.
const TAGS: &[&str] = &[
    "p",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "pre",
    "code",
    "ul",
    "ol",
    "li",
    "em",
    "strong",
    "del",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "a",
];
const LONE_TAGS: &[&str] = &["br", "hr"];

/// Says what is wrong with some HTML.
fn fault(html: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find(['<', '>', '&', '"', '\'', '\0']) {
        let (c, from) = (rest.as_bytes()[at], &rest[at..]);
        rest = match c {
            b'<' => {
                let Some(end) = from.find('>') else { return Some("an open tag".to_owned()) };
                if let Err(fault) = tag(&from[1..end], &mut open) {
                    return Some(format!("<{}>: {fault}", &from[1..end]));
                }
                &from[end + 1..]
            }
            b'&' => match ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"]
                .into_iter()
                .find(|it| from.starts_with(it))
            {
                Some(entity) => &from[entity.len()..],
                None => return Some("a bare &".to_owned()),
            },
            _ => return Some(format!("a bare {:?}", char::from(c))),
        };
    }
    (!open.is_empty()).then(|| format!("{open:?} is not closed"))
}

fn tag<'a>(tag: &'a str, open: &mut Vec<&'a str>) -> Result<(), &'static str> {
    if let Some(name) = tag.strip_prefix('/') {
        return if open.pop() == Some(name) { Ok(()) } else { Err("closes another one") };
    }
    let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
    if LONE_TAGS.contains(&name) && attributes.is_empty() {
        return Ok(());
    }
    if !TAGS.contains(&name) {
        return Err("is no known tag");
    }
    if name == "a" && open.contains(&"a") {
        return Err("is a link in a link");
    }
    open.push(name);
    let is_good = match name {
        "a" => attributes.strip_prefix("href=\"").and_then(|it| it.split_once('"')).is_some_and(
            |(target, rest)| {
                let target = target.to_ascii_lowercase();
                rest == " rel=\"noopener noreferrer nofollow\" target=\"_blank\""
                    && ["http://", "https://", "mailto:"].iter().any(|it| target.starts_with(it))
            },
        ),
        "code" => {
            attributes.is_empty()
                || attributes
                    .strip_prefix("class=\"language-")
                    .and_then(|it| it.strip_suffix('"'))
                    .is_some_and(|it| !it.contains([' ', '"', '&']))
        }
        "ol" => {
            attributes.is_empty()
                || attributes
                    .strip_prefix("start=\"")
                    .and_then(|it| it.strip_suffix('"'))
                    .is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()))
        }
        "th" | "td" => {
            ["", "class=\"left\"", "class=\"center\"", "class=\"right\""].contains(&attributes)
        }
        _ => attributes.is_empty(),
    };
    if is_good { Ok(()) } else { Err("has another attribute") }
}

#[track_caller]
fn check(text: &str) {
    for breaks in [Breaks::Soft, Breaks::Kept] {
        let html = render(text, breaks);
        if let Some(fault) = fault(&html) {
            panic!("{fault}\nof {text:?}\nin {html}");
        }
    }
}

#[test]
fn the_check_finds_faults() {
    for bad in [
        "<script>",
        "<p>",
        "</p>",
        "<p></a>",
        "a & b",
        "<p onclick=x></p>",
        "<a href=\"x\"></a>",
        "<br/>",
        "<p",
        ">",
        "\"",
        "<P></P>",
        "<ol start=\"x\"></ol>",
        "<td class=\"x\"></td>",
        "<a href=\"javascript:x\" rel=\"noopener noreferrer nofollow\" target=\"_blank\"></a>",
    ] {
        assert!(fault(bad).is_some(), "{bad}");
    }
    assert_eq!(fault("<p>a<br>\n&lt;</p>"), None);
}

#[test]
fn no_attempt_gets_an_element_into_the_page() {
    let corpus = corpus();
    assert!(60 <= corpus.len(), "{}", corpus.len());
    for text in &corpus {
        check(text);
        // Within other markup, and all around it.
        for (before, after) in [
            ("# ", ""),
            ("- ", "\n  - x"),
            ("> ", "\n"),
            ("**", "**"),
            ("[", "](https://a.example)"),
            ("[x](https://a.example/", ")"),
            ("```\n", "\n```"),
            ("|a|\n|-|\n|", "|"),
            ("<div>\n", "\n</div>"),
            ("<p>", "</p>"),
            ("![", "](https://a.example)"),
            ("`", "`"),
        ] {
            check(&format!("{before}{text}{after}"));
        }
    }
    check(&corpus.join("\n\n"));
    check(&corpus.join("\n"));
    check(&corpus.join(" "));
}

proptest! {
    #[test]
    fn any_mixture_of_markup_comes_out_clean(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(corpus()),
                proptest::sample::select(vec![
                    "*", "**", "_", "~~", "`", "```\n", "\n", "\n\n", "# ", "> ", "- ", "1. ", "- [ ] ",
                    "|", "|-|\n", "[", "](", ")", "![", "<", ">", "&", "&amp;", "\\", "\"", "'", "    ",
                    "\t", "http://", "https://a.b/c", "mailto:", "javascript:", "<!--", "-->", "]: ",
                    "[^1]", "$$", "\r", "\u{0}", "---\n", "===\n", "9999999999. ",
                ]).prop_map(str::to_owned),
                any::<String>(),
            ],
            0..20,
        )
    ) {
        check(&parts.concat());
    }
}

/// Texts that are made to cost more than they are long.
#[test]
fn hostile_texts_cost_little() {
    let many = |text: &str| text.repeat(200_000 / text.len());
    let refs = format!("[a]: https://a.example/{}\n\n{}", "x".repeat(60_000), "[a]".repeat(40_000));
    let table = format!("{}\n{}\n{}", "|a".repeat(2000), "|-".repeat(2000), "|b\n".repeat(60_000));
    let quotes = format!("{}a\n{}", "> ".repeat(30), "\n".repeat(200_000));
    let items = format!("{}a\n{}b", "- ".repeat(30), "\n".repeat(200_000));
    let steps: Vec<String> = (0..600).map(|n| " ".repeat(n) + "- a").collect();
    for text in [
        many("["),
        many("]("),
        many("![a]("),
        many("*a **a "),
        many("_a__a"),
        many("`"),
        many("`` ` "),
        many("<"),
        many("<!--"),
        many("<![CDATA["),
        many("<?"),
        many("<a "),
        many("&"),
        many("\\"),
        many("> "),
        many("- "),
        many(">"),
        many("1. "),
        many("a\n"),
        many("|"),
        many("| "),
        many("~~a"),
        many("[a](<"),
        many("[a](b \""),
        many("http"),
        many("https://a"),
        many("\"'"),
        many("\u{0}"),
        many("#"),
        many("# "),
        many("```\n"),
        many("\t"),
        many("[]: x\n"),
        many("(https://"),
        many("https://a)"),
        format!("https://a{}", many(")")),
        format!("https://a{}", many(").")),
        format!("[a](https://a{})", many("(")),
        many("[a]: b\n"),
        many("<a@b.c> "),
        many("- [ ] a\n"),
        many("a\n=\n"),
        refs,
        table,
        quotes,
        items,
        steps.join("\n"),
        "x".repeat(1_000_000),
        many("é*"),
    ] {
        let begun = Instant::now();
        let html = render(&text, Breaks::Soft);
        let (took, start) = (begun.elapsed(), &text[..text.floor_char_boundary(30)]);
        // Generous, for a build for debugging.
        assert!(is_quick(took, Duration::from_secs(5)), "{start:?} took {took:?}");
        assert!(html.len() <= 17 * text.len() + 70_000, "{start:?} became {} bytes", html.len());
        assert_eq!(fault(&html), None, "{start:?}");
    }
}

#[test]
fn pages_get_html_with_every_message() {
    let bridge = Bridge::start();
    bridge.reply("t", "a\n<b>");
    let post = json!({ "threadId": "t", "body": "a\n*b*", "kind": "result", "author": "x" });
    bridge.post("/api/message", &post).ok();
    let html = |query: &str| {
        let page = bridge.get(&format!("/api/messages?threadId=t{query}")).ok();
        let html = |n: usize| page["messages"][n]["html"].as_str().map(str::to_owned);
        (html(0), html(1))
    };
    // A human's line breaks are kept, an agent's Markdown is a file's.
    let expected =
        (Some("<p>a<br>\n&lt;b&gt;</p>\n".to_owned()), Some("<p>a\n<em>b</em></p>\n".to_owned()));
    assert_eq!(html("&html=1"), expected);
    assert_eq!(html(""), (None, None));
}
