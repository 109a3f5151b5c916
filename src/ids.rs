//! Names of things. Each is a type of its own, so that a thread can't be passed for a session;
//! all are opaque strings from outside and never trusted as file names. The text of what there are
//! many of is shared, so that a clone costs nothing.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::ascii;

macro_rules! text {
    ($(#[$doc:meta])* $name:ident($text:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($text);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        text! { $(#[$doc])* $name(Arc<str>) }

        impl $name {
            pub fn new(value: impl Into<Arc<str>>) -> $name {
                $name(value.into())
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> $name {
                $name::new(value)
            }
        }
    )*};
}

ids! {
    /// A conversation on the bridge; wire name `threadId`.
    ThreadId,
    /// One message on a thread; wire name `messageId`.
    MessageId,
    /// An engine's own context, resumable by this id; wire name `sessionId`.
    SessionId,
    /// A machine on the account, which is to say a daemon; wire name `agentId`.
    MachineId,
    /// The sender's name for a post: a repeated one is stored once; wire name `clientMsgId`.
    ClientMsgId,
    /// One run of an engine. It is in the marker that every process of the turn carries.
    TurnId,
}

text! {
    /// A coding agent: `claude`, `codex`, `opencode`, or one named in the config; wire name `agent`.
    /// The built-in names are constants, which can't be shared strings.
    Engine(Cow<'static, str>)
}

impl Engine {
    pub const CLAUDE: Engine = Engine(Cow::Borrowed("claude"));
    pub const CODEX: Engine = Engine(Cow::Borrowed("codex"));
    pub const OPENCODE: Engine = Engine(Cow::Borrowed("opencode"));
    /// The built-in engine that answers with the prompt it was given.
    pub const ECHO: Engine = Engine(Cow::Borrowed("echo"));

    /// Engine names are compared in lower case (protocol section 3); they are ASCII, so that no other
    /// letter becomes one of theirs.
    pub fn new(name: &str) -> Engine {
        Engine(ascii::trim(name).to_ascii_lowercase().into())
    }

    /// The author of this engine's posts, for example `claude-bridge`.
    pub fn author(&self) -> String {
        format!("{self}-bridge")
    }
}

/// 16 random bytes from the system as 32 hex digits.
///
/// # Panics
/// When the system has no randomness to give, which on the supported systems means that it is broken.
pub fn random_hex() -> String {
    hex(&random::<16>())
}

/// A random number, not for secrets.
pub fn random_number() -> u32 {
    u32::from_le_bytes(random())
}

/// A random UUID (version 4) in lower case, as Claude Code wants session ids.
pub fn random_uuid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// Whether `text` has the shape of a UUID in lower case. Engines take other strings for names or
/// titles and then resume, or start, something else (claude 2.1.197, codex 0.169.0).
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from_digit(digit.into(), 16).expect("a hex digit")).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::Ordering,
        collections::{BTreeMap, HashMap},
    };

    use super::*;

    #[test]
    fn uuids_have_the_shape_that_engines_want() {
        let uuid = random_uuid();
        assert!(is_uuid(&uuid), "{uuid}");
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(!is_uuid(&uuid.to_uppercase()) || uuid.bytes().all(|b| !b.is_ascii_lowercase()));
        for bad in ["", "my session", "0000", &uuid[1..], &format!("{uuid}0")] {
            assert!(!is_uuid(bad), "{bad}");
        }
    }

    #[test]
    fn engines_compare_in_lower_case() {
        assert_eq!(Engine::new(" Claude "), Engine::CLAUDE);
        assert_eq!(Engine::CODEX.author(), "codex-bridge");
    }

    #[test]
    fn ids_are_plain_strings_on_the_wire_and_as_keys() {
        let thread = ThreadId::new("t/1 ä");
        let sessions = BTreeMap::from([(thread.clone(), Engine::CLAUDE)]);
        let json = serde_json::to_string(&sessions).unwrap();
        assert_eq!(json, r#"{"t/1 ä":"claude"}"#);
        let back: BTreeMap<ThreadId, Engine> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, sessions);
        assert!(std::ptr::eq(thread.clone().as_str(), thread.as_str()), "a clone shares the text");
    }

    #[test]
    fn a_built_in_engine_is_the_one_of_that_name() {
        let named = Engine::new("opencode");
        assert_eq!(HashMap::from([(Engine::OPENCODE, 1)]).get(&named), Some(&1));
        assert_eq!(Engine::CODEX.cmp(&named), Ordering::Less);
    }
}
