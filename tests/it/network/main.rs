//! The real program behind real proxies, gateways, certificates and name servers, which
//! scripts/network-tests.sh starts (servers.sh). nginx's log says from which address each request
//! came: a proxy that is set must see every connection.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod certificates;
mod proxies;
mod walls;

#[path = "../util"]
mod util {
    #[expect(dead_code, reason = "other tests use more of it")]
    pub(crate) mod bin;
    #[expect(dead_code, reason = "other tests use more of it")]
    pub(crate) mod patience;
}

use std::{fs, path::PathBuf};

use serde_json::{Map, Value};

use crate::util::{
    bin::{Command, Home, Ran},
    patience::comes_true,
};

/// From where a request comes that no proxy handed on.
const DIRECT: &str = "10.9.0.1";
const SQUID: &str = "10.9.0.12";
const TINYPROXY: &str = "10.9.0.13";
const SOCKS: &str = "10.9.0.14";
const SOCKS_WITH_LOGIN: &str = "10.9.0.15";

/// The directory of servers.sh.
fn dir() -> PathBuf {
    let dir = std::env::var_os("OBTO_NETWORK_DIR");
    dir.expect("these tests are run by scripts/network-tests.sh").into()
}

/// A file of servers.sh, as text for a setting.
fn file(name: &str) -> String {
    dir().join(name).to_str().unwrap().to_owned()
}

/// A machine that is connected to the bridge, with settings of its own.
struct Case {
    home: Home,
    env: Vec<(String, String)>,
    config: Map<String, Value>,
}

impl Case {
    /// At `url`, trusting the company's authority.
    fn at(url: &str) -> Case {
        let mut case = Case::of(url);
        case.config.insert("caFile".to_owned(), file("ca.pem").into());
        case
    }

    /// At `url`, trusting what every machine trusts.
    fn of(url: &str) -> Case {
        let token = fs::read_to_string(dir().join("bridge/token")).unwrap();
        let mut config = Map::new();
        config.insert("baseUrl".to_owned(), url.into());
        config.insert("apiToken".to_owned(), token.trim().into());
        Case { home: Home::new(), env: Vec::new(), config }
    }

    fn env(mut self, name: &str, value: &str) -> Case {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn key(mut self, name: &str, value: impl Into<Value>) -> Case {
        self.config.insert(name.to_owned(), value.into());
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        self.home.put(".obto-bridge/config.json", &Value::from(self.config.clone()).to_string());
        let command = self.home.command(args);
        self.env.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    fn whoami(&self) -> Ran {
        self.command(&["whoami"]).run()
    }

    /// The bridge is reached, and every request comes from `from`.
    #[track_caller]
    fn works(&self, from: &str) {
        let seen = Seen::now();
        self.whoami().expect(0, &["owner"]);
        seen.check(from);
    }

    /// The bridge is not reached: nothing comes there, and the error has these words, but no secret.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) -> Ran {
        let seen = Seen::now();
        let ran = self.whoami().expect(code, words).without("s3cret").without("obto_");
        seen.check("nowhere");
        ran
    }

    /// The daemon connects, all of it by `from`, and ends when it is told to.
    #[track_caller]
    fn connects(&self, from: &str) {
        let seen = Seen::now();
        let mut daemon = self.command(&["start", "--exit-on-auth-failure"]).start();
        daemon.line("connected");
        daemon.signal(rustix::process::Signal::TERM);
        daemon.end().expect(0, &[]);
        seen.check(from);
    }
}

/// How much of nginx's log was there.
struct Seen(usize);

impl Seen {
    fn lines() -> Vec<String> {
        let log = fs::read_to_string(dir().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn now() -> Seen {
        Seen(Seen::lines().len())
    }

    /// What has come since then came from `from` alone. nginx writes a line when a request has ended, which may be
    /// a moment after the program saw the end.
    #[track_caller]
    fn check(&self, from: &str) {
        let fresh = || Seen::lines().split_off(self.0);
        if from != "nowhere" {
            assert!(comes_true(|| !fresh().is_empty()), "nothing came");
        }
        for line in fresh() {
            assert!(line.starts_with(&format!("{from} ")), "not from {from}: {line}");
        }
    }
}
