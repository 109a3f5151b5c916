//! The tables of programs: what they say of real shells, and the page that shows them.

use std::fmt::Write as _;

use expect_test::expect_file;

use super::*;
use crate::{
    permission::programs::{
        DIRECTORIES, Does, FIRST, KEEPERS, OPTIONS, Operands, READERS, ROLES, Role, SCRIPTS,
        Script, TREES, VARIABLES, role,
    },
    proc::{self, Plan},
};

fn says(role: Role) -> &'static str {
    match role {
        Role::Leads => "a command begins behind it",
        Role::Differs => "shells read on differently: asked",
        Role::Wraps => "any further word may begin a command",
        Role::Feeds => "any further word may begin a command, which gets words that are not known",
        Role::WrapsLines => "the further words may be command lines",
        Role::Shell => {
            "`-c` with a command line and files of scripts are known; its input is not: asked"
        }
        Role::OtherShell => "the same, but of its command lines only plain words are known",
        Role::Evaluates => "the further words are a command line",
        Role::Keeps => "each further word may be a command line",
        Role::Sources => "files of scripts are known, everything else is asked",
        Role::Changes => "it may change what other words mean, or run what is not seen: asked",
        Role::Computes => "asked if its words may be arithmetic, which can run commands",
        Role::Tests => "asked if it may compare by arithmetic",
        Role::Sets => "asked if it sets a variable of the list below, or an array",
        Role::Options => "asked, but for `-e`, `-u`, `-x` and `pipefail`",
        Role::Plain => "nothing: its words are words",
    }
}

fn code(names: &str) -> String {
    let names = names.replace('!', "").replace("#2", "(second word)").replace('|', "\\|");
    names.split_whitespace().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ")
}

fn add_variables(page: &mut String) {
    *page += "\n## Variables\n\n\
        A line that sets one of these is asked if a `deny` or `ask` rule for commands exists.\n\n\
        | variables | source |\n|---|---|\n";
    for (names, source) in VARIABLES {
        writeln!(page, "| {} | {source} |", code(names)).unwrap();
    }
}

fn page() -> String {
    let mut page = String::from(
        "# Programs that the policy knows\n\n\
         How `run` rules read these words of command lines; [Permissions](../../docs/permissions.md) \
         says what the rules are. What is in none of the tables is taken for a program that does what \
         its name says; if its further words are a command that a `deny` or `ask` rule is about, the \
         line is asked. This page is made from `programs.rs` by its test.\n\n\
         ## Words\n\n\
         | words | what is behind them | source |\n|---|---|---|\n",
    );
    for (names, role, source) in ROLES {
        // A bar and an exclamation mark are what they are here.
        let names: Vec<String> = names.split_whitespace().map(|it| format!("`{it}`")).collect();
        writeln!(page, "| {} | {} | {source} |", names.join(" "), says(*role)).unwrap();
    }
    page += "\n## Arguments that write or run\n\n\
        A pattern allows them only if it names them, as `run(sort -o *)` does. If a `deny` or `ask` \
        rule for commands exists, those that run something are asked. A long option may be cut \
        short, a short one may stand among others, and a file name that the shell puts in for a `*` may \
        be one as well.\n\n\
        | program | behind | arguments | what they do | source |\n|---|---|---|---|---|\n";
    for row in OPTIONS {
        let after = match row.after {
            FIRST => "itself, before any other word".to_owned(),
            after => code(after),
        };
        let does = match row.does {
            Does::Writes => "write",
            Does::Runs => "run",
        };
        writeln!(
            page,
            "| {} | {after} | {} | {does} | {} |",
            code(row.programs),
            code(row.arguments),
            row.source
        )
        .unwrap();
    }
    page += "\n## Programs that read\n\n\
        `read` rules that deny or ask are also about the files that a command gives to one of these. If \
        it gives such a file to another program, or if it is not known which files are read, the \
        command is asked.\n\n\
        | programs | which words | source |\n|---|---|---|\n";
    for (names, operands, source) in READERS {
        let which = match operands {
            Operands::All => "all that are no options",
            Operands::AfterFirst => "the same without the first one",
        };
        writeln!(page, "| {} | {which} | {source} |", code(names)).unwrap();
    }
    writeln!(
        page,
        "\nOf a directory, {} read all that is in it, and so do {} with {}.",
        code(TREES[0].0),
        code(TREES[1].0),
        code(TREES[1].1)
    )
    .unwrap();
    let directories = DIRECTORIES.iter().map(|(names, options)| {
        let names = code(names).replace(' ', ", ");
        format!("{} of {names}", code(options).replace(' ', ", "))
    });
    writeln!(
        page,
        "\nThe directory in which they read may be said by {}.",
        directories.collect::<Vec<_>>().join("; ")
    )
    .unwrap();
    page += "\n## Programs that change no files\n\n\
        `edit` rules that deny or ask are also about the files that a command's output is redirected to. \
        If such a file, or the directory that it is in, is given to any other program than these, or if \
        it is not known which files are written, the command is asked. Arguments that write or run are \
        as above.\n\n| programs | source |\n|---|---|\n";
    for (names, source) in KEEPERS {
        writeln!(page, "| {} | {source} |", code(names)).unwrap();
    }
    page += "\n## Scripts\n\n| program | what is known of its scripts | source |\n|---|---|---|\n";
    for (names, script, source) in SCRIPTS {
        let known = match script {
            Script::Sed => "addresses, and commands that neither run nor read nor write",
            Script::Awk => "those without a sign of what runs, reads or writes",
        };
        writeln!(
            page,
            "| {} | {known}; others count as such that run something | {source} |",
            code(names)
        )
        .unwrap();
    }
    add_variables(&mut page);
    page
}

#[test]
fn the_page_shows_the_tables() {
    expect_file!["../PROGRAMS.md"].assert_eq(&page());
}

/// A word that a shell has of its own, and that is not in the table, would be taken for a program.
#[test]
fn the_words_of_installed_shells_are_known() {
    for (shell, args) in [
        ("/bin/bash", &["-c", "compgen -b; compgen -k"][..]),
        ("/bin/zsh", &["-f", "-c", "print -l ${(k)builtins} ${(k)reswords}"]),
        ("/bin/ksh", &["-c", "builtin"]),
        ("/bin/tcsh", &["-f", "-c", "builtins"]),
    ] {
        if !Path::new(shell).exists() {
            continue;
        }
        let plan = Plan {
            program: shell.into(),
            args: args.iter().map(Into::into).collect(),
            dir: "/".into(),
            env: Vec::new(),
        };
        let output = proc::run(&plan, std::time::Duration::from_mins(1), 1 << 16).unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        assert!(words.contains("eval"), "{shell}: {words}");
        let is_unknown = |word: &&str| !word.starts_with('/') && role(word).is_none();
        let unknown: Vec<&str> = words.split_whitespace().filter(is_unknown).collect();
        assert_eq!(unknown, [""; 0], "of {shell}");
    }
}
