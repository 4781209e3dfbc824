//! Configurations as people write them: what they load as, and what they are told when wrong.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use millrace_config::{Config, ConfigError, LIVE, LogFormat, Origin, RESTART, StorageConfig, TopicBinding, hash_key};

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/millrace.example.toml"))
}

const EXAMPLE_ENV: [(&str, &str); 8] = [
    ("KAFKA_PASSWORD", "kafka-pw"),
    ("REGISTRY_PASSWORD", "registry-pw"),
    ("CQL_PASSWORD", "cql-pw"),
    ("QDRANT_API_KEY", "qdrant-pw"),
    ("OPENAI_API_KEY", "sk-live-1"),
    ("ACME_OPS_KEY", "mr-ops-1"),
    ("MILLRACE_ADMIN_KEY", "admin-pw"),
    ("ACME_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
];

fn load_with(file: &str, env: &[(&str, &str)], flags: &[(&str, toml::Value)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("millrace.toml");
    std::fs::write(&path, file).unwrap();
    Config::load(
        Some(&path),
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())),
    )
}

fn load(file: &str) -> Result<Config, ConfigError> {
    load_with(file, &[], &[])
}

fn load_example(skip: &str, withheld: &[&str]) -> Result<Config, ConfigError> {
    let env = EXAMPLE_ENV.iter().filter(|(name, _)| *name != skip);
    let env = env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_withholding(Some(example()), env, [], withheld)
}

