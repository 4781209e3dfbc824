//! Issuers as people write them.
#![expect(clippy::unwrap_used, reason = "tests")]

use millrace_config::{Config, ConfigError, is_safe_for_keys};

const WHOLE: &str = r#"
[issuers.corp]
issuer = "https://login.example"
discovery = true
audience = ["millrace"]
tenant = "acme"
"#;

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("millrace.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), std::iter::empty(), [])
}

#[test]
fn what_is_wrong_with_an_issuer_is_said() {
    let corp = &load(WHOLE).unwrap().issuers["corp"];
    assert_eq!((corp.skew_ms, corp.refresh_ms, corp.user_claim.as_str()), (30_000, 600_000, "sub"));
    let check = |from: &str, to: &str, parts: &[&str]| {
        let error = load(&WHOLE.replace(from, to)).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    };
    check("discovery = true", "", &["issuers.corp", "discovery = true, jwks_url or jwks_file"]);
    check("discovery = true", "discovery = true\njwks_file = \"x\"", &["issuers.corp", "one source"]);
    check("discovery = true", "jwks_url = \"http://x/keys\"", &["issuers.corp.jwks_url", "https"]);
    check("https://login", "http://login", &["issuers.corp.issuer", "https"]);
    check("issuer = \"https://login.example\"", "", &["issuers.corp.issuer", "missing"]);
    check("[\"millrace\"]", "[]", &["issuers.corp.audience", "`aud`"]);
    check("tenant = \"acme\"", "", &["issuers.corp", "tenant or tenant_claim"]);
    check("tenant = \"acme\"", "tenant_claim = \"t\"", &["issuers.corp.tenants", "name the tenants"]);
    check("tenant = \"acme\"", "tenant = \"acme\"\ntenants = [\"b\"]", &["issuers.corp.tenants", "tenant_claim"]);
    check("tenant = \"acme\"", "tenant = \"a/b\"", &["issuers.corp.tenants", "`a/b`"]);
    for other in ["none", "HS256", "rs256"] {
        let to = format!("tenant = \"acme\"\nalgorithms = [\"{other}\"]");
        check("tenant = \"acme\"", &to, &["issuers.corp.algorithms", other, "RS256"]);
    }
    check("tenant = \"acme\"", "tenant = \"acme\"\nalgorithms = []", &["issuers.corp.algorithms", "empty"]);
    check("tenant = \"acme\"", "tenant = \"acme\"\nskew_ms = 300001", &["issuers.corp.skew_ms", "300000"]);
    check("tenant = \"acme\"", "tenant = \"acme\"\nrefresh_ms = 0", &["issuers.corp.refresh_ms"]);
    check("tenant = \"acme\"", "tenant = \"acme\"\nkeys = [\"ops\"]", &["issuers.corp.keys", "key_claim"]);
    check("tenant = \"acme\"", "tenant = \"acme\"\nkey_claim = \"groups\"", &["issuers.corp.keys"]);
    check("[issuers.corp]", "[issuers.\"a b\"]", &["issuers.\"a b\"", "no id"]);
    let twice = format!("{WHOLE}{}", WHOLE.replace("corp", "again"));
    assert!(load(&twice).unwrap_err().to_string().contains("`https://login.example` again"));
}

#[test]
fn keys_are_read_over_tls_or_from_this_machine() {
    for good in ["https://x/keys", "http://127.0.0.1:1/k", "http://localhost", "http://[::1]:80/k", "http://[::1]"] {
        assert!(is_safe_for_keys(good), "{good}");
    }
    for bad in [
        "http://x/keys",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example",
        "http://127.0.0.1:80@evil.example/",
        "http://127.0.0.1@evil.example",
        "https://user@x/",
        "https://",
        "ftp://127.0.0.1",
        "file:///etc/keys",
        "",
    ] {
        assert!(!is_safe_for_keys(bad), "{bad}");
    }
}
