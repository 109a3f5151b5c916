//! What options of a command make it do besides what its name says: they write files or run other
//! commands. Which do that is in the [table](super::programs). Pure.

use super::{
    lex::ShellWord,
    programs::{self, Does, Options},
    scripts::odd_script,
};

/// In the table: the second word that is no option.
const SECOND: &str = "#2";

/// An option, or another argument, of a command.
#[derive(Debug, PartialEq)]
pub(super) struct Effect {
    /// As much of the word as a rule must have for it to be meant.
    pub(super) named: String,
    pub(super) does: Does,
    /// Whether it is this for sure. A pattern for file names may stand for an option too.
    pub(super) is_sure: bool,
}

/// What a command does by its options.
pub(super) fn effects(words: &[ShellWord]) -> Vec<Effect> {
    let Some((program, rest)) = words.split_first() else { return Vec::new() };
    let name = programs::base(&program.text);
    let mut effects = Vec::new();
    for row in programs::options(name) {
        let is_after = |it: &ShellWord| it.text == row.after;
        let reach = match row.after {
            "" => 0..rest.len(),
            programs::FIRST => 0..lead(row, rest),
            _ => rest.iter().position(is_after).map_or(0, |at| at + 1)..rest.len(),
        };
        if row.after.is_empty() || row.after == programs::FIRST || reach.start > 0 {
            for (at, word) in rest[reach].iter().enumerate() {
                let options = row.arguments.split(' ').filter(|it| *it != SECOND);
                effects.extend(options.filter_map(|it| effect(it, row, word, at == 0)));
            }
        }
        if row.arguments == SECOND {
            effects.extend(second(row, rest));
        }
    }
    if let Some(script) = programs::script_of(name).and_then(|it| odd_script(it, rest)) {
        let is_sure = script.known.is_none();
        effects.push(Effect { named: script.text, does: Does::Runs, is_sure });
    }
    effects
}

/// Where the word stands that says what a program is to do, if it is one that has such words.
pub(super) fn subcommand(program: &str, words: &[ShellWord]) -> Option<usize> {
    let row = programs::options(program).find(|row| row.after == programs::FIRST)?;
    Some(lead(row, words)).filter(|at| *at < words.len())
}

/// How many words stand before the first that is no option.
fn lead(row: &Options, words: &[ShellWord]) -> usize {
    let mut at = 0;
    while let Some(word) = words.get(at).filter(|it| it.text.starts_with('-')) {
        at += 1 + usize::from(row.values.split(' ').any(|it| it == word.text));
    }
    at.min(words.len())
}

/// The second word that is no option, nor the value of one.
fn second(row: &Options, words: &[ShellWord]) -> Option<Effect> {
    let takes = |it: &ShellWord| row.values.split(' ').any(|value| value == it.text);
    let is_operand = |at: usize| {
        let text = &words[at].text;
        (!text.starts_with('-') || text == "-") && !(at > 0 && takes(&words[at - 1]))
    };
    let at = (0..words.len()).filter(|at| is_operand(*at)).nth(1)?;
    Some(Effect { named: words[at].text.clone(), does: row.does, is_sure: true })
}

fn effect(option: &str, row: &Options, word: &ShellWord, is_first: bool) -> Option<Effect> {
    let does = row.does;
    let text = word.text.as_str();
    let known = &text[..word.known.unwrap_or(text.len())];
    // What the shell makes of the rest of the word is not known, so it may be the option as well.
    let is_unknown = word.known.is_some();
    let sure = |length: usize| Effect { named: text[..length].to_owned(), does, is_sure: true };
    let maybe = |may_be: bool| {
        let effect = Effect { named: text.to_owned(), does, is_sure: false };
        (is_unknown && may_be).then_some(effect)
    };
    if let Some(whole) = option.strip_suffix('!') {
        let is_it = text == whole || text.split_once('=').is_some_and(|(name, _)| name == whole);
        let it = (!is_unknown && is_it).then(|| sure(whole.len()));
        return it.or_else(|| maybe(whole.starts_with(known)));
    }
    if option.ends_with('=') {
        let it = known.starts_with(option).then(|| sure(option.len()));
        return it.or_else(|| maybe(option.starts_with(known)));
    }
    let typed = known.split('=').next().unwrap_or_default();
    if let Some(long) = option.strip_prefix("--") {
        // GNU programs take names that are cut short.
        let name = typed.strip_prefix("--").unwrap_or_default();
        let is_it = !name.is_empty() && long.starts_with(name);
        let is_whole = !is_unknown || known.contains('=');
        let it = (is_it && is_whole).then(|| sure(typed.len()));
        return it.or_else(|| maybe(option.starts_with(typed)));
    }
    let letter = char::from(option.as_bytes()[1]);
    let is_short = known.starts_with('-') && !known.starts_with("--");
    // The letters that some take without a dash: `tar xIf`.
    let is_bundle = is_first && row.programs.starts_with("tar");
    let at = known.find(letter).filter(|_| is_short || is_bundle);
    let it = at.map(|at| sure(at + 1));
    it.or_else(|| maybe(known.is_empty() || is_short))
}
