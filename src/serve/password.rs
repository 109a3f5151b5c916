//! Passwords of people. Kept as argon2id (RFC 9106), for which every guess costs memory as well as
//! time, and stored as `argon2id$KIB$PASSES$SALT$HASH` in hex.

use std::{
    fmt,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};

use crate::{ids, serve::lock};

/// Remembered successes; over that, all are forgotten.
const REMEMBERED_MAX: usize = 64;
/// Hashes that are made at the same time: guessing costs so many cores, and so many times
/// [`Cost::memory_kib`], and not all.
const PLACES: usize = 2;
/// How long a request waits for one of those places.
const PLACE_TIME: Duration = Duration::from_secs(10);
const ARGON2: &str = "argon2id";

/// Characters of a password.
const CHARS_MIN: usize = 8;
pub const CHARS_MAX: usize = 1000;

/// What a hash costs whoever makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// KiB of memory, 8 or more.
    pub memory_kib: u32,
    /// Passes over it, 1 or more.
    pub passes: u32,
}

impl Cost {
    /// Protects nothing. For tests, which make many.
    pub const CHEAP: Cost = Cost { memory_kib: 8, passes: 1 };
}

/// What OWASP asks of argon2id.
impl Default for Cost {
    fn default() -> Cost {
        Cost { memory_kib: 19 * 1024, passes: 2 }
    }
}

/// What is wrong with a password that somebody chose.
pub fn problem(password: &str) -> Option<String> {
    match password.chars().count() {
        0..CHARS_MIN => Some(format!("is shorter than {CHARS_MIN} characters")),
        CHARS_MIN..=CHARS_MAX => None,
        _ => Some(format!("is longer than {CHARS_MAX} characters")),
    }
}

/// Hashes a new password with a salt of its own.
///
/// # Errors
/// The cost is out of bounds, or there is no memory.
pub fn hash(password: &str, cost: Cost) -> Result<String> {
    let salt = ids::random_hex();
    let hash = ids::hex(&argon2id(password, &salt, cost).context("hashing a password")?);
    Ok(format!("{ARGON2}${}${}${salt}${hash}", cost.memory_kib, cost.passes))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Wrong,
    Right,
    /// And the stored hash is weaker than a new one would be.
    RightButWeak,
}

/// All places are taken, and stayed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Checks passwords. Who comes with a password sends it with every request, so the last good ones
/// are remembered, as hashes under a key that dies with the process.
pub struct Checker {
    cost: Cost,
    key: String,
    remembered: Mutex<Vec<[u8; 32]>>,
    places: (Sender<()>, Receiver<()>),
    /// Checked when the user name is unknown, so that an answer takes as long either way.
    nobody: OnceLock<String>,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checker(…)")
    }
}

impl Checker {
    pub fn new(cost: Cost) -> Checker {
        Checker {
            cost,
            key: ids::random_hex(),
            remembered: Mutex::default(),
            places: bounded(PLACES),
            nobody: OnceLock::new(),
        }
    }

    /// Hashes a new password when a place is free.
    ///
    /// # Errors
    /// None became free, or as [`hash`].
    pub fn hash(&self, password: &str) -> Result<Result<String>, Busy> {
        self.in_turn(|| hash(password, self.cost))
    }

    /// Whether this very password was right a while ago. Quick.
    pub fn remembers(&self, password: &str, stored: &str) -> bool {
        let mark = self.mark(password, stored);
        lock(&self.remembered).contains(&mark)
    }

    /// Whether `password` is the one of `stored`. None, an unknown user, takes as long and is wrong.
    pub fn check(&self, password: &str, stored: Option<&str>) -> Result<Checked, Busy> {
        let nobody = || self.nobody.get_or_init(|| hash("", self.cost).unwrap_or_default());
        let is_right =
            self.in_turn(|| is_password(password, stored.unwrap_or_else(|| nobody())))?;
        let Some(stored) = stored.filter(|_| is_right) else { return Ok(Checked::Wrong) };
        let mark = self.mark(password, stored);
        let mut remembered = lock(&self.remembered);
        if remembered.len() == REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.push(mark);
        let Cost { memory_kib, passes } = self.cost;
        let fresh = stored.starts_with(&format!("{ARGON2}${memory_kib}${passes}$"));
        Ok(if fresh { Checked::Right } else { Checked::RightButWeak })
    }

