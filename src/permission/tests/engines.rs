//! Every tool of every engine, by the name and in the shape in which its protocol asks.

use super::*;
use crate::agent::ActionKind::{Edit, Fetch, Mcp, Other, Read, Run};

#[track_caller]
fn table(policy: &Policy, engine: &str, rows: &[(ActionKind, &str, &str, Value, Ruling)]) {
    let engine = Engine::new(engine);
    for (kind, tool, subject, input, expected) in rows {
        let question = question(*kind, tool, subject, input.clone());
        let disk = Disk::default();
        let action = Action { engine: &engine, ..action(&question, &disk) };
        let decision = policy.decide(&action, &[]);
        assert_eq!(decision.ruling, *expected, "{engine} {tool} {subject:?}: {decision:?}");
    }
}

use Ruling::{Allow, Ask, Deny};

fn none() -> Value {
    json!({})
}

/// The reference's list: what reads, `TodoWrite`, the bridge's own tools.
#[test]
fn the_defaults_are_what_only_looks() {
    let policy = Policy::default();
    table(
        &policy,
        "claude",
        &[
            (Read, "Read", "/etc/hosts", json!({"file_path": "/etc/hosts"}), Allow),
            (Read, "Glob", "**/*.rs", json!({"pattern": "**/*.rs"}), Allow),
            (Read, "Grep", "", json!({"pattern": "x"}), Allow),
            (Read, "NotebookRead", "a.ipynb", json!({"notebook_path": "a.ipynb"}), Allow),
            (Fetch, "WebFetch", "https://docs.rs/", json!({"url": "https://docs.rs/"}), Ask),
            (Fetch, "WebSearch", "search: rust", json!({"query": "rust"}), Allow),
            (Other, "TodoWrite", "", json!({"todos": []}), Allow),
            (Mcp, "mcp__bridge__bridge_post", "", none(), Allow),
            (Mcp, "mcp__bridge__bridge_thread_read", "", none(), Allow),
            (Mcp, "mcp__bridge__other", "", none(), Ask),
            (Mcp, "mcp__github__merge", "", none(), Ask),
            (Edit, "Write", "a", json!({"file_path": "a", "content": "x"}), Ask),
            (Edit, "Edit", "a", json!({"file_path": "a"}), Ask),
            (Edit, "MultiEdit", "a", json!({"file_path": "a", "edits": []}), Ask),
            (Edit, "NotebookEdit", "a.ipynb", json!({"notebook_path": "a.ipynb"}), Ask),
            (Run, "Bash", "ls", json!({"command": "ls"}), Ask),
            (Other, "Skill", "", none(), Ask),
            (Other, "Agent", "", none(), Ask),
            (Other, "AskUserQuestion", "", none(), Ask),
            (Other, "Todo", "", none(), Ask),
            (Other, "", "", none(), Ask),
            // A name is no licence: what matters is what the protocol made of the tool.
            (Run, "TodoWrite", "ls", none(), Ask),
            (Mcp, "TodoWrite", "", none(), Ask),
        ],
    );
    table(
        &policy,
        "codex",
        &[
            (Run, "commandExecution", "ls", json!({"command": "/bin/bash -lc ls"}), Ask),
            (Edit, "fileChange", "", json!({"changes": []}), Ask),
            (Other, "permissions", "", json!({"permissions": {}}), Ask),
            (Fetch, "commandExecution", "https://docs.rs", none(), Ask),
            (Mcp, "mcp__github__merge", "", none(), Ask),
            (Mcp, "mcp__bridge", "", none(), Ask),
        ],
    );
    table(
        &policy,
        "opencode",
        &[
            (Read, "read", "a.env", json!({"patterns": ["a.env"]}), Allow),
            (Read, "glob", "*", json!({"patterns": ["*"]}), Allow),
            (Read, "grep", "x", json!({"patterns": ["x"]}), Allow),
            (Read, "list", ".", none(), Allow),
            (Read, "lsp", "src/a.rs", json!({"filePath": "src/a.rs"}), Allow),
            (Read, "lsp", "", none(), Ask),
            (Fetch, "webfetch", "https://x/", json!({"url": "https://x/"}), Ask),
            (Fetch, "websearch", "q", none(), Allow),
            (Fetch, "codesearch", "q", none(), Allow),
            (Run, "bash", "ls", json!({"command": "ls"}), Ask),
            (Edit, "edit", "a", json!({"filepath": "a"}), Ask),
            (Edit, "write", "a", json!({"filepath": "a"}), Ask),
            (Edit, "patch", "a", json!({"filepath": "a"}), Ask),
            (Other, "external_directory", "/etc/*", none(), Ask),
            (Other, "doom_loop", "", none(), Ask),
            (Other, "task", "", none(), Ask),
            (Mcp, "bridge_bridge_post", "", none(), Allow),
            (Mcp, "github_create_issue", "", none(), Ask),
        ],
    );
    table(
        &policy,
        "gemini",
        &[
            (Read, "read", "a", json!({"locations": [{"path": "a"}]}), Allow),
            (Read, "search", "x", json!({"title": "x"}), Allow),
            (Fetch, "fetch", "Fetching x", json!({"title": "Fetching x"}), Ask),
            (Fetch, "google_web_search", "search: x", json!({"query": "x"}), Allow),
            (Run, "execute", "ls", json!({"title": "ls"}), Ask),
            (Edit, "edit", "a", json!({"locations": [{"path": "a"}]}), Ask),
            (Edit, "delete", "a", none(), Ask),
            (Edit, "move", "a", none(), Ask),
            (Other, "think", "", none(), Ask),
            (Other, "switch_mode", "", none(), Ask),
            (Other, "other", "", none(), Ask),
            (Mcp, "bridge_post (bridge MCP Server)", "", none(), Allow),
            (Mcp, "x (bridge_post (bridge MCP Server)", "", none(), Ask),
            (Mcp, "merge (github MCP Server)", "", none(), Ask),
        ],
    );
}

