//! `run`: one prompt, and an exit code for each way in which it can end.

use std::{fs, net::TcpListener};

use obto_bridge::task;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Bridge;
use crate::util::{
    bin::{Command, Home, Running},
    fake::{self, Gate},
    http::Conn,
    patience::comes_true,
    sick_bridge::SickBridge,
};

/// A bridge, and a machine that may run jobs on it.
fn rig(config: Value) -> (Home, Bridge) {
    let home = Home::new();
    let bridge = Bridge::start(&home, false);
    let mut all = json!({"baseUrl": bridge.url(), "apiToken": bridge.token});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    home.put(".obto-bridge/config.json", &all.to_string());
    (home, bridge)
}

fn job(home: &Home, args: &[&str]) -> Command {
    home.command(&[&["run"], args].concat()).env("TMPDIR", home.path().to_str().unwrap())
}

/// Says something on the thread as a person's program does.
fn say(bridge: &Bridge, thread: &str, body: &str) {
    let mut conn = Conn::open(bridge.server.addr());
    let body = json!({"threadId": thread, "body": body});
    conn.request("POST", "/api/reply", &bridge.token, Some(&body)).ok();
}

/// What agents and the daemon have said on it.
fn said(bridge: &Bridge, thread: &str) -> String {
    let mut conn = Conn::open(bridge.server.addr());
    let path = format!("/api/messages?threadId={thread}");
    // There is none before the prompt is posted.
    conn.request("GET", &path, &bridge.token, None).json()["messages"].to_string()
}

/// The thread of a job that runs, from the address that it prints first.
fn thread(job: &mut Running) -> String {
    let line = job.line("Thread: ");
    line.rsplit_once("/api/view#t/").unwrap().1.to_owned()
}

fn nothing_is_left(home: &Home) {
    let left = fs::read_dir(home.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with("obto-bridge-")), "a directory is left");
}

#[test]
fn an_answer_is_0_and_alone_on_standard_output() {
    let (home, bridge) = rig(json!({}));
    let ran = job(&home, &["--agent", "echo", "--prompt", "hello"]).run();
    let ran = ran.expect(0, &["Thread: http://", "/api/view#t/"]);
    assert_eq!(ran.stdout, "Echo agent (no model): You said: hello\n");
    let address = ran.stderr.lines().next().unwrap().strip_prefix("Thread: ").unwrap();
    let (base, thread) = address.split_once("/api/view#t/").unwrap();
    assert_eq!(base, bridge.url());
    assert!(said(&bridge, thread).contains("You said: hello"), "it is on the page as well");
    nothing_is_left(&home);
    // A file, or what comes in.
    home.put("prompt.txt", "from a file");
    let ran = job(&home, &["--agent", "echo", "--prompt-file", "prompt.txt"]).run();
    ran.expect(0, &["You said: from a file"]);
    let ran = job(&home, &["--agent", "echo", "--prompt-file", "-"]).input("from a pipe").run();
    ran.expect(0, &["You said: from a pipe"]);
    // A machine with a name of its own may go on on its thread.
    let again = |text| job(&home, &["--agent", "echo", "--thread", "t1", "--prompt", text]);
    again("one").env("AGENT_ID", "builder").run().expect(0, &["You said: one"]);
    again("two").env("AGENT_ID", "builder").run().expect(0, &["You said: two"]);
    again("three").run().expect(1, &["belongs to builder"]);
}

