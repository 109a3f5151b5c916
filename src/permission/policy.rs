//! What may be done: `deny` wins, then `ask`, then `allow`; anything no rule matches needs approval.
//! Pure.

use std::slice;

use super::{
    action::{Action, Facts},
    glob::escape,
    guard::unguard,
    own::{Nearness, OwnFiles},
    place::{Case, Place, Spot},
    rule::{Pattern, Rule, kind_name},
    ruling::{Decision, Ruling},
    url::UrlGlob,
};
use crate::{
    agent::{ActionKind, engines},
    config::Permissions,
};

/// What only looks, and the bridge's own tools: the reference's list (protocol section 8) without
/// `fetch`, which would carry away what was read.
const DEFAULT_ALLOW: [&str; 5] = [
    "read",
    "fetch(search)",
    "other(TodoWrite)",
    "mcp(bridge:bridge_post)",
    "mcp(bridge:bridge_thread_read)",
];

/// On some file systems it is the same file; which ones do that is not known here.
const OTHER_CASE: &str =
    "only upper and lower case, or how accents are written, tell it from what the rule is about";

/// Schemes and ports are not what a host is denied for.
const OTHER_SCHEME: &str = "only scheme or port tell it from what the rule is about";

const OWN: &str = "the bridge's own files, which hold its token and its state, are for no agent";

const LOCAL: &str =
    "it is an address of this machine or its network, so the rule must name that very host";

/// The rules of a machine.
#[derive(Clone, Debug)]
pub struct Policy {
    own: OwnFiles,
    deny: Vec<Rule>,
    ask: Vec<Rule>,
    allow: Vec<Rule>,
}

impl Default for Policy {
    fn default() -> Policy {
        let own = OwnFiles::default();
        Policy::new(&Permissions::default(), own).expect("our own rules are good")
    }
}

impl Policy {
    /// Reads the rules of the config; a list that is not there is the default one. No rule allows
    /// what would reach `own`.
    ///
    /// # Errors
    /// The first invalid rule, with the list that it is in.
    pub fn new(permissions: &Permissions, own: OwnFiles) -> Result<Policy, String> {
        let read = |key: &str, rules: &[String]| -> Result<Vec<Rule>, String> {
            let read = |rule: &String| {
                Rule::parse(rule).map_err(|why| format!("{key:?} has the rule {rule:?}: {why}"))
            };
            rules.iter().map(read).collect()
        };
        let default = DEFAULT_ALLOW.map(str::to_owned);
        Ok(Policy {
            own,
            deny: read("permissions.deny", permissions.deny.as_deref().unwrap_or_default())?,
            ask: read("permissions.ask", permissions.ask.as_deref().unwrap_or_default())?,
            allow: read("permissions.allow", permissions.allow.as_deref().unwrap_or(&default))?,
        })
    }

    /// What no rule gives to an agent.
    pub fn own_files(&self) -> &OwnFiles {
        &self.own
    }

    /// Decides about an action. `grants` are the rules of `always` on this thread: they win over `ask`
    /// rules, and over nothing else.
    pub fn decide(&self, action: &Action<'_>, grants: &[Rule]) -> Decision {
        let (kind, mut facts) = (action.question.kind, Facts::of(action));
        let own = self.own.nearness(action, &facts);
        if let (Nearness::Above, Facts::Command { elsewhere, .. }) = (own, &mut facts) {
            elsewhere.get_or_insert("the bridge's own files are in a directory that it names");
        }
        let is_command = matches!(facts, Facts::Command { .. });
        let denied = first(&self.deny, kind, &facts);
        let (ruling, rule, why) = if own == Nearness::Inside {
            (Ruling::Deny, None, OWN.to_owned())
        } else if let Some((rule, None)) = denied {
            (Ruling::Deny, Some(rule), "this is denied".to_owned())
        } else if own == Nearness::Perhaps || (own == Nearness::Above && !is_command) {
            (Ruling::Ask, None, "it may reach the bridge's own files".to_owned())
        } else if let Some((rule, Some(why))) = denied {
            (Ruling::Ask, Some(rule), format!("cannot tell whether this is denied: {why}"))
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
                Err(None) if reads_in_project(action, &facts) => {
                    (Ruling::Allow, None, "reading in the project needs no approval".to_owned())
                }
                Err(None) => (Ruling::Ask, None, "no rule matches all of this".to_owned()),
                Err(Some(why)) => (Ruling::Ask, None, format!("no rule may allow this: {why}")),
            }
        };
        Decision { ruling, rule: rule.map(ToString::to_string), why }
    }

    /// The rule that is granted by "always on this thread": this command line, this file, this host,
    /// this tool, and nothing else. None if that can't be said safely, or would not be enough.
    pub fn always(&self, action: &Action<'_>) -> Option<Rule> {
        let (kind, facts) = (action.question.kind, Facts::of(action));
        let pattern = match &facts {
            Facts::Command { scan, elsewhere: None, .. } => {
                escape(&scan.sure.as_ref().ok()?.whole, unguard)
            }
            Facts::Places { spots: Ok(spots), bases, .. } => match &spots[..] {
                [spot] => bases.name(spot)?,
                _ => return None,
            },
            Facts::Urls(Ok(urls)) => match &urls[..] {
                [url] if url.oddity.is_none() => format!("{}/*", escape(&url.origin(), |c| c)),
                _ => return None,
            },
            Facts::Names(read) if kind == ActionKind::Mcp => match &read.names[..] {
                [name] => escape(name, |c| c),
                _ => return None,
            },
            _ => return None,
        };
        let rule = Rule::parse(&format!("{}({pattern})", kind_name(kind))).ok()?;
        // What it is for is to allow this very action.
        let decision = self.decide(action, slice::from_ref(&rule));
        (decision.ruling == Ruling::Allow).then_some(rule)
    }
}

