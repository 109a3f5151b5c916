//! Markdown from anybody to HTML that is safe to put into the page. Pure.
//!
//! Only the tags that are written here can come out, with attributes that are written here; all else
//! is escaped text. Links go to the web or to a mailbox, raw HTML is shown as what it is, and nothing
//! is loaded from elsewhere: a picture is a link. Work and output are bounded; what would be over a
//! bound is shown as it was written.

use pulldown_cmark::{
    Alignment, CodeBlockKind, CowStr, Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd,
    TextMergeStream,
};

/// Longer texts are shown as they are.
const SOURCE_BYTES: usize = 256 * 1024;
/// The output is at most so many times as long as the text, and a little more.
const GROWTH: usize = 16;
const OUTPUT_BYTES_MIN: usize = 64 * 1024;
/// Lists and quotes within each other that one line can open.
const NESTED_MAX: usize = 32;
/// Tags within each other that are written; browsers have a bound of their own, at 512.
const DEPTH_MAX: usize = 100;
const LANGUAGE_CHARS: usize = 32;

/// What a line break in a paragraph is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaks {
    /// A blank, as in a file.
    #[default]
    Soft,
    /// A line break, as in a chat.
    Kept,
}

/// The HTML of a text. It is made of whole elements.
pub fn render(text: &str, breaks: Breaks) -> String {
    if SOURCE_BYTES < text.len() || text.lines().any(is_deep) {
        return plain(text);
    }
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut writer = HtmlWriter { breaks, ..HtmlWriter::default() };
    let limit = OUTPUT_BYTES_MIN + GROWTH * text.len();
    for event in TextMergeStream::new(Parser::new_ext(text, options)) {
        writer.event(event);
        if limit < writer.html.len() || writer.is_too_deep {
            return plain(text);
        }
    }
    writer.html
}

/// The text as it is, in a fixed-width font.
fn plain(text: &str) -> String {
    let mut html = "<pre>".to_owned();
    escape(&mut html, text);
    html.push_str("</pre>");
    html
}

/// Whether a line opens more lists and quotes within each other than anybody means to. A parser
/// looks at all that are open for every line.
fn is_deep(line: &str) -> bool {
    let mut opened = 0;
    for c in line.chars() {
        match c {
            '>' | '-' | '*' | '+' | '.' | ')' => opened += 1,
            '0'..='9' | ' ' | '\t' => {}
            _ => break,
        }
    }
    // A line of dashes alone is a rule or the end of a heading or a table.
    let is_rule = ["-", "*", "- ", "* "].iter().any(|it| line.trim().replace(it, "").is_empty());
    NESTED_MAX < opened && !(is_rule && opened < 4 * NESTED_MAX)
}

#[derive(Default)]
struct HtmlWriter {
    html: String,
    breaks: Breaks,
    /// How to close what is open.
    open: Vec<&'static str>,
    /// Links within each other are no HTML.
    links: usize,
    /// Within code, where a line break is one and an address no link.
    is_code: bool,
    is_too_deep: bool,
    columns: Vec<Alignment>,
    column: usize,
    is_head: bool,
    has_body: bool,
}

