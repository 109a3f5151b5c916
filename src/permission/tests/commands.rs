//! Command lines, honest ones and such that try to slip past a pattern.

use std::time::{Duration, Instant};

use super::*;

#[track_caller]
fn all(policy: &Policy, lines: &[&str], expected: Ruling) {
    for line in lines {
        check(policy, &run(line), expected);
    }
}

fn status() -> Policy {
    policy(&["run(git status*)", "run(ls *)", "run(wc -l)", "run(grep a\\ b *)"], &[], &[])
}

#[test]
fn what_is_surely_covered_is_allowed() {
    all(
        &status(),
        &[
            "git status",
            "git   status  -s",
            "\tgit status",
            "git status -s src/*.rs",
            "git statusx",
            "g\"it\" 'sta'tus",
            r"git status a\ b",
            "git status \"a\nb\"",
            "git status && git status -s",
            "git status; ls -l\nls",
            "git status || ls |wc -l",
            "git status &&\n ls",
            "git status;",
            "git status \\\n -s",
            "git status 2>&1 | wc -l",
            "git status 2>/dev/null",
            "git status > /dev/null 2>&1",
            "git status </dev/null",
            "ls",
            "ls -la é",
            "grep 'a b' x",
            "git status ~/x",
            "git status -m 'a; rm x && $(y) `z` > w'",
        ],
        Ruling::Allow,
    );
    all(
        &status(),
        &["git status ~/x", "git status -m 'a; rm x && $(y) `z` > w'", r#"ls "a\"b\\""#],
        Ruling::Allow,
    );
}

#[test]
fn what_is_more_than_that_is_asked() {
    all(
        &status(),
        &[
            // Other commands beside it.
            "rm -rf .",
            "git status; rm -rf .",
            "git status;rm x",
            "git status && rm x",
            "git status || rm x",
            "git status | sh",
            "git status |& sh",
            "git status & rm x",
            "git status &",
            "git status\nrm x",
            "rm x\ngit status",
            "git status \\\n; rm x",
            "git status\r\nrm x",
            "git status ;; ls",
            "&& git status",
            "git status &&",
            "git status # ; ls",
            // Commands within it.
            "git status $(rm x)",
            "git status \"$(rm x)\"",
            "git status `rm x`",
            "git status \"`rm x`\"",
            "git status <(rm x)",
            "git status >(rm x)",
            "git status =(rm x)",
            "(git status; rm x)",
            "{ git status; rm x; }",
            "git status $((1))",
            // What only the shell knows.
            "git status $X",
            "git status ${X}",
            "git status \"$X\"",
            "git status $'\\n rm x'",
            "git${IFS}status",
            "git {status,push}",
            "git status {a,b}",
            "git status\\x3b rm",
            // Files.
            "git status > x",
            "git status >> ~/.bashrc",
            "git status >| x",
            "git status &> x",
            "git status >& x",
            "git status 2>&1x",
            "git status >/dev/null/../../home/x",
            "git status > /dev/nullx",
            "git status < x",
            "git status <<EOF\nx\nEOF",
            "git status <<< x",
            // Quotes that do not close.
            "git status 'x",
            "git status \"x",
            "git status x\\",
            "git status 'a\\'' ; rm x #'",
            // Other programs.
            "/tmp/git status",
            "./git status",
            "\"git status\"",
            "git\\ status",
            "'' git status",
            "PATH=/tmp git status",
            "LD_PRELOAD=x git status",
            "GIT_SSH_COMMAND=x git status",
            "A=1 git status",
            "sudo git status",
            "g?t status",
            "g[i]t status",
            "*/git status",
            "gіt status",
            "git\u{a0}status",
            "git\u{2003}status",
            "git\u{200b} status",
            "git status \u{202e}x",
            "git status \u{1b}[2J",
            "git status \0",
            "git\u{f720}status",
            "git \"status x\" y > z",
            // A blank of the pattern is one between words.
            "grep a b x",
            "grep a 'b x'",
            "git -c core.pager=x status",
            "lsx",
            "",
            "  \n ",
        ],
        Ruling::Ask,
    );
}

#[test]
fn a_blank_in_a_word_is_no_blank_between_words() {
    let policy = policy(&["run(npm run test)"], &[], &[]);
    all(&policy, &["npm run test", "npm 'run' test"], Ruling::Allow);
    all(&policy, &["npm 'run test'", "'npm run' test", r"npm run\ test"], Ruling::Ask);
}

#[test]
fn without_a_pattern_every_line_is_allowed() {
    let policy = policy(&["run"], &[], &[]);
    all(&policy, &["x > y", "$(rm x)", "git status 'x", "", "a\0"], Ruling::Allow);
    check(&policy, &run(&"x ".repeat(1 << 20)), Ruling::Allow);
}

/// Everything else is allowed here, so that what slips past is seen.
#[test]
fn what_is_denied_is_found_wherever_it_hides() {
    let policy = policy(&["run"], &[], &["run(git push*)"]);
    all(
        &policy,
        &[
            "git push",
            "git push --force",
            "git  push",
            "git \\\npush",
            "g\"it\" pu'sh'",
            r"g\it push",
            "/usr/bin/git push",
            "ls; git push",
            "ls&&git push",
            "ls | git push",
            "ls\ngit push",
            "ls & git push &",
            "(git push)",
            "{ git push; }",
            "echo $(git push)",
            "echo \"$(git push)\"",
            "echo \"a `git push` b\"",
            "echo $(echo $(git push))",
            "cat <(git push)",
            "A=1 git push",
            "A=1 B=2 /usr/bin/git push",
            "A=$(git push)",
            "sudo git push",
            "sudo -u root git push",
            "env -i A=1 git push",
            "command git push",
            "exec git push",
            "nohup nice -n 5 git push",
            "timeout 5 git push",
            "bash -c 'git push'",
            "bash -lc \"ls; git push\"",
            "/bin/sh -c 'sh -c \"git push\"'",
            "sudo bash -c 'git push'",
            "eval git push",
            "eval 'git' \"push\"",
            "env -S 'git push'",
            "su -c 'git push' ada",
            "watch 'git push'",
            "find . -exec git push {} +",
            "find . -exec sh -c 'git push' \\;",
            "if git push; then ls; fi",
            "if true; then git push; fi",
            "while ! git push; do ls; done",
            "for x in a; do git push; done",
            "f() { git push; }; f",
            "bash <<< 'git push'",
            "git -C elsewhere push",
            "git -c a=b --no-pager push",
            "git push > x",
            "git >x push",
            "ls >x$(git push)",
            "ls <`git push` y",
            "2>&1 git push",
            "git push 'x",
            "# don't\ngit push",
            "trap 'git push' EXIT",
            "xargs git push",
            "case x in x) git push;; esac",
            ". git push",
            "sh ./git push",
        ],
        Ruling::Deny,
    );
}

#[test]
fn what_may_be_denied_is_asked() {
    let policy = policy(&["run"], &[], &["run(git push*)"]);
    let deep = "sh -c '".repeat(3) + "x";
    let long = "echo ".to_owned() + &"x ".repeat(20_000);
    all(
        &policy,
        &[
            "$G push",
            "git $P",
            "git $(x)",
            "git `x`",
            "$(x)",
            "git \"$P\"",
            "git p$X",
            "gi${X}t push",
            "{git,push}",
            "git $'pu\\x73h'",
            "$(echo git) push",
            "g?t push",
            "git pus?",
            "echo git push | sh",
            "echo x | bash -s",
            "echo push | xargs git",
            "sh -c \"git $X\"",
            "cat <<EOF\ndon't\nEOF\ngit status",
            "echo 'a\\'' ; x",
            "echo 'x",
            "a\0b",
            &deep,
            &long,
        ],
        Ruling::Ask,
    );
}

#[test]
fn what_is_surely_something_else_is_not_denied() {
    let policy = policy(&["run"], &[], &["run(git push*)"]);
    all(
        &policy,
        &[
            "git status",
            "git pull $X",
            "echo $HOME *.rs",
            "echo 'git push'",
            "git commit -m \"git push\"",
            "echo x > y",
            "ls # git push",
            "cat x | grep y",
            "bash script.sh",
            "echo \"$(date)\"",
        ],
        Ruling::Allow,
    );
}

#[test]
fn the_raw_line_can_be_denied_as_well() {
    let policy = policy(&["run"], &[], &["run(*> /etc/*)", "run(*--force*)"]);
    all(&policy, &["echo x  >  /etc/passwd", "git push --force", "x \"--for\"ce"], Ruling::Deny);
    all(&policy, &["echo x", "ls /etc/"], Ruling::Allow);
    all(&policy, &["git push $X"], Ruling::Ask);
}

#[test]
fn a_last_star_behind_a_blank_stands_for_no_argument_too() {
    let policy = policy(&["run(git status *)"], &[], &["run(git push *)"]);
    all(&policy, &["git status", "git status -s"], Ruling::Allow);
    all(&policy, &["git push", "git push x"], Ruling::Deny);
    all(&policy, &["git statusx", "git pushx"], Ruling::Ask);
}

#[test]
fn a_command_elsewhere_is_not_the_one_that_a_pattern_means() {
    let with = |key: &str, value: Value| {
        let mut question = run("git status");
        question.input[key] = value;
        question
    };
    for fine in [with("cwd", json!(PROJECT)), with("workdir", json!("src")), with("cwd", json!(""))]
    {
        check(&status(), &fine, Ruling::Allow);
    }
    for other in [
        with("cwd", json!("/tmp/evil")),
        with("workdir", json!("../evil")),
        with("dangerouslyDisableSandbox", json!(true)),
        with("additionalPermissions", json!({ "network": {} })),
        question(ActionKind::Run, "execute", "git status", json!({ "title": "git status" })),
    ] {
        check(&status(), &other, Ruling::Ask);
    }
}

/// Lines that a careless reader would work on for ever.
#[test]
fn no_line_takes_long() {
    let policy =
        policy(&["run(git status*)", "run(*a*a*a*b)"], &[], &["run(*x*y*z)", "run(git push*)"]);
    let started = Instant::now();
    for line in [
        "x".repeat(1 << 20),
        "git status ".to_owned() + &"a ".repeat(8_000),
        "sudo ".repeat(3_000),
        "sudo bash -c ".repeat(1_000),
        "$(".repeat(8_000),
        "`\"$(".repeat(3_000),
        "eval ".repeat(3_000),
        "sudo 'sudo '".repeat(1_000),
        "a;".repeat(8_000),
        "find -exec sh -c -exec ".repeat(600),
        "watch 'eval eval eval' ".repeat(600),
        "\\\n".repeat(8_000),
    ] {
        let decision = policy.decide(&action(&run(&line), &Disk::default()), &[]);
        assert_ne!(decision.ruling, Ruling::Deny);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
