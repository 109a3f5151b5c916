//! What answers in the place of the bridge: filters, gateways, portals. None of them is a verdict on the
//! token.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::{Case, DIRECT, dir};

fn at(port: u16) -> Case {
    Case::of(&format!("http://bridge.corp:{port}"))
}

#[test]
fn each_wall_is_called_what_it_is() {
    for (port, words) in [
        (8081, ["status 403", "no verdict on the token"]),
        (8082, ["Session expired", "no verdict on the token"]),
        (8083, ["Cloudflare Access", "CF-Access-Client-Id"]),
        (8084, ["Welcome to the hotel", "login page in between"]),
        (8085, ["redirect to http://portal.example/login", "baseUrl"]),
        (8086, ["Cloudflare Access", "CF-Access-Client-Secret"]),
    ] {
        let ran = at(port).whoami().expect(3, &words);
        ran.without("check apiToken").without("hidden").without("obto_");
    }
}

#[test]
fn a_gateway_is_passed_with_its_headers() {
    let case = at(8086);
    case.home.put("secret", "the-secret\n");
    let secret = case.home.path().join("secret");
    let headers = json!({"CF-Access-Client-Id": {"env": "ACCESS_ID"},
        "CF-Access-Client-Secret": {"file": secret.to_str().unwrap()}});
    let case = case.key("headers", headers).env("ACCESS_ID", "the-id");
    case.works(DIRECT);
    case.connects(DIRECT);
    let wrong = at(8086).key("headers", json!({"Host": "x"}));
    wrong.command(&["start"]).run().expect(78, &["which the program sets itself"]);
    let unset = at(8086).key("headers", json!({"X-Team": {"env": "NOT_SET"}}));
    unset.command(&["start"]).run().expect(78, &["NOT_SET", "is not set"]);
}

/// A filter's page once ended the daemon for good, and without that took most of a minute.
#[test]
fn a_filter_that_comes_and_goes_is_an_outage() {
    let filter = dir().join("filter");
    fs::File::create(&filter).unwrap();
    let case = at(8087);
    let mut daemon = case.command(&["start", "--exit-on-auth-failure"]).start();
    daemon.line("no verdict on the token");
    fs::remove_file(&filter).unwrap();
    daemon.line("connected");
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
}
