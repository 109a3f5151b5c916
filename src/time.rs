//! Wall-clock time as the bridge writes it. Cursors and ages compare the server's times with each
//! other; deadlines inside the program use `Instant` and never this.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::ascii;

/// Milliseconds since the Unix epoch; written as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// The time of day. The only reader of the system clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

impl Timestamp {
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    pub const fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Times before 1970 become 1970.
    pub fn from_system(time: SystemTime) -> Timestamp {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Timestamp(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Reads `2026-11-22T16:41:33.120Z`, also with an offset of hours and minutes.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let (local, offset_minutes) = split_offset(text)?;
        // The parser looks past what may follow the seconds.
        if !local.bytes().all(|byte| byte.is_ascii_digit() || b"-:.Tt ".contains(&byte)) {
            return None;
        }
        let time = humantime::parse_rfc3339_weak(local).ok()?;
        let millis = i64::try_from(Timestamp::from_system(time).0).ok()?;
        u64::try_from(millis - offset_minutes * 60_000).ok().map(Timestamp)
    }

    /// How long before `self` the time `earlier` was; zero if it was not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Takes `Z` or `+02:00` off the end; the second value is minutes east of Greenwich.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return Some((local, 0));
    }
    let at = text.len().checked_sub(6)?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let sign = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return Some((text, 0)),
    };
    let (hours, minutes) = (offset.get(1..3)?, offset.get(3..)?.strip_prefix(':')?);
    let (hours, minutes): (i64, i64) = (ascii::number(hours)?, ascii::number(minutes)?);
    (hours < 24 && minutes < 60).then_some((local, sign * (hours * 60 + minutes)))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime panics past the year 9999.
        const LAST: u64 = 253_402_300_799_999;
        let time = UNIX_EPOCH + Duration::from_millis(self.0.min(LAST));
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no RFC 3339 time")))
    }
}

/// An age for people: `12 s`, `5 min`, `3 h`, `2 d`.
pub fn age(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: Option<&str>) {
        let written = Timestamp::parse(input).map(|time| time.to_string());
        assert_eq!(written.as_deref(), expected, "{input}");
    }

    #[test]
    fn reads_what_bridges_and_engines_write() {
        check("2026-11-22T16:41:33.120Z", Some("2026-11-22T16:41:33.120Z"));
        check("2026-11-22T16:41:33Z", Some("2026-11-22T16:41:33.000Z"));
        check("2026-11-22 16:41:33.123456Z", Some("2026-11-22T16:41:33.123Z"));
        check("2026-11-22T16:41:33+02:00", Some("2026-11-22T14:41:33.000Z"));
        check("2026-11-22T23:41:33-05:30", Some("2026-11-23T05:11:33.000Z"));
        check("2026-11-22T16:41:33", Some("2026-11-22T16:41:33.000Z"));
        for bad in
            ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-22T16:41:33+99:00", "äöüß€+01:00"]
        {
            check(bad, None);
        }
        // Nor what a lenient reader makes a time of.
        for bad in ["+-1:30", "++1:30", "+1:030", "-01:+5", "+ 1:00"] {
            check(&format!("2026-11-22T16:41:33{bad}"), None);
        }
        for bad in
            ["\u{a0}2026-11-22T16:41:33Z", "2026-11-22T16:41:33Z\u{2003}", " 2026-11-22T16:41:33Z"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn the_far_future_does_not_panic() {
        assert_eq!(Timestamp::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn ages_are_short() {
        let of = |secs| age(Duration::from_secs(secs));
        assert_eq!([of(5), of(300), of(7_300), of(200_000)], ["5 s", "5 min", "2 h", "2 d"]);
    }
}
