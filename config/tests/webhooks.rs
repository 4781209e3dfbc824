//! Endpoints of webhooks, and what secrets of those that are made at run time are derived from.
#![expect(clippy::unwrap_used, reason = "tests")]

use millrace_config::{Config, ConfigError, OF_ENDPOINTS};

fn load_withholding(file: &str, withheld: &[&str]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("millrace.toml");
    std::fs::write(&path, file).unwrap();
    let env = [("KEY".to_owned(), "another key of at least 32 bytes!".to_owned())];
    Config::load_withholding(Some(&path), env.into_iter(), [], withheld)
}

fn load(file: &str) -> Result<Config, ConfigError> {
    load_withholding(file, &[])
}

fn check(result: Result<Config, ConfigError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn endpoints_of_webhooks_are_checked() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let load_with_endpoint = |endpoint: &str| load(&format!("[tenants.t]\nwebhooks = [{{ {endpoint} }}]"));
    let whole = format!("id = \"a\", url = \"https://h.example/x?y=z\", secrets = [\"{SECRET}\", \"{SECRET}\"]");
    let config = load_with_endpoint(&whole).unwrap();
    let endpoint = &config.tenants["t"].webhooks[0];
    assert!(endpoint.wants("response.failed") && endpoint.keys().len() == 2 && endpoint.keys()[0].len() == 24);
    assert!(!config.dump().contains(SECRET) && !format!("{config:?}").contains(SECRET));

    let check_endpoint = |endpoint: &str, parts: &[&str]| check(load_with_endpoint(endpoint), parts);
    let url = "url = \"https://h.example\"";
    check_endpoint(&format!("id = \"a\", {url}"), &["tenants.t.webhooks[0].secrets", "missing", "openssl rand"]);
    for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_c2hvcnQ="] {
        let parts = ["tenants.t.webhooks[0].secrets", "base64 of 24 to 64 bytes"];
        check_endpoint(&format!("id = \"a\", {url}, secrets = [\"{secret}\"]"), &parts);
    }
    let three = format!("id = \"a\", {url}, secrets = [\"{SECRET}\", \"{SECRET}\", \"{SECRET}\"]");
    check_endpoint(&three, &["secrets", "are 3"]);
    check_endpoint(&format!("{url}, secrets = [\"{SECRET}\"]"), &["tenants.t.webhooks[0].id", "no name"]);
    for (url, part) in [
        ("http://h.example", "use https"),
        ("ftp://h.example", "begin it with https"),
        ("https://me:pw@h.example", "credentials"),
        ("https://", "is no URL"),
        ("https://h.example/#x", "is no URL"),
    ] {
        check_endpoint(&format!("id = \"a\", url = \"{url}\", secrets = [\"{SECRET}\"]"), &["webhooks[0].url", part]);
    }
    check_endpoint(
        &format!("{whole}, events = [\"response.done\"]"),
        &["events", "`response.done`", "response.completed"],
    );
    check_endpoint(&format!("{whole} }}, {{ {whole}"), &["webhooks[1].id", "`a` again"]);
    check(load("[webhooks]\ntimeout_ms = 600000"), &["webhooks.timeout_ms", "at most 60000"]);
    load(&format!("[webhooks]\nallow_private = true\n[tenants.t]\nwebhooks = [{{ id = \"a\", url = \"http://127.0.0.1:1\", secrets = [\"{SECRET}\"] }}]")).unwrap();
}

#[test]
fn only_who_sends_webhooks_reads_their_secrets() {
    let file = "[tenants.t]\nkeys = [{ id = \"k\", key = \"mr-1\" }]\n\
                webhooks = [{ id = \"a\", url = \"https://h.example\", secrets = [{ env = \"SECRET\" }] }]";
    let config = load_withholding(file, &["webhooks"]).unwrap();
    assert!(config.tenants["t"].webhooks[0].secrets.is_empty());
    assert!(config.tenants["t"].keys.iter().all(|key| key.sha256.is_some()));
    check(load(file), &["SECRET is not set"]);
}

#[test]
fn what_secrets_are_derived_from_is_read_by_those_who_need_it_and_printed_nowhere() {
    const KEY: &str = "a key of at least thirty-two bytes";
    let file = format!(
        "[webhooks]\nsecret_keys = [{{ env = \"KEY\" }}, \"{KEY}\"]\n[tenants.t]\n\
         webhooks = [{{ id = \"a\", url = \"https://h.example\", secrets = [{{ env = \"NOT_SET\" }}] }}]"
    );
    let config = load_withholding(&file, &[OF_ENDPOINTS]).unwrap();
    let keys: Vec<&str> = config.webhooks.secret_keys.iter().map(|key| key.expose()).collect();
    assert_eq!(keys, ["another key of at least 32 bytes!", KEY]);
    assert!(config.tenants["t"].webhooks[0].secrets.is_empty());
    assert!(!config.dump().contains("thirty-two") && !format!("{config:?}").contains("thirty-two"));
    assert!(load_withholding(&file, &["webhooks"]).unwrap().webhooks.secret_keys.is_empty());
    check(load_withholding(&file, &[]), &["tenants.t.webhooks[0].secrets", "NOT_SET"]);

    check(load("[webhooks]\nsecret_keys = [\"short\"]"), &["webhooks.secret_keys[0]", "32 bytes", "openssl rand"]);
    check(load(&format!("[webhooks]\nsecret_keys = [\"{KEY}\", \"{KEY}\"]")), &["secret_keys[1]", "already"]);
    let five = (0..5).map(|n| format!("\"{KEY}{n}\"")).collect::<Vec<_>>().join(", ");
    check(load(&format!("[webhooks]\nsecret_keys = [{five}]")), &["webhooks.secret_keys", "are 5"]);
}