impl HtmlWriter {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(end) => self.end(end),
            Event::Text(text) if self.is_code || 0 < self.links => escape(&mut self.html, &text),
            Event::Text(text) => self.text(&text),
            Event::Code(text) => {
                self.html.push_str("<code>");
                escape(&mut self.html, &text);
                self.html.push_str("</code>");
            }
            Event::SoftBreak if self.breaks == Breaks::Soft => self.html.push('\n'),
            Event::SoftBreak | Event::HardBreak => self.html.push_str("<br>\n"),
            Event::Rule => self.html.push_str("<hr>\n"),
            Event::TaskListMarker(done) => self.html.push_str(if done { "☑ " } else { "☐ " }),
            // The others are switched off; if they come, they are text as well.
            Event::Html(text)
            | Event::InlineHtml(text)
            | Event::InlineMath(text)
            | Event::DisplayMath(text)
            | Event::FootnoteReference(text) => escape(&mut self.html, &text),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            // Raw HTML is shown as a paragraph.
            Tag::Paragraph | Tag::HtmlBlock => self.open("<p>", "</p>\n"),
            Tag::Heading { level, .. } => self.heading(level),
            Tag::BlockQuote(_) => self.open("<blockquote>\n", "</blockquote>\n"),
            Tag::CodeBlock(kind) => self.code(&kind),
            Tag::List(None) => self.open("<ul>\n", "</ul>\n"),
            Tag::List(Some(1)) => self.open("<ol>\n", "</ol>\n"),
            Tag::List(Some(number)) => {
                self.open(&format!("<ol start=\"{number}\">\n"), "</ol>\n");
            }
            Tag::Item => self.open("<li>", "</li>\n"),
            Tag::Emphasis => self.open("<em>", "</em>"),
            Tag::Strong => self.open("<strong>", "</strong>"),
            Tag::Strikethrough => self.open("<del>", "</del>"),
            Tag::Table(columns) => {
                self.columns = columns;
                self.has_body = false;
                self.open("<table>\n", "</table>\n");
            }
            Tag::TableHead => {
                (self.is_head, self.column) = (true, 0);
                self.open("<thead><tr>", "</tr></thead>\n");
            }
            Tag::TableRow => {
                self.column = 0;
                if !self.has_body {
                    self.has_body = true;
                    self.html.push_str("<tbody>\n");
                }
                self.open("<tr>", "</tr>\n");
            }
            Tag::TableCell => self.cell(),
            Tag::Link { link_type, dest_url, .. } | Tag::Image { link_type, dest_url, .. } => {
                self.link(link_type, &dest_url);
            }
            // These are switched off; their text stays.
            _ => self.open("", ""),
        }
    }

    fn end(&mut self, end: TagEnd) {
        match end {
            TagEnd::CodeBlock => self.is_code = false,
            TagEnd::TableHead => self.is_head = false,
            TagEnd::Table if self.has_body => self.html.push_str("</tbody>\n"),
            TagEnd::Link | TagEnd::Image => self.links -= 1,
            _ => {}
        }
        let close = self.open.pop().unwrap_or_default();
        self.html.push_str(close);
    }

    fn open(&mut self, open: &str, close: &'static str) {
        self.html.push_str(open);
        self.open.push(close);
        self.is_too_deep |= DEPTH_MAX < self.open.len();
    }

    /// The page has the first two levels for itself.
    fn heading(&mut self, level: HeadingLevel) {
        match level {
            HeadingLevel::H1 => self.open("<h3>", "</h3>\n"),
            HeadingLevel::H2 => self.open("<h4>", "</h4>\n"),
            HeadingLevel::H3 => self.open("<h5>", "</h5>\n"),
            _ => self.open("<h6>", "</h6>\n"),
        }
    }

    fn code(&mut self, kind: &CodeBlockKind<'_>) {
        self.is_code = true;
        let info = match kind {
            CodeBlockKind::Fenced(info) => info.split([' ', ',', '{']).next().unwrap_or_default(),
            CodeBlockKind::Indented => "",
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '#' | '-' | '_');
        if info.is_empty() || LANGUAGE_CHARS < info.len() || !info.chars().all(is_word) {
            self.open("<pre><code>", "</code></pre>\n");
        } else {
            self.open(&format!("<pre><code class=\"language-{info}\">"), "</code></pre>\n");
        }
    }

    fn cell(&mut self) {
        let class = match self.columns.get(self.column) {
            Some(Alignment::Left) => " class=\"left\"",
            Some(Alignment::Center) => " class=\"center\"",
            Some(Alignment::Right) => " class=\"right\"",
            Some(Alignment::None) | None => "",
        };
        self.column += 1;
        if self.is_head {
            self.open(&format!("<th{class}>"), "</th>");
        } else {
            self.open(&format!("<td{class}>"), "</td>");
        }
    }

    /// A link or a picture. One that leads nowhere good, or is within another, is its text alone.
    fn link(&mut self, link_type: LinkType, target: &CowStr<'_>) {
        self.links += 1;
        let target = match link_type {
            LinkType::Email => format!("mailto:{target}"),
            _ => target.to_string(),
        };
        if 1 < self.links || !is_good(&target) {
            return self.open("", "");
        }
        open_link(&mut self.html, &target);
        self.open("", "</a>");
    }

    /// Text in which addresses of the web become links.
    fn text(&mut self, mut text: &str) {
        while let Some((before, url, after)) = find_url(text) {
            escape(&mut self.html, before);
            open_link(&mut self.html, url);
            escape(&mut self.html, url);
            self.html.push_str("</a>");
            text = after;
        }
        escape(&mut self.html, text);
    }
}

