//! What operators type and files they name.

use millrace_config::Config;
use millrace_mutate as mutate;
use proptest::prelude::*;

use crate::commands::publish;
use crate::letters::LetterId;
use crate::topic_data;

const LETTERS: &[&str] = &["3/57", "2147483647/9223372036854775807", "-1/0"];
const FILES: &[&str] = &["{\"model\":\"m\"}\n\n{\"a\":[1]}\n", "[]\n", "{}"];
const TOPICS: &[&str] = &[
    r#"{"defaults":{"replication_factor":3,"configs":{"min.insync.replicas":"2"}},"topics":[{"name":"a","partitions":12,"configs":{"x":"y"},"groups":["g"],"generations":true}]}"#,
];

proptest! {
    #![proptest_config(mutate::cases(500))]

    #[test]
    fn a_letter_is_named_or_not(text in mutate::text(LETTERS), partition in 0..i32::MAX, offset in 0..i64::MAX) {
        if let Ok(id) = text.parse::<LetterId>() {
            prop_assert!(id.partition >= 0 && id.offset >= 0);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
        let id = LetterId { partition, offset };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_file_is_requests_or_says_which_line_is_none(bytes in mutate::bytes(FILES)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("requests.jsonl");
        std::fs::write(&path, &bytes).expect("written");
        match publish::read(&path) {
            Ok(bodies) => for body in bodies {
                prop_assert!(serde_json::from_slice::<serde_json::Map<_, _>>(&body).is_ok());
            },
            Err(error) => prop_assert!(error.to_string().contains("requests.jsonl"), "{error}"),
        }
    }

    #[test]
    fn a_topics_file_is_read_or_refused(text in mutate::text(TOPICS)) {
        let _ = topic_data::wanted(&Config::default(), Some(&text));
    }
}
