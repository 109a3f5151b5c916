//! What of command lines is understood, and what is not and so never passed by.

use super::*;

#[track_caller]
fn all(policy: &Policy, lines: &[&str], expected: Ruling) {
    for line in lines {
        check(policy, &run(line), expected);
    }
}

/// What one shell or another reads as a `git push`, and none of them as nothing.
#[test]
fn what_is_not_understood_is_never_passed_by() {
    let policy = policy(&["run"], &[], &["run(git push *)"]);
    for line in [
        // Redirections.
        "3>x git push",
        "0</dev/null git push",
        "git 3>/dev/null push",
        "git 10>x push",
        "git {f}>x push",
        "git >! push x",
        "git &>x push",
        "git -C <1-1> push",
        "git <> x push",
        "git >x>y push",
        "<<< x git push",
        "git <<< x push",
        // Comments.
        "cat <(ls)# ; git push",
        "echo $(ls)# ; git push",
        "echo `ls # `; git push",
        // Backticks, quotes, what is replaced.
        r"echo `echo \`git push\``",
        "echo \"`echo \"`\"; git push",
        "${ git push; }",
        "echo ${x:-`git push`}",
        "git ${x:+}push",
        "$'git' push",
        r"echo $'\'' ; git push #'",
        "git pu$@sh",
        "git $[1]push",
        "x='a[$(git push)]'; echo $((x))",
        "x='a[$(git push)]'; [ \"$x\" -eq 0 ]",
        "[ -v 'a[$(git push)]' ]",
        "printf -v 'a[$(git push)]' x",
        "printf %d 'a[$(git push)]'",
        "exit 'a[$(git push)]'",
        "export 'a[$(git push)]=1'",
        // Words of a shell's grammar.
        "case x in (x) git push;; esac",
        "echo $(case x in (x) git push;; esac)",
        "f() if git push; then ls; fi",
        "repeat 2 git push",
        "for x (a b) git push",
        "if [ x ] { git push }",
        "while (ls) git push",
        "{ ls } always { git push }",
        "select x in a; do git push; done",
        "coproc git push",
        "git (echo push)",
        "=git push",
        "ls &| git push",
        "ls $\\\n(git push)",
        // What changes what words mean.
        "alias x='git push'\nx",
        "hash -p y ls; ls",
        "enable -f x y; y",
        "set -k; ls",
        "shopt -s extglob; ls",
        "emulate sh -c 'git push'",
        "PATH=.; ls",
        "BASH_ENV=x sh -c ls",
        "GIT_PAGER='git push' git log",
        "PS4='$(git push)' sh -xc ls",
        // Programs that run what is in their words.
        "env -S'git push'",
        "env -vS'git push'",
        "env --split-string='git push'",
        r"env -S 'git\_push'",
        "eval -- git push",
        r"find . -exec env git push \;",
        r"find . -exec nice git push \;",
        r"find . -exec sudo timeout 5 git push \;",
        r"x=-exec; find . $x git push \;",
        "su -c'git push'",
        "script -c'git push'",
        "script -c'git${IFS}push'",
        "watch echo 'x;git' push",
        "xargs -I X X push",
        "fd x -x git push",
        "git -c alias.x=push x",
        "git bisect run git push",
        "tar xf x --to-command 'git push'",
        "sed '1e git push' x",
        "awk 'BEGIN { system(\"git push\") }'",
        // Shells that read.
        "echo git push | bash -s x",
        "echo git push | bash /dev/stdin",
        "echo git push | sh -",
        ". /dev/stdin <<< 'git push'",
        "source <(echo git push)",
        "bash <(echo git push)",
        "bash --rcfile x -ic ls",
        "fish -c 'git (echo push)'",
        "tcsh -c 'git status \"a\\\" ; git push'",
        "echo git push >y; sh y",
        "echo git push | at now",
        "xcrun git push",
        "poetry run git push",
        "tmux new-session 'git push'",
        "GIT push",
        "SUDO git push",
        // Of programs that nobody knows, the rest of the words may run.
        "docker exec -it x git push",
        "runcon x:y /usr/bin/git push",
        "npm exec -- git push",
        "ssh localhost git push",
        "sudo nobody-knows git push origin",
        "jobs -x git push",
        "wait -n -p 'a[$(git push)]'",
        "git for-each-repo --config=x push",
        "git -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P -P push",
        // A variable, in zsh.
        "1=2 eval 'git push'",
        "a.b=c git push",
    ] {
        let question = run(line);
        let decision = policy.decide(&action(&question, &Disk::default()), &[]);
        assert_ne!(decision.ruling, Ruling::Allow, "{line}");
    }
}

