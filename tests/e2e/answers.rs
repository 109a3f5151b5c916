//! What a model has said is on the thread, whole and soon: text before its last tool, around its
//! thoughts, and while its commands still print; also if the engine is slow to leave.

use crate::{
    homes::Engine,
    patience::check_quick_once,
    rig::{Post, Setup},
};
use serde_json::json;
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

/// From the last byte of the model's last answer to the post, on a machine with nothing else to do.
const SOON: Duration = Duration::from_millis(300);

/// For how long the words of an ACP agent that has said nothing since its last call are waited for.
const LATE: Duration = Duration::from_millis(250);

/// A response of the model with nothing in it.
const NOTHING: &str = "[[usage:100,0]]";

/// Has what it is called with run, and then stays for longer than any test waits, whatever it is sent
/// and whoever has closed its input.
const LEAVES_LATE: &str = r#"trap '' HUP INT TERM; "$0" "$@"
    case "$*" in *--version*) ;; *) exec sleep 600 ;; esac"#;

/// Makes a test of each scenario for an engine, and of those that are named.
macro_rules! answers_of {
    ($($module:ident $engine:ident $($more:ident)?),+ $(,)?) => {
        $(mod $module {
            use crate::homes::Engine;

            $(#[test]
            fn $more() {
                super::$more(Engine::$engine);
            })?

            #[test]
            fn text_after_the_last_tool_is_the_answer() {
                super::text_after_the_last_tool(Engine::$engine);
            }

            #[test]
            fn a_thought_cuts_nothing_off() {
                super::thoughts_between(Engine::$engine);
            }

            #[test]
            fn what_a_command_prints_meanwhile_cuts_nothing_off() {
                super::output_meanwhile(Engine::$engine);
            }

            #[test]
            fn an_answer_does_not_wait_for_its_engine_to_leave() {
                super::slow_exit(Engine::$engine);
            }
        })+
    };
}

// Copilot does not let its model end without a word.
answers_of! {
    claude Claude text_before_the_last_tool_is_the_answer,
    codex Codex text_before_the_last_tool_is_the_answer,
    opencode Opencode text_before_the_last_tool_is_the_answer,
    claude_acp ClaudeAcp text_before_the_last_tool_is_the_answer,
    codex_acp CodexAcp text_before_the_last_tool_is_the_answer,
    copilot Copilot,
    gemini Gemini text_before_the_last_tool_is_the_answer,
    qwen Qwen text_before_the_last_tool_is_the_answer,
}

/// Both halves of a text that is said around two tools.
const TOOLS: &str = "[[text:I look.]][[shell:echo one]][[text:It is the cache.]][[shell:echo two]]";

fn text_before_the_last_tool_is_the_answer(engine: Engine) {
    let script = format!("{TOOLS}{NOTHING}");
    let setup = Setup::logged_in();
    if engine == Engine::Qwen {
        // To qwen 0.15.10 that is an error, and only after it has asked its model again for a while.
        return check(setup, engine, &script, &["I look.", "It is the cache."], End::Failed);
    }
    check(setup, engine, &script, &["I look."], End::Answered("It is the cache."));
}

fn text_after_the_last_tool(engine: Engine) {
    let script = format!("{TOOLS}[[text:All is well.]]");
    check(
        Setup::logged_in(),
        engine,
        &script,
        &["I look.", "It is the cache."],
        End::Answered("All is well."),
    );
}

fn thoughts_between(engine: Engine) {
    let script = "[[think:hm]][[text:The first half. ]][[think:more]][[text:The second half.]]";
    check(
        Setup::logged_in(),
        engine,
        script,
        &[],
        End::Answered("The first half. The second half."),
    );
}

fn output_meanwhile(engine: Engine) {
    let ticks = "for n in 1 2 3 4 5 6 7 8; do echo tick $n; sleep 0.2; done";
    let more = match engine {
        Engine::Codex | Engine::CodexAcp => r#"{"yield_time_ms":250} | "#,
        Engine::Claude | Engine::ClaudeAcp => r#"{"run_in_background":true} | "#,
        Engine::Gemini | Engine::Qwen => r#"{"is_background":true} | "#,
        // What copilot runs besides becomes a message to its model when it ends.
        Engine::Copilot | Engine::Opencode => "",
    };
    let words = "one two three four five six seven eight";
    let script = format!("[[shell:{more}{ticks}]][[pace:0.2]][[text:{words}]]");
    check(Setup::logged_in(), engine, &script, &[], End::Answered(words));
}

fn slow_exit(engine: Engine) {
    let mut setup = Setup::logged_in();
    // Opencode's server stays anyway.
    if engine != Engine::Opencode {
        let late = [&["sh", "-c", LEAVES_LATE], engine.command()].concat();
        setup.config["agents"][engine.name()] = json!({ "command": late });
    }
    check(setup, engine, "[[text:Here I am.]]", &[], End::Answered("Here I am."));
}

/// How a turn ends.
#[derive(Clone, Copy)]
enum End {
    /// With these words.
    Answered(&'static str),
    /// With what went wrong; what was said and not posted until then is under it.
    Failed,
}

/// Checks the end, how soon it is posted, and that what was said before is on the thread as well.
#[track_caller]
fn check(mut setup: Setup, engine: Engine, script: &str, before: &[&str], end: End) {
    setup.config["permissions"] = json!({"allow": ["run"]});
    setup.config["progress"] = json!(true);
    let rig = setup.start();
    let is_waited_for = engine.speaks_acp() && script.ends_with(NOTHING);
    let soon = if is_waited_for { SOON + LATE } else { SOON };
    check_quick_once(soon, || {
        let thread = rig.begin(engine, script);
        let posts = rig.answer(&thread, 1);
        let now = Instant::now();
        let over = rig.model.turns().iter().filter_map(|it| it.over).max();
        let took = now.saturating_duration_since(over.expect("the model was asked"));
        check_posts(&posts, before, end);
        // Not captured, so that every run shows what was measured.
        writeln!(io::stderr(), "{engine:?}, {script}: posted {took:?} after the model").ok();
        took
    });
}

#[track_caller]
fn check_posts(posts: &[Post], before: &[&str], end: End) {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (last, earlier) = posts.split_last().expect("an end is a post");
    let (fits, where_else) = match end {
        End::Answered(text) => (last.kind == "result" && words(&last.body) == text, earlier),
        End::Failed => (last.kind == "error", posts),
    };
    assert!(fits, "{posts:#?}");
    for text in before {
        let times: usize = where_else.iter().map(|it| it.body.matches(text).count()).sum();
        assert_eq!(times, 1, "{text:?} in {posts:#?}");
    }
}
