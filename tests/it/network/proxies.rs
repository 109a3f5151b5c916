//! Proxies: which one counts, how each kind is spoken to, and what is said when one does not work.

use crate::{Case, DIRECT, SOCKS, SOCKS_WITH_LOGIN, SQUID, TINYPROXY, file};

const HTTPS: &str = "https://bridge.corp";
const HTTP: &str = "http://bridge.corp";
/// As servers.sh makes it: `p@ss:w/o#%`.
const LOGIN: &str = "ann:p%40ss%3Aw%2Fo%23%25";

fn https(proxy: &str) -> Case {
    Case::at(HTTPS).env("HTTPS_PROXY", proxy)
}

#[test]
fn without_a_proxy_it_connects_directly() {
    Case::at(HTTPS).works(DIRECT);
    Case::at(HTTP).works(DIRECT);
    Case::at(HTTPS).connects(DIRECT);
}

#[test]
fn squid_in_every_spelling() {
    for proxy in [
        "http://proxy.corp:3128",
        "proxy.corp:3128",
        "http://10.9.0.2:3128/",
        " HTTP://PROXY.corp:3128 ",
    ] {
        https(proxy).works(SQUID);
    }
    Case::at(HTTPS).env("https_proxy", "http://proxy.corp:3128").works(SQUID);
    Case::at(HTTPS).env("ALL_PROXY", "http://proxy.corp:3128").works(SQUID);
    https("http://proxy.corp:3128").connects(SQUID);
    // The proxy looks the name up: this machine does not know it.
    let unknown = Case::at("https://nobody.corp").env("HTTPS_PROXY", "http://proxy.corp:3128");
    unknown.fails(
        2,
        &[
            "the proxy http://proxy.corp:3128 (HTTPS_PROXY)",
            "it does not connect to nobody.corp:443",
        ],
    );
}

#[test]
fn a_bridge_without_tls_is_asked_for_by_its_full_address() {
    let case = Case::at(HTTP).env("HTTP_PROXY", "http://proxy.corp:3128");
    case.works(SQUID);
    case.connects(SQUID);
    Case::at(HTTP).env("HTTP_PROXY", &format!("http://{LOGIN}@proxy.corp:3129")).works(SQUID);
    Case::at(HTTP).env("HTTP_PROXY", "https://proxy.corp:3130").works(SQUID);
    Case::at(HTTP)
        .env("HTTP_PROXY", "http://proxy.corp:3129")
        .fails(3, &["status 407", "a proxy wants a user name", "proxyAuthFile"]);
}

#[test]
fn the_scheme_decides_which_one_counts() {
    Case::at(HTTP).env("HTTPS_PROXY", "http://proxy.corp:9").works(DIRECT);
    Case::at(HTTPS).env("HTTP_PROXY", "http://proxy.corp:9").works(DIRECT);
    let both = https("http://proxy.corp:3128").env("ALL_PROXY", "http://proxy.corp:9");
    both.works(SQUID);
}

#[test]
fn passwords() {
    let login = format!("http://{LOGIN}@proxy.corp:3129");
    https(&login).works(SQUID);
    https(&login).connects(SQUID);
    for (proxy, said) in [
        ("http://proxy.corp:3129", "407, it wants a user name and a password"),
        ("http://ann:s3cret@proxy.corp:3129", "407, it refuses the user name or the password"),
        ("http://proxy.corp:3131", "NTLM"),
    ] {
        let ran = https(proxy).fails(2, &[said, "(HTTPS_PROXY)"]);
        ran.without("407/407").without("is the bridge up");
    }
    https("http://ann:secret@proxy.corp:8888").works(TINYPROXY);
    https("http://ann:secret@proxy.corp:8888").connects(TINYPROXY);
    let case = Case::at(HTTPS).key("proxy", "http://proxy.corp:3129");
    case.home.put("login", "ann:p@ss:w/o#%\n");
    let path = case.home.path().join("login");
    let case = case.key("proxyAuthFile", path.to_str().unwrap());
    case.works(SQUID);
    case.connects(SQUID);
}

#[test]
fn a_proxy_that_speaks_tls() {
    https("https://proxy.corp:3130").works(SQUID);
    https("https://proxy.corp:3130").connects(SQUID);
    let case = Case::of(HTTPS).env("HTTPS_PROXY", "https://proxy.corp:3130");
    case.fails(2, &["the proxy https://proxy.corp:3130 (HTTPS_PROXY)", "caFile"]);
}

#[test]
fn socks() {
    for (scheme, host) in [("socks5", "proxy.corp"), ("socks5h", "10.9.0.2")] {
        let case = Case::at(HTTPS).env("ALL_PROXY", &format!("{scheme}://{host}:1080"));
        case.works(SOCKS);
        case.connects(SOCKS);
        Case::at(HTTP).env("ALL_PROXY", &format!("{scheme}://{host}:1080")).works(SOCKS);
        https(&format!("{scheme}://ann:secret@{host}:1081")).works(SOCKS_WITH_LOGIN);
    }
    https("socks5h://proxy.corp").works(SOCKS);
    https("socks5h://ann:s3cret@proxy.corp:1081")
        .fails(2, &["refuses the user name or the password"]);
    https("socks5h://proxy.corp:1081").fails(2, &["wants a user name and a password"]);
    https("socks5h://proxy.corp:9").fails(2, &["the proxy socks5h://proxy.corp:9", "refused"]);
    https("socks4://proxy.corp").fails(1, &["socks4", "HTTPS_PROXY"]);
    https("socks5h://bridge.corp:80").whoami().expect(2, &["does not speak SOCKS 5"]);
}