/// An agent's everyday lines say nothing that a rule for `git push` could be about.
#[test]
fn everyday_lines_are_understood() {
    let policy = policy(&["run"], &[], &["run(git push *)"]);
    all(
        &policy,
        &[
            "cd src && cargo test --locked 2>&1 | tail -5",
            "for f in *.rs; do wc -l \"$f\"; done",
            "if [ -f x ]; then cat x; else echo none; fi",
            "[ -n \"$X\" ] && ls ~/x",
            "while ! curl -s localhost; do sleep 1; done",
            "RUST_LOG=debug ./target/debug/x --flag=1",
            "set -euo pipefail; export FOO=bar; make -j4",
            "(cd x && ls) > out.txt 2>err.txt",
            "{ echo a; echo b; } | sort | uniq -c",
            "npm test &> log",
            "echo ${X:-none} ${file%.rs} \"${X}\" $1 $?",
            "find . -name '*.rs' -not -path './target/*' | xargs grep -n foo",
            r"find . -type f -exec grep -l x {} \;",
            "grep -rn 'git push' . # where is it?",
            "docker run --rm x git pull && apt-get install git -y",
            "jj describe -m 'do not git push yet'; echo git push; wait",
            "sed -n '1,80p' src/x.rs; sed -i 's/a\\/b/c/g; /x/d' y",
            "awk -F: '{print $1}' /etc/passwd",
            "bash -c 'ls; git status'",
            "sudo -u ada ls",
            "git -C sub status && git log --oneline -5 -- src",
            "tar czf x.tgz src && sleep 1 &",
            "python3 - x.py 3>&1",
            "source venv/bin/activate && pytest -xvs",
        ],
        Ruling::Allow,
    );
}

#[test]
fn in_a_shell_that_is_not_known_only_plain_words_are_sure() {
    let policies =
        [policy(&["run(git status *)"], &[], &[]), policy(&["run"], &[], &["run(git push *)"])];
    let decide = |policy: &Policy, line: &str| {
        let (question, disk) = (run(line), Disk::default());
        policy.decide(&Action { shell: Shell::Other, ..action(&question, &disk) }, &[]).ruling
    };
    for policy in &policies {
        for line in ["git status", "git status -s src/a_b.rs --x=1"] {
            assert_eq!(decide(policy, line), Ruling::Allow, "{line}");
        }
        for line in [
            r#"git status "a\" ; touch X ; echo "b\""#,
            "git status 'x'",
            "git status; git status",
            "git status (x)",
            "git status !x",
            "git status %1",
            "git status $x",
            "git status {a,b}",
            "git status ~",
            "git status\tx",
            "git status =1",
            "git status > /dev/null",
            "git status && git status",
        ] {
            assert_eq!(decide(policy, line), Ruling::Ask, "{line}");
        }
    }
    assert_eq!(decide(&policies[1], "repeat 2 git push"), Ruling::Deny);
}

