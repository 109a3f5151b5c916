//! Which proxy counts for which address.

use proptest::{prelude::*, proptest};

use super::*;

/// The settings of `VARIABLE=value`; `proxy` and `noProxy` are the config's keys.
fn settings(list: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    let mut env = Env::default();
    for (name, value) in list {
        let setting = Setting { place: format!("{name:?}"), value: (*value).to_owned() };
        match *name {
            "proxy" => settings.proxy = Some(setting),
            "noProxy" => settings.no_proxy = Some(setting),
            _ => {
                env.vars.insert((*name).into(), (*value).into());
            }
        }
    }
    settings.env = EnvSettings::read(&env).unwrap();
    settings
}

/// The way to `url`: "direct", or the proxy as it is shown.
fn route(list: &[(&str, &str)], url: &str) -> String {
    match settings(list).route(&url.parse().unwrap()).unwrap() {
        Route::Direct(_) => "direct".to_owned(),
        Route::Via(proxy) => proxy.to_string(),
    }
}

#[track_caller]
fn check(list: &[(&str, &str)], url: &str, expected: &str) {
    assert_eq!(route(list, url), expected, "{list:?} {url}");
}

#[test]
fn each_scheme_has_its_proxy() {
    let both = [("HTTP_PROXY", "http://a:1"), ("HTTPS_PROXY", "b:2"), ("ALL_PROXY", "socks5://c")];
    check(&both, "http://bridge", "http://a:1 (HTTP_PROXY)");
    check(&both, "https://bridge", "http://b:2 (HTTPS_PROXY)");
    check(&both[..1], "https://bridge", "direct");
    check(&both[1..2], "http://bridge", "direct");
    check(&both[2..], "http://bridge", "socks5://c:1080 (ALL_PROXY)");
    check(&both[2..], "https://bridge", "socks5://c:1080 (ALL_PROXY)");
    check(&[], "https://bridge", "direct");
    let small = [("https_proxy", "https://P.Corp/")];
    check(&small, "https://bridge", "https://p.corp:443 (https_proxy)");
    check(&[("HTTPS_PROXY", ""), small[0]], "https://bridge", "https://p.corp:443 (https_proxy)");
    // What a web server hands its scripts is no setting.
    let cgi = [("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")];
    check(&cgi, "http://bridge", "direct");
    check(&[cgi[1], ("http_proxy", "b:1")], "http://bridge", "http://b:1 (http_proxy)");
}

#[test]
fn the_config_is_above_the_environment() {
    let env = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "bridge"), ("proxy", "http://b:2")];
    check(&env, "https://bridge", "direct");
    check(&env, "https://other", "http://b:2 (\"proxy\")");
    let none = [env[0], env[1], env[2], ("noProxy", "other")];
    check(&none, "https://bridge", "http://b:2 (\"proxy\")");
    check(&none, "https://other", "direct");
    check(&[env[0], ("proxy", "direct")], "https://bridge", "direct");
}

#[test]
fn this_machine_is_not_proxied_unless_the_config_says_so() {
    for host in ["localhost", "LOCALHOST:4780", "127.0.0.1:4780", "127.9.9.9", "[::1]:1"] {
        let url = format!("http://{host}/");
        check(&[("HTTP_PROXY", "a:1")], &url, "direct");
        check(&[("proxy", "a:1")], &url, "http://a:1 (\"proxy\")");
    }
    check(&[("HTTP_PROXY", "a:1")], "http://localhost.corp", "http://a:1 (HTTP_PROXY)");
    check(&[("HTTP_PROXY", "a:1")], "http://[::ffff:127.0.0.1]", "direct");
}

