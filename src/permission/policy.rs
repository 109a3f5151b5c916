//! What may be done: `deny` wins, then `ask`, then `allow`; anything no rule matches needs approval.
//! Pure.

use std::iter;

use super::{
    action::{Action, Facts},
    glob::escape,
    guard::unguard,
    place::{Case, Place, Spot},
    rule::{Pattern, Rule, kind_name},
    ruling::{Decision, Ruling},
};
use crate::{agent::ActionKind, config::Permissions};

/// What only looks, and the bridge's own tools: the reference's list (protocol section 8).
const DEFAULT_ALLOW: [&str; 5] = [
    "read",
    "fetch",
    "other(TodoWrite)",
    "mcp(bridge:bridge_post)",
    "mcp(bridge:bridge_thread_read)",
];

/// On a file system that folds case it is the same file; which one does is not known here.
const OTHER_CASE: &str = "only upper and lower case tell it from what the rule is about";

/// The rules of a machine.
#[derive(Clone, Debug)]
pub struct Policy {
    deny: Vec<Rule>,
    ask: Vec<Rule>,
    allow: Vec<Rule>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new(&Permissions::default()).expect("our own rules are good")
    }
}

impl Policy {
    /// Reads the rules of the config; a list that is not there is the default one.
    ///
    /// # Errors
    /// The first invalid rule, with the list that it is in.
    pub fn new(permissions: &Permissions) -> Result<Policy, String> {
        let read = |key: &str, rules: &[String]| -> Result<Vec<Rule>, String> {
            let read = |rule: &String| {
                Rule::parse(rule).map_err(|why| format!("{key:?} has the rule {rule:?}: {why}"))
            };
            rules.iter().map(read).collect()
        };
        let default = DEFAULT_ALLOW.map(str::to_owned);
        Ok(Policy {
            deny: read("permissions.deny", permissions.deny.as_deref().unwrap_or_default())?,
            ask: read("permissions.ask", permissions.ask.as_deref().unwrap_or_default())?,
            allow: read("permissions.allow", permissions.allow.as_deref().unwrap_or(&default))?,
        })
    }

    /// Decides about an action. `grants` are the rules of `always` on this thread: they win over `ask`
    /// rules, and over nothing else.
    pub fn decide(&self, action: &Action<'_>, grants: &[Rule]) -> Decision {
        let (kind, facts) = (action.question.kind, Facts::of(action));
        let (ruling, rule, why) = if let Some((rule, unclear)) = first(&self.deny, kind, &facts) {
            match unclear {
                None => (Ruling::Deny, Some(rule), "this is denied".to_owned()),
                Some(why) => {
                    let why = format!("cannot tell whether this is denied: {why}");
                    (Ruling::Ask, Some(rule), why)
                }
            }
        } else if let Ok(rule) = covers(grants.iter(), kind, &facts) {
            (Ruling::Allow, Some(rule), "you allowed this for the whole thread".to_owned())
        } else if let Some((rule, unclear)) = first(&self.ask, kind, &facts) {
            let why = match unclear {
                None => "this always needs approval".to_owned(),
                Some(why) => format!("cannot tell whether this needs approval: {why}"),
            };
            (Ruling::Ask, Some(rule), why)
        } else {
            match covers(self.allow.iter().chain(grants), kind, &facts) {
                Ok(rule) => (Ruling::Allow, Some(rule), "this is allowed".to_owned()),
                Err(None) => (Ruling::Ask, None, "no rule matches all of this".to_owned()),
                Err(Some(why)) => (Ruling::Ask, None, format!("no rule may allow this: {why}")),
            }
        };
        Decision { ruling, rule: rule.map(ToString::to_string), why }
    }
}

/// The rule that is granted by "always on this thread": this command line, this file, this host,
/// this tool, and nothing else. None if that can't be said safely.
pub fn always(action: &Action<'_>) -> Option<Rule> {
    let (kind, facts) = (action.question.kind, Facts::of(action));
    let pattern = match &facts {
        Facts::Command { scan, elsewhere: None } => {
            escape(&scan.sure.as_ref().ok()?.whole, unguard)
        }
        Facts::Places { spots: Ok(spots), bases, .. } => match &spots[..] {
            [spot] => bases.name(spot)?,
            _ => return None,
        },
        Facts::Url(Ok(url)) if url.oddity.is_none() => {
            format!("{}/*", escape(&url.origin(), |c| c))
        }
        Facts::Names(read) if kind == ActionKind::Mcp => match &read.names[..] {
            [name] => escape(name, |c| c),
            _ => return None,
        },
        _ => return None,
    };
    let rule = Rule::parse(&format!("{}({pattern})", kind_name(kind))).ok()?;
    // What it is for is to allow this very action.
    covers(iter::once(&rule), kind, &facts).ok()?;
    Some(rule)
}

