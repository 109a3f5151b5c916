//! What no answer of a person's gives to an agent, with everything else allowed: the bridge's own
//! files; and what a rule denies, by another name of it.

use crate::{
    control::{Scene, run},
    homes::Engine,
    rig::Setup,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink};

/// Nobody answers, so what is asked is refused.
fn open(more: &Value) -> Value {
    let mut config = json!({
        "relayPermissions": false,
        "permissions": {"allow": ["read", "edit", "run", "mcp", "other"]},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The call of the engine's own tool for reading, where it has one.
fn read(engine: Engine, path: &str) -> String {
    match engine {
        Engine::Claude => format!("[[tool:Read {}]]", json!({"file_path": path})),
        Engine::Opencode => format!("[[tool:read {}]]", json!({"filePath": path})),
        _ => String::new(),
    }
}

/// The model was sent the results of all that it called, and the secret is not in them.
#[track_caller]
fn kept(scene: &Scene, secret: &str, calls: usize) {
    scene.result(1, "over");
    let requests = scene.rig.model.requests();
    assert!(requests.len() > calls, "{} requests for {calls} calls", requests.len());
    assert!(!requests.iter().any(|it| it.mentions(secret)), "the model was sent the token");
    scene.assert_questions(0);
}

fn token(scene: &Scene) -> String {
    let config = fs::read_to_string(scene.rig.home.path(".obto-bridge/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    config["apiToken"].as_str().unwrap().to_owned()
}

pub(crate) fn its_token_is_not_read_by_any_path(engine: Engine) {
    let setup = Setup::logged_in();
    let own = setup.home.path(".obto-bridge/config.json").display().to_string();
    symlink(setup.home.path(".obto-bridge"), setup.home.project().join("link")).unwrap();
    let around = "/proc/self/cwd/../.obto-bridge/config.json";
    let paths = [&own, "../.obto-bridge/config.json", "link/config.json", around];
    let mut calls: Vec<String> =
        paths.iter().map(|path| run(engine, &format!("cat {path}"))).collect();
    // Also in its sandbox, where it asks nobody.
    calls.extend(paths.iter().map(|path| format!("[[shell:cat {path}]]")));
    calls.extend([own.as_str(), "link/config.json"].map(|path| {
        let absolute = setup.home.project().join(path).display().to_string();
        read(engine, &absolute)
    }));
    calls.retain(|call| !call.is_empty());
    let text = format!("look {}[[text:over]]", calls.concat());
    let scene = Scene::of(setup, engine, &open(&json!({})), &text);
    kept(&scene, &token(&scene), calls.len());
}

/// There engines ask for less.
pub(crate) fn its_token_is_not_read_in_a_project_that_it_is_in(engine: Engine) {
    let setup = Setup::logged_in();
    let own = setup.home.path(".obto-bridge/config.json").display().to_string();
    let mut calls = vec!["[[shell:cat .obto-bridge/config.json]]".to_owned()];
    calls.push("[[shell:grep -rs apiToken .obto-bridge]]".to_owned());
    calls.push("[[shell:grep -s apiToken .*/*]]".to_owned());
    calls.push(read(engine, &own));
    calls.retain(|call| !call.is_empty());
    let text = format!("look {}[[text:over]]", calls.concat());
    let home = setup.home.path("").display().to_string();
    let config = open(&json!({"projectDir": home.trim_end_matches('/')}));
    let scene = Scene::of(setup, engine, &config, &text);
    kept(&scene, &token(&scene), calls.len());
}

pub(crate) fn what_is_denied_is_not_written_by_another_name(engine: Engine) {
    let setup = Setup::logged_in();
    let project = setup.home.project();
    fs::create_dir_all(project.join(".git/hooks")).unwrap();
    symlink(".git", project.join("link")).unwrap();
    let own = setup.home.path(".obto-bridge/config.json").display().to_string();
    let inside = |path: &str| project.join(path).display().to_string();
    let paths = [
        inside(".git/hooks/pre-commit"),
        inside("link/hooks/pre-commit"),
        "/proc/self/cwd/.git/hooks/pre-commit".to_owned(),
        own.clone(),
    ];
    let writes = paths.map(|path| format!("[[write:{path}|x]]")).concat();
    let text = format!("write {writes}[[write:{}|x]][[text:over]]", inside("fine"));
    let rules = json!({"permissions": {"allow": ["read", "edit"], "deny": ["edit(.git/**)"]}});
    let scene = Scene::of(setup, engine, &open(&rules), &text);
    scene.result(1, "over");
    assert!(scene.has("fine"), "it can write");
    assert!(!scene.has(".git/hooks/pre-commit"), "it was denied");
    assert!(token(&scene).len() > 8, "the configuration is as it was");
    scene.assert_questions(0);
}
