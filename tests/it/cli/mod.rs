//! The command line, by the real binary.

mod account;
mod init;
mod journal;
#[cfg(all(feature = "serve", target_os = "linux"))]
mod leave;
#[cfg(feature = "serve")]
mod local;
mod policy;
#[cfg(feature = "serve")]
mod run;
mod start;
mod status;
#[cfg(feature = "serve")]
mod user;

use crate::util::bin::Home;
#[cfg(feature = "serve")]
use obto_bridge::serve::{Options, Server, password::Cost};

/// A bridge with one account, in the directory of a test.
#[cfg(feature = "serve")]
struct Bridge {
    server: Server,
    token: String,
}

#[cfg(feature = "serve")]
impl Bridge {
    fn start(home: &Home, allow_register: bool) -> Bridge {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut options = Options::new(listen, home.path().join("bridge"));
        options.allow_register = allow_register;
        options.password_cost = Cost::CHEAP;
        let server = Server::start(options).unwrap();
        let token = server.create_account("ada").unwrap().1.reveal().to_owned();
        Bridge { server, token }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.addr())
    }

    /// Writes the config of a machine on this bridge.
    fn configure(&self, home: &Home) {
        let config = serde_json::json!({"baseUrl": self.url(), "apiToken": self.token});
        home.put(".obto-bridge/config.json", &config.to_string());
    }
}

/// Whoever reads an empty file and a 0 takes that for the answer.
#[cfg(target_os = "linux")]
#[test]
fn output_that_can_not_be_written_is_74() {
    let home = Home::new();
    home.put(".obto-bridge/config.json", r#"{"apiToken":"obto_x"}"#);
    let full = |args: &[&str]| home.command(args).after("exec >/dev/full").run();
    let lost = |args: &[&str]| {
        full(args).expect(74, &["obto-bridge: the output can't be written", "No space left"])
    };
    lost(&["--help"]);
    lost(&["--version"]);
    lost(&["start", "--help"]);
    lost(&["policy", "test", "claude", "run", "make"]);
    lost(&["status"]);
    lost(&["status", "--json"]);
    #[cfg(feature = "serve")]
    {
        lost(&["local", "--send", "hi", "--agent", "echo"]);
        lost(&["serve", "user", "add", "ann"]);
        lost(&["serve", "user", "list"]);
        lost(&["serve", "backup", "copy.sqlite"]);
    }
    lost(&["logout"]);
    // Why it failed counts more.
    full(&["launch"]).expect(2, &["launch"]);
    full(&["whoami"]).expect(1, &["no API token"]);
    // A reader that went away had enough. Opened for both, the pipe has a reader until then.
    let gone = "mkfifo pipe && exec 3<>pipe >pipe && exec 3<&-";
    home.command(&["--help"]).after(gone).run().expect(0, &[]).without("can't be written");
}

#[test]
fn version_and_help_and_usage() {
    let home = Home::new();
    let version = home.run(&["--version"]).expect(0, &[]);
    assert_eq!(version.stdout.trim(), env!("CARGO_PKG_VERSION"));
    let help = home.run(&["--help"]).expect(0, &["Commands:", "rotate-token"]);
    assert!(!help.stdout.contains("echo-agent"), "it is no command for people");
    let none = home.run(&[]).expect(2, &["Commands:"]);
    assert_eq!(none.stdout, "", "usage is an error here");
    home.run(&["launch"]).expect(2, &["launch", "--help"]);
    home.run(&["status", "--yaml"]).expect(2, &["--yaml", "obto-bridge status --help"]);
    home.run(&["strat"]).expect(2, &["Did you mean `start`?"]);
    home.run(&["status", "--jsno"]).expect(2, &["Did you mean `--json`?"]);
    assert_eq!(home.run(&["version"]).expect(0, &[]).stdout, version.stdout);
    for help in [&["start", "-h"][..], &["help", "start"], &["start", "--help"]] {
        home.run(help).expect(0, &["--log-format"]);
    }
    home.run(&["start", "--log-format=xml"]).expect(2, &["json or text"]);
    // In a directory that was deleted.
    for args in [&["--version"][..], &["--help"], &["logout"]] {
        home.command(args).after("mkdir gone && cd gone && rmdir ../gone").run().expect(0, &[]);
    }
    home.command(&["status"]).after("mkdir gone && cd gone && rmdir ../gone").run().expect(69, &[]);
    home.run(&["start", "--log-format", "xml"]).expect(2, &["json or text"]);
    for command in ["init", "start", "status", "whoami", "rotate-token", "logout", "policy"] {
        home.run(&[command, "--help"]).expect(0, &[command, "Options:"]);
    }
}

#[test]
fn the_echo_agent_speaks_on_its_streams() {
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}"#;
    let ran = Home::new().command(&["echo-agent"]).input(&format!("{hello}\n")).run();
    ran.expect(0, &[r#""protocolVersion":1"#]);
}
