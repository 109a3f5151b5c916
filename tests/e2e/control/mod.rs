//! The human stays in control: what a real engine asks is put to them, what they say happens and
//! nothing else does, and what they stop is over. Files in the project show what was done.
//!
//! These are the scenarios that hold for every engine; the engines' own files say which of them are
//! tests of theirs, and have what only they do.

mod acp;
mod claude;
mod codex;
mod opencode;
mod own;
mod stop;

use crate::{
    homes::{Engine, Home},
    model::Request,
    rig::{PATIENCE, Post, Rig, Setup},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Makes tests of scenarios.
macro_rules! tests_of {
    ($engine:expr; $($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            crate::control::$name($engine);
        })+
    };
}
use tests_of;

/// Where engines and we keep conversations, which may quote anything. Elsewhere below the home no
/// trace of a permission may be left.
const CONVERSATIONS: [&str; 12] = [
    ".agent-bridge-daemon",
    "bridge",
    "daemon.log",
    ".claude/projects",
    ".codex/sessions",
    ".codex/archived_sessions",
    ".codex/state_",
    ".codex/thread_history",
    ".codex/logs_",
    ".codex/log",
    ".local/share/opencode",
    ".local/state/opencode",
];

pub(crate) use own::{
    its_token_is_not_read_by_any_path, its_token_is_not_read_in_a_project_that_it_is_in,
    what_is_denied_is_not_written_by_another_name,
};

/// How the model calls the engine's shell so that it is asked for.
pub(crate) fn run(engine: Engine, command: &str) -> String {
    match engine {
        // Inside of its sandbox codex asks nothing.
        Engine::Codex | Engine::CodexAcp => {
            let more = r#"{"sandbox_permissions":"require_escalated","justification":"why not"}"#;
            format!("[[shell:{more} | {command}]]")
        }
        _ => format!("[[shell:{command}]]"),
    }
}

/// How the model has two commands asked for at the same time.
fn run_both(engine: Engine, one: &str, other: &str) -> String {
    match engine {
        // Its commands wait for each other; those of two helpers do not.
        Engine::Claude => {
            let helper = |command: &str| {
                let prompt = format!("help [[shell:{command}]][[text:helped]]");
                json!({"description": "help", "subagent_type": "general-purpose", "prompt": prompt})
            };
            format!("[[tool:Agent {}]][[tool+:Agent {}]]", helper(one), helper(other))
        }
        _ => run(engine, one) + &run(engine, other).replace("[[shell:", "[[shell+:"),
    }
}

/// A thread with an engine that asks.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    pub(crate) thread: String,
    pub(crate) engine: Engine,
}

impl Scene {
    /// A daemon that puts what is asked to the human, and the first message to it.
    #[track_caller]
    pub(crate) fn begin(engine: Engine, text: &str) -> Scene {
        Scene::with(engine, &json!({}), text)
    }

    /// The same, with more in the config.
    #[track_caller]
    pub(crate) fn with(engine: Engine, config: &Value, text: &str) -> Scene {
        Scene::of(Setup::logged_in(), engine, config, text)
    }

    /// The same in a home that is prepared.
    #[track_caller]
    pub(crate) fn of(mut setup: Setup, engine: Engine, config: &Value, text: &str) -> Scene {
        setup.config["relayPermissions"] = json!(true);
        // Where codex asks for every patch.
        setup.config["codexSandbox"] = json!("read-only");
        for (key, value) in config.as_object().expect("a config is an object") {
            setup.config[key] = value.clone();
        }
        let rig = setup.start();
        let thread = rig.begin(engine, text);
        Scene { rig, thread, engine }
    }

    pub(crate) fn say(&self, text: &str) {
        self.rig.say(&self.thread, text);
    }

    /// Waits for the `n`-th post of which this is true, counted from 1.
    #[track_caller]
    fn post(&self, what: &str, n: usize, wanted: impl Fn(&Post) -> bool) -> Post {
        let found = self.rig.wait_for_posts(&self.thread, |it| {
            it.iter().filter(|it| wanted(it)).nth(n - 1).cloned()
        });
        found.unwrap_or_else(|posts| panic!("no {what} {n} in {PATIENCE:?}, only {posts:#?}"))
    }

