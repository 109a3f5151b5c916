//! `journal show`, of a journal that is whole, damaged, or somebody else's.

use std::{fs, path::PathBuf, sync::Arc};

use obto_bridge::{
    bridge::wire::{Post, PostKind, Reply},
    ids::{ClientMsgId, Engine, MessageId, ThreadId, TurnId},
    store::{
        Disk, RealDisk,
        entry::{EntryId, Progress},
        journal::{self},
        messages::{self, Opened},
    },
};

use crate::util::bin::Home;

/// A message that waits, one that has its answer, and one that is done.
fn some_journal(home: &Home) -> (PathBuf, [EntryId; 3]) {
    let dir = home.path().join(".agent-bridge-daemon");
    let Opened { journal, inbox, outbox, mut seen, .. } =
        messages::open(Arc::new(RealDisk), &dir).unwrap();
    let ids = ["waits", "answered", "done"].map(|message| {
        let body = format!("the body of {message}, with obto_0123456789abcdef \u{9b}31m");
        let json = serde_json::json!({ "threadId": "t", "messageId": message, "body": body });
        inbox.put(&Reply::parse(&json.to_string()).unwrap(), 0).unwrap()
    });
    inbox.progressed(&ids[1], &Progress::new(TurnId::new("turn"), Engine::CODEX)).unwrap();
    let thread = ThreadId::new("t");
    let (name, author) = (ClientMsgId::new("p"), "codex-bridge".to_owned());
    let post = Post::new(thread, PostKind::Result, author, "the answer".to_owned(), name);
    outbox.put(&post, Some(ids[1])).unwrap();
    seen.remember(&MessageId::new("done"));
    seen.done(&ids[2..]).unwrap();
    journal.sync().unwrap();
    (journal::path(&dir), ids)
}

#[test]
fn it_lists_the_records_and_what_comes_of_them() {
    let home = Home::new();
    let (_, ids) = some_journal(&home);
    let text = home.run(&["journal", "show"]).expect(0, &[]).stdout;
    let lines: Vec<Vec<&str>> = text.lines().map(|it| it.split_whitespace().collect()).collect();
    let kinds: Vec<&str> = lines[1..7].iter().map(|line| line[1]).collect();
    assert_eq!(kinds, ["message", "message", "message", "progress", "post", "done"]);
    assert_eq!(lines[1][3], ids[0].to_string());
    assert_eq!(lines[5][4..], ["answers", &ids[1].to_string()]);
    assert!(lines[1][0].ends_with('Z') && lines[1][2].parse::<u32>().unwrap() > 100, "{text}");
    let summary = "Messages to be answered: 2, begun: 1. Posts to be sent: 1. Messages remembered \
                   as done: 1.";
    assert_eq!(text.lines().last(), Some(summary));
    assert!(!text.contains("body") && !text.contains("the answer"), "{text}");
}

#[test]
fn bodies_are_shown_if_asked_for_without_secrets_and_controls() {
    let home = Home::new();
    some_journal(&home);
    let text = home.run(&["journal", "show", "--bodies"]).expect(0, &["the answer"]).stdout;
    assert!(text.contains("the body of waits"), "{text}");
    assert!(!text.contains("obto_0123456789abcdef") && !text.contains('\u{9b}'), "{text}");
}

#[test]
fn it_goes_on_behind_what_is_damaged_and_changes_nothing() {
    let home = Home::new();
    let (path, ids) = some_journal(&home);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|it| it == b"done").unwrap();
    bytes[at] ^= 1;
    bytes.extend_from_slice(b"00000100 01234567 message");
    let away = home.path().join("away");
    RealDisk.write_atomic(&away, &bytes).unwrap();
    let shown = home.run(&["journal", "show", "away"]).expect(1, &["damaged parts of away: 1"]);
    let kinds: Vec<&str> =
        shown.stdout.lines().filter_map(|it| it.get(26..36)).map(str::trim).collect();
    assert!(kinds.contains(&"damaged") && kinds.contains(&"unfinished"), "{}", shown.stdout);
    assert!(shown.stdout.contains(&ids[0].to_string()));
    assert_eq!(fs::read(&away).unwrap(), bytes);
}

#[test]
fn what_is_not_there_or_of_a_later_version_is_an_error() {
    let home = Home::new();
    home.run(&["journal", "show"]).expect(1, &["there is no", "no daemon has begun"]);
}