/// opencode asks for all that it reads; what is in the project it would read without asking.
#[test]
fn what_opencode_is_made_to_ask_is_allowed_where_it_would_not_have_asked() {
    let file = |path: &str| json!({"filePath": path});
    let rows = |policy: &Policy, rows: &[(&str, Value, Ruling)]| {
        for (tool, input, ruling) in rows {
            table(policy, "opencode", &[(Read, *tool, "", input.clone(), *ruling)]);
        }
    };
    let strict = policy(&["run(ls)"], &["read(asked/**)"], &["read(denied/**)"]);
    rows(
        &strict,
        &[
            ("read", file("/home/ada/project/src/a.rs"), Allow),
            ("grep", json!({"pattern": "x"}), Ask),
            ("grep", json!({"pattern": "x", "path": "src"}), Allow),
            ("read", file("asked/x"), Ask),
            ("read", file("denied/x"), Deny),
            ("read", file("/home/ada/x"), Ask),
            ("read", file("../x"), Ask),
            ("read", file("a.env"), Ask),
            ("read", file("a.env.local"), Ask),
            ("read", file("a.env.example"), Allow),
            ("external_directory", json!({"filepath": "/etc/hosts"}), Ask),
        ],
    );
    // The others ask only for what they would not do by themselves.
    table(&strict, "claude", &[(Read, "Read", "src/a.rs", json!({"file_path": "src/a.rs"}), Ask)]);
    // Before it tells the tool's input, it tells the path from the root of the repository.
    let own = guarding(&["/home/ada/.obto-bridge"], &["read"], &[], &["read(~/.ssh/**)"]);
    let patterns = |path: &str| json!({"patterns": [path]});
    rows(
        &own,
        &[
            ("read", patterns("src/a.rs"), Allow),
            ("read", patterns(".obto-bridge/config.json"), Deny),
            ("read", patterns("home/ada/.obto-bridge/config.json"), Deny),
            ("read", patterns("ada/.ssh/id"), Deny),
        ],
    );
}

