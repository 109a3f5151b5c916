//! Paths and addresses, honest ones and such that lead somewhere else.

use super::*;

fn edit(path: &str) -> Question {
    question(ActionKind::Edit, "Edit", path, json!({ "file_path": path }))
}

#[track_caller]
fn all(policy: &Policy, disk: &Disk, paths: &[&str], expected: Ruling) {
    for path in paths {
        let decision = policy.decide(&action(&edit(path), disk), &[]);
        assert_eq!(decision.ruling, expected, "{path:?}: {decision:?}");
    }
}

#[test]
fn relative_patterns_are_inside_the_project() {
    let (policy, disk) = (policy(&["edit(src/**)", "edit(*.md)"], &[], &[]), Disk::default());
    all(
        &policy,
        &disk,
        &[
            "src/a.rs",
            "src/deep/er/a.rs",
            "./src//a.rs",
            "/home/ada/project/src/a.rs",
            "src/../src/a.rs",
            "README.md",
            "/home/ada/../ada/project/src/x",
        ],
        Ruling::Allow,
    );
    all(
        &policy,
        &disk,
        &[
            "a.rs",
            "srcx/a.rs",
            "docs/README.md",
            "src/../a.rs",
            "src/../../other/src/a.rs",
            "src/../../../../etc/passwd",
            "../project2/src/a.rs",
            "/home/ada/project2/src/a.rs",
            "/src/a.rs",
            "/etc/passwd",
            "~/project/src/a.rs",
            "~root/src/a.rs",
            "src/a, ../../etc/passwd",
            "file:///home/ada/project/src/a.rs",
            "src\\a.rs",
            "src/a\0b",
            "src/a\n/etc/passwd",
            "",
        ],
        Ruling::Ask,
    );
    check(&policy, &edit(&("src/".to_owned() + &"x/".repeat(5_000))), Ruling::Ask);
}

#[test]
fn other_places_are_named_from_the_top_or_from_home() {
    let disk = Disk::default();
    let other = policy(&["edit(/tmp/*)", "edit(~/notes/**)", "edit(//opt/x/**/*.rs)"], &[], &[]);
    all(
        &other,
        &disk,
        &["/tmp/a", "/home/ada/notes/a", "/home/ada/notes/b/c", "/opt/x/a.rs", "/opt/x/y/z/a.rs"],
        Ruling::Allow,
    );
    all(
        &other,
        &disk,
        &["/tmp/a/b", "tmp/a", "/home/ada/note", "/opt/x/a.c", "~/notes/a"],
        Ruling::Ask,
    );
    all(&policy(&["edit(//**)"], &[], &[]), &disk, &["/etc/passwd", "a", "../x"], Ruling::Allow);
    all(&policy(&["edit(//**)"], &[], &[]), &disk, &["a\0b", ""], Ruling::Ask);
    all(&policy(&["edit"], &[], &[]), &disk, &["/etc/passwd", "a"], Ruling::Allow);
    // It may be anything, also what no rule allows.
    all(&policy(&["edit"], &[], &[]), &disk, &["a\0b", ""], Ruling::Ask);
    all(&policy(&["edit(**)"], &[], &[]), &disk, &["a", "b/c"], Ruling::Allow);
    all(&policy(&["edit(**)"], &[], &[]), &disk, &["../a", "/x"], Ruling::Ask);
}