    /// The `n`-th question, which is about this and can be answered with a bare word.
    #[track_caller]
    pub(crate) fn question(&self, n: usize, about: &str) -> Question {
        let post = self.post("question", n, |it| it.kind == "question");
        assert!(post.body.contains(about), "it is not about {about:?}: {}", post.body);
        let name = self.engine.name();
        assert_eq!(post.author, format!("{name}-bridge-perm"));
        let code = post.card["code"].as_str().expect("a question has a card").to_owned();
        for part in
            [format!("**{name} asks "), format!("Question `{code}`"), "How to answer".into()]
        {
            assert!(post.body.contains(&part), "{part:?} is not in {}", post.body);
        }
        self.rig.all_is_posted();
        Question { code, body: post.body, card: post.card }
    }

    /// Waits until a question has ended, and says how.
    #[track_caller]
    pub(crate) fn outcome(&self, question: &Question) -> String {
        let post = self.post("end of a question", 1, |it| it.closed["code"] == *question.code);
        post.closed["outcome"].as_str().expect("an end has an outcome").to_owned()
    }

    /// The `n`-th answer of the engine, which is this.
    #[track_caller]
    pub(crate) fn result(&self, n: usize, body: &str) {
        let post = self.post("answer", n, |it| matches!(&it.kind[..], "result" | "error"));
        assert_eq!((&post.kind[..], &post.body[..]), ("result", body));
    }

    /// The `n`-th answer comes after a refusal, and the model was told why. Not so through ACP, which
    /// has no place for a reason: codex-acp ends the turn, and the human is told of what.
    #[track_caller]
    pub(crate) fn refused(&self, n: usize, body: &str, what: &str, why: &str) {
        if self.engine == Engine::CodexAcp {
            let end = format!("(The agent ended its turn because this was refused: `{what}`)");
            self.result(n, &end);
            let turns = self.rig.model.turns();
            assert!(!turns.iter().any(|it| it.mentions(why)), "the docs say that it is not told");
        } else {
            self.result(n, body);
            self.model_reads(why);
        }
    }

    /// Waits until the daemon has said this, and returns all of it.
    #[track_caller]
    pub(crate) fn status(&self, words: &str) -> String {
        self.post(words, 1, |it| it.kind == "status" && it.body.contains(words)).body
    }

    /// So many questions were put.
    #[track_caller]
    pub(crate) fn assert_questions(&self, n: usize) {
        let posts = self.rig.posts(&self.thread);
        let questions = posts.iter().filter(|it| it.kind == "question").count();
        assert_eq!(questions, n, "{posts:#?}");
    }

    /// Waits until the model is sent this, which no human said as a prompt.
    #[track_caller]
    pub(crate) fn model_reads(&self, words: &str) -> Request {
        let is_told = |it: &Request| it.is_turn && it.mentions(words);
        let request = self.rig.model.wait_for(is_told, PATIENCE);
        for request in self.rig.model.turns() {
            assert!(!request.human().contains(words), "that is a prompt: {}", request.human());
        }
        request
    }

    /// The first request that says this in the human's newest message.
    #[track_caller]
    pub(crate) fn asked(&self, words: &str) -> Request {
        crate::scenarios::asked(&self.rig, words)
    }

    /// Whether a file is in the project.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.rig.home.project().join(name).exists()
    }

    /// The text of a file in the project.
    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.rig.home.project().join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn session(&self) -> String {
        self.rig.session(&self.thread, self.engine)
    }
}

/// What a human is asked.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) code: String,
    pub(crate) body: String,
    pub(crate) card: Value,
}

/// All files below a home but those in places for conversations, by their path in it. What is no
/// text is empty.
fn files(home: &Home) -> BTreeMap<PathBuf, String> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(top).expect("it is below").to_owned();
            let text = name.to_string_lossy();
            if CONVERSATIONS.iter().any(|it| text.starts_with(it)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(top, &path, found),
                Ok(kind) if kind.is_file() => {
                    found.insert(name, fs::read_to_string(&path).unwrap_or_default());
                }
                _ => {}
            }
        }
    }
    let mut found = BTreeMap::new();
    let top = home.path("");
    walk(&top, &top, &mut found);
    found
}

/// What an engine reads its rules from, whoever writes that.
fn settings(home: &Home) -> BTreeMap<PathBuf, String> {
    let is_settings = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let names = ["settings.json", "settings.local.json", "config.toml", "opencode.json"];
        names.contains(&&*name) || name.ends_with(".rules")
    };
    files(home).into_iter().filter(|(path, _)| is_settings(path)).collect()
}

/// Nobody has written down that this is allowed, where an engine would find it.
#[track_caller]
fn assert_not_remembered(home: &Home, words: &str) {
    let found: Vec<_> = files(home).into_iter().filter(|(_, text)| text.contains(words)).collect();
    assert!(found.is_empty(), "{words:?} is in {found:#?}");
}