    fn in_turn<T>(&self, work: impl FnOnce() -> T) -> Result<T, Busy> {
        let (enter, leave) = &self.places;
        enter.send_timeout((), PLACE_TIME).map_err(|_| Busy)?;
        let _place = HashPermit(leave);
        Ok(work())
    }

    fn mark(&self, password: &str, stored: &str) -> [u8; 32] {
        // The key and what is stored have no line breaks, so no two of these run into each other.
        Sha256::digest(format!("{}\n{stored}\n{password}", self.key)).into()
    }
}

/// One of the [`PLACES`], given up on drop, also by a panic.
struct HashPermit<'a>(&'a Receiver<()>);

impl Drop for HashPermit<'_> {
    fn drop(&mut self) {
        // It is there: it was put in before.
        self.0.try_recv().ok();
    }
}

/// Whether the bytes are the same. All of them are looked at, so the time tells nothing about where
/// they differ.
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b));
    differing == 0 && a.len() == b.len()
}

fn is_password(password: &str, stored: &str) -> bool {
    let parts: Vec<&str> = stored.split('$').collect();
    let [ARGON2, kib, passes, salt, expected] = parts[..] else { return false };
    let (Ok(memory_kib), Ok(passes)) = (kib.parse(), passes.parse()) else { return false };
    match argon2id(password, salt, Cost { memory_kib, passes }) {
        Ok(derived) => is_same(ids::hex(&derived).as_bytes(), expected.as_bytes()),
        Err(error) => {
            log::error!("a check failed: {error}");
            false
        }
    }
}

fn argon2id(password: &str, salt: &str, cost: Cost) -> Result<[u8; 32], argon2::Error> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32))?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
        password.as_bytes(),
        salt.as_bytes(),
        &mut key,
    )?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the reference's own test suite: 2 passes, 256 KiB, one lane.
    #[test]
    fn argon2id_is_what_others_mean_by_it() {
        let derived = argon2id("password", "somesalt", Cost { memory_kib: 256, passes: 2 });
        let expected = "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe";
        assert_eq!(ids::hex(&derived.unwrap()), expected);
    }

    #[test]
    fn only_the_right_password_passes_and_is_remembered() {
        let checker = Checker::new(Cost::CHEAP);
        let stored = hash("correct horse", Cost::CHEAP).unwrap();
        assert!(!checker.remembers("correct horse", &stored));
        for _ in 0..2 {
            assert_eq!(checker.check("correct horse", Some(&stored)), Ok(Checked::Right));
            assert_eq!(checker.check("battery staple", Some(&stored)), Ok(Checked::Wrong));
        }
        assert!(checker.remembers("correct horse", &stored));
        assert!(!checker.remembers("battery staple", &stored));
        // A new hash of the same password is another one: who changes it ends what was remembered.
        let other = hash("correct horse", Cost::CHEAP).unwrap();
        assert!(other != stored && !checker.remembers("correct horse", &other));
        for broken in ["", "not a hash", "a$b$c", "argon2id$8$1$x", "argon2id$0$0$salt$00"] {
            assert_eq!(checker.check("", Some(broken)), Ok(Checked::Wrong), "{broken}");
        }
        for password in ["", "correct horse"] {
            assert_eq!(checker.check(password, None), Ok(Checked::Wrong));
        }
    }

    #[test]
    fn weak_hashes_are_told_from_fresh_ones() {
        let checker = Checker::new(Cost { memory_kib: 16, passes: 1 });
        let cheap = hash("x", Cost::CHEAP).unwrap();
        assert_eq!(checker.check("x", Some(&cheap)), Ok(Checked::RightButWeak));
        assert_eq!(checker.check("y", Some(&cheap)), Ok(Checked::Wrong));
        let fresh = checker.hash("x").unwrap().unwrap();
        assert_eq!(checker.check("x", Some(&fresh)), Ok(Checked::Right));
    }

    #[test]
    fn all_of_the_bytes_count() {
        for (a, b, expected) in [("", "", true), ("ab", "ab", true), ("ab", "ac", false)] {
            assert_eq!(is_same(a.as_bytes(), b.as_bytes()), expected);
        }
        assert!(!is_same(b"ab", b"abc") && !is_same(b"abc", b"ab"));
    }
}