#[test]
fn exceptions() {
    let is_direct = |list: &str, url: &str| {
        let env = [("HTTPS_PROXY", "a:1"), ("HTTP_PROXY", "a:1"), ("NO_PROXY", list)];
        route(&env, url) == "direct"
    };
    for (list, url) in [
        ("*", "https://bridge.corp"),
        ("bridge.corp", "https://bridge.corp"),
        ("BRIDGE.Corp", "https://bridge.corp"),
        (".corp", "https://bridge.corp"),
        ("*.corp", "https://bridge.corp"),
        ("corp", "https://bridge.corp"),
        ("localhost, bridge.corp", "https://bridge.corp"),
        ("localhost bridge.corp", "https://bridge.corp"),
        ("bridge.corp:443", "https://bridge.corp"),
        ("bridge.corp:8443", "https://bridge.corp:8443"),
        ("10.0.0.0/8", "http://10.1.2.3:99"),
        ("10.1.2.3", "http://10.1.2.3:99"),
        ("10.1.2.3:99", "http://10.1.2.3:99"),
        ("0.0.0.0/0", "http://10.1.2.3"),
        ("fd00::/8", "http://[fd12::1]:7"),
        ("fd12::1", "http://[fd12::1]:7"),
        ("[fd12::1]:7", "http://[fd12::1]:7"),
        ("bridge.corp.", "https://bridge.corp"),
    ] {
        assert!(is_direct(list, url), "{list} {url}");
    }
    for (list, url) in [
        ("", "https://bridge.corp"),
        ("bridge", "https://bridge.corp"),
        ("ridge.corp", "https://bridge.corp"),
        ("bridge.corp:8443", "https://bridge.corp"),
        ("10.0.0.0/8", "http://11.1.2.3"),
        ("10.0.0.0/33", "http://10.1.2.3"),
        ("10.0.0.0/x", "http://10.1.2.3"),
        ("10.0.0.0/8", "http://bridge.corp"),
        ("[fd12::1]:8", "http://[fd12::1]:7"),
        (",,. ,", "https://bridge.corp"),
    ] {
        assert!(!is_direct(list, url), "{list} {url}");
    }
}

#[test]
fn names_and_passwords_are_decoded_once() {
    let settings = settings(&[("HTTPS_PROXY", "http://b%C3%B6b:p%40ss%3Aw%2Fo%23%2525@p:3128")]);
    let Route::Via(proxy) = settings.route(&"https://b".parse().unwrap()).unwrap() else {
        panic!("it is used")
    };
    let credentials = proxy.credentials.clone().unwrap();
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("böb", "p@ss:w/o#%25"));
    assert!(!format!("{proxy:?} {proxy}").contains("ss:w"), "it is a secret");
    let file = Credentials::parse("ann:x:y\nmore\n").unwrap();
    assert_eq!((file.user.as_str(), file.password.as_str()), ("ann", "x:y"));
    assert_eq!(Credentials::parse("ann"), None);
    let settings = Settings { credentials: Some(file.clone()), ..settings };
    let Route::Via(proxy) = settings.route(&"https://b".parse().unwrap()).unwrap() else {
        panic!("it is used")
    };
    assert_eq!(proxy.credentials, Some(file));
}

#[test]
fn what_is_no_proxy_is_refused_and_not_passed_by() {
    for (value, why) in [
        ("http://bob:s3cret#ss@proxy:3129", "%23"),
        ("http://bob:s3cret/ss@proxy:3129", "%2F"),
        ("CORP\\eve:s3cret@proxy:3129", "%5C"),
        ("http://bob:s3cretü@proxy", "%C3%BC"),
        ("http://bob:s3cret ss@proxy", "%20"),
        ("http://bob:s3cret@ss@proxy", "%40"),
        ("http://bob:s3cret%@proxy", "%25"),
        ("http://bob:s3cret%zz@proxy", "%25"),
        ("http://bob:%FFs3cret@proxy", "UTF-8"),
        ("http://proxy:3128/path", "'/' can't stand there"),
        ("htp://proxy", "htp://"),
        ("htp:/proxy", "'/' can't stand there"),
        ("socks4://proxy", "socks5h"),
        ("http://", "no host"),
        ("http://:3128", "no host"),
        ("http://proxy:0", "no port"),
        ("http://proxy:99999", "no port"),
        ("http://proxy:x", "no port"),
        ("http://::1:3128", "brackets"),
        ("http://[::1", "bracket"),
        ("http://[bridge]:1", "no IPv6"),
        ("http://[::1]x", "after the bracket"),
        ("http://pro,xy", "no host"),
        ("pröxy", "can't stand there"),
    ] {
        for url in ["https://bridge", "https://localhost"] {
            let refused = settings(&[("HTTPS_PROXY", value)]).route(&url.parse().unwrap());
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("HTTPS_PROXY"), "{value}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
    check(
        &[("HTTPS_PROXY", " http://[::1]:3128/ ")],
        "https://b",
        "http://[::1]:3128 (HTTPS_PROXY)",
    );
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(proxy in ".*", none in ".*", host in "[a-z0-9.:\\[\\]]{1,20}") {
        if let Ok(url) = format!("https://{host}/").parse() {
            let settings = settings(&[("proxy", &proxy), ("noProxy", &none)]);
            drop(settings.route(&url));
        }
    }

    #[test]
    fn a_network_has_what_begins_with_its_bits(ip: u32, network: u32, bits in 0..=32u32) {
        let expected = bits == 0 || ip >> (32 - bits) == network >> (32 - bits);
        let v4 = |bits: u32| IpAddr::V4(bits.into());
        prop_assert_eq!(is_in(v4(ip), v4(network), bits), expected);
    }
}
