//! Records of `cancellations`, whoever writes them.

use std::sync::LazyLock;

use millrace_admission::Directory;
use millrace_cancellation::record::read;
use millrace_config::{Config, KeyConfig, TenantConfig, hash_key};
use millrace_mutate as mutate;
use millrace_schemas::{Cancellation, Codec, RequestId};
use proptest::prelude::*;

static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::detached().expect("no registry is asked"));

proptest! {
    #![proptest_config(mutate::cases(500))]

    #[test]
    fn only_what_the_tenant_signed_cancels(
        (at, edited) in any::<i64>().prop_flat_map(|at| (Just(at), mutate::mutated(value(at)))),
        signs_what_is_sent: bool,
        garbled in prop::option::of(".{0,60}"),
    ) {
        let mut config = Config::default();
        let key = KeyConfig { id: "k".to_owned(), sha256: Some(hash_key("acme")), ..KeyConfig::default() };
        config.tenants.insert("acme".to_owned(), TenantConfig { keys: vec![key], ..TenantConfig::default() });
        let directory = Directory::from_config(&config).expect("valid");
        // Of another schema's number the registry would be asked, which is away.
        prop_assume!(edited.get(..5) == value(at).get(..5));

        let principal = directory.verify_key("acme", 0).expect("a key");
        let signed = if signs_what_is_sent { edited.clone() } else { value(at) };
        let signature = garbled.clone().or_else(|| directory.sign(&principal, &signed));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        match runtime.block_on(read(&directory, &CODEC, signature.as_deref(), &edited, 0)) {
            Ok(cancellation) => {
                prop_assert!(garbled.is_none() && signed == edited);
                prop_assert_eq!(cancellation.tenant.as_str(), "acme");
                prop_assert!(RequestId::parse("acme", &cancellation.request_id).is_some());
            }
            Err(ignored) => prop_assert!(!ignored.is_outage() && ignored.to_string().len() < 2_000, "{ignored}"),
        }
    }
}

fn value(cancelled_at: i64) -> Vec<u8> {
    let request_id = RequestId::of_key("acme", "k").into_string();
    let cancellation = Cancellation { tenant: "acme".to_owned(), request_id, cancelled_at };
    CODEC.encode(&cancellation).expect("fits")
}
