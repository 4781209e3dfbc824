//! Configuration files as people write them, and variables as they set them.

use millrace_config::Config;
use millrace_mutate as mutate;
use proptest::prelude::*;

const FILES: &[&str] = &[
    include_str!("../millrace.example.toml"),
    "[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n[tenants.acme]\nreply_topics = [\"a\"]\njson_reply_topics = [\"a\"]\n",
    "[tenants.\"a.b\"]\nkeys = [{ id = \"k\", key = \"hunter2\" }]\n[topic_bindings.x]\ntenant = \"a.b\"\n",
];

const VALUES: &[&str] = &["1", "true", "[\"a\"]", "127.0.0.1:1", "{ env = \"X\" }"];

proptest! {
    #![proptest_config(mutate::cases(300))]

    #[test]
    fn a_configuration_is_whole_or_one_line_says_why(
        text in mutate::text(FILES),
        name in prop_oneof![Just("MILLRACE_KAFKA__BOOTSTRAP_SERVERS"), Just("MILLRACE_LIMITS__INLINE_BYTES"), Just("MILLRACE___"), Just("MILLRACE_X__Y")],
        value in mutate::text(VALUES),
        from_env: bool,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("millrace.toml");
        std::fs::write(&path, &text).expect("written");
        let env = from_env.then(|| (name.to_owned(), value));
        match Config::load(Some(&path), env.into_iter(), []) {
            Ok(config) => prop_assert!(config.validate().is_ok() && !config.dump().contains("hunter2")),
            Err(error) => {
                let said = error.to_string();
                prop_assert!(!said.is_empty() && said.len() < 20_000 && !said.contains("hunter2"), "{said}");
            }
        }
    }
}