/// Whether an engine asks only because it is made to: others read in the project without asking. Not
/// so what opencode asks for by itself.
fn reads_in_project(action: &Action<'_>, facts: &Facts<'_>) -> bool {
    let is_secret =
        |name: &str| format!("{name}.").contains(".env.") && !name.contains(".env.example");
    match facts {
        Facts::Places { spots: Ok(spots), bases, .. } => {
            let mut places = spots.iter().flat_map(Spot::places);
            action.question.kind == ActionKind::Read
                && engines::describe(action.engine).asks_to_read
                && places
                    .all(|it| bases.is_inside(it) && !it.last().is_some_and(|it| is_secret(it)))
        }
        _ => false,
    }
}

/// The first rule that describes any part of an action for sure, or else one of which that can't
/// be told, and why.
fn first<'r>(
    rules: &'r [Rule],
    kind: ActionKind,
    facts: &Facts<'_>,
) -> Option<(&'r Rule, Option<&'static str>)> {
    let rules = rules.iter().filter(|rule| rule.kind == kind || is_about_files_of(rule, facts));
    let reached = rules.filter_map(|rule| match reach(rule, facts) {
        (true, _) => Some((rule, None)),
        (false, unclear) => unclear.map(|why| (rule, Some(why))),
    });
    reached.min_by_key(|(_, unclear)| unclear.is_some())
}

/// Whether a rule for reading or for changes is also about a command, by the files that it names.
fn is_about_files_of(rule: &Rule, facts: &Facts<'_>) -> bool {
    let Facts::Command { scan, .. } = facts else { return false };
    matches!(rule.kind, ActionKind::Read | ActionKind::Edit)
        && (rule.pattern.is_some() || scan.files.are(rule.kind))
}

/// Whether a rule describes any part of an action, and why that can't be told of all of it.
fn reach(rule: &Rule, facts: &Facts<'_>) -> (bool, Option<&'static str>) {
    let Some(pattern) = &rule.pattern else { return (true, None) };
    match (pattern, facts) {
        (Pattern::Command(glob), Facts::Command { scan, .. }) => scan.reaches(glob),
        (Pattern::Place(glob), Facts::Command { scan, bases, .. }) => {
            scan.files.reaches(rule.kind, glob, bases)
        }
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
        (Pattern::Url(glob), Facts::Urls(urls)) => {
            let urls = urls.as_deref().unwrap_or_default();
            let resembles = urls.iter().any(|url| glob.resembles(url));
            let why = resembles.then_some(OTHER_SCHEME).or(facts.unknown());
            (urls.iter().any(|url| glob.matches(url)), why)
        }
        (Pattern::Url(glob), Facts::Query(urls)) => {
            (urls.iter().any(|url| glob.resembles(url)), None)
        }
        (Pattern::Search, Facts::Query(_)) => (true, None),
        (Pattern::Name(glob), Facts::Names(read)) => (
            read.names.iter().any(|name| glob.matches(name)),
            read.names.is_empty().then_some("which tool it is can't be told"),
        ),
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
    let bare = rules.iter().find(|rule| rule.pattern.is_none()).copied();
    if let Some(rule) = bare
        && !matches!(facts, Facts::Urls(_))
    {
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
                let mut why = None;
                let covering = rules.iter().find(|rule| match &rule.pattern {
                    Some(Pattern::Command(glob)) => command.is_covered(glob).unwrap_or_else(|it| {
                        why = Some(it);
                        false
                    }),
                    _ => false,
                });
                covering.copied().ok_or(why)
            }))
        }
        Facts::Places { spots, bases, .. } => {
            let spots = spots.as_deref().unwrap_or_default();
            last(spots.iter().flat_map(Spot::places).map(|place| {
                with(&|it| matches!(it, Pattern::Place(glob) if glob.covers(place, bases)))
            }))
        }
        Facts::Urls(urls) => last(urls.as_deref().unwrap_or_default().iter().map(|url| {
            let is_local = url.is_local();
            let fits = |glob: &UrlGlob| glob.matches(url) && (!is_local || glob.names_host(url));
            match (bare, with(&|it| matches!(it, Pattern::Url(glob) if fits(glob)))) {
                (Some(rule), Err(_)) if !is_local => Ok(rule),
                (_, Err(_)) if is_local => Err(Some(LOCAL)),
                (_, found) => found,
            }
        })),
        Facts::Query(_) => with(&|it| *it == Pattern::Search),
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