/// The first rule that describes any part of an action for sure, or else one of which that can't
/// be told, and why.
fn first<'r>(
    rules: &'r [Rule],
    kind: ActionKind,
    facts: &Facts<'_>,
) -> Option<(&'r Rule, Option<&'static str>)> {
    let rules = rules.iter().filter(|rule| rule.kind == kind);
    let reached = rules.filter_map(|rule| match reach(rule, facts) {
        (true, _) => Some((rule, None)),
        (false, unclear) => unclear.map(|why| (rule, Some(why))),
    });
    reached.min_by_key(|(_, unclear)| unclear.is_some())
}

/// Whether a rule describes any part of an action, and why that can't be told of all of it.
fn reach(rule: &Rule, facts: &Facts<'_>) -> (bool, Option<&'static str>) {
    let Some(pattern) = &rule.pattern else { return (true, None) };
    match (pattern, facts) {
        (Pattern::Command(glob), Facts::Command { scan, .. }) => scan.reaches(glob),
        (Pattern::Place(glob), Facts::Places { spots, is_search, bases }) => {
            let spots = spots.as_deref().unwrap_or_default();
            let any = |fits: &dyn Fn(&Place) -> bool| spots.iter().flat_map(Spot::places).any(fits);
            let why = if any(&|place| glob.reaches(place, bases, Case::Folded)) {
                Some(OTHER_CASE)
            } else if *is_search && any(&|place| glob.reaches_into(place, bases)) {
                Some("the search would read it as well if it is there")
            } else {
                facts.unknown()
            };
            (any(&|place| glob.reaches(place, bases, Case::Exact)), why)
        }
        (Pattern::Url(glob), Facts::Url(Ok(url))) => (glob.matches(url), url.oddity),
        (Pattern::Url(_), Facts::Url(Err(why))) => (false, Some(*why)),
        (Pattern::Name(glob), Facts::Names(read)) => (
            read.names.iter().any(|name| glob.matches(name)),
            read.names.is_empty().then_some("which tool it is can't be told"),
        ),
        // A search query is no address.
        _ => (false, None),
    }
}

/// The rule by which every part of an action is allowed; if they are several, that of the last part.
/// The error is why no pattern could do that, if there is a reason.
fn covers<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    kind: ActionKind,
    facts: &Facts<'_>,
) -> Result<&'r Rule, Option<&'static str>> {
    let rules: Vec<&Rule> = rules.filter(|rule| rule.kind == kind).collect();
    if let Some(why) = facts.unknown() {
        return Err(Some(why));
    }
    if let Some(rule) = rules.iter().find(|rule| rule.pattern.is_none()) {
        return Ok(rule);
    }
    let with = |fits: &dyn Fn(&Pattern) -> bool| {
        let rule = rules.iter().find(|rule| rule.pattern.as_ref().is_some_and(fits));
        rule.copied().ok_or(None)
    };
    match facts {
        Facts::Command { elsewhere: Some(why), .. } => Err(Some(why)),
        Facts::Command { scan, .. } => {
            let sure = scan.sure.as_ref().map_err(|why| Some(*why))?;
            let is_line =
                |it: &Pattern| matches!(it, Pattern::Command(glob) if glob.is_line(&sure.whole));
            if let Ok(rule) = with(&is_line) {
                return Ok(rule);
            }
            last(sure.commands.iter().map(|command| {
                with(&|it| matches!(it, Pattern::Command(glob) if glob.covers(command)))
            }))
        }
        Facts::Places { spots, bases, .. } => {
            let spots = spots.as_deref().unwrap_or_default();
            last(spots.iter().flat_map(Spot::places).map(|place| {
                with(&|it| matches!(it, Pattern::Place(glob) if glob.covers(place, bases)))
            }))
        }
        Facts::Url(url) => {
            let url = url.as_ref().map_err(|why| Some(*why))?;
            if url.oddity.is_some() {
                return Err(url.oddity);
            }
            with(&|it| matches!(it, Pattern::Url(glob) if glob.matches(url)))
        }
        Facts::Query => Err(None),
        Facts::Names(read) => {
            let fits = |name| with(&|it| matches!(it, Pattern::Name(glob) if glob.matches(name)));
            let mut found = read.names.iter().map(|name| fits(name));
            if read.is_any { found.find_map(Result::ok).ok_or(None) } else { last(found) }
        }
    }
}

/// The last result, or the first error; nothing is not enough.
fn last<'r>(
    results: impl Iterator<Item = Result<&'r Rule, Option<&'static str>>>,
) -> Result<&'r Rule, Option<&'static str>> {
    results.collect::<Result<Vec<_>, _>>()?.pop().ok_or(None)
}