#[test]
fn json_is_as_its_schema_says() {
    let (home, _bridge) = rig(json!({}));
    let schema = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/run.schema.json"));
    let schema: Value = serde_json::from_str(&schema.unwrap()).unwrap();
    for (agent, code) in [("echo", 0), ("claude", 10)] {
        let ran = job(&home, &["--agent", agent, "--prompt", "hello", "--json"]).run();
        let ran = ran.expect(code, &[]);
        let object: Value = serde_json::from_str(&ran.stdout).unwrap();
        let keys = object.as_object().unwrap();
        let properties = schema["properties"].as_object().unwrap();
        assert!(keys.keys().eq(properties.keys()), "{object}");
        assert!(
            schema["required"]
                .as_array()
                .unwrap()
                .iter()
                .all(|key| keys.contains_key(key.as_str().unwrap()))
        );
        assert!(
            schema["properties"]["outcome"]["enum"]
                .as_array()
                .unwrap()
                .contains(&object["outcome"])
        );
        for (key, value) in keys {
            let kinds = &properties[key]["type"];
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(number) if number.is_u64() => "integer",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            let fits = kinds.is_null()
                || *kinds == kind
                || kinds.as_array().is_some_and(|kinds| kinds.contains(&kind.into()));
            assert!(
                fits || (*kinds == "number" && kind == "integer"),
                "{key} is {value}, and {kinds} is wanted"
            );
        }
        assert_eq!(
            (object["exitCode"].as_i64(), object["agent"].as_str()),
            (Some(code.into()), Some(agent))
        );
    }
}

#[test]
fn an_agent_that_fails_is_10() {
    let (home, _bridge) = rig(json!({"agents": {"broken": {"command": ["false"]}}}));
    job(&home, &["--agent", "claude", "--prompt", "x"]).run().expect(10, &["was not found"]);
    let ran = job(&home, &["--agent", "broken", "--prompt", "x"]).run().expect(10, &["broken"]);
    assert_eq!(ran.stdout, "");
    nothing_is_left(&home);
}

/// A machine whose agent stops at a gate before it answers.
fn gated() -> (Home, Bridge, Gate) {
    let gate = Gate::new();
    let (home, bridge) = rig(json!({"agents": {"slow": {"command": gate.acp("late")}}}));
    (home, bridge, gate)
}

const SLOW: [&str; 4] = ["--agent", "slow", "--prompt", "x"];

#[test]
fn a_limit_is_11_and_the_thread_is_told() {
    let (home, bridge, gate) = gated();
    let mut run =
        job(&home, &[&SLOW[..], &["--timeout", "2", "--json"]].concat()).after("exec 2>&1").start();
    let thread = thread(&mut run);
    let held = gate.next();
    run.end().expect(11, &["\"outcome\": \"limit\"", "--timeout"]);
    assert!(said(&bridge, &thread).contains("--timeout"), "{}", said(&bridge, &thread));
    drop(held);
    nothing_is_left(&home);
}

#[test]
fn a_person_who_stops_it_is_12() {
    let (home, bridge, gate) = gated();
    let mut run = job(&home, &SLOW).after("exec 2>&1").start();
    let thread = thread(&mut run);
    let held = gate.next();
    say(&bridge, &thread, "/stop");
    run.end().expect(12, &["Stopped."]);
    drop(held);
}

#[test]
fn a_signal_of_the_runner_is_its_code_and_the_thread_is_told() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (home, bridge, gate) = gated();
        let mut run = job(&home, &SLOW).after("exec 2>&1").start();
        let thread = thread(&mut run);
        let held = gate.next();
        run.signal(signal);
        run.end().expect(code, &["ended by signal"]);
        let said = said(&bridge, &thread);
        assert!(
            said.contains("ended by signal") && said.contains("does not go on by itself"),
            "{said}"
        );
        assert!(!said.contains("When it runs again"), "{said}");
        drop(held);
        nothing_is_left(&home);
    }
}