/// Every message is one line and has its parts.
fn check(result: Result<Config, ConfigError>, parts: &[&str]) {
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    assert!(message.ends_with(&format!("[{}]", error.code())), "no code: {message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn nothing_at_all_is_a_valid_configuration() {
    let config = Config::load(None, std::iter::empty(), []).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_example_is_complete_and_loads() {
    let config = load_example("", &[]).unwrap();
    assert_eq!(config.kafka.client["sasl.password"], "kafka-pw");
    assert_eq!(config.kafka.consumer["fetch.wait.max.ms"], "100");
    assert_eq!(config.kafka.topic("calls"), "millrace.calls");
    assert_eq!(config.providers["openai"].api_key.as_ref().unwrap().expose(), "sk-live-1");
    assert_eq!(config.models["house"].upstream_name("house"), "llama3.2");
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    let ops = &config.tenants["acme"].keys[1];
    assert_eq!((ops.sha256.as_deref(), &ops.key), (Some(hash_key("mr-ops-1").as_str()), &None));
    let StorageConfig::Cql { password, replication_factor: 3, .. } = &config.storage else { panic!("not cql") };
    assert_eq!(password.as_ref().unwrap().expose(), "cql-pw");

    // Complete: every key that exists is written there, if only in a comment.
    let text = std::fs::read_to_string(example()).unwrap();
    let serde_json::Value::Object(sections) = serde_json::to_value(Config::default()).unwrap() else { panic!() };
    for (section, keys) in sections {
        for key in keys.as_object().unwrap().keys() {
            let written = text.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[{section}.{key}"))
            });
            assert!(written, "{section}.{key} is not in the example");
        }
    }
}

#[test]
fn the_examples_defaults_are_the_defaults() {
    let config = load_example("", &[]).unwrap();
    let default = Config::default();
    assert_eq!(config.stage, default.stage);
    assert_eq!(config.limits, default.limits);
    assert_eq!(config.ledger, default.ledger);
    assert_eq!(config.pricing, default.pricing);
    assert_eq!(config.webhooks, default.webhooks);
    assert_eq!(config.ingress.wait_ms, default.ingress.wait_ms);
    assert_eq!(config.ingress.max_body_bytes, default.ingress.max_body_bytes);
    assert_eq!(config.knowledge.chunk_tokens, default.knowledge.chunk_tokens);
}

#[test]
fn later_layers_win() {
    let file = "[kafka]\ntopic_prefix = \"file.\"\ngroup_prefix = \"file.\"\nbootstrap_servers = \"file:1\"";
    let env = [("MILLRACE_KAFKA__GROUP_PREFIX", "env."), ("MILLRACE_KAFKA__BOOTSTRAP_SERVERS", "env:1")];
    let config = load_with(file, &env, &[("kafka.bootstrap_servers", "flag:1".into())]).unwrap();
    assert_eq!(config.kafka.topic_prefix, "file.");
    assert_eq!(config.kafka.group_prefix, "env.");
    assert_eq!(config.kafka.bootstrap_servers, "flag:1");
    assert_eq!(config.kafka.generation, 0);
    let origin = |key: &str| config.origins.get(&["kafka".to_owned(), key.to_owned()]).cloned();
    assert_eq!(origin("topic_prefix"), Some(Origin::File("millrace.toml".to_owned())));
    assert_eq!(origin("group_prefix"), Some(Origin::Environment("MILLRACE_KAFKA__GROUP_PREFIX".to_owned())));
    assert_eq!(origin("bootstrap_servers"), Some(Origin::Flag));
    assert_eq!(origin("generation"), None);
}

#[test]
fn text_of_the_environment_takes_the_type_of_its_key() {
    let env = [
        ("MILLRACE_KAFKA__GENERATION", "3"),
        ("MILLRACE_KAFKA__CLIENT__SOCKET_TIMEOUT_MS", "1000"),
        ("MILLRACE_KAFKA__PARTITIONS", "4"),
        ("MILLRACE_REGISTRY__USERNAME", "12345"),
        ("MILLRACE_REGISTRY__PASSWORD", "0xff"),
        ("MILLRACE_STAGE__LANES", "batch"),
        ("MILLRACE_TELEMETRY__LISTEN", ""),
        ("MILLRACE_PROVIDERS__A__BASE_URL", "http://a/v1"),
        ("MILLRACE_MODELS__MY_MODEL_V2__CONTEXT_TOKENS", "16_384"),
        ("MILLRACE_TENANTS__ACME", "{ models = [\"my-model.v2\"] }"),
        ("MILLRACE_STORAGE__KIND", "cql"),
        ("MILLRACE_STORAGE__NODES", "a:1, b:2"),
    ];
    let file = "telemetry.listen = \"127.0.0.1:1\"\n[models.\"my-model.v2\"]\nprovider = \"a\"\ncontext_tokens = 8192";
    let config = load_with(file, &env, &[]).unwrap();
    assert_eq!(config.kafka.generation, 3);
    assert_eq!(config.kafka.client["socket.timeout.ms"], "1000");
    assert_eq!(config.kafka.partitions, Some(4));
    assert_eq!(config.registry.username.as_deref(), Some("12345"));
    assert_eq!(config.registry.password.as_ref().unwrap().expose(), "0xff");
    assert_eq!(config.stage.lanes, ["batch"]);
    assert_eq!(config.telemetry.listen, None);
    assert_eq!(config.models["my-model.v2"].context_tokens, 16_384);
    assert_eq!(config.tenants["acme"].models, ["my-model.v2"]);
    let StorageConfig::Cql { nodes, .. } = &config.storage else { panic!("not cql") };
    assert_eq!(nodes, &["a:1", "b:2"]);
}

#[test]
fn flags_reach_keys_with_dots() {
    let flags = [
        ("kafka.client.security.protocol", "ssl".into()),
        ("topic_bindings.acme.requests.tenant", "acme".into()),
        ("topic_bindings.acme.requests.lane", "interactive".into()),
        ("tenants.acme", toml::Value::Table(toml::Table::new())),
        ("providers.\"my.own\".base_url", "http://a/v1".into()),
    ];
    let config = load_with("", &[], &flags).unwrap();
    assert_eq!(config.kafka.client["security.protocol"], "ssl");
    let binding = TopicBinding { lane: "interactive".into(), ..TopicBinding::batch("acme") };
    assert_eq!(config.topic_bindings["acme.requests"], binding);
    assert_eq!(config.providers["my.own"].base_url, "http://a/v1");
}

#[test]
fn unknown_keys_are_refused_in_every_layer() {
    let file = "[kafka]\nbootstrap_server = \"a:1\"";
    assert_eq!(
        load(file).unwrap_err().to_string(),
        "unknown key `kafka.bootstrap_server` in millrace.toml; did you mean `kafka.bootstrap_servers`? [C003]"
    );
    check(load("[kafak]\n"), &["unknown key `kafak` in millrace.toml", "did you mean `kafka`?"]);
    check(load("zzz = 1\n"), &["`zzz`", "use one of: kafka, registry"]);
    check(
        load("[providers.openai]\nbase_url = \"http://a\"\ntimeout = 5"),
        &["`providers.openai.timeout`", "did you mean `providers.openai.timeout_ms`?"],
    );
    check(
        load("[[tenants.acme.keys]]\nid = \"a\"\nsha265 = \"\""),
        &["`tenants.acme.keys[0].sha265`", "did you mean `tenants.acme.keys[0].sha256`?"],
    );
    check(load("[storage]\nkind = \"cql\"\nnode = []"), &["did you mean `storage.nodes`?"]);
    check(
        load_with("", &[("MILLRACE_KAFKA__BOOTSTRAP", "a:1")], &[]),
        &["`kafka.bootstrap`", "the environment variable MILLRACE_KAFKA__BOOTSTRAP", "`kafka.bootstrap_servers`"],
    );
    check(
        load_with("", &[("MILLRACE_KAFKA_BOOTSTRAP_SERVERS", "a:1")], &[]),
        &["did you mean MILLRACE_KAFKA__BOOTSTRAP_SERVERS?"],
    );
    check(
        load_with("", &[], &[("ingress.lisen", "a:1".into())]),
        &["`ingress.lisen` in a command-line flag", "did you mean `ingress.listen`?"],
    );
    // Variables of the commands, and those that Kubernetes makes for its services, are not ours.
    let foreign = [("MILLRACE_ADMIN_KEY", "x"), ("MILLRACE_INGRESS_SERVICE_HOST", "x"), ("MILLRACE_KAFKA_PORT", "1")];
    load_with("", &foreign, &[]).unwrap();
}

#[test]
fn wrong_values_name_their_key_and_layer() {
    check(
        load("[kafka]\ngeneration = \"x\""),
        &["`kafka.generation` in millrace.toml", "a whole number, not a string"],
    );
    check(load("[kafka]\ngeneration = -1"), &["`kafka.generation`", "-1"]);
    check(load("[kafka]\nbootstrap_servers = 9092"), &["must be a string, not a whole number"]);
    check(load("kafka = 1"), &["`kafka` in millrace.toml", "must be a table"]);
    check(load("[telemetry]\nlog_format = \"jsn\""), &["`telemetry.log_format`", "did you mean `json`?"]);
    check(load("[storage]\nkind = \"cqll\""), &["`storage.kind`", "did you mean `cql`?"]);
    check(load("[storage]\nkind = \"cql\""), &["`storage` in", "needs `nodes`"]);
    check(load("[storage]\nnodes = [\"a:1\"]"), &["belongs to kind = \"cql\""]);
    check(load("[stage]\nlanes = [1]"), &["`stage.lanes[0]`", "must be a string"]);
    check(
        load_with("", &[("MILLRACE_STAGE__WINDOW", "many")], &[]),
        &["`stage.window` in the environment variable MILLRACE_STAGE__WINDOW", "not `many`"],
    );
    check(
        load("[models.m]\nprovider = \"p\""),
        &["missing key `models.m.context_tokens`", "MILLRACE_MODELS__M__CONTEXT_TOKENS"],
    );
    check(load("[kafka\n"), &["millrace.toml, line 1", "not valid TOML"]);
    check(load("\n\na = \n"), &["line 3"]);
    check(Config::load(Some(Path::new("/nonexistent/m.toml")), std::iter::empty(), []), &["cannot read", "m.toml"]);
    check(
        load_with("kafka.generation = 1", &[("MILLRACE_KAFKA__GENERATION__X", "1")], &[]),
        &["`kafka.generation`", "remove one of the two"],
    );
    check(load_with("", &[], &[("a b", 1.into())]), &["`a b`", "is not a key"]);
}

#[test]
fn secrets_come_from_the_environment_and_files_and_are_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "from-file\n").unwrap();
    let file = format!(
        "[ingress]\nadmin_key = {{ file = {:?} }}\n[registry]\nusername = \"u\"\npassword = {{ env = \"PW\" }}\n\
         [kafka.client]\n\"sasl.password\" = \"sasl-pw\"\n\"sasl.username\" = \"bob\"",
        key.display().to_string()
    );
    let config = load_with(&file, &[("PW", "from-env")], &[]).unwrap();
    assert_eq!(config.ingress.admin_key.as_ref().unwrap().expose(), "from-file");
    assert_eq!(config.registry.password.as_ref().unwrap().expose(), "from-env");
    let dump = config.dump();
    for text in [format!("{config:?}"), serde_json::to_string(&config).unwrap(), dump.clone()] {
        for secret in ["from-file", "from-env", "sasl-pw"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("bob"));
    }
    assert!(dump.contains("password = \"***\"  # from millrace.toml"), "{dump}");

    check(load_with(&file, &[], &[]), &["`registry.password`", "PW is not set"]);
    check(load_with(&file, &[("PW", "")], &[]), &["`registry.password`", "PW is empty"]);
    check(load("ingress.admin_key = { file = \"/nonexistent/k\" }"), &["`ingress.admin_key`", "cannot read"]);
    check(load("ingress.admin_key = { envv = \"K\" }"), &["`ingress.admin_key`", "{ env = \"NAME\" }"]);
    check(load("ingress.admin_key = 5"), &["`ingress.admin_key`", "a string"]);
    check(load("ingress.admin_key = \"***\""), &["`ingress.admin_key`", "hidden form"]);
}

