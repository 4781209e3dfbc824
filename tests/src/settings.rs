//! The configuration file of every process of a pipeline.

use millrace_stack::Stack;

use crate::pipeline::{ADMIN_KEY, FAST_OUTCOMES, JSON_OUTCOMES, KAFKA_USER, RIVAL_KEY, TENANT_KEY};

/// Topics of customers' own.
pub(crate) const BINDINGS: &str = r#"[topic_bindings]
"acme.requests" = { tenant = "acme" }
"acme.fast.requests" = { tenant = "acme", lane = "interactive" }
"rival.requests" = { tenant = "rival" }
"#;

/// What prompts of the tenant `rival` are held to.
pub(crate) const PROMPT_RULES: &str = concat!(
    r#"prompt = { restore = true, pii = { email = "redact" }, "#,
    r#"terms = [{ name = "volcano", words = ["Krakatoa"], action = "block" }] }"#,
);

/// The file, as it is before a process gets its ports and its user of the broker.
pub(crate) fn configuration(stack: &Stack, provider: &str, vectors: &str) -> String {
    let sasl = stack.sasl_bootstrap_servers();
    let (user, password) = KAFKA_USER;
    let (kafka, client) = if sasl.is_empty() {
        (stack.bootstrap_servers(), String::new())
    } else {
        let client = format!(
            "[kafka.client]\n\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
             \"sasl.username\" = \"{user}\"\n\"sasl.password\" = \"{password}\""
        );
        (sasl, client)
    };
    format!(
        r#"
[kafka]
bootstrap_servers = "{kafka}"
topic_prefix = "e2e."
group_prefix = "e2e."
replication_factor = {replicas}
{client}

[registry]
url = "{registry}"

[storage]
kind = "cql"
nodes = ["{cassandra}"]
keyspace = "millrace_e2e"
replication_factor = 1

[providers.sim]
base_url = "{provider}"

[models.sim-small]
provider = "sim"
context_tokens = 128000

[models.sim-large]
provider = "sim"
context_tokens = 128000

[models.sim-embed]
provider = "sim"
context_tokens = 8192
embedding = true
dimensions = 384

[knowledge]
embedding_model = "sim-embed"

[vectors]
url = "{vectors}"

[moderation.rule_sets.default]

[moderation.rule_sets.discreet]
terms = [{{ name = "place", words = ["Zanzibar"], action = "redact" }}]
{PROMPT_RULES}

[tenants.rival]
moderation = "discreet"
reply_topics = ["rival.outcomes"]
keys = [{{ id = "default", key = "{RIVAL_KEY}" }}]

[tenants.acme]
reply_topics = ["acme.outcomes", "{FAST_OUTCOMES}", "{JSON_OUTCOMES}"]
json_reply_topics = ["{JSON_OUTCOMES}"]
users = {{ ada = {{}}, grace = {{}} }}
keys = [{{ id = "default", key = "{TENANT_KEY}" }}]

{BINDINGS}
[ingress]
listen = "127.0.0.1:1"
admin_key = "{ADMIN_KEY}"

[telemetry]
listen = "127.0.0.1:2"
log_format = "pretty"
"#,
        replicas = stack.broker_count(),
        registry = stack.registry_url(),
        cassandra = stack.cassandra_addr(),
    )
}