pub(crate) fn what_is_approved_happens_and_what_is_not_does_not(engine: Engine) {
    let text =
        |name: &str| format!("make {name} {}[[text:over]]", run(engine, &format!("touch {name}")));
    let scene = Scene::begin(engine, &text("one"));
    let before = settings(&scene.rig.home);
    let one = scene.question(1, "touch one");
    assert_eq!(one.card["kind"], "run");
    assert!(one.card["subject"].as_str().unwrap().contains("touch one"), "{}", one.card);
    assert!(!scene.has("one"), "it did not wait for an answer");
    scene.say(&format!("approve {}", one.code.to_lowercase()));
    scene.result(1, "over");
    assert!(scene.has("one"), "it was approved");
    assert_eq!(scene.outcome(&one), "allowed");

    scene.say(&text("two"));
    let two = scene.question(2, "touch two");
    scene.say("yes");
    scene.result(2, "over");
    assert!(scene.has("two"), "it was approved");
    assert_eq!(scene.outcome(&two), "allowed");

    scene.say(&text("three"));
    let three = scene.question(3, "touch three");
    scene.say(&format!("deny {} because the tests need quiet", three.code));
    scene.refused(3, "over", "touch three", "the tests need quiet");
    assert_eq!(scene.outcome(&three), "denied");

    scene.say(&text("four"));
    let four = scene.question(4, "touch four");
    let words = "what a strange idea, approve of something else";
    scene.say(words);
    scene.refused(4, "over", "touch four", words);
    assert_eq!(scene.outcome(&four), "denied");
    assert!(!scene.has("three") && !scene.has("four"), "it was denied");

    // An answer that comes again is no prompt either.
    scene.say(&format!("approve {}", four.code));
    scene.status(&format!(
        "That question is over; this changed nothing. **Refused** `{}`",
        four.code
    ));
    assert!(!scene.has("four"), "it was denied");
    scene.assert_questions(4);
    assert_eq!(settings(&scene.rig.home), before);
}

pub(crate) fn always_holds_for_the_same_and_for_nothing_else(engine: Engine) {
    let text = |name: &str| {
        format!("make {name} {}[[text:over]]", run(engine, &format!("touch quince-{name}")))
    };
    let mut scene = Scene::begin(engine, &text("one"));
    let before = settings(&scene.rig.home);
    let one = scene.question(1, "touch quince-one");
    assert!(one.card["always"].as_str().unwrap().contains("touch quince-one"), "{}", one.card);
    scene.say(&format!("always {}", one.code));
    scene.result(1, "over");
    assert_eq!(scene.outcome(&one), "always");
    for n in 2..4 {
        fs::remove_file(scene.rig.home.project().join("quince-one")).expect("it was made");
        scene.say(&text("one"));
        scene.result(n, "over");
        assert!(scene.has("quince-one"), "it is allowed for always");
        // It holds because of us, and not because the engine goes on.
        scene.rig.restart_daemon();
    }
    scene.assert_questions(1);
    scene.say(&text("one-more"));
    let more = scene.question(2, "touch quince-one-more");
    scene.say("deny");
    scene.refused(4, "over", "touch quince-one-more", "The human refused this");
    assert_eq!(scene.outcome(&more), "denied");
    assert!(!scene.has("quince-one-more"), "it was denied");
    let other = scene.rig.begin(engine, &text("one"));
    let elsewhere = Scene { thread: other, ..scene };
    elsewhere.question(1, "touch quince-one");
    assert_eq!(settings(&elsewhere.rig.home), before);
    assert_not_remembered(&elsewhere.rig.home, "touch quince");
}

