//! What may be done: `deny` wins, then `ask`, then `allow`; anything no rule matches needs approval.
//! Pure.

use super::{
    action::{Action, Facts},
    command::Reach,
    glob::escape,
    guard::unguard,
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
        let none = Vec::new();
        let default: Vec<String> = DEFAULT_ALLOW.map(str::to_owned).into();
        Ok(Policy {
            deny: read("permissions.deny", permissions.deny.as_ref().unwrap_or(&none))?,
            ask: read("permissions.ask", permissions.ask.as_ref().unwrap_or(&none))?,
            allow: read("permissions.allow", permissions.allow.as_ref().unwrap_or(&default))?,
        })
    }

    /// Decides about an action. `grants` are the rules of `always` on this thread: they win over `ask`
    /// rules, and over nothing else.
    pub fn decide(&self, action: &Action<'_>, grants: &[Rule]) -> Decision {
        let facts = Facts::of(action);
        let by = |ruling, rule: &Rule, why: &str| Decision {
            ruling,
            rule: Some(rule.to_string()),
            why: why.to_owned(),
        };
        let denied = first(&self.deny, action.question.kind, &facts);
        if let Some((rule, Reach::Yes)) = denied {
            return by(Ruling::Deny, rule, "this is denied");
        }
        if let Some((rule, Reach::Unclear(why))) = denied {
            let why = format!("cannot tell whether this is denied: {why}");
            return by(Ruling::Ask, rule, &why);
        }
        if let Ok(rule) = covers(&|| grants.iter(), action.question.kind, &facts) {
            return by(Ruling::Allow, rule, "you allowed this for the whole thread");
        }
        match first(&self.ask, action.question.kind, &facts) {
            Some((rule, Reach::Unclear(why))) => {
                let why = format!("cannot tell whether this needs approval: {why}");
                return by(Ruling::Ask, rule, &why);
            }
            Some((rule, _)) => return by(Ruling::Ask, rule, "this always needs approval"),
            None => {}
        }
        match covers(&|| self.allow.iter().chain(grants), action.question.kind, &facts) {
            Ok(rule) => by(Ruling::Allow, rule, "this is allowed"),
            Err(None) => Decision {
                ruling: Ruling::Ask,
                rule: None,
                why: "no rule matches all of this".to_owned(),
            },
            Err(Some(why)) => Decision {
                ruling: Ruling::Ask,
                rule: None,
                why: format!("no pattern may allow this: {why}"),
            },
        }
    }
}

/// The rule that is granted by "always on this thread": this command line, this file, this host,
/// this tool, and nothing else. None if that can't be said safely.
pub fn always(action: &Action<'_>) -> Option<Rule> {
    let pattern = match &Facts::of(action) {
        Facts::Command { scan, elsewhere: None } => escape_command(&scan.sure.as_ref().ok()?.whole),
        Facts::Places { spots: Ok(spots), bases, .. } => match &spots[..] {
            [spot] => bases.name(spot)?,
            _ => return None,
        },
        Facts::Url(Ok(url)) if url.oddity.is_none() => format!("{}/*", escape(&url.origin())),
        Facts::Names { names, .. } if action.question.kind == ActionKind::Mcp => match &names[..] {
            [name] => escape(name),
            _ => return None,
        },
        _ => return None,
    };
    let rule = Rule::parse(&format!("{}({pattern})", kind_name(action.question.kind))).ok()?;
    // What it is for is to allow this very action.
    covers(&|| [&rule].into_iter(), action.question.kind, &Facts::of(action)).ok()?;
    Some(rule)
}

/// A line whose words are guarded, as a pattern.
fn escape_command(whole: &str) -> String {
    let mut out = String::with_capacity(whole.len());
    for c in escape(whole).chars() {
        let plain = unguard(c);
        if plain != c {
            out.push('\\');
        }
        out.push(plain);
    }
    out
}