#[test]
fn what_is_denied_is_13_and_with_ask_it_is_put_to_people() {
    let records = |home: &Home| home.path().join("records").to_str().unwrap().to_owned();
    let home = Home::new();
    let command = [fake::example("asking-agent").to_str().unwrap().to_owned(), records(&home)];
    let bridge = Bridge::start(&home, true);
    let config = json!({"baseUrl": bridge.url(), "apiToken": bridge.token, "agents": {"asker": {"command": command}}});
    home.put(".obto-bridge/config.json", &config.to_string());
    let args = ["--agent", "asker", "--prompt", "ask make install"];
    job(&home, &args).run().expect(13, &["was denied"]);
    // The rules alone decide, so there is no question on the page; with --ask there is.
    let mut run =
        job(&home, &[&args[..], &["--ask", "--json"]].concat()).after("exec 2>&1").start();
    let thread = thread(&mut run);
    assert!(comes_true(|| said(&bridge, &thread).contains("\"kind\":\"question\"")), "it is asked");
    say(&bridge, &thread, "deny");
    run.end().expect(13, &["\"denied\": true"]);
}

#[test]
fn a_bridge_out_of_reach_is_69_and_one_that_refuses_77() {
    let home = Home::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |url: &str| {
        let job = job(&home, &["--agent", "echo", "--prompt", "x", "--timeout", "2"]);
        job.env("BRIDGE_BASE_URL", url)
            .env("BRIDGE_API_TOKEN", "obto_s3cr3t")
            .run()
            .without("obto_s3cr3t")
    };
    run(&format!("http://{nobody}")).expect(69, &["can't be reached", "Connection refused"]);
    let wall = SickBridge::start(|_, conn| conn.answer(403, "", "<html>blocked"));
    run(&wall.url()).expect(69, &["can't be reached", "no verdict on the token"]);
    let strict = SickBridge::start(|_, conn| conn.json(401, json!({"error": "no such token"})));
    run(&strict.url()).expect(77, &["refuses the token"]);
    nothing_is_left(&home);
}

#[test]
fn what_is_wrong_before_it_begins() {
    let (home, _bridge) = rig(json!({}));
    job(&home, &["--agent", "echo"]).run().expect(2, &["--prompt"]);
    job(&home, &["--prompt", "x", "--prompt-file", "y"]).run().expect(2, &["--prompt"]);
    job(&home, &["--prompt", " "]).run().expect(2, &["empty"]);
    job(&home, &["--prompt", "x", "--follow", "soon"]).run().expect(2, &["90s, 10m or 2h"]);
    job(&home, &["--prompt-file", "nowhere"]).run().expect(1, &["nowhere"]);
    let echo = ["--agent", "echo", "--prompt", "x"];
    job(&home, &echo).env("TMPDIR", "/no/such").run().expect(1, &["TMPDIR"]);
    job(&home, &echo).after("exec >/dev/full").run().expect(74, &["can't be written"]);
    let empty = Home::new();
    job(&empty, &echo).run().expect(78, &["no API token"]);
    empty.put(".obto-bridge/config.json", "{");
    job(&empty, &echo).run().expect(78, &["not valid JSON"]);
}

#[test]
fn what_is_said_later_is_answered_until_it_is_quiet() {
    let (home, bridge) = rig(json!({}));
    let mut run = job(&home, &["--agent", "echo", "--prompt", "one", "--follow", "3s"])
        .after("exec 2>&1")
        .start();
    let thread = thread(&mut run);
    assert!(comes_true(|| said(&bridge, &thread).contains("You said: one")));
    say(&bridge, &thread, "two");
    assert!(comes_true(|| said(&bridge, &thread).contains("You said: two")));
    run.end().expect(0, &["You said: two"]);
}

#[test]
fn several_at_once_do_not_meet() {
    let (home, _bridge) = rig(json!({}));
    let plans: Vec<_> = (0..4)
        .map(|number| job(&home, &["--agent", "echo", "--prompt", &format!("number {number}")]))
        .collect();
    let tasks: Vec<_> = plans
        .into_iter()
        .enumerate()
        .map(|(number, job)| {
            task::spawn("job", move || {
                job.run().expect(0, &[&format!("You said: number {number}")]);
            })
            .unwrap()
        })
        .collect();
    for task in tasks {
        task.join().unwrap();
    }
    nothing_is_left(&home);
}
