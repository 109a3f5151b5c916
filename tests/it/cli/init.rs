//! `init` from flags alone.

use std::{fs, os::unix::fs::MetadataExt};

use serde_json::json;

use crate::util::{bin::Home, sick_bridge::SickBridge};

/// An address at which nobody listens: that of a server that has just been closed.
fn nowhere() -> String {
    SickBridge::start(|_, _| {}).url()
}

#[test]
fn what_flags_say_is_written_for_the_owner_alone() {
    let home = Home::new();
    let args = ["init", "--token", "obto_abc123", "--account", "ACC_1", "--base-url"];
    let more = ["--machine", "box", "--project", ".", "--agent", "Codex", "--relay", "no"];
    let url = nowhere();
    let ran = home.run(&[&args[..], &[&format!("{url}/")], &more].concat());
    ran.expect(0, &["warning: not verified", "obto-bridge start"]).without("obto_abc123");
    let project = fs::canonicalize(home.path()).unwrap();
    assert_eq!(
        home.read_config(),
        json!({"baseUrl": url, "originHost": "127.0.0.1", "accountId": "ACC_1",
            "apiToken": "obto_abc123", "agentId": "box", "agent": "codex",
            "projectDir": project, "relayPermissions": false})
    );
    let bits = |path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(bits(home.config()), 0o600);
    assert_eq!(bits(home.path().join(".obto-bridge")), 0o700);
}

#[test]
fn what_is_there_already_stays() {
    let home = Home::new();
    let url = nowhere();
    home.put(
        ".obto-bridge/config.json",
        &json!({"apiToken": "obto_old", "agentId": "old", "theirs": {"deep": [1]},
            "relayPermissions": false, "baseUrl": url, "projectDir": "/tmp"})
        .to_string(),
    );
    home.run(&["init", "--machine", "new"]).expect(0, &["Keeping the token"]);
    let config = home.read_config();
    assert_eq!(config["theirs"], json!({"deep": [1]}));
    assert_eq!((&config["apiToken"], &config["agentId"]), (&json!("obto_old"), &json!("new")));
    assert_eq!(config["relayPermissions"], false);
    assert_eq!((&config["baseUrl"], &config["projectDir"]), (&json!(url), &json!("/tmp")));
}

#[test]
fn wrong_input_is_1_and_writes_nothing() {
    let home = Home::new();
    for (args, words) in [
        (&[][..], "--token TOKEN"),
        (&["--token", "ghp_x"], "obto_"),
        (&["--token", "obto_"], "obto_"),
        (&["--token", "obto_a", "--account", "me"], "acc_"),
        (&["--email", "ada"], "no e-mail address"),
        (&["--token", "obto_a", "--project", "missing"], "does not exist"),
        (&["--token", "obto_a", "--relay", "perhaps"], "yes or no"),
        (&["--token", "obto_a", "--base-url", "bridge.example"], "https://"),
    ] {
        home.run(&[&["init"], args].concat()).expect(1, &[words]);
        assert!(!home.config().exists(), "{args:?}");
    }
    home.put(".obto-bridge/config.json", "{");
    home.run(&["init", "--token", "obto_a"]).expect(1, &["line 1"]);
}

#[cfg(feature = "serve")]
mod with_a_bridge {
    use super::*;
    use crate::cli::Bridge;

    #[test]
    fn a_token_from_the_input_is_verified() {
        let home = Home::new();
        let bridge = Bridge::start(&home, false);
        let args = ["init", "--base-url", &bridge.url(), "--token", "-"];
        let ran = home.command(&args).input(&format!("{}\n", bridge.token)).run();
        ran.expect(0, &["The bridge knows acc_"]).without(&bridge.token);
        assert_eq!(home.read_config()["apiToken"], bridge.token);
    }

    #[test]
    fn a_token_that_is_refused_is_2() {
        let home = Home::new();
        let url = Bridge::start(&home, false);
        let args = ["init", "--base-url", &url.url(), "--token", "obto_wrong"];
        home.run(&args).expect(2, &["401"]);
        assert!(!home.config().exists(), "nothing was written");
        // One that works stays where it is.
        url.configure(&home);
        home.run(&args).expect(2, &["401"]);
        assert_eq!(home.read_config()["apiToken"], url.token);
    }

    #[test]
    fn what_is_wrong_is_found_before_an_account_is_made() {
        let home = Home::new();
        let bridge = Bridge::start(&home, true);
        let args = ["init", "--base-url", &bridge.url(), "--email", "ann@example.org"];
        let wrong = |more: &[&str], word: &str| {
            home.run(&[&args[..], more].concat()).expect(1, &[word]);
            assert!(!home.config().exists());
        };
        wrong(&["--project", "missing"], "missing does not exist");
        wrong(&["--relay", "perhaps"], "perhaps");
        home.run(&[&args[..], &["--token", "obto_x"]].concat()).expect(2, &["--token", "--email"]);
        // So the name is still free. A project may be below the home directory.
        home.put("shop/README", "");
        home.run(&[&args[..], &["--project", "~/shop"]].concat())
            .expect(0, &["as ann", "knows acc_"]);
        assert_eq!(home.read_config()["projectDir"], home.path().join("shop").to_str().unwrap());
    }

    #[test]
    fn flags_win_over_the_environment() {
        let home = Home::new();
        let bridge = Bridge::start(&home, false);
        let args = ["init", "--base-url", &bridge.url(), "--token", &bridge.token];
        let command = home.command(&args).env("BRIDGE_API_TOKEN", "obto_env");
        command.env("BRIDGE_BASE_URL", &nowhere()).run().expect(0, &["knows acc_"]);
    }

    #[test]
    fn an_account_is_registered() {
        let home = Home::new();
        let bridge = Bridge::start(&home, true);
        let args = ["init", "--base-url", &bridge.url(), "--email", "grace@example.org"];
        let ran = home.run(&args).expect(0, &["grace@example.org as grace", "knows acc_"]);
        let shown = ran.stdout.split("shown only now: ").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(shown.len(), 12);
        let config = home.read_config();
        let token = config["apiToken"].as_str().unwrap();
        assert!(token.starts_with("obto_") && !ran.stdout.contains(token));
        home.run(&args).expect(2, &["taken"]);
        let more = ["--username", "hopper", "--password", "correct horse"];
        let ran = home.run(&[&args[..], &more].concat()).expect(0, &["as hopper"]);
        ran.without("shown only now").without("correct horse");
    }

    #[test]
    fn a_closed_bridge_registers_nobody() {
        let home = Home::new();
        let bridge = Bridge::start(&home, false);
        let args = ["init", "--base-url", &bridge.url(), "--email", "grace@example.org"];
        home.run(&args).expect(2, &["403"]);
        assert!(!home.config().exists());
    }
}
