//! The policy against real shells: random lines are judged, and what is allowed is run by every shell
//! that is installed, with stand-ins for all programs. Nothing may run that a rule denies, and
//! nothing besides what a rule allows. `OBTO_FUZZ_SECONDS` and `OBTO_FUZZ_SEED` say how long and which
//! lines; `scripts/shell-tests.sh` installs the shells.

mod frames;
mod lines;
mod stage;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;
use obto_bridge::{
    agent::{ActionKind, Question, shell::Shell},
    config::Permissions,
    ids::Engine,
    permission::{Action, Found, OwnFiles, Places, Policy, Ruling},
};

use self::stage::{Ran, Stage};
use crate::util::{namespace::isolated, patience};

/// Lines for one start of all shells.
const BATCH: usize = 24;

/// A disk without links.
#[derive(Debug)]
struct NoLinks;

impl Places for NoLinks {
    fn look(&self, _: &Path) -> Found {
        Found::Plain
    }
}

/// What is allowed of a line.
#[derive(Clone, Copy)]
struct Judged {
    /// By a rule for `git status`: nothing else may run.
    as_status: bool,
    /// Because no rule denies it: neither `git push` nor `rm` may run.
    as_harmless: bool,
}

struct Judge {
    status: Policy,
    harmless: Policy,
}

impl Judge {
    fn new() -> Judge {
        let policy = |allow: &str, deny: &[&str]| {
            let list = |rules: &[&str]| Some(rules.iter().map(|it| (*it).to_owned()).collect());
            let permissions =
                Permissions { allow: list(&[allow]), deny: list(deny), ..Permissions::default() };
            Policy::new(&permissions, OwnFiles::default()).expect("the rules are good")
        };
        Judge {
            status: policy("run(git status *)", &[]),
            harmless: policy("run", &["run(git push *)", "run(rm *)"]),
        }
    }

    fn of(&self, line: &str, shell: Shell) -> Judged {
        let question = Question {
            kind: ActionKind::Run,
            tool: "Bash".to_owned(),
            subject: line.to_owned(),
            ..Question::default()
        };
        let action = Action {
            question: &question,
            engine: &Engine::CLAUDE,
            directory: Path::new("/home/ada/project"),
            home: Path::new("/home/ada"),
            places: &NoLinks,
            shell,
        };
        let allows = |policy: &Policy| policy.decide(&action, &[]).ruling == Ruling::Allow;
        Judged { as_status: allows(&self.status), as_harmless: allows(&self.harmless) }
    }
}

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "how long to go on is told to the test alone")]
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

isolated! {
    fn what_runs_in_real_shells_is_what_was_judged() {
        let seed = number("OBTO_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
        let time = Duration::from_secs(number("OBTO_FUZZ_SECONDS").unwrap_or(5));
        let stage = Stage::new();
        let mut fuzz = Fuzz { seed, rng: Rng::with_seed(seed), judge: Judge::new(), stage: &stage, made: 0, run: 0, ran: 0 };
        let started = Instant::now();
        while started.elapsed() < time {
            for shell in [Shell::Bourne, Shell::Other] {
                fuzz.batch(shell);
                patience::step();
            }
        }
        let Fuzz { made, run, ran, .. } = fuzz;
        println!(
            "seed {seed}: {made} lines, {run} of them allowed and run by {}; {ran} commands ran",
            stage.names()
        );
        assert!(ran > 0, "the stand-ins are not found");
    }
}

struct Fuzz<'a> {
    seed: u64,
    rng: Rng,
    judge: Judge,
    stage: &'a Stage,
    /// Lines, those of them that were allowed, and the commands that these have run.
    made: usize,
    run: usize,
    ran: usize,
}

impl Fuzz<'_> {
    fn line(&mut self, shell: Shell) -> String {
        match (shell, self.rng.u8(0..4)) {
            (Shell::Other, 0..3) => lines::plain(&mut self.rng),
            (_, 0..2) => lines::status(&mut self.rng),
            _ => lines::line(&mut self.rng),
        }
    }

    /// Has every shell of this kind run some lines that are allowed.
    fn batch(&mut self, shell: Shell) {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            self.made += 1;
            let line = self.line(shell);
            let judged = self.judge.of(&line, shell);
            if judged.as_status || judged.as_harmless {
                batch.push((line, judged));
            }
        }
        self.run += batch.len();
        let lines: Vec<&str> = batch.iter().map(|(line, _)| line.as_str()).collect();
        for program in self.stage.shells(shell) {
            let ran = self.stage.run(program, &lines);
            for ((line, judged), ran) in batch.iter().zip(&ran) {
                self.ran += ran.commands.len();
                if wrong(*judged, ran).is_none() {
                    continue;
                }
                // What another line has left running must not be this one's fault.
                let alone = &self.stage.run(program, &[line])[0];
                if let Some(why) = wrong(*judged, alone) {
                    panic!("seed {}: {} on {line:?}: {why}: {alone:?}", self.seed, program.name);
                }
            }
        }
    }
}

/// What ran that must not.
fn wrong(judged: Judged, ran: &Ran) -> Option<&'static str> {
    let is = |command: &[String], words: &[&str]| {
        command.iter().zip(words).filter(|(a, b)| a == b).count() == words.len()
    };
    let bad = |it: &Vec<String>| is(it, &["git", "push"]) || is(it, &["rm"]);
    if judged.as_harmless && ran.commands.iter().any(bad) {
        return Some("it was denied");
    }
    if judged.as_status && !ran.commands.iter().all(|it| is(it, &["git", "status"])) {
        return Some("only git status was allowed");
    }
    if judged.as_status && ran.has_written {
        return Some("it has written");
    }
    None
}