#[test]
fn links_are_followed_and_both_places_count() {
    let disk = Disk::with(&[
        ("/home/ada/project/src/out", "/etc"),
        ("/home/ada/project/src/up", "../.."),
        ("/home/ada/project/src/in", "deep"),
        ("/home/ada/project/src/new", "/etc/cron.d/not-there-yet"),
        ("/home/ada/project/src/loop", "loop"),
        ("/home/ada/project/alias", "src"),
        ("/mnt/link", "/home/ada/project/src"),
    ]);
    let inside = policy(&["edit(src/**)"], &[], &[]);
    all(&inside, &disk, &["src/in/a.rs", "src/a.rs"], Ruling::Allow);
    all(
        &inside,
        &disk,
        &[
            "src/out/passwd",
            "src/up/x",
            // As the system goes, this is /a.rs, and not src/a.rs.
            "src/out/../a.rs",
            "src/new",
            "src/loop",
            "src/loop/x",
            "alias/a.rs",
            "/mnt/link/a.rs",
        ],
        Ruling::Ask,
    );
    let fenced = policy(&["edit"], &[], &["edit(/etc/**)", "edit(src/secret)"]);
    all(&fenced, &disk, &["src/out/passwd", "/etc/passwd", "src/new"], Ruling::Deny);
    all(
        &fenced,
        &disk,
        &["alias/secret", "/mnt/link/secret", "src/secret", "x/../src/secret"],
        Ruling::Deny,
    );
    all(&fenced, &disk, &["../../../etc/x", "~/../../etc/x"], Ruling::Deny);
    all(&fenced, &disk, &["src/loop", "src/a, b"], Ruling::Ask);
    all(&fenced, &disk, &["src/x"], Ruling::Allow);
}

/// What is denied may itself be reached by its real name; what is allowed may not move by a link.
#[test]
fn a_pattern_that_leads_over_a_link() {
    let disk = Disk::with(&[("/home/ada/project/src", "/etc"), ("/var/run", "/run")]);
    all(&policy(&["edit(src/**)"], &[], &[]), &disk, &["src/passwd", "/etc/passwd"], Ruling::Ask);
    let fenced = policy(&["edit"], &[], &["edit(/var/run/**)"]);
    all(&fenced, &disk, &["/run/x", "/var/run/x"], Ruling::Deny);
}

#[test]
fn a_project_behind_a_link_is_the_project() {
    let disk = Disk::with(&[(PROJECT, "/data/project")]);
    let inside = policy(&["edit(src/**)"], &[], &[]);
    let both = ["src/a", "/home/ada/project/src/a", "/data/project/src/a"];
    all(&inside, &disk, &both, Ruling::Allow);
    all(&inside, &disk, &["/data/src/a", "/data/project/a"], Ruling::Ask);
    let question = edit("/data/project/src/a");
    let grant = Policy::default().always(&action(&question, &disk)).unwrap();
    assert_eq!(grant.to_string(), "edit(src/a)");
}

#[test]
fn what_cannot_be_looked_at_is_asked() {
    let disk = Disk([(PathBuf::from("/home/ada/project/src/x"), Found::Unknown)].into());
    all(&policy(&["edit(src/**)"], &[], &[]), &disk, &["src/x/a"], Ruling::Ask);
    all(&policy(&["edit"], &[], &["edit(/etc/**)"]), &disk, &["src/x/a"], Ruling::Ask);
}

