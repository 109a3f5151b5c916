//! `status` on what either version of the reference, or nobody, wrote.

use serde_json::{Value, json};

use crate::util::bin::Home;

const STATE: &str = ".agent-bridge-daemon/state.json";

#[test]
fn a_table_of_both_versions() {
    let home = Home::new();
    home.put(
        STATE,
        r#"{"bindings":{
            "flat":{"sessionId":"s-1","projectDir":"/p","lastDriveAt":"2020-01-01T00:00:00Z"},
            "new":{"agentId":"box","sessions":{"codex":{"sessionId":"s-2"}}},
            "bare":{}}}"#,
    );
    let text = home.run(&["status"]).expect(69, &["No daemon is running", "LAST DRIVE"]).stdout;
    let table = &text[text.find("THREAD").unwrap()..];
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["bare", "-", "-", "-"]);
    assert_eq!(rows[2][..3], ["flat", "claude", "s-1"]);
    assert!(table.lines().nth(2).unwrap().ends_with(" d ago"), "{table}");
    assert_eq!(rows[3], ["new", "codex", "s-2", "-"]);

    let status = home.run(&["status", "--json"]).expect(69, &[]).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["daemon"], Value::Null);
    let list = &status["threads"];
    assert_eq!(list[0]["threadId"], "bare");
    assert_eq!(list[1]["lastDriveAt"], "2020-01-01T00:00:00.000Z");
    assert_eq!(
        list[2],
        json!({"threadId": "new", "agentId": "box", "agent": "codex", "sessionId": "s-2",
            "projectDir": null, "lastDriveAt": null})
    );
}

#[test]
fn no_file_is_no_failure_and_a_broken_one_is() {
    let home = Home::new();
    home.run(&["status"]).expect(69, &["no threads yet", "No daemon is running"]);
    let empty = home.run(&["status", "--json"]).expect(69, &[]);
    let empty: Value = serde_json::from_str(&empty.stdout).unwrap();
    assert_eq!(empty, json!({"daemon": null, "threads": []}));
    home.put(STATE, "{\n\"bindings\": {");
    home.run(&["status"]).expect(1, &["state.json", "line 2"]);
}