#[test]
fn a_service_that_does_not_pay_needs_no_provider_key() {
    check(load_example("OPENAI_API_KEY", &[]), &["`providers.openai.api_key`", "OPENAI_API_KEY is not set"]);
    let config = load_example("OPENAI_API_KEY", &["providers"]).unwrap();
    assert_eq!(config.providers["openai"].api_key, None);
    let config = load_example("CQL_PASSWORD", &["storage", "registry"]).unwrap();
    assert_eq!((config.registry.username, config.registry.password), (None, None));
    let config = load_example("", &["providers", "tenants"]).unwrap();
    assert_eq!(config.providers["openai"].api_key, None, "held although it was to be withheld");
    assert_eq!(config.tenants["acme"].keys.len(), 1, "only the key that is a hash is left");
}

#[test]
fn a_pool_of_keys_is_pointed_at_and_withheld() {
    let file = "[providers.p]\nbase_url = \"http://p/v1\"\napi_keys = { main = { env = \"MAIN\" }, b = \"sk-b\" }\n\
                api_keys_file = \"/run/keys\"\n";
    let config = load_with(file, &[("MAIN", "sk-main")], &[]).unwrap();
    let provider = &config.providers["p"];
    let keys: Vec<_> = provider.api_keys.iter().map(|(name, key)| (name.as_str(), key.expose())).collect();
    assert_eq!(keys, [("b", "sk-b"), ("main", "sk-main")]);
    assert!(!config.dump().contains("sk-") && config.dump().contains("main = \"***\""), "{}", config.dump());
    check(load(file), &["`providers.p.api_keys.main`", "MAIN is not set"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("millrace.toml");
    std::fs::write(&path, file).unwrap();
    let config = Config::load_withholding(Some(&path), std::iter::empty(), [], &["providers"]).unwrap();
    assert!(config.providers["p"].api_keys.is_empty(), "held although they were to be withheld");
}

#[test]
fn a_dump_loads_again_as_the_same_configuration() {
    let config = load_example("", &[]).unwrap();
    let dump = config.dump();
    let secrets = [
        ("kafka.client.sasl.password", "kafka-pw".into()),
        ("registry.password", "registry-pw".into()),
        ("storage.password", "cql-pw".into()),
        ("vectors.api_key", "qdrant-pw".into()),
        ("providers.openai.api_key", "sk-live-1".into()),
        ("ingress.admin_key", "admin-pw".into()),
    ];
    let hashes = config.tenants["acme"].keys.iter().map(|key| key.sha256.as_deref().unwrap());
    // A list can not be given anew by a flag.
    let whole = dump.replace("secrets = [\"***\"]", "secrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]");
    let written = hashes.fold(whole, |dump, hash| {
        assert!(!dump.contains(hash), "records are signed with {hash}");
        dump.replace(&format!("{}…", &hash[..8]), hash)
    });
    let mut again = load_with(&written, &[], &secrets).unwrap_or_else(|error| panic!("{error}\n{dump}"));
    again.origins = config.origins.clone();
    assert_eq!(again, config);
}

#[test]
fn values_must_make_sense_together() {
    let provider = "[providers.p]\nbase_url = \"http://p/v1\"\n";
    let model = "[models.m]\nprovider = \"p\"\ncontext_tokens = 8192\n";
    let tenant = "[tenants.t]\n[tenants.t.users.u]\n";
    let hash = "a".repeat(64);
    load("[topic_bindings.a]\ntenant = \"made-later\"").unwrap();
    let cases: &[(String, &[&str])] = &[
        ("[stage]\ndrain_ms = 600000".into(), &["`stage.drain_ms`", "stage.max_poll_interval_ms"]),
        (format!("[stage]\ndrain_ms = 59999\n{provider}"), &["`stage.drain_ms`", "providers.p.timeout_ms (60000)"]),
        ("[stage]\nsession_timeout_ms = 600001".into(), &["`stage.session_timeout_ms`", "lower it"]),
        ("[stage]\nsession_timeout_ms = 10".into(), &["`stage.session_timeout_ms`", "at least 1000"]),
        ("[stage]\nwindow = 0".into(), &["`stage.window`", "at least 1"]),
        ("[stage]\nmax_bytes = 0".into(), &["`stage.max_bytes`", "at least 1"]),
        ("[limits]\nbody_bytes = 200000".into(), &["`limits.body_bytes`", "limits.inline_bytes (262144)"]),
        ("[limits]\nbody_days = 0".into(), &["`limits.body_days`"]),
        ("[stage]\nlanes = []".into(), &["`stage.lanes`"]),
        ("[stage]\nlanes = [\"bulk\"]".into(), &["`stage.lanes`", "`bulk`"]),
        ("[stage]\nlanes = [\"batch\", \"batch\"]".into(), &["twice"]),
        (
            format!("{provider}breaker_max_pause_ms = 999"),
            &["`providers.p.breaker_max_pause_ms`", "breaker_pause_ms (1000)"],
        ),
        (format!("{provider}api_key = \"k\"\napi_keys_file = \"f\""), &["`providers.p.api_key`", "beside a pool"]),
        (
            format!("{provider}api_keys = {{ \"a b\" = \"k\" }}"),
            &["`providers.p.api_keys.\"a b\"`", "no name of a key"],
        ),
        (format!("{provider}key_quarantine_ms = 0"), &["`providers.p.key_quarantine_ms`", "at least 1"]),
        (format!("{provider}breaker_failures = 0"), &["`providers.p.breaker_failures`", "at least 1"]),
        (model.into(), &["`models.m.provider`", "provider `p`, which is not configured"]),
        (format!("{provider}{model}fallbacks = [\"n\"]"), &["`models.m.fallbacks`", "known: m"]),
        (format!("{provider}{model}fallbacks = [\"m\"]"), &["names the model itself"]),
        (format!("{provider}{model}max_output_tokens = 8192"), &["`models.m.max_output_tokens`", "leave room"]),
        (format!("{provider}{model}embedding = true"), &["`models.m.dimensions`", "missing"]),
        (format!("{provider}{model}dimensions = 3"), &["`models.m.dimensions`", "embedding = true"]),
        (format!("{provider}{model}[knowledge]\nembedding_model = \"m\""), &["does not embed"]),
        ("[knowledge]\nembedding_model = \"e\"".into(), &["`knowledge.embedding_model`", "not configured"]),
        ("[knowledge]\nchunk_overlap = 256".into(), &["`knowledge.chunk_overlap`"]),
        ("[topic_bindings.\"a.b\"]\ntenant = \"a b\"".into(), &["`topic_bindings.\"a.b\".tenant`", "no tenant's id"]),
        (format!("[topic_bindings.\"a b\"]\ntenant = \"t\"\n{tenant}"), &["no topic name"]),
        (
            format!("[topic_bindings.a]\ntenant = \"t\"\nlane = \"fast\"\n{tenant}"),
            &["`topic_bindings.a.lane`", "interactive and batch"],
        ),
        (format!("{tenant}budget = {{ amount = \"5 USD\" }}\n"), &["tenants.t.users.u.budget.amount", "25.00"]),
        (
            format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nkey = \"k\"\nbudget = {{ amount = \"\" }}\n"),
            &["tenants.t.keys[0].budget.amount"],
        ),
        (
            "[tenants.t]\nbudget = { amount = \"5\", currency = \"usd\" }\n".to_owned(),
            &["tenants.t.budget.currency", "USD"],
        ),
        (format!("[topic_bindings.\"requests.batch\"]\ntenant = \"t\"\n{tenant}"), &["all tenants share"]),
        (format!("{tenant}[[tenants.t.keys]]\nid = \"k\""), &["`tenants.t.keys[0]`", "neither sha256 nor key"]),
        (format!("{tenant}[[tenants.t.keys]]\nkey = \"k\""), &["`tenants.t.keys[0].id`"]),
        (format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nsha256 = \"abc\""), &["64 hexadecimal digits"]),
        (format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nkey = \"x\"\nuser = \"v\""), &["user of this tenant `v`"]),
        (
            format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nkey = \"x\"\n[[tenants.t.keys]]\nid = \"k\"\nkey = \"y\""),
            &["`tenants.t.keys[1].id`", "again"],
        ),
        (
            format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nkey = \"x\"\n[[tenants.s.keys]]\nid = \"k\"\nkey = \"x\""),
            &["the same key as tenants.s.keys[0]"],
        ),
        (
            format!("{tenant}[[tenants.t.keys]]\nid = \"k\"\nkey = \"x\"\nsha256 = \"{hash}\""),
            &["`tenants.t.keys[0]`", "both sha256 and key"],
        ),
        ("[tenants.t]\nmodels = [\"m\"]".into(), &["`tenants.t.models`"]),
        ("[tenants.\"a b\"]".into(), &["`tenants.\"a b\"`", "is no id"]),
        ("[tenants.t]\nmoderation = \"strict\"".into(), &["`tenants.t.moderation`", "rule set `strict`"]),
        ("[moderation]\ndefault = \"none\"".into(), &["`moderation.default`"]),
        ("[moderation.rule_sets]\ndefault = 1".into(), &["`moderation.rule_sets.default`", "not a table"]),
        ("[registry]\nurl = \"registry:8081\"".into(), &["`registry.url`", "http://"]),
        ("[registry]\nurl = \"http://u:p@registry\"".into(), &["`registry.url`", "credentials"]),
        ("[registry]\nusername = \"u\"".into(), &["`registry.password`", "both or neither"]),
        ("[vectors]\nurl = \"http://\"".into(), &["`vectors.url`"]),
        ("[kafka]\nbootstrap_servers = \"a:1,b\"".into(), &["`kafka.bootstrap_servers`", "`b` is not host:port"]),
        ("[kafka]\ntopic_prefix = \"a/b\"".into(), &["`kafka.topic_prefix`", "letters, digits"]),
        ("[kafka]\ngroup_prefix = \"ä\"".into(), &["`kafka.group_prefix`"]),
        ("[kafka.producer]\nacks = 1".into(), &["`kafka.producer.acks`", "set by Millrace itself"]),
        (
            "[kafka.producer]\n\"message.timeout.ms\" = \"1000\"".into(),
            &["`kafka.producer.\"message.timeout.ms\"`", "never times out"],
        ),
        ("[kafka.consumer]\n\"group.id\" = \"x\"".into(), &["`kafka.consumer.\"group.id\"`", "kafka.group_prefix"]),
        ("[ingress]\nlisten = \"8080\"".into(), &["`ingress.listen`", "host:port"]),
        ("[telemetry]\nlisten = \"localhost:99999\"".into(), &["`telemetry.listen`"]),
        ("[limits]\nmax_deadline_ms = 1000".into(), &["`limits.default_deadline_ms`", "limits.max_deadline_ms (1000)"]),
        ("[storage]\nkind = \"cql\"\nnodes = []".into(), &["`storage.nodes`", "at least one"]),
        ("[storage]\nkind = \"cql\"\nnodes = [\"a:1\"]\nkeyspace = \"a-b\"".into(), &["`storage.keyspace`"]),
        ("[ledger]\nflush_calls = 0".into(), &["`ledger.flush_calls`"]),
    ];
    for (file, parts) in cases {
        check(load(file), parts);
    }
    assert!(load("[stage]\nmax_bytes = 1000").is_ok(), "less than one body: bodies go one by one");
}