/// The first rule that describes any part of an action for sure, or else one of which that can't
/// be told.
fn first<'r>(rules: &'r [Rule], kind: ActionKind, facts: &Facts<'_>) -> Option<(&'r Rule, Reach)> {
    let found = || {
        let rules = rules.iter().filter(|rule| rule.kind == kind);
        rules.map(|rule| (rule, reach(rule, facts)))
    };
    found()
        .find(|(_, reach)| *reach == Reach::Yes)
        .or_else(|| found().find(|(_, reach)| *reach != Reach::No))
}

/// Whether a rule describes any part of an action.
fn reach(rule: &Rule, facts: &Facts<'_>) -> Reach {
    let any = |is: bool| if is { Reach::Yes } else { Reach::No };
    let Some(pattern) = &rule.pattern else { return Reach::Yes };
    match (pattern, facts) {
        (Pattern::Command(glob), Facts::Command { scan, .. }) => {
            scan.reaches(|text| glob.reaches(text), |start| glob.may_begin(start))
        }
        (Pattern::Place(glob), Facts::Places { spots: Ok(spots), bases, places }) => {
            let at = |place| glob.reaches(place, bases, *places);
            if spots.iter().any(|spot| at(&spot.written) || spot.real.as_ref().is_some_and(at)) {
                return Reach::Yes;
            }
            if spots.iter().all(|spot| spot.real.is_some()) {
                Reach::No
            } else {
                Reach::Unclear("where its links lead is not known")
            }
        }
        (Pattern::Url(glob), Facts::Url(Ok(url))) => match url.oddity {
            _ if glob.matches(url) => Reach::Yes,
            Some(why) => Reach::Unclear(why),
            None => Reach::No,
        },
        (Pattern::Place(_), Facts::Places { spots: Err(why), .. })
        | (Pattern::Url(_), Facts::Url(Err(why))) => Reach::Unclear(why),
        (Pattern::Name(_), Facts::Names { names, .. }) if names.is_empty() => {
            Reach::Unclear("which tool it is can't be told")
        }
        (Pattern::Name(glob), Facts::Names { names, .. }) => {
            any(names.iter().any(|name| glob.matches(name)))
        }
        // A search query is no address.
        _ => Reach::No,
    }
}

/// The rule by which every part of an action is allowed; if they are several, that of the last part.
/// The error is why no pattern could do that, if there is a reason.
fn covers<'r, I: Iterator<Item = &'r Rule>>(
    rules: &dyn Fn() -> I,
    kind: ActionKind,
    facts: &Facts<'_>,
) -> Result<&'r Rule, Option<&'static str>> {
    let rules_of = || rules().filter(|rule| rule.kind == kind);
    if let Some(rule) = rules_of().find(|rule| rule.pattern.is_none()) {
        return Ok(rule);
    }
    let with = |fits: &dyn Fn(&Pattern) -> bool| {
        rules_of().find(|rule| rule.pattern.as_ref().is_some_and(fits)).ok_or(None)
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
            let spots = spots.as_ref().map_err(|why| Some(*why))?;
            last(spots.iter().flat_map(|spot| [Some(&spot.written), spot.real.as_ref()]).map(
                |place| {
                    let place = place.ok_or(Some("where its links lead is not known"))?;
                    with(&|it| matches!(it, Pattern::Place(glob) if glob.covers(place, bases)))
                },
            ))
        }
        Facts::Url(url) => {
            let url = url.as_ref().map_err(|why| Some(*why))?;
            if url.oddity.is_some() {
                return Err(url.oddity);
            }
            with(&|it| matches!(it, Pattern::Url(glob) if glob.matches(url)))
        }
        Facts::Query => Err(None),
        Facts::Names { names, all } => {
            let mut found = names
                .iter()
                .map(|name| with(&|it| matches!(it, Pattern::Name(glob) if glob.matches(name))));
            if *all { last(found) } else { found.find_map(Result::ok).ok_or(None) }
        }
    }
}

/// The last result, or the first error; nothing is not enough.
fn last<'r>(
    results: impl Iterator<Item = Result<&'r Rule, Option<&'static str>>>,
) -> Result<&'r Rule, Option<&'static str>> {
    let mut end = Err(None);
    for result in results {
        end = Ok(result?);
    }
    end
}
