//! Whom the machine trusts, and what it shows of itself.

use std::os::unix::fs::PermissionsExt;

use crate::{Case, DIRECT, file};

const BRIDGE: &str = "https://bridge.corp";

#[test]
fn a_private_authority() {
    Case::at(BRIDGE).works(DIRECT);
    Case::at("https://bridge.corp:4432").works(DIRECT);
    Case::at("https://bridge.corp/sub/").works(DIRECT);
    Case::of(BRIDGE).env("BRIDGE_CA_FILE", &file("ca.pem")).works(DIRECT);
    Case::of(BRIDGE).env("SSL_CERT_FILE", &file("ca.pem")).works(DIRECT);
    let ran =
        Case::of(BRIDGE).fails(2, &["TLS with bridge.corp failed", "caFile", "BRIDGE_CA_FILE"]);
    ran.without("is the bridge up");
    // A directory of certificates, without the names that c_rehash makes.
    let case = Case::of(BRIDGE);
    case.home.put("roots/corp.pem", &std::fs::read_to_string(file("ca.pem")).unwrap());
    let roots = case.home.path().join("roots").to_str().unwrap().to_owned();
    case.env("SSL_CERT_DIR", &roots).works(DIRECT);
    // Both count.
    Case::of(BRIDGE)
        .env("SSL_CERT_FILE", &file("ca.pem"))
        .key("caFile", file("certs/self.pem"))
        .works(DIRECT);
    Case::at(BRIDGE).env("SSL_CERT_FILE", &file("certs/self.pem")).works(DIRECT);
    Case::at(BRIDGE).connects(DIRECT);
}

#[test]
fn files_that_are_none_are_told_at_the_start() {
    for (key, value, said) in [
        ("caFile", "/no/such.pem", "the CA file /no/such.pem can't be read"),
        ("caFile", "/etc/hosts", "holds no certificate in PEM form"),
    ] {
        let case = Case::of(BRIDGE).key(key, value);
        case.fails(1, &[said]);
        case.command(&["start"]).run().expect(78, &[said]);
    }
    let case = Case::of(BRIDGE).env("SSL_CERT_FILE", "/no/such.pem");
    case.command(&["start"]).run().expect(78, &["SSL_CERT_FILE names /no/such.pem"]);
}

#[test]
fn a_certificate_that_signed_itself_is_trusted_by_name() {
    let url = "https://bridge.corp:8444";
    Case::of(url).key("caFile", file("certs/self.pem")).works(DIRECT);
    Case::of(url).key("caFile", file("certs/self.pem")).connects(DIRECT);
    Case::at(url).fails(2, &["TLS with bridge.corp failed"]);
    let other = Case::of("https://other.corp:8444").key("caFile", file("certs/self.pem"));
    other.fails(2, &["not for other.corp", "bridge.corp"]);
}

#[test]
fn dates_and_names() {
    let old = Case::at("https://bridge.corp:8445").fails(2, &["good until 2024-02-01T00:00:00"]);
    old.without("is the bridge up");
    Case::at("https://bridge.corp:8446").fails(2, &["not for bridge.corp", "other.example"]);
    Case::at("https://bridge.corp:80").whoami().expect(2, &["does not speak TLS"]);
}

#[test]
fn the_machine_shows_who_it_is() {
    let url = "https://bridge.corp:8443";
    let case = |key: &str| {
        Case::at(url).key("clientCert", file("certs/machine.pem")).key("clientKey", file(key))
    };
    for key in ["certs/machine.key", "certs/machine-pkcs1.key"] {
        std::fs::set_permissions(file(key), std::fs::Permissions::from_mode(0o600)).unwrap();
        case(key).works(DIRECT);
    }
    case("certs/machine.key").connects(DIRECT);
    let seen = Case::at(url).whoami().expect(3, &["clientCert", "clientKey"]);
    seen.without("login page");
    case("ca.pem").command(&["start"]).run().expect(78, &["others on this machine can read"]);
    std::fs::set_permissions(file("certs/other.key"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    case("certs/other.key").whoami().expect(2, &["can't be used"]);
    let half = Case::at(url).key("clientCert", file("certs/machine.pem"));
    half.command(&["start"]).run().expect(78, &["clientKey is not"]);
}