/// The keys of every value there is, tables that are empty and values that are not there included.
fn keys(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value.as_object().filter(|table| !table.is_empty()) {
        Some(table) => table.iter().for_each(|(key, value)| keys(value, &below(key), found)),
        None => found.push(path.to_owned()),
    }
}

#[test]
fn every_key_is_either_live_or_needs_a_restart() {
    let example = load_example("", &[]).unwrap();
    let mut found = Vec::new();
    keys(&serde_json::to_value(&example).unwrap(), "", &mut found);
    assert!(found.len() > 100, "{found:?}");
    let is_under = |key: &str, pattern: &str| {
        let mut parts = key.split('.');
        pattern.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
    };
    for key in &found {
        let lists = LIVE.iter().chain(&RESTART).filter(|pattern| is_under(key, pattern));
        assert_eq!(lists.count(), 1, "`{key}` must be in one of the lists of config/src/live.rs");
    }
    for pattern in LIVE.iter().chain(&RESTART) {
        assert!(found.iter().any(|key| is_under(key, pattern)), "there is no `{pattern}`");
    }
}

#[test]
fn the_keys_that_are_taken_up_are_the_documented_ones() {
    let docs = include_str!("../../docs/operations.md");
    let (_, after) = docs.split_once("<!-- config/src/live.rs -->\n```text\n").unwrap();
    let (listed, _) = after.split_once("```").unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), LIVE);
}
