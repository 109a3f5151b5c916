//! `whoami`, `rotate-token` and `logout`.

use serde_json::json;

use crate::util::{bin::Home, sick_bridge::SickBridge};

const CONFIG: &str = ".obto-bridge/config.json";

#[test]
fn each_failure_has_its_code() {
    let home = Home::new();
    for command in ["whoami", "rotate-token"] {
        home.put(CONFIG, "{}");
        home.run(&[command]).expect(1, &["no API token"]);
        home.put(CONFIG, "{");
        home.run(&[command]).expect(1, &["line 1"]);
        let gone = SickBridge::start(|_, _| {}).url();
        home.put(CONFIG, &json!({"apiToken": "obto_x", "baseUrl": gone}).to_string());
        home.run(&[command]).expect(2, &["no answer"]);
        let strict = SickBridge::start(|_, conn| conn.json(401, json!({"error": "no"})));
        home.put(CONFIG, &json!({"apiToken": "obto_x", "baseUrl": strict.url()}).to_string());
        home.run(&[command]).expect(3, &["401"]).without("obto_x");
    }
}

/// A full disk: no byte can be written to any file.
const FULL: &str = "trap '' XFSZ; ulimit -f 0";

#[test]
fn a_new_token_that_cannot_be_stored_is_printed() {
    let home = Home::new();
    let answer = |_: &_, conn: &mut crate::util::sick_bridge::Conn| {
        conn.json(200, json!({"ok": true, "apiToken": "obto_thenewone123"}));
    };
    let bridge = SickBridge::start(answer);
    home.put(CONFIG, &json!({"apiToken": "obto_old", "baseUrl": bridge.url()}).to_string());
    let ran = home.command(&["rotate-token"]).after(FULL).run();
    let ran = ran.expect(4, &["config.json", "the old token is dead"]);
    assert_eq!(ran.stdout.trim(), "obto_thenewone123");
    assert_eq!(home.read_config()["apiToken"], "obto_old", "half a file is worse than an old one");
}

#[test]
fn a_token_from_the_environment_is_not_rotated() {
    let home = Home::new();
    let command = home.command(&["rotate-token"]).env("BRIDGE_API_TOKEN", "obto_x");
    command.run().expect(1, &["BRIDGE_API_TOKEN", "unset"]);
}

#[test]
fn logout_removes_the_config_and_keeps_the_state() {
    let home = Home::new();
    home.put(CONFIG, r#"{"apiToken":"obto_x"}"#);
    home.put(".agent-bridge-daemon/state.json", "{}");
    home.run(&["logout"]).expect(0, &["removed"]);
    assert!(!home.config().exists());
    assert!(home.path().join(".agent-bridge-daemon/state.json").exists());
    home.run(&["logout"]).expect(0, &["no configuration"]);
}

#[cfg(feature = "serve")]
mod with_a_bridge {
    use std::fs;

    use super::*;
    use crate::cli::Bridge;

    #[test]
    fn whoami_tells_who_and_where() {
        let home = Home::new();
        let bridge = Bridge::start(&home, false);
        bridge.configure(&home);
        let ran = home.command(&["whoami"]).env("AGENT_ID", "box").run();
        ran.expect(0, &["acc_", "ada", "box", &bridge.url(), "active"]).without(&bridge.token);
    }

    #[test]
    fn rotation_ends_the_old_token_and_keeps_the_old_file() {
        let home = Home::new();
        let bridge = Bridge::start(&home, false);
        bridge.configure(&home);
        let before = home.read_config();
        let ran = home.run(&["rotate-token"]).expect(0, &["no longer works", "config.json.bak."]);
        let token = home.read_config()["apiToken"].as_str().unwrap().to_owned();
        assert_ne!(token, bridge.token);
        ran.without(&token).without(&bridge.token);
        home.run(&["whoami"]).expect(0, &["ada"]);
        let files = fs::read_dir(home.path().join(".obto-bridge")).unwrap();
        let backup = files
            .map(|file| file.unwrap())
            .find(|file| file.file_name().to_string_lossy().starts_with("config.json.bak."))
            .expect("the old file is kept");
        let old: serde_json::Value =
            serde_json::from_slice(&fs::read(backup.path()).unwrap()).unwrap();
        assert_eq!(old, before);
        home.command(&["whoami"]).env("BRIDGE_API_TOKEN", &bridge.token).run().expect(3, &["401"]);
    }
}
