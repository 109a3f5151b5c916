//! Passwords of people. Kept as PBKDF2-HMAC-SHA-256 (RFC 8018), which takes only the hash that is
//! here for tokens anyway. Stored as `rounds$salt$hash` in hex.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::ids;

/// Remembered successes; over that, all are forgotten.
const REMEMBERED_MAX: usize = 64;

/// Hashes a new password with a salt of its own.
pub fn hash(password: &str, rounds: u32) -> String {
    let salt = ids::random_hex();
    format!("{rounds}${salt}${}", ids::hex(&derive(password.as_bytes(), salt.as_bytes(), rounds)))
}

/// Checks passwords. A browser sends its password with every request, so the last good ones are
/// remembered, as hashes under a key that dies with the process.
pub struct Checker {
    key: String,
    /// Also lets only one slow check run at a time: guessing costs one core and not all.
    remembered: Mutex<Vec<[u8; 32]>>,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checker(…)")
    }
}

impl Default for Checker {
    fn default() -> Checker {
        Checker { key: ids::random_hex(), remembered: Mutex::default() }
    }
}

impl Checker {
    /// Whether `password` is the one of `stored`.
    pub fn check(&self, password: &str, stored: &str) -> bool {
        let mark = Hmac::new(self.key.as_bytes()).over(&[stored.as_bytes(), password.as_bytes()]);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.contains(&mark) {
            return true;
        }
        let matches = is_password(password, stored);
        if matches {
            if remembered.len() == REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.push(mark);
        }
        matches
    }
}

fn is_password(password: &str, stored: &str) -> bool {
    let mut parts = stored.splitn(3, '$');
    let (Some(rounds), Some(salt), Some(expected)) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Ok(rounds) = rounds.parse() else { return false };
    let derived = ids::hex(&derive(password.as_bytes(), salt.as_bytes(), rounds));
    // All bytes are looked at, so the time tells nothing about where they differ.
    let differing = derived.bytes().zip(expected.bytes()).fold(0, |bits, (a, b)| bits | (a ^ b));
    differing == 0 && derived.len() == expected.len()
}

/// The first block of PBKDF2, which is all of a 32-byte key.
fn derive(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    let hmac = Hmac::new(password);
    let mut block = hmac.over(&[salt, &1_u32.to_be_bytes()]);
    let mut key = block;
    for _ in 1..rounds {
        block = hmac.over(&[&block]);
        key.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    key
}

/// HMAC-SHA-256 (RFC 2104) with the key's two blocks already hashed in.
struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    fn new(key: &[u8]) -> Hmac {
        let mut block = [0; 64];
        if block.len() < key.len() {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let keyed = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
        Hmac { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    fn over(&self, parts: &[&[u8]]) -> [u8; 32] {
        let inner = parts.iter().fold(self.inner.clone(), Digest::chain_update).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(password: &str, salt: &str, rounds: u32, expected: &str) {
        let derived = derive(password.as_bytes(), salt.as_bytes(), rounds);
        assert_eq!(ids::hex(&derived), expected);
    }

    /// The vectors of RFC 7914 section 11, first half, and the usual SHA-256 ones.
    #[test]
    fn derives_what_others_derive() {
        let one = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc";
        check("passwd", "salt", 1, one);
        let two = "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43";
        check("password", "salt", 2, two);
        let many = "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a";
        check("password", "salt", 4096, many);
    }

    #[test]
    fn only_the_right_password_passes_also_the_second_time() {
        let checker = Checker::default();
        let stored = hash("correct horse", 10);
        for _ in 0..2 {
            assert!(checker.check("correct horse", &stored));
            assert!(!checker.check("battery staple", &stored));
        }
        assert!(!checker.check("correct horse", &hash("other", 10)));
        assert!(!checker.check("", "not a hash"));
    }
}
