//! Names of things. Each is a type of its own, so that a thread can't be passed for a session;
//! all are opaque strings from outside and never trusted as file names.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(value: impl Into<String>) -> $name {
                $name(value.into())
            }

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

id! {
    /// A conversation on the bridge; wire name `threadId`.
    ThreadId
}
id! {
    /// One message on a thread; wire name `messageId`.
    MessageId
}
id! {
    /// An engine's own context, resumable by this id; wire name `sessionId`.
    SessionId
}
id! {
    /// A machine on the account, which is to say a daemon; wire name `agentId`.
    MachineId
}
id! {
    /// The sender's name for a post: a repeated one is stored once; wire name `clientMsgId`.
    ClientMsgId
}
id! {
    /// One run of an engine. It is in the marker that every process of the turn carries.
    TurnId
}

/// A coding agent: `claude`, `codex`, `opencode`, or one named in the config; wire name `agent`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Engine(Cow<'static, str>);

impl Engine {
    pub const CLAUDE: Engine = Engine(Cow::Borrowed("claude"));
    pub const CODEX: Engine = Engine(Cow::Borrowed("codex"));
    pub const OPENCODE: Engine = Engine(Cow::Borrowed("opencode"));
    /// The built-in engine that answers with what it was told.
    pub const ECHO: Engine = Engine(Cow::Borrowed("echo"));

    /// Engine names are compared in lower case (protocol section 3).
    pub fn new(name: &str) -> Engine {
        Engine(Cow::Owned(name.trim().to_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The author of this engine's posts, for example `claude-bridge`.
    pub fn author(&self) -> String {
        format!("{}-bridge", self.0)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// 16 random bytes from the system as 32 hex digits.
///
/// # Panics
/// When the system has no randomness to give, which on the supported systems means that it is broken.
pub fn random_hex() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    hex(&bytes)
}

/// A random number, where nothing secret hangs on it.
pub fn random_number() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    u32::from_le_bytes(bytes)
}

/// A random UUID (version 4) in lower case, as Claude Code wants session ids.
pub fn random_uuid() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
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
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string works");
        text
    })
}

#[cfg(test)]
mod tests {
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
}
