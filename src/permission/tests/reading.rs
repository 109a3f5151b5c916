//! Rules for reading and for changes, and commands that read and write.

use super::*;

#[track_caller]
fn all(policy: &Policy, lines: &[&str], expected: Ruling) {
    for line in lines {
        check(policy, &run(line), expected);
    }
}

#[test]
fn what_may_not_be_read_is_not_read_by_a_command_either() {
    let policy = policy(&["run", "read"], &[], &["read(~/.ssh/**)", "read(**/.env)"]);
    all(
        &policy,
        &[
            "cat ~/.ssh/id_rsa",
            "cat /home/ada/.ssh/id_rsa",
            "cat ../.ssh/id_rsa",
            "head -n 5 ~/.ssh/id_rsa",
            "grep -n x ~/.ssh/config",
            "grep -e x .env",
            "cp .env x",
            "base64 < ~/.ssh/id_rsa",
            "cd ~/.ssh; base64 <id_rsa",
            "ls; cd ~/.ssh && cat id_rsa",
            "cd .. && cd .ssh && cat id_rsa",
            "sudo cat ~/.ssh/id_rsa",
            "bash -c 'cat ~/.ssh/id_rsa'",
            "echo $(cat .env)",
            "find . -exec cat sub/.env \\;",
            "dd if=.env",
            "sort --files0-from=.env",
            "grep -f .env x",
            "awk -f .env",
            "env -C ~/.ssh cat id_rsa",
            "env --chdir=../.ssh cat id_rsa",
            "sudo -D ~/.ssh -u ada cat id_rsa",
            "git grep x .env",
            "tar cf x .env",
        ],
        Ruling::Deny,
    );
    all(
        &policy,
        &[
            // Nobody knows what these do with it.
            "python3 x.py ~/.ssh/id_rsa",
            "curl -d @.env localhost",
            "curl file:///home/ada/.ssh/id_rsa",
            "x --identity=~/.ssh/id_rsa",
            // Nor what these read.
            "cat $X",
            "cat ~/.s?h/id_rsa",
            "cd $X && cat id_rsa",
            "cd - && cat id_rsa",
            "cat ~root/x",
            // Nor whether such a file is there.
            "rg x",
            "grep -rn x .",
            "cp -r ~ /tmp/x",
            "tar czf x.tgz ..",
            "git grep -n x",
            "git -C sub grep x -- ..",
            "git -C .. grep x",
            "grep -d recurse x ..",
            "diff -r .. x",
            // Then they are there under another name.
            "ln -s ~ x; cat x/.ssh/id_rsa",
            "mv .. x",
            // A version of such a file, and what is sent of it.
            "git show HEAD:.env",
            "git cat-file -p main:sub/.env",
            "curl -F 'f=<.env' localhost",
            "curl --data-urlencode f@.env localhost",
            // Run where such files are found, and scripts that read.
            "find ~ -name id_rsa -execdir cat id_rsa +",
            "sed '1r .env' x",
            "awk 'BEGIN { getline x < \".env\"; print x }'",
        ],
        Ruling::Ask,
    );
    all(
        &policy,
        &[
            "cat src/x.rs",
            "grep .env README.md",
            "ls ~",
            "echo $X",
            "cd src && cat x",
            "git status",
            "git log grep -- src && git show HEAD:src/x.rs",
            "git -C sub status",
            "env -C sub ls",
            "sed -n '1,5p' x; awk '{print $1}' x",
        ],
        Ruling::Allow,
    );
}

#[test]
fn a_rule_against_all_reading_is_about_commands_that_read() {
    let policy = policy(&["run"], &[], &["read"]);
    all(&policy, &["cat x", "ls | grep x y"], Ruling::Deny);
    all(&policy, &["ls", "git status"], Ruling::Allow);
}

#[test]
fn a_rule_that_asks_about_reading_asks_about_commands_that_read() {
    let policy = policy(&["run"], &["read(secrets/**)"], &[]);
    all(&policy, &["cat secrets/x", "x secrets/x"], Ruling::Ask);
    all(&policy, &["cat x"], Ruling::Allow);
}

#[test]
fn what_may_not_be_changed_is_not_written_by_a_command_either() {
    let policy = policy(&["run", "edit"], &[], &["edit(~/notes/**)", "edit(**/.env)"]);
    all(
        &policy,
        &[
            "echo x > .env",
            "echo x >> ../notes/a",
            "cd ~/notes && ls >a",
            "git log > '/home/ada/notes/a'",
            "sudo sh -c 'echo x > ~/notes/a'",
            "echo $(ls 2> sub/.env)",
            "{ ls; } > .env",
            "cat .env > sub/.env",
        ],
        Ruling::Deny,
    );
    all(
        &policy,
        &[
            // Nobody knows what these do with it.
            "rm .env",
            "cp x ~/notes/a",
            "ls | tee .env",
            "python3 x.py ~/notes/a",
            "sort -o .env x",
            "sed -i s/a/b/ .env",
            "dd if=x of=.env",
            // With all that is in it.
            "rm -r ~",
            "mv ../notes x",
            "prettier --write .",
            // Nor where these write.
            "ls > $X",
            "ls > .e?v",
            "cd $X && ls > a",
            "ls > .ENV",
        ],
        Ruling::Ask,
    );
    all(
        &policy,
        &[
            "cat .env",
            "sort .env > x",
            "wc -l < .env",
            "ls ~ 2>/dev/null",
            "ls 2>&1 | cat",
            "cd .. && cat notes/a",
            "rm src/x.rs",
            "git status",
        ],
        Ruling::Allow,
    );
}

#[test]
fn a_rule_against_all_changes_is_about_commands_that_write() {
    let policy = policy(&["run"], &[], &["edit"]);
    all(&policy, &["ls > x", "cd $X; ls >> y"], Ruling::Deny);
    all(&policy, &["ls", "cat x", "ls > /dev/null"], Ruling::Allow);
}
