//! Trace contexts as anybody may write them.

use millrace_mutate as mutate;
use millrace_telemetry::TraceContext;
use proptest::prelude::*;

const HEADERS: &[&str] = &[
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
];

proptest! {
    #![proptest_config(mutate::cases(2_000))]

    #[test]
    fn a_context_is_read_strictly_or_begun(bytes in mutate::bytes(HEADERS)) {
        let read = std::str::from_utf8(&bytes).ok().and_then(TraceContext::parse);
        if let Some(context) = read {
            prop_assert!(context.trace_id != 0 && context.span_id != 0);
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            prop_assert_eq!(TraceContext::from_bytes_or_random(Some(&bytes)), context);
        }
        let begun = TraceContext::from_bytes_or_random(Some(&bytes));
        prop_assert!(begun.trace_id != 0 && begun.span_id != 0);
    }

    #[test]
    fn a_context_survives_its_text(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
        let context = TraceContext { trace_id, span_id, sampled };
        prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
    }
}
