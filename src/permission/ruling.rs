//! What the policy decides, and the text that tells an agent of a refusal. Pure.

/// What the rules decide about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    Allow,
    /// It needs a human's approval; without `relayPermissions` it is denied.
    Ask,
    Deny,
}

impl Ruling {
    /// The word for it, which is also the name of the list in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Ruling::Allow => "allow",
            Ruling::Ask => "ask",
            Ruling::Deny => "deny",
        }
    }
}

/// What was decided about an action, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub ruling: Ruling,
    /// The rule that decided; none if no rule matches the action, or none is asked: nobody may have
    /// the bridge's own files.
    pub rule: Option<String>,
    /// Half a sentence for people.
    pub why: String,
}

/// Tells an agent that a rule denies its action, or that the action needs approval and approvals are
/// off. It says what the agent can do now and what its human can do.
pub fn refusal(tool: &str, decision: &Decision) -> String {
    let why = &decision.why;
    let because = match (&decision.rule, decision.ruling) {
        (Some(rule), Ruling::Deny) => format!("the rule `{rule}` denies it"),
        (None, Ruling::Deny) => why.clone(),
        (Some(rule), _) => {
            format!("the rule `{rule}` requires approval for it ({why}), and approvals are off")
        }
        (None, _) => format!("it needs approval ({why}), and approvals are off"),
    };
    let settings = match (&decision.rule, decision.ruling) {
        (None, Ruling::Deny) => "say what it is needed for: no rule and no approval allows it",
        (Some(_), Ruling::Deny) => {
            "allow it by changing the rule under `permissions` in the machine's bridge configuration"
        }
        (_, Ruling::Ask | Ruling::Allow) => {
            "allow it by a rule under `permissions`, by `relayPermissions` (they \
             approve each such action on the thread) or by `allowAll` (nothing needs approval) in the machine's bridge \
             configuration"
        }
    };
    format!(
        "{tool} is not allowed on this machine: {because}. Do not look for a way around this. Post \
         a `question` (without bridge tools: ask in your final answer) that says what you want to \
         do and why, and end your turn; the human can do it, or {settings}."
    )
}