fn open_link(html: &mut String, target: &str) {
    html.push_str("<a href=\"");
    escape(html, target);
    html.push_str("\" rel=\"noopener noreferrer nofollow\" target=\"_blank\">");
}

/// Whether a link may lead there.
fn is_good(target: &str) -> bool {
    let begins = |scheme: &str| {
        target.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme))
            && scheme.len() < target.len()
    };
    ["http://", "https://", "mailto:"].into_iter().any(begins)
        && !target.contains(|c: char| c.is_control() || c.is_whitespace())
}

/// The first address in a text, with what comes before and after it.
fn find_url(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("http").map(|it| from + it) {
        let rest = &text[at..];
        let begins_word = !text[..at].ends_with(char::is_alphanumeric);
        let scheme = ["http://", "https://"].into_iter().find(|it| rest.starts_with(it));
        if let Some(scheme) = scheme.filter(|_| begins_word) {
            let is_end = |c: char| {
                c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | '`' | '|')
            };
            let url = &rest[..rest.find(is_end).unwrap_or(rest.len())];
            let url = without_punctuation(url);
            if scheme.len() < url.len() {
                return Some((&text[..at], url, &rest[url.len()..]));
            }
        }
        from = at + "http".len();
    }
    None
}

/// What ends a sentence does not belong to an address, nor does a bracket that was opened before.
fn without_punctuation(mut url: &str) -> &str {
    // What is taken off here holds none, so it need not be looked for again.
    let opens = url.contains('(');
    loop {
        let shorter = url.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '_', '~']);
        let shorter = match shorter.strip_suffix(')') {
            Some(inner) if !opens => inner,
            _ => shorter.strip_suffix([']', '}']).unwrap_or(shorter),
        };
        if shorter.len() == url.len() {
            return url;
        }
        url = shorter;
    }
}