/// The daemon would look at its own directory and its own open files, an agent at others.
#[test]
fn what_each_process_sees_differently_is_asked_and_no_way_around_a_denial() {
    let links = [
        ("/home/ada/project/own", "/proc/self/cwd"),
        ("/home/ada/project/in", "../../../dev/fd"),
        ("/proc/self", "1234"),
        ("/proc/1234/cwd", "/somewhere"),
        ("/proc/net", "self/net"),
        ("/proc/mounts", "self/mounts"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
    ];
    let disk = Disk::with(&links);
    let paths = [
        "/proc/self/cwd/.git/hooks/pre-commit",
        "/proc/thread-self/root/etc/hosts",
        "/proc/1234/cwd/.git/config",
        // It may run by the time that it counts.
        "/proc/99/cwd/x",
        "/proc/1234/task/7/fd/3",
        "/proc/self/status",
        "/proc/net/tcp",
        "/proc/mounts",
        "//proc//self/./cwd/x",
        "../../../proc/self/cwd/x",
        "/dev/fd/3",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
        "own/.git/config",
        "in/3",
        // On macOS, where these are.
        "/.vol/16777220/2/etc/hosts",
        "/System/Volumes/Data/Users/ada/.ssh/id",
    ];
    for allow in ["edit", "edit(//**)", "edit(/proc/**)"] {
        all(&policy(&[allow], &[], &["edit(.git/**)"]), &disk, &paths, Ruling::Ask);
        all(&policy(&[allow], &[], &[]), &disk, &paths, Ruling::Ask);
    }
    all(&policy(&[], &[], &["edit(/proc/**)"]), &disk, &["/proc/self/cwd/x"], Ruling::Deny);
    let plain =
        ["/proc/cpuinfo", "/proc/sys/kernel/hostname", "/dev/null", "/dev/fdx", "/procx/self"];
    all(&policy(&["edit"], &[], &["edit(.git/**)"]), &disk, &plain, Ruling::Allow);
    let grant = edit("/proc/self/cwd/x");
    assert_eq!(Policy::default().always(&action(&grant, &disk)), None);
}

#[test]
fn blanks_at_an_edge_and_what_cannot_be_seen_are_asked() {
    let disk = Disk::default();
    let mut odd = vec!["a\u{200b}b".to_owned(), "a\u{feff}".to_owned(), "\u{ad}a".to_owned()];
    for blank in [' ', '\t', '\u{a0}', '\u{2003}', '\u{202f}', '\u{3000}', '\u{feff}', '\u{200b}'] {
        let edges =
            ["{}.git/config", ".git/config{}", ".git{}/config", ".git/{}config", "{}/etc/x", "{}"];
        odd.extend(edges.map(|edge| edge.replace("{}", &blank.to_string())));
    }
    let odd: Vec<&str> = odd.iter().map(String::as_str).collect();
    for policy in [policy(&["edit"], &[], &["edit(.git/**)"]), policy(&["edit(//**)"], &[], &[])] {
        all(&policy, &disk, &odd, Ruling::Ask);
        all(&policy, &disk, &["a b", "My File.md"], Ruling::Allow);
    }
}

/// Where the file system folds case these are denied files.
#[test]
fn what_differs_from_a_denied_file_only_in_case_is_asked() {
    let disk = Disk::with(&[("/home/ada/project/here", "/home/ada/.SSH")]);
    let deny = ["edit(.git/**)", "edit(~/.ssh/*)", "edit(**/Secrét*.TXT)", "edit(~/straße)"];
    let policy = policy(&["edit"], &[], &deny);
    let folded = [
        ".GIT/config",
        "/HOME/Ada/Project/.git/x",
        "/home/ada/.SSH/id",
        "/home/ada/.\u{17f}sh/id",
        "here/id",
        "x/secrÉt-1.txt",
        "/home/ada/STRASSE",
    ];
    all(&policy, &disk, &folded, Ruling::Ask);
    all(&policy, &disk, &[".git/config", "x/Secrét.TXT"], Ruling::Deny);
    all(&policy, &disk, &[".gitx/config", "GIT/x", "x/secret.txt"], Ruling::Allow);
    // What is allowed is never more than what it says.
    let allowing = super::policy(&["edit(src/**)"], &[], &[]);
    all(&allowing, &disk, &["SRC/a", "/HOME/ada/project/src/a"], Ruling::Ask);
}

/// As macOS has it: `é` is one character, or `e` and an accent.
#[test]
fn accents_that_are_written_in_another_way_are_asked() {
    let disk = Disk::default();
    let (one, two) = ("B\u{fc}cher/caf\u{e9}", "Bu\u{308}cher/cafe\u{301}");
    for deny in [one, two] {
        let policy = policy(&["edit"], &[], &[&format!("edit({deny}*)"), "edit(\u{ac00}\u{304c})"]);
        let same = [one, two, "B\u{fc}cher/cafe\u{301}", "BU\u{308}CHER/CAF\u{c9}.txt"];
        for path in same {
            let expected = if path == deny { Ruling::Deny } else { Ruling::Ask };
            all(&policy, &disk, &[path], expected);
        }
        all(&policy, &disk, &["\u{1100}\u{1161}\u{304b}\u{3099}"], Ruling::Ask);
        let apart = ["Bucher/cafe", "B\u{fc}cher/cafes", "Bu\u{308}cher/tea", "\u{ac00}\u{304b}"];
        all(&policy, &disk, &apart, Ruling::Allow);
    }
    let line = policy(&["run"], &[], &["read(caf\u{e9})"]);
    check(&line, &run("cat cafe\u{301}"), Ruling::Ask);
}

#[test]
fn every_file_of_an_edit_counts() {
    let policy = policy(&["edit(src/**)"], &[], &["edit(**/.env)"]);
    let edits = |paths: &[&str]| {
        let mut question = question(ActionKind::Edit, "fileChange", "", json!({}));
        let edit = |path: &&str| Edit {
            path: (*path).to_owned(),
            diff: "+x".to_owned(),
            ..Edit::default()
        };
        question.edits = paths.iter().map(edit).collect();
        question
    };
    check(&policy, &edits(&["src/a", "src/b"]), Ruling::Allow);
    check(&policy, &edits(&["src/a", "b"]), Ruling::Ask);
    check(&policy, &edits(&["src/a", "x/.env"]), Ruling::Deny);
    check(&policy, &edits(&[]), Ruling::Ask);
    check(&policy, &edits(&vec!["src/a"; 300]), Ruling::Ask);
    let mut root = edits(&["src/a"]);
    root.input = json!({ "grantRoot": "/" });
    check(&policy, &root, Ruling::Ask);
    let mut moved = edits(&["src/a"]);
    moved.input = json!({ "changes": [{ "path": "src/a", "kind": { "move_path": "/etc/x" } }] });
    check(&policy, &moved, Ruling::Ask);
    let mut other = edits(&["src/a"]);
    other.input = json!({ "file_path": "/etc/x" });
    check(&policy, &other, Ruling::Ask);
}

#[test]
fn searches_read_where_they_search() {
    let policy = policy(&["read"], &[], &["read(~/.ssh/**)"]);
    let read = |tool: &str, input: Value| question(ActionKind::Read, tool, "", input);
    check(&policy, &read("Grep", json!({ "pattern": "~/.ssh/x" })), Ruling::Allow);
    check(
        &policy,
        &read("Grep", json!({ "pattern": "x", "path": "/home/ada/.ssh" })),
        Ruling::Deny,
    );
    check(&policy, &read("Glob", json!({ "pattern": "*", "path": "~/.ssh" })), Ruling::Deny);
    check(&policy, &read("Glob", json!({ "pattern": "/home/ada/.ssh/*" })), Ruling::Deny);
    check(&policy, &read("Glob", json!({ "pattern": "**/*.rs" })), Ruling::Allow);
    check(&policy, &read("Glob", json!({ "pattern": "../../.ssh/*" })), Ruling::Ask);
    check(&policy, &read("Read", json!({ "file_path": "/home/ada/.ssh/id" })), Ruling::Deny);
    check(
        &policy,
        &read("read", json!({ "patterns": ["src/a", "/home/ada/.ssh/id"] })),
        Ruling::Deny,
    );
}

#[test]
fn a_search_above_what_is_denied_or_asked_is_asked() {
    let read = |tool: &str, input: Value| question(ActionKind::Read, tool, "", input);
    let at = |path: &str| read("Grep", json!({ "pattern": "x", "path": path }));
    for (ask, deny) in [(&["read(~/.ssh/**)"][..], &[][..]), (&[], &["read(~/.ssh/**)"])] {
        let policy = policy(&["read"], ask, deny);
        for above in ["/home/ada", "~", "/", "..", "/home", "../../ada/", "/HOME/ADA"] {
            check(&policy, &at(above), Ruling::Ask);
            check(&policy, &read("LS", json!({ "path": above })), Ruling::Ask);
            // Agents that speak ACP, and opencode.
            check(&policy, &read("search", json!({ "path": above })), Ruling::Ask);
            check(&policy, &read("list_directory", json!({ "dir_path": above })), Ruling::Ask);
            let outside = json!({ "filepath": above, "pattern": "x" });
            check(&policy, &read("external_directory", outside), Ruling::Ask);
        }
        for glob in ["~/**", "/home/ada/**/*.rs", "/**", "~/.s*/id", "{~/.ssh,src}/*", "{..,src}/x"]
        {
            check(&policy, &read("Glob", json!({ "pattern": glob })), Ruling::Ask);
        }
        for apart in [".", "src", "/home/ada/.sshx", "/home/adam", "/etc"] {
            check(&policy, &at(apart), Ruling::Allow);
        }
        check(&policy, &read("search", json!({ "title": "Searching all of it" })), Ruling::Ask);
        // One file is no search.
        check(&policy, &read("Read", json!({ "file_path": "/home/ada/x" })), Ruling::Allow);
    }
    let anywhere = policy(&["read"], &[], &["read(**/.env)", "read(docs/*/secret)"]);
    check(&anywhere, &at("src"), Ruling::Ask);
    check(&anywhere, &at("/etc"), Ruling::Allow);
    let docs = policy(&["read"], &[], &["read(docs/*/secret)"]);
    for (path, expected) in [
        ("docs", Ruling::Ask),
        ("docs/a", Ruling::Ask),
        ("docs/a/b", Ruling::Allow),
        ("src", Ruling::Allow),
    ] {
        check(&docs, &at(path), expected);
    }
    // The denied place behind a link, and the search through one.
    let disk = Disk::with(&[("/home/ada/.ssh", "/data/keys"), ("/home/ada/project/up", "/home")]);
    let policy = policy(&["read"], &[], &["read(~/.ssh/**)"]);
    for path in ["/data", "up", "up/ada"] {
        let decision = policy.decide(&action(&at(path), &disk), &[]);
        assert_eq!(decision.ruling, Ruling::Ask, "{path}: {decision:?}");
    }
}

#[test]
fn addresses_must_be_what_they_seem() {
    let policy = policy(&["fetch(https://docs.rs/*)"], &[], &["fetch(https://docs.rs/secret*)"]);
    let all = |urls: &[&str], expected| {
        for url in urls {
            check(
                &policy,
                &question(ActionKind::Fetch, "WebFetch", url, json!({ "url": url })),
                expected,
            );
        }
    };
    all(&["https://docs.rs/", "https://docs.rs", "HTTPS://DOCS.RS:443/x?y#z"], Ruling::Allow);
    all(
        &["https://docs.rs/secret", "https://docs.rs/a/../secret/x", "https://u@docs.rs/%73ecret"],
        Ruling::Deny,
    );
    all(
        &[
            "http://docs.rs/",
            "https://docs.rs:8443/",
            "https://docs.rs@evil.example/",
            "https://evil.example\\@docs.rs/",
            "https://docs.rs.evil.example/",
            "https://evil.example/https://docs.rs/",
            "https://dосs.rs/",
            "https://docs.rs/ x",
            "https://docs.rs/a/../b",
            "docs.rs/x",
            "file:///etc/passwd",
            "https://docs.rs/, https://evil.example/",
            "",
        ],
        Ruling::Ask,
    );
    let search = question(ActionKind::Fetch, "WebSearch", "https://docs.rs/", json!({}));
    check(&policy, &search, Ruling::Ask);
    check(&super::policy(&["fetch"], &[], &["fetch(https://x/*)"]), &search, Ruling::Allow);
}

fn fetch(tool: &str, subject: &str, input: Value) -> Question {
    question(ActionKind::Fetch, tool, subject, input)
}

/// Whatever a tool is called, its input says whether it is an address.
#[test]
fn an_address_that_is_denied_is_found_in_other_spellings_and_under_any_name() {
    let policy = policy(&["fetch"], &[], &["fetch(https://evil.example/*)"]);
    let check = |question: &Question, expected| check(&policy, question, expected);
    for tool in ["WebFetch", "research_fetch", "search", "web_search_and_open", "WEBSEARCH"] {
        let by_url = |url: &str| fetch(tool, "", json!({ "url": url }));
        let by_subject = |url: &str| fetch(tool, url, json!({}));
        let by_words =
            |url: &str| fetch(tool, "", json!({ "prompt": format!("Read {url} to me") }));
        for same in
            ["https://evil.example/", "HTTPS://EVIL.example.:443/x", "https://u@evil.example/"]
        {
            check(&by_url(same), Ruling::Deny);
            check(&by_subject(same), Ruling::Deny);
            check(&by_words(same), Ruling::Deny);
        }
        for near in ["http://evil.example/", "wss://evil.example/x", "https://evil.example:8443/"] {
            check(&by_url(near), Ruling::Ask);
            check(&by_subject(near), Ruling::Ask);
            check(&by_words(near), Ruling::Ask);
        }
        for odd in ["https://ｅvil.example/", "https://evil%2eexample/"] {
            check(&by_url(odd), Ruling::Ask);
        }
        check(&by_url("https://docs.rs/"), Ruling::Allow);
        let two = json!({ "url": "https://docs.rs/", "fallback_urls": ["https://evil.example/"] });
        check(&fetch(tool, "https://docs.rs/", two), Ruling::Deny);
        // Which address it is can't be told.
        check(&fetch(tool, "", json!({ "query": "rust" })), Ruling::Ask);
    }
    // A known search searches, but not for what is denied.
    for query in ["rust", "see https://docs.rs/"] {
        check(
            &fetch("WebSearch", &format!("search: {query}"), json!({ "query": query })),
            Ruling::Allow,
        );
    }
    let denied = json!({ "query": "http://evil.example/ as text" });
    check(&fetch("WebSearch", "search: x", denied), Ruling::Deny);
    check(&fetch("WebSearch", "", json!({ "url": "http://evil.example/" })), Ruling::Ask);
}

#[test]
fn addresses_of_the_machine_and_its_network_are_allowed_by_name_only() {
    let local = [
        "http://localhost:3000/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://0.0.0.0:80/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/",
        "http://[fd00:ec2::254]/",
        "http://metadata.google.internal/",
        "http://192.168.0.1/",
        "file:///etc/passwd",
    ];
    for allow in ["fetch", "fetch(*://*/*)", "fetch(http://*:*/*)", "fetch(http://*/*)"] {
        let policy = policy(&[allow], &[], &[]);
        for url in local {
            check(&policy, &fetch("WebFetch", url, json!({ "url": url })), Ruling::Ask);
        }
    }
    let named =
        policy(&["fetch", "fetch(http://localhost:3000/*)", "fetch(http://[::1]/*)"], &[], &[]);
    for (url, expected) in [
        ("http://localhost:3000/x", Ruling::Allow),
        ("http://LOCALHOST.:3000/x", Ruling::Allow),
        ("http://[::1]/", Ruling::Allow),
        ("http://localhost:3001/x", Ruling::Ask),
        ("http://127.0.0.1:3000/", Ruling::Ask),
        ("https://docs.rs/", Ruling::Allow),
    ] {
        check(&named, &fetch("WebFetch", url, json!({ "url": url })), expected);
    }
    granted(
        &fetch("WebFetch", "http://localhost:3000/x", json!({ "url": "http://localhost:3000/x" })),
        "fetch(http://localhost:3000/*)",
        &[fetch("WebFetch", "http://localhost:8080/", json!({ "url": "http://localhost:8080/" }))],
    );
}

#[test]
fn searches_of_the_web_have_a_rule_of_their_own() {
    let search = fetch("WebSearch", "search: rust", json!({ "query": "rust" }));
    let page = fetch("WebFetch", "https://docs.rs/", json!({ "url": "https://docs.rs/" }));
    check(&policy(&["fetch(search)"], &[], &[]), &search, Ruling::Allow);
    check(&policy(&["fetch(search)"], &[], &[]), &page, Ruling::Ask);
    check(&policy(&["fetch"], &[], &["fetch(search)"]), &search, Ruling::Deny);
    check(&policy(&["fetch"], &["fetch(search)"], &[]), &page, Ruling::Allow);
}