/// A rule for what looks like reading is none for an option by which it writes or runs.
#[test]
fn an_option_that_writes_or_runs_must_be_named() {
    for (rule, lines) in [
        (
            "run(git *)",
            &[
                "git log -1 --output=x",
                "git -c core.pager=x log",
                "git grep -nO x",
                "git bisect run x",
            ][..],
        ),
        ("run(git log *)", &["git log --format=x --output x", "git log --outp=x"]),
        ("run(git archive *)", &["git archive --remote=x --exec=y HEAD", "git archive -ox HEAD"]),
        ("run(git grep *)", &["git grep -O x", "git grep --open-files-in-pager=x y"]),
        (
            "run(sort *)",
            &[
                "sort -o x y",
                "sort -uo x y",
                "sort -ox y",
                "sort --output=x",
                "sort --compress-prog x",
                "sort *",
            ],
        ),
        ("run(find *)", &[r"find . -exec x \;", "find . -delete", "find . -fprint x"]),
        (
            "run(sed *)",
            &[
                "sed -i s/a/b/ x",
                "sed 's/a/b/w x' y",
                "sed -n '1e x' y",
                "sed -f x y",
                "sed -ne '1w x'",
            ],
        ),
        ("run(awk *)", &["awk 'BEGIN { system(\"x\") }'", "awk '{print > \"x\"}' y", "awk -f x y"]),
        (
            "run(tar *)",
            &[
                "tar xf x --checkpoint-action=exec=y",
                "tar cf x --use-compress=y z",
                "tar xIf y x",
                "tar -xI y -f x",
            ],
        ),
        ("run(zip *)", &["zip x y -T -TT z"]),
        ("run(go vet *)", &["go vet -vettool=x ./...", "go vet --vettool x"]),
        (
            "run(curl *)",
            &["curl -o x y", "curl -sSLo x y", "curl -K x", "curl -T x y", "curl --conf x"],
        ),
        ("run(xxd *)", &["xxd a b", "xxd -l 16 a b"]),
        ("run(rg *)", &["rg --pre x y", "rg --pre=x y"]),
        ("run(cargo test *)", &["cargo test --config x", "cargo test --manifest-path=x"]),
        ("run(npm test *)", &["npm test --script-shell x", "npm test --prefix=x"]),
        ("run(env *)", &["env sort -o x y", "env -S x"]),
        ("run(dd *)", &["dd if=x of=y"]),
        ("run(uniq *)", &["uniq a b", "uniq -f 1 a b"]),
        ("run(shuf *)", &["shuf -n 1 -o x y", "shuf --outp=x y"]),
        ("run(iconv *)", &["iconv -f x -o y z"]),
        ("run(curl *)", &["curl -s -w '%output{x}y' z", "curl --write-out=x y"]),
        ("run(nc *)", &["nc -e x y 1", "nc -c x y 1"]),
        ("run(git *)", &["git for-each-repo --config=x y", "git fast-export --export-marks=x"]),
        ("run(ugrep *)", &["ugrep --filter='*:x' y", "ugrep --pager=x y"]),
        ("run(cargo clippy *)", &["cargo clippy --fix"]),
        ("run(strace *)", &["strace -fo x ls"]),
        ("run(rpm *)", &["rpm -q x --pipe y", "rpm -E '%(x)'"]),
    ] {
        all(&policy(&[rule], &[], &[]), lines, Ruling::Ask);
    }
    for (rule, lines) in [
        ("run(git log *)", &["git log --oneline -5 -- src", "git log -S x"][..]),
        ("run(git log *--output=*)", &["git log --output=x"]),
        ("run(sort -o *)", &["sort -o x y"]),
        ("run(sort *)", &["sort -u x", "sort src/*"]),
        ("run(find * -exec grep *)", &[r"find . -exec grep x y \;"]),
        ("run(sed *)", &["sed -n '1,5p' x", "sed 's/a/b/g; /x/d' write", "sed -e s/a/b/ -e p we"]),
        ("run(sed -i *)", &["sed -i s/a/b/ x"]),
        ("run(awk *)", &["awk '{print $1}' system"]),
        ("run(tar *)", &["tar xzf x", "tar -cvf x.tar Images"]),
        ("run(go test *)", &["go test -run TestX -count=1 ./..."]),
        ("run(xxd *)", &["xxd -l 16 a"]),
        ("run(curl *)", &["curl -fsSL x"]),
    ] {
        all(&policy(&[rule], &[], &[]), lines, Ruling::Allow);
    }
    granted(&run("sort -o x y"), "run(sort -o x y)", &[run("sort -o x z")]);
}