pub(crate) fn an_edit_is_put_with_its_diff(engine: Engine) {
    let mut setup = Setup::logged_in();
    fs::write(setup.home.project().join("old.txt"), "first\nsecond\nthird\n").unwrap();
    // Some engines change nothing that they have not read.
    let path = setup.home.project().join("old.txt").display().to_string();
    let look = match engine {
        Engine::Claude | Engine::ClaudeAcp => {
            format!(r#"[[tool:Read {{"file_path":"{path}"}}]]"#)
        }
        Engine::Opencode => format!(r#"[[tool:read {{"filePath":"{path}"}}]]"#),
        _ => String::new(),
    };
    let made = setup.home.project().join("new.txt").display().to_string();
    setup.config["relayTimeoutMs"] = json!(120_000);
    let text = format!(
        "write it [[write:{made}|fresh line]]{look}[[edit:{path}|second|changed]]\
         [[write:{made}.not|never]][[text:over]]"
    );
    let scene = Scene::of(setup, engine, &json!({}), &text);
    let new = scene.question(1, "new.txt");
    // Opencode tells of a new file as of a change.
    let wishes = ["asks to write a file", "asks to change a file"];
    assert!(wishes.iter().any(|wish| new.body.contains(wish)), "{}", new.body);
    check_diff(&new, &["+fresh line"]);
    assert!(!scene.has("new.txt"), "it did not wait for an answer");
    scene.say("approve");
    let old = scene.question(2, "old.txt");
    check_diff(&old, &["-second", "+changed"]);
    assert!(!old.body.contains("fresh line"), "that was another: {}", old.body);
    assert_eq!(scene.read("new.txt").trim_end(), "fresh line");
    scene.say("yes");
    let not = scene.question(3, "new.txt.not");
    assert_eq!(scene.read("old.txt"), "first\nchanged\nthird\n");
    scene.say(&format!("no {} because one is enough", not.code));
    scene.refused(1, "over", &format!("{made}.not"), "one is enough");
    assert!(!scene.has("new.txt.not"), "it was denied");
}

/// Both the Markdown and the card have these lines.
#[track_caller]
fn check_diff(question: &Question, lines: &[&str]) {
    let fence = question.body.split("```diff\n").nth(1).expect("a diff in the text");
    let shown = fence.split("\n```").next().expect("a split has a first part");
    let card = question.card["diff"].as_str().expect("a diff on the card");
    assert_eq!(question.card["kind"], "edit");
    for line in lines {
        assert!(shown.lines().any(|it| it == *line), "{line:?} is not in {}", question.body);
        assert!(card.lines().any(|it| it == *line), "{line:?} is not on {card}");
    }
}

pub(crate) fn nobody_answering_is_a_refusal(engine: Engine) {
    let text = format!("try it {}[[text:I could not]]", run(engine, "touch made"));
    let scene = Scene::with(engine, &json!({"relayTimeoutMs": 1500}), &text);
    let question = scene.question(1, "touch made");
    scene.refused(1, "I could not", "touch made", "Nobody answered within");
    assert_eq!(scene.outcome(&question), "expired");
    // Then it is too late.
    let n_requests = scene.rig.model.turns().len();
    scene.say(&format!("approve {}", question.code));
    scene.status(&format!(
        "That question is over; this changed nothing. **Expired** `{}`",
        question.code
    ));
    assert_eq!(scene.rig.model.turns().len(), n_requests, "a late answer is no prompt");
    assert!(!scene.has("made"), "nobody allowed it");
}

pub(crate) fn two_at_once_are_answered_in_reverse_order(engine: Engine) {
    let text = format!("both {}[[text:over]]", run_both(engine, "touch one", "touch two"));
    let scene = Scene::begin(engine, &text);
    let mut open = [scene.question(1, "touch "), scene.question(2, "touch ")];
    assert_ne!(open[0].code, open[1].code);
    open.sort_by_key(|it| it.body.contains("touch two"));
    let [one, two] = open;
    assert!(one.body.contains("touch one") && two.body.contains("touch two"));
    scene.say(&format!("deny {} because it is the second", two.code));
    assert_eq!(scene.outcome(&two), "denied");
    assert!(!scene.has("one") && !scene.has("two"), "the other one is still open");
    scene.say(&format!("approve {}", one.code));
    assert_eq!(scene.outcome(&one), "allowed");
    scene.result(1, "over");
    scene.model_reads("it is the second");
    assert!(scene.has("one") && !scene.has("two"), "each answer is to its own question");
    scene.assert_questions(2);
}

pub(crate) fn a_stop_while_it_asks_ends_turn_and_question(engine: Engine) {
    let scene = Scene::begin(engine, "the word is quince [[text:noted]]");
    scene.result(1, "noted");
    let session = scene.session();
    scene.say(&format!("make it {}[[text:over]]", run(engine, "touch made")));
    let question = scene.question(1, "touch made");
    scene.say("/stop");
    scene.status("Stopped.");
    assert_eq!(scene.outcome(&question), "gone");
    scene.say(&format!("approve {}", question.code));
    scene.status(&format!(
        "That question is over; this changed nothing. **Gone** `{}`",
        question.code
    ));
    scene.say("which word? [[text:that]]");
    scene.result(2, "that");
    assert!(scene.asked("which word?").mentions("the word is quince"), "the session goes on");
    assert_eq!(scene.session(), session);
    assert!(!scene.has("made"), "nobody allowed it");
}

pub(crate) fn a_daemon_killed_while_it_asks_says_so_and_continues(engine: Engine) {
    let mut scene = Scene::begin(engine, "the word is quince [[text:noted]]");
    scene.result(1, "noted");
    let session = scene.session();
    scene.say(&format!("make it {}[[text:over]]", run(engine, "touch made")));
    let question = scene.question(1, "touch made");
    let daemon = scene.rig.take_daemon();
    daemon.kill9();
    // Nobody hears this before the question is dead.
    scene.say(&format!("approve {}", question.code));
    scene.rig.start_daemon();
    scene.status("Reply `continue` to resume the session.");
    assert_eq!(scene.outcome(&question), "gone");
    scene.status(&format!(
        "That question is over; this changed nothing. **Gone** `{}`",
        question.code
    ));
    scene.say("continue");
    let request = scene.asked("continue");
    assert!(request.mentions("the word is quince"), "it is another session: {request:#?}");
    assert!(!request.prompt.contains("About this session"), "it is a fresh one: {request:#?}");
    scene.post("answer", 2, |it| it.kind == "result");
    assert_eq!(scene.session(), session);
    assert!(!scene.has("made"), "nobody allowed it");
    scene.assert_questions(1);
}

pub(crate) fn rules_decide_before_the_human(engine: Engine) {
    let rules = json!({"allow": ["run(touch fine*)"], "deny": ["run(touch bad*)"]});
    let touch = |files: &str| run(engine, files);
    let text = format!(
        "all of it {}{}{}{}[[text:over]]",
        touch("touch fine-1"),
        touch("touch bad-1"),
        touch("touch fine-2; touch bad-2"),
        touch("touch fine-3 && touch other"),
    );
    let scene = Scene::with(engine, &json!({"permissions": rules}), &text);
    // What the rules leave open is asked, and only that.
    let question = scene.question(1, "touch fine-3 && touch other");
    assert!(scene.has("fine-1") && !scene.has("bad-1"), "rules decide");
    assert!(!scene.has("fine-2") && !scene.has("bad-2"), "a part of it is denied");
    scene.model_reads("the rule `run(touch bad*)` denies it");
    scene.say(&format!("approve {}", question.code));
    scene.result(1, "over");
    assert!(scene.has("fine-3") && scene.has("other"));
    scene.assert_questions(1);
}

/// How the model asks the human something of its own, with two options.
fn ask_the_human(engine: Engine, question: &str) -> String {
    let options = json!([
        {"label": "Red wine", "description": "the dark one"},
        {"label": "Blue ink", "description": "not to drink"},
    ]);
    let asked = json!({"question": question, "header": "Colour", "options": options});
    match engine {
        Engine::Claude => {
            let mut asked = asked;
            asked["multiSelect"] = json!(false);
            format!("[[tool:AskUserQuestion {}]]", json!({"questions": [asked]}))
        }
        Engine::Opencode => format!("[[tool:question {}]]", json!({"questions": [asked]})),
        _ => {
            let mut asked = asked;
            asked["id"] = json!("colour");
            format!("[[tool:request_user_input {}]]", json!({"questions": [asked]}))
        }
    }
}

pub(crate) fn its_own_question_is_answered_by_number_and_in_words(engine: Engine) {
    let text = format!("ask me {}[[text:red, then]]", ask_the_human(engine, "Which colour?"));
    let scene = Scene::begin(engine, &text);
    let first = scene.question(1, "Which colour?");
    assert_eq!(first.card["kind"], "choice");
    for part in ["Red wine", "the dark one", "Blue ink"] {
        assert!(first.body.contains(part), "{part:?} is not in {}", first.body);
    }
    let offered = &first.card["choices"][0]["options"];
    assert_eq!(offered[1], json!({"label": "Blue ink", "description": "not to drink"}));
    scene.say("2");
    scene.result(1, "red, then");
    assert_eq!(scene.outcome(&first), "answered");
    let is_told = |it: &Request| it.results.iter().any(|it| it.contains("Blue ink"));
    scene.rig.model.wait_for(is_told, PATIENCE);

    scene.say(&format!("again {}[[text:as you like]]", ask_the_human(engine, "Which one now?")));
    let second = scene.question(2, "Which one now?");
    scene.say("neither, take the green tea");
    scene.result(2, "as you like");
    assert_eq!(scene.outcome(&second), "answered");
    scene.model_reads("neither, take the green tea");
}