#[test]
fn one_that_can_not_be_used_is_an_error_and_never_passed_by() {
    for proxy in [
        "http://bob:s3cret#ss@proxy.corp:3129",
        "http://bob:s3cret/ss@proxy.corp:3129",
        "CORP\\eve:s3cret@proxy.corp:3129",
        "http://böb:s3cret@proxy.corp:3129",
        "http://bob:s3cret@ss@proxy.corp:3129",
        "http://bob:s3cret%ss@proxy.corp:3129",
        "htp:/proxy.corp",
    ] {
        let case = https(proxy);
        case.fails(1, &["HTTPS_PROXY is no usable address of a proxy"]);
        case.command(&["start"]).run().expect(78, &["HTTPS_PROXY"]).without("s3cret");
    }
    for (proxy, said) in [
        (
            "http://proxy.corp:9",
            "connecting to the proxy http://proxy.corp:9 (HTTPS_PROXY): Connection refused",
        ),
        (
            "http://no-such-proxy:3128",
            "looking for the proxy http://no-such-proxy:3128 (HTTPS_PROXY)",
        ),
        ("http://proxy.corp:3132", "it does not connect to bridge.corp:443: 503 Busy"),
        ("http://proxy.corp:3135", "it does not speak HTTP"),
    ] {
        https(proxy).fails(2, &[said]).without("is the bridge up");
    }
    https("http://proxy.corp:3133").works(SQUID);
    https("http://proxy.corp:3134").works(SQUID);
}

#[test]
fn this_machine_is_never_proxied_unless_the_config_says_so() {
    let seen = crate::Seen::now();
    for host in ["127.0.0.1", "localhost"] {
        let case =
            Case::at(&format!("http://{host}:4780")).env("HTTP_PROXY", "http://proxy.corp:9");
        case.whoami().expect(0, &["owner"]);
        let asked = Case::at(&format!("http://{host}:4780")).key("proxy", "http://proxy.corp:9");
        asked.fails(2, &["connecting to the proxy", "\"proxy\" in"]);
    }
    // The line that `serve` prints, behind a company's proxy.
    let home = crate::util::bin::Home::new();
    let token = std::fs::read_to_string(file("bridge/token")).unwrap();
    home.command(&["init", "--yes", "--base-url", "http://127.0.0.1:4780", "--token", "-"])
        .env("HTTPS_PROXY", "http://proxy.corp:9")
        .env("HTTP_PROXY", "http://proxy.corp:9")
        .input(&token)
        .run()
        .expect(0, &["The bridge knows"]);
    seen.check("nowhere");
}

#[test]
fn exceptions() {
    for list in [
        "bridge.corp",
        ".corp",
        "*.corp",
        "*",
        "BRIDGE.CORP",
        "corp",
        "localhost, bridge.corp",
        "localhost bridge.corp",
        "bridge.corp:443",
    ] {
        https("http://proxy.corp:9").env("NO_PROXY", list).works(DIRECT);
    }
    https("http://proxy.corp:9").env("no_proxy", "bridge.corp").works(DIRECT);
    https("http://proxy.corp:9").key("noProxy", "bridge.corp").works(DIRECT);
    https("http://proxy.corp:3128").env("NO_PROXY", "bridge.corp:8443, other.corp").works(SQUID);
    https("http://proxy.corp:3128").env("NO_PROXY", "bridge.corp").key("noProxy", "x").works(SQUID);
    for list in ["10.9.0.0/16", "10.9.0.1", "10.9.0.1:80"] {
        let case = Case::at("http://10.9.0.1").env("HTTP_PROXY", "http://proxy.corp:9");
        case.env("NO_PROXY", list).works(DIRECT);
    }
}

#[test]
fn the_config_is_above_the_environment() {
    let env = || https("http://proxy.corp:9").env("NO_PROXY", "x");
    env().key("proxy", "http://proxy.corp:3128").works(SQUID);
    env().env("BRIDGE_PROXY", "http://proxy.corp:3128").works(SQUID);
    env().key("proxy", "direct").works(DIRECT);
    env().key("proxy", "http://proxy.corp:9").fails(2, &["\"proxy\" in"]);
}

#[test]
fn name_servers() {
    let at = |host: &str| Case::at(&format!("http://{host}"));
    at("slow.corp").whoami().expect(0, &["owner"]);
    at("no-such.corp").fails(2, &["the name no-such.corp can't be looked up"]);
    let dead = at("dead.corp").env("BRIDGE_REQUEST_TIMEOUT_MS", "2000");
    dead.fails(2, &["dead.corp can't be looked up: the name server did not answer in time"]);
}