/// One set of rules means the same on every engine.
#[test]
fn rules_mean_the_same_on_every_engine() {
    let policy = policy(
        &[
            "run(git status *)",
            "edit(src/**)",
            "fetch(https://docs.rs/*)",
            "mcp(github:get_*)",
            "other(Skill)",
        ],
        &["mcp(github:get_secret)"],
        &["run(git push *)", "edit(**/.env)", "mcp(github:delete_*)", "other(Workflow)"],
    );
    let diff = |path: &str| json!({"content": [{"type": "diff", "path": path}], "kind": "edit"});
    let wrapped =
        |line: &str| json!({"command": format!("/bin/bash -lc '{line}'"), "cwd": PROJECT});
    let list = |line: &str| json!({"command": ["/bin/bash", "-lc", line], "cwd": PROJECT});
    let add = |path: &str| json!({"changes": [{"path": path, "kind": {"type": "add"}}]});
    table(
        &policy,
        "claude",
        &[
            (Run, "Bash", "git status", json!({"command": "git status"}), Allow),
            (Run, "Bash", "git push", json!({"command": "git push"}), Deny),
            (
                Edit,
                "Write",
                "/home/ada/project/src/a",
                json!({"file_path": "/home/ada/project/src/a"}),
                Allow,
            ),
            (Edit, "Edit", "src/.env", json!({"file_path": "src/.env"}), Deny),
            (Edit, "Edit", "/etc/x", json!({"file_path": "/etc/x"}), Ask),
            (Fetch, "WebFetch", "https://docs.rs/a", json!({"url": "https://docs.rs/a"}), Allow),
            (Fetch, "WebSearch", "docs.rs", json!({"query": "docs.rs"}), Ask),
            (Mcp, "mcp__github__get_issue", "", none(), Allow),
            (Mcp, "mcp__github__get_secret", "", none(), Ask),
            (Mcp, "mcp__github__delete_all", "", none(), Deny),
            // Whose tool that is can't be told: github's, or that of a server "github__get".
            (Mcp, "mcp__github__get__x", "", none(), Ask),
            (Mcp, "mcp__x__github__delete_all", "", none(), Ask),
            (Other, "Skill", "", none(), Allow),
            (Other, "Workflow", "", none(), Deny),
        ],
    );
    table(
        &policy,
        "codex",
        &[
            (Run, "commandExecution", "git status", wrapped("git status"), Allow),
            (Run, "commandExecution", "git status; x", wrapped("git status; x"), Ask),
            (Run, "commandExecution", "/bin/bash -lc 'git push' x", wrapped("git push"), Deny),
            (Edit, "fileChange", "", add("/home/ada/project/src/a"), Allow),
            (Edit, "fileChange", "", add("/etc/a"), Ask),
            (Edit, "fileChange", "", add("x/.env"), Deny),
            (Fetch, "commandExecution", "https://docs.rs", none(), Allow),
            (Fetch, "commandExecution", "https://evil.example", none(), Ask),
            (Mcp, "mcp__github__get_issue", "", none(), Allow),
            (Mcp, "mcp__github", "", none(), Ask),
        ],
    );
    table(
        &policy,
        "opencode",
        &[
            (Run, "bash", "git status", json!({"command": "git status"}), Allow),
            (Run, "bash", "git status, x", json!({"patterns": ["git status", "x"]}), Ask),
            (Edit, "edit", "src/a", json!({"filepath": "src/a", "diff": ""}), Allow),
            (Edit, "edit", "src/a, /etc/x", json!({"filepath": "src/a, /etc/x"}), Ask),
            (Edit, "edit", "src/a, x/.env", json!({"patterns": ["src/a", "x/.env"]}), Deny),
            (Fetch, "webfetch", "https://docs.rs/a", json!({"url": "https://docs.rs/a"}), Allow),
            (Mcp, "github_get_issue", "", none(), Allow),
            (Mcp, "github_delete_all", "", none(), Deny),
            (Mcp, "github", "", none(), Ask),
        ],
    );
    table(
        &policy,
        "gemini",
        &[
            (Run, "execute", "git status", list("git status"), Allow),
            (Run, "run_shell_command", "git status", json!({"command": "git status"}), Allow),
            // Known by its title alone.
            (Run, "execute", "git status", json!({"title": "git status"}), Ask),
            (Run, "execute", "git push", json!({"title": "git push"}), Deny),
            (Edit, "edit", "src/a", diff("src/a"), Allow),
            (Edit, "edit", "src/a", diff("/etc/x"), Ask),
            (Edit, "edit", "Writing to src/a", none(), Ask),
            (Edit, "edit", "src/a", json!({"title": "src/a"}), Ask),
            (Mcp, "get_issue (github MCP Server)", "", none(), Allow),
            (Mcp, "get_issue (x) (github MCP Server)", "", none(), Ask),
            (Mcp, "delete_all (github MCP Server)", "", none(), Deny),
            (Mcp, "Something (github: MCP Server)", "", none(), Ask),
        ],
    );
}
