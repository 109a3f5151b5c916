//! What the policy decides, and how an agent is told of a refusal. Pure.

/// What the rules say of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    Allow,
    /// The human decides; if nobody is asked it is denied.
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
    /// The rule that decided; none if no rule speaks of the action.
    pub rule: Option<String>,
    /// Half a sentence for people.
    pub why: String,
}

/// What an agent is told that a rule denies its action, or that it would have to be asked and nobody
/// is. It helps both readers, the agent and its human.
pub fn refusal(tool: &str, decision: &Decision) -> String {
    let why = &decision.why;
    let because = match (&decision.rule, decision.ruling) {
        (Some(rule), Ruling::Deny) => format!("the rule `{rule}` denies it"),
        (Some(rule), _) => {
            format!("the rule `{rule}` wants it to be asked ({why}), and nobody is asked")
        }
        (None, _) => format!("it would have to be asked ({why}), and nobody is asked"),
    };
    let settings = match decision.ruling {
        Ruling::Deny => {
            "allow it by changing the rule under `permissions` in the machine's bridge configuration"
        }
        Ruling::Ask | Ruling::Allow => {
            "allow it by a rule under `permissions`, by `relayPermissions` (each such action is put \
             to them on the thread) or by `allowAll` (nothing is request) in the machine's bridge \
             configuration"
        }
    };
    format!(
        "{tool} is not allowed on this machine: {because}. Do not look for a way around this. Post \
         a `question` (without bridge tools: ask in your final answer) that says what you want to \
         do and why, and end your turn; the human can do it, or {settings}."
    )
}
