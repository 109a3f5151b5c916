//! `GET /api/view`: the threads as one plain page. No scripts; everything that came from outside
//! is escaped.

use std::fmt::Write;

use crate::serve::{
    http::message::Response,
    store::{messages::Message, threads::Thread},
};

/// Nothing may be loaded, run, framed or submitted.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Threads newest first, the messages of each oldest first.
pub fn render(username: &str, threads: &[(Thread, Vec<Message>)]) -> Response {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Agent Bridge</title></head>\
         <body>\n<h1>Agent Bridge</h1>\n",
    );
    add(&mut page, format_args!("<p>Signed in as {}.</p>\n", escape(username)));
    if threads.is_empty() {
        page.push_str("<p>There are no threads yet.</p>\n");
    }
    for (thread, messages) in threads {
        let agent = thread.agent.as_ref().map_or("any agent", |it| it.as_str());
        let machine = thread.machine.as_ref().map_or("no machine yet", |it| it.as_str());
        add(&mut page, format_args!("<section>\n<h2>{}</h2>\n", escape(&thread.title)));
        add(&mut page, format_args!("<p>{} on {}</p>\n", escape(agent), escape(machine)));
        for message in messages {
            add_message(&mut page, message);
        }
        page.push_str("</section>\n");
    }
    page.push_str("</body></html>\n");
    Response::html(200, page)
        .with("Content-Security-Policy", POLICY)
        .with("Referrer-Policy", "no-referrer")
}

fn add_message(page: &mut String, message: &Message) {
    let kind = message.kind.as_deref().unwrap_or(message.role.as_str());
    add(
        page,
        format_args!(
            "<article>\n<h3>{} ({}) <time>{}</time></h3>\n<pre>{}</pre>\n</article>\n",
            escape(&message.author),
            escape(kind),
            message.created,
            escape(&message.body)
        ),
    );
}

fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string works");
}

/// Safe in text and in quoted attributes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_from_outside_is_text() {
        assert_eq!(
            escape("<script a='b' c=\"d\">&</script>"),
            "&lt;script a=&#39;b&#39; c=&quot;d&quot;&gt;&amp;&lt;/script&gt;"
        );
        assert_eq!(escape("ä 漢\n"), "ä 漢\n");
    }
}
