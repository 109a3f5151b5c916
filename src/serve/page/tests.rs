//! The page is one piece, asks nobody else for anything, and its policy fits it.

use serde_json::Value;

use super::*;

/// What stands between the first `open` and the next `close`.
fn between<'a>(text: &'a str, open: &str, close: &str) -> &'a str {
    text.split_once(open).unwrap().1.split_once(close).unwrap().0
}

/// The policy's sources of a directive.
fn sources<'a>(policy: &'a str, directive: &str) -> Vec<&'a str> {
    let found = policy.split("; ").find_map(|it| it.strip_prefix(directive)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {directive} in {policy}")).split(' ').collect()
}

#[test]
fn the_policy_names_what_the_page_holds() {
    let script = between(&PAGE.html, "<script type=\"module\">", "</script>");
    let style = between(&PAGE.html, "<style>", "</style>");
    assert_eq!(sources(&PAGE.policy, "script-src"), [format!("'{}'", hash(script))]);
    assert_eq!(sources(&PAGE.policy, "style-src"), [format!("'{}'", hash(style))]);
    assert_eq!(hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

#[test]
fn the_policy_allows_nothing_else() {
    for directive in ["default-src", "form-action", "base-uri", "frame-ancestors"] {
        assert_eq!(sources(&PAGE.policy, directive), ["'none'"], "{directive}");
    }
    assert_eq!(sources(&PAGE.policy, "connect-src"), ["'self'"]);
    assert_eq!(sources(&PAGE.policy, "require-trusted-types-for"), ["'script'"]);
    assert!(!PAGE.policy.contains("unsafe"), "{}", PAGE.policy);
}

/// One block each; an end tag inside would cut it off, and other ways to run or style would be
/// refused by the policy.
#[test]
fn script_and_style_are_one_block_each() {
    let count = |text: &str| PAGE.html.to_ascii_lowercase().matches(text).count();
    for tag in ["<script", "</script", "<style", "</style"] {
        assert_eq!(count(tag), 1, "{tag}");
    }
    let markup = MARKUP.to_ascii_lowercase();
    for inline in [" style=", " onclick=", " onload=", "javascript:", "<iframe", "<base"] {
        assert!(!markup.contains(inline), "{inline}");
    }
    for slot in [STYLE_SLOT, SCRIPT_SLOT] {
        assert_eq!(count(slot), 0, "{slot}");
    }
}

/// An address in a comment or a namespace is no request.
#[test]
fn nobody_else_is_asked() {
    for text in [&PAGE.html, ICON, MANIFEST] {
        for address in text.match_indices("://").map(|(at, _)| &text[at.saturating_sub(5)..]) {
            let address: String = address.chars().take(30).collect();
            let known = address.contains("://www.w3.org/");
            assert!(known, "{address}");
        }
    }
    assert!(!STYLE.concat().contains("url("), "a stylesheet loads nothing");
}

/// Markup is only made of text that the sanitiser has walked.
#[test]
fn one_place_turns_text_into_markup() {
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!SCRIPT.concat().contains(word), "{word}");
    }
    let sinks: usize = SCRIPT.iter().map(|it| it.matches("parseFromString").count()).sum();
    assert_eq!(sinks, 1);
    assert!(include_str!("app/sanitise.js").contains("parseFromString"));
}

#[test]
fn every_part_says_why_it_exists_and_is_short() {
    for part in SCRIPT {
        assert!(part.starts_with("// "), "{:?}", part.lines().next());
        assert!(part.ends_with('\n') && part.lines().count() < 400, "{:?}", part.lines().next());
    }
    for part in STYLE {
        assert!(part.starts_with("/* "), "{:?}", part.lines().next());
        assert!(part.ends_with('\n') && part.lines().count() < 500, "{:?}", part.lines().next());
    }
}

#[test]
fn the_manifest_is_whole() {
    let manifest: Value = serde_json::from_str(MANIFEST).unwrap();
    assert_eq!(manifest["start_url"], "/api/view");
    assert_eq!(manifest["scope"], "/api/view");
    assert_eq!(manifest["display"], "standalone");
    for icon in manifest["icons"].as_array().unwrap() {
        assert_eq!(icon["src"], "/api/view/icon.svg");
    }
}