/// Safe in text and in quoted attributes. Control characters but for line breaks and tabs are left
/// out: HTML has none.
fn escape(html: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            c if c.is_control() => {}
            c => html.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(render(text, Breaks::Soft).trim_end(), expected, "{text}");
    }

    fn link(target: &str, text: &str) -> String {
        format!(
            "<a href=\"{target}\" rel=\"noopener noreferrer nofollow\" target=\"_blank\">{text}</a>"
        )
    }

    #[test]
    fn what_agents_write_is_rendered() {
        check(
            "a *b* **c** ~~d~~ `e<`",
            "<p>a <em>b</em> <strong>c</strong> <del>d</del> <code>e&lt;</code></p>",
        );
        check("# a\n#### b", "<h3>a</h3>\n<h6>b</h6>");
        check("- [x] a\n- [ ] b", "<ul>\n<li>☑ a</li>\n<li>☐ b</li>\n</ul>");
        check("3. a\n4. b", "<ol start=\"3\">\n<li>a</li>\n<li>b</li>\n</ol>");
        check(
            "```rust,ignore\na & b\n```",
            "<pre><code class=\"language-rust\">a &amp; b\n</code></pre>",
        );
        check("```\"><script>\na\n```", "<pre><code>a\n</code></pre>");
        check(
            "|a|b|\n|:-|-:|\n|c|d|",
            "<table>\n<thead><tr><th class=\"left\">a</th><th class=\"right\">b</th></tr></thead>\n\
             <tbody>\n<tr><td class=\"left\">c</td><td class=\"right\">d</td></tr>\n</tbody>\n</table>",
        );
        check("> a\n\n---\n", "<blockquote>\n<p>a</p>\n</blockquote>\n<hr>");
        check("a\nb\\\nc", "<p>a\nb<br>\nc</p>");
        assert_eq!(render("a\nb", Breaks::Kept), "<p>a<br>\nb</p>\n");
        check("", "");
    }

    #[test]
    fn links_lead_to_the_web_or_a_mailbox() {
        check("[a](https://b.c/?d&e)", &format!("<p>{}</p>", link("https://b.c/?d&amp;e", "a")));
        check("<a@b.c>", &format!("<p>{}</p>", link("mailto:a@b.c", "a@b.c")));
        check("[a](MAILTO:b@c)", &format!("<p>{}</p>", link("MAILTO:b@c", "a")));
        for bad in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "&#106;avascript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc/passwd",
            "/etc/passwd",
            "//evil.example",
            "a.html",
            "#b",
            "https://",
            "<https://a b>",
            "\u{1}javascript:x",
            "blob:https://a/b",
            "https&colon;//a",
        ] {
            let html = render(&format!("[a]({bad})"), Breaks::Soft);
            let good = bad.contains("&colon;");
            assert_eq!(html.contains("<a "), good, "{bad}: {html}");
        }
        check("![a](https://b/c.png)", &format!("<p>{}</p>", link("https://b/c.png", "a")));
        check("[![a](https://b/c.png)](https://d)", &format!("<p>{}</p>", link("https://d", "a")));
        check("![a [b](https://c)](https://d)", &format!("<p>{}</p>", link("https://d", "a b")));
        check("[https://a](https://b)", &format!("<p>{}</p>", link("https://b", "https://a")));
    }

    #[test]
    fn bare_addresses_are_links() {
        check(
            "see https://a.b/c_d_e?f=1&g. Yes",
            &format!(
                "<p>see {}. Yes</p>",
                link("https://a.b/c_d_e?f=1&amp;g", "https://a.b/c_d_e?f=1&amp;g")
            ),
        );
        check("(http://a.b)", &format!("<p>({})</p>", link("http://a.b", "http://a.b")));
        check("http://a/b_(c)", &format!("<p>{}</p>", link("http://a/b_(c)", "http://a/b_(c)")));
        check(
            "`http://a` xhttp://a http:// https",
            "<p><code>http://a</code> xhttp://a http:// https</p>",
        );
    }

    #[test]
    fn raw_html_is_text() {
        check("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>");
        check("<div onclick=x>\ny\n</div>", "<p>&lt;div onclick=x&gt;\ny\n&lt;/div&gt;</p>");
        check("a\u{0}\u{1b}[31mb", "<p>a[31mb</p>");
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_shown_as_it_is() {
        let long = "<x>".repeat(100_000);
        let html = render(&long, Breaks::Soft);
        assert!(html.starts_with("<pre>&lt;x&gt;") && html.ends_with("&lt;x&gt;</pre>"));
        let deep = "> ".repeat(1000) + "a";
        assert!(render(&deep, Breaks::Soft).starts_with("<pre>&gt; &gt;"));
        let nested: Vec<String> = (0..300).map(|n| "  ".repeat(n) + "- a").collect();
        let nested = nested.join("\n");
        assert!(render(&nested, Breaks::Soft).starts_with("<pre>- a"));
        assert_eq!(render(&"-".repeat(80), Breaks::Soft), "<hr>\n");
        assert!(render("> > > - a", Breaks::Soft).starts_with("<blockquote>"));
    }
}
