//! Tests of the configuration.

use super::{agents::Vars, *};

fn env(vars: &[(&str, &str)]) -> Env {
    Env {
        home: PathBuf::from("/home/dev"),
        cwd: PathBuf::from("/cwd"),
        vars: vars
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
    }
}

fn load(file: &str, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let object = serde_json::from_str(file).unwrap();
    let file = ConfigFile { path: PathBuf::from("/c.json"), object };
    Config::from_file(&file, &env(vars))
}

#[test]
fn defaults_are_the_reference_s() {
    let config = load("{}", &[]).unwrap();
    assert_eq!(config.base_url, "https://agent-bridge.obto.co");
    assert_eq!(config.origin_host, "agent-bridge.obto.co");
    assert_eq!(config.engine, Engine::CLAUDE);
    assert_eq!(config.project_dir, Path::new("/cwd"));
    assert_eq!(config.codex_sandbox, "workspace-write");
    assert_eq!(
        (config.relay_permissions, config.allow_all, config.live_guard),
        (false, false, false)
    );
    assert_eq!(config.relay_timeout, Duration::from_mins(10));
    assert_eq!(config.request_timeout, Duration::from_secs(30));
    assert_eq!(config.machine.as_str(), host_name());
    assert!(config.token.is_none());
}

#[test]
fn a_request_has_some_time() {
    let config = load(r#"{"requestTimeoutMs":5}"#, &[]).unwrap();
    assert_eq!(config.request_timeout, Duration::from_millis(5));
    let error = load("{}", &[("BRIDGE_REQUEST_TIMEOUT_MS", "0")]).unwrap_err();
    assert!(error.0.contains("BRIDGE_REQUEST_TIMEOUT_MS is 0"), "{error}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = r#"{"baseUrl":"https://file/","apiToken":"obto_file","agentId":"file","agent":"codex",
        "relayPermissions":true,"allowAll":true,"relayTimeoutMs":5,"projectDir":"/file","maxTurns":2}"#;
    let config = load(file, &[]).unwrap();
    assert_eq!(config.base_url, "https://file");
    assert_eq!(config.token, Some(Token::new("obto_file")));
    assert_eq!((config.engine, config.max_turns), (Engine::CODEX, 2));
    assert!(config.relay_permissions && config.allow_all);

    let vars = [
        ("BRIDGE_BASE_URL", "http://env:1//"),
        ("BRIDGE_API_TOKEN", "obto_env"),
        ("AGENT_ID", "env"),
        ("BRIDGE_AGENT", "OpenCode"),
        ("BRIDGE_RELAY_PERMISSIONS", "0"),
        ("BRIDGE_ALLOW_ALL", ""),
        ("BRIDGE_RELAY_TIMEOUT_MS", "7"),
        ("BRIDGE_PROJECT_DIR", "sub"),
    ];
    let config = load(file, &vars).unwrap();
    assert_eq!(config.base_url, "http://env:1");
    assert_eq!(config.token, Some(Token::new("obto_env")));
    assert_eq!(config.machine.as_str(), "env");
    assert_eq!(config.engine, Engine::OPENCODE);
    assert!(!config.relay_permissions, "0 is off");
    assert!(config.allow_all, "an empty variable counts as unset");
    assert_eq!(config.relay_timeout, Duration::from_millis(7));
    assert_eq!(config.project_dir, Path::new("/cwd/sub"));
}

#[track_caller]
fn refused(file: &str, vars: &[(&str, &str)], words: &[&str]) {
    let error = load(file, vars).expect_err(file).to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    refused(r#"{"agentId":7}"#, &[], &["agentId", "/c.json", "a number", "a string"]);
    refused(r#"{"allowAll":"yes"}"#, &[], &["allowAll", "true or false"]);
    refused(r#"{"maxTurns":0}"#, &[], &["maxTurns", "at least 1"]);
    refused(r#"{"maxTurns":-1}"#, &[], &["maxTurns", "whole number"]);
    refused(r#"{"codexSandbox":"none"}"#, &[], &["codexSandbox", "workspace-write"]);
    refused(r#"{"baseUrl":"bridge.example"}"#, &[], &["baseUrl", "https://"]);
    refused(r#"{"agents":[]}"#, &[], &["agents"]);
    refused(r#"{"agents":{"x":{"command":"gemini --acp"}}}"#, &[], &["\"x\"", "list of strings"]);
    refused(r#"{"agents":{"../x":{"command":["a"]}}}"#, &[], &["../x", "letters"]);
    refused("{}", &[("BRIDGE_ALLOW_ALL", "maybe")], &["BRIDGE_ALLOW_ALL", "1 or 0"]);
    refused(
        "{}",
        &[("BRIDGE_RELAY_TIMEOUT_MS", "1m")],
        &["BRIDGE_RELAY_TIMEOUT_MS", "whole number"],
    );
    refused("{}", &[("BRIDGE_CODEX_SANDBOX", "x")], &["BRIDGE_CODEX_SANDBOX"]);
    refused(
        "{}",
        &[("BRIDGE_API_TOKEN_FILE", "/nonexistent")],
        &["BRIDGE_API_TOKEN_FILE", "/nonexistent"],
    );
}

#[test]
fn paths_are_absolute_and_begin_at_home_or_here() {
    let file = r#"{"projectDir":"~/p","projectDirs":["sub","/abs","~/x/y"],"caFile":"ca.pem"}"#;
    let config = load(file, &[]).unwrap();
    assert_eq!(config.home, "/home/dev");
    assert_eq!(config.project_dir, "/home/dev/p");
    assert_eq!(config.project_dirs, ["/cwd/sub", "/abs", "/home/dev/x/y"]);
    assert_eq!(config.network.ca_file.as_deref(), Some(Path::new("/cwd/ca.pem")));
}

#[test]
fn a_bad_token_is_refused_without_being_shown() {
    let error = load(r#"{"apiToken":"obto_se cret"}"#, &[]).unwrap_err().to_string();
    assert!(error.contains("apiToken") && !error.contains("cret"), "{error}");
    assert_eq!(format!("{:?}", Token::new("obto_secret")), "Token(…)");
}

#[test]
fn agents_are_read_by_name() {
    let file = r#"{"agents":{"Gemini":{"command":["gemini","--acp"],"authMethod":"vertex-ai",
        "env":{"GEMINI_API_KEY":"s3cret","EMPTY":""}},"plain":{"command":["p"],"env":null}}}"#;
    let config = load(file, &[]).unwrap();
    let gemini = &config.agents[&Engine::new("gemini")];
    assert_eq!(gemini.command, ["gemini", "--acp"]);
    assert_eq!(gemini.auth_method.as_deref(), Some("vertex-ai"));
    let variable = |name: &str, value: &str| (name.into(), value.into());
    let expected = [variable("EMPTY", ""), variable("GEMINI_API_KEY", "s3cret")];
    assert_eq!(gemini.env.reveal().collect::<Vec<_>>(), expected);
    assert_eq!(config.agents[&Engine::new("plain")].env, Vars::default());
}

/// `env` was ignored without a word, and so was every misspelt key.
#[test]
fn a_key_that_agents_do_not_have_is_refused() {
    let agent = |entry: &str, words: &[&str]| {
        let file = format!(r#"{{"apiToken":"obto_t0ken","agents":{{"x":{entry}}}}}"#);
        refused(&file, &[], words);
        let error = load(&file, &[]).unwrap_err().to_string();
        assert!(!error.contains("s3cret") && !error.contains("t0ken"), "{error}");
    };
    let keys = "it may have command, env, authMethod";
    agent(r#"{"command":["a"],"enviroment":{"K":"s3cret"}}"#, &["\"x\"", "enviroment", keys]);
    agent(r#"{"command":["a"],"cwd":"/s3cret"}"#, &["\"cwd\"", keys, "/c.json"]);
    agent(r#"{"command":["a"],"args":["--acp"]}"#, &["\"args\"", keys]);
    agent(r#"{"command":["a"],"env":["K=s3cret"]}"#, &["agents.x.env", "an object of strings"]);
    agent(r#"{"command":["a"],"env":{"K":7}}"#, &["agents.x.env.K", "a number", "a string"]);
    agent(r#"{"command":["a"],"env":{"A=B":"s3cret"}}"#, &["A=B", "no variable"]);
    agent(r#"{"command":["a"],"env":{"K":"s3cret\u0000"}}"#, &["env.K", "no variable"]);
    agent(r#"{"command":["a"],"env":{"BRIDGE_URL":"s3cret"}}"#, &["BRIDGE_URL", "don't get"]);
    agent(r#"{"command":["a"],"env":{"K":"x obto_t0ken"}}"#, &["env.K", "the token"]);
    agent(r#"{"command":["a"],"authMethod":7}"#, &["agents.x.authMethod", "a string"]);
}

#[test]
fn variables_of_agents_never_print() {
    let file = r#"{"agents":{"x":{"command":["a"],"env":{"KEY":"s3cret"}}}}"#;
    let config = load(file, &[]).unwrap();
    let printed = format!("{config:?} {:#?}", config.agents);
    assert!(printed.contains("KEY") && !printed.contains("s3cret"), "{printed}");
}

#[test]
fn a_broken_file_is_an_error_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for (text, words) in [
        ("{\n  \"a\": 1,\n}", vec!["line 3", "column 1", "init"]),
        ("[]", vec!["no JSON object"]),
        ("", vec!["line 1"]),
        ("\u{feff}{}", vec!["line 1"]),
    ] {
        put(&path, text);
        let error = ConfigFile::read(&path).unwrap_err().to_string();
        for word in words.into_iter().chain(["config.json"]) {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    }
}

#[test]
fn foreign_keys_survive_a_rewrite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    put(&path, r#"{"theirs":{"deep":[1,null]},"agentId":"a"}"#);
    let mut file = ConfigFile::read(&path).unwrap();
    file.set("agentId", "b");
    let written: Value = serde_json::from_slice(&file.to_bytes()).unwrap();
    assert_eq!(written, serde_json::json!({"theirs":{"deep":[1,null]},"agentId":"b"}));
}

#[test]
fn every_request_sees_the_file_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    put(&path, r#"{"apiToken":"obto_old"}"#);
    let live = live::Live::new(&path, &env(&[]));
    assert_eq!(live.connection().unwrap().token, Token::new("obto_old"));
    put(&path, r#"{"apiToken":"obto_rotated"}"#);
    assert_eq!(live.connection().unwrap().token, Token::new("obto_rotated"));
    put(&path, "{}");
    assert!(live.connection().unwrap_err().to_string().contains("obto-bridge init"));
    put(&path, "{");
    assert!(live.connection().unwrap_err().to_string().contains("line 1"));
}

#[expect(clippy::disallowed_methods, reason = "a test prepares files that need not be durable")]
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
