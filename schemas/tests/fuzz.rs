//! Everything of ours that comes back to us as bytes: events, ids, signatures, places.

use std::sync::LazyLock;

use millrace_mutate as mutate;
use millrace_schemas::{
    ALL_EVENTS, Call, Cancellation, Codec, CodecError, Completion, Coordinates, DeadLetter, DeadLetterAction, Document,
    Event, Fact, Outcome, Prompt, Redrive, ReplyChunk, Request, RequestId, Signature, SignatureError, Source, call_id,
    call_started_at, key_digest,
};
use proptest::prelude::*;

static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::detached().expect("no registry is asked"));
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));

fn request() -> impl Strategy<Value = Request> {
    let labels = prop::collection::btree_map(".{0,9}", ".{0,9}", 0..4);
    let texts = prop::array::uniform5(prop::option::of(".{0,30}"));
    (prop::collection::vec(any::<u8>(), 0..300), texts, any::<Option<i64>>(), any::<Option<i64>>(), labels).prop_map(
        |(body, [request_id, idempotency_key, user, reply_replica, reply_topic], received_at, deadline, labels)| {
            Request {
                request_id,
                idempotency_key,
                user,
                reply_replica,
                reply_topic,
                received_at,
                deadline,
                labels,
                ..Request::new(body)
            }
        },
    )
}

/// The datum as an event, and again: what decodes can be written, and is then read as the same.
fn decode<E: Event + std::fmt::Debug + PartialEq>(datum: &[u8]) {
    let place = ALL_EVENTS.iter().position(|(name, _)| *name == E::NAME).expect("an event");
    let id = u32::try_from(place + 1).expect("few");
    let framed = [&[0], &id.to_be_bytes()[..], datum].concat();
    let read = |bytes: &[u8]| RUNTIME.block_on(CODEC.decode::<E>(bytes));
    match read(&framed) {
        Ok(event) => {
            let again = CODEC.encode(&event).expect("what was read can be written");
            assert_eq!(read(&again).expect("and read"), event);
        }
        Err(error) => {
            assert!(matches!(error, CodecError::Undecodable(_)), "bytes are no outage: {error}");
            assert!(error.to_string().len() < 2_000, "{error}");
        }
    }
    let _ = RUNTIME.block_on(CODEC.view(&framed));
}

const SIGNATURES: &[&str] = &["v1:acme/k:00ff", "v1:k:", "v1::00"];
const SOURCES: &[&str] = &["prompts.batch/0/7/99 1024 00000000000000ff", "a/b/1/2/3 1 f"];
const IDS: &[&str] = &["req_0190b5f4d0f87c5a8b1e0123456789ab00000000", "call_0190b5f4d0f87c5a8b1e0123456789ab"];
const FRAMES: &[&str] = &["\u{1}0123456789abcdef", "\u{0}\u{0}\u{0}\u{0}\u{1}", "\u{0}"];

proptest! {
    #![proptest_config(mutate::cases(500))]

    #[test]
    fn events_survive_their_bytes(request in request()) {
        let bytes = CODEC.encode(&request).expect("fits");
        prop_assert_eq!(RUNTIME.block_on(CODEC.decode::<Request>(&bytes)).expect("decodes"), request.clone());
        let in_a_header = RUNTIME.block_on(CODEC.decode_record::<Request>(Some(&bytes[..5]), &bytes[5..]));
        prop_assert_eq!(in_a_header.expect("decodes"), request);
    }

    #[test]
    fn any_datum_is_an_event_or_undecodable(datum in request().prop_flat_map(|request| {
        let bytes = CODEC.encode(&request).expect("fits");
        prop_oneof![mutate::mutated(bytes[5..].to_vec()), prop::collection::vec(any::<u8>(), 0..300)]
    })) {
        decode::<Request>(&datum);
        decode::<Prompt>(&datum);
        decode::<Completion>(&datum);
        decode::<Outcome>(&datum);
        decode::<Call>(&datum);
        decode::<Fact>(&datum);
        decode::<Document>(&datum);
        decode::<DeadLetter>(&datum);
        decode::<Cancellation>(&datum);
        decode::<Redrive>(&datum);
        decode::<DeadLetterAction>(&datum);
        decode::<ReplyChunk>(&datum);
    }

    #[test]
    fn any_frame_is_read_or_undecodable(value in mutate::bytes(FRAMES), header in prop::option::of(mutate::bytes(FRAMES))) {
        let header = header.as_deref();
        // Of another schema's number the registry would be asked, which is away.
        let named = header.unwrap_or(&value);
        prop_assume!(!(named.len() >= 5 && named[0] == 0));
        match RUNTIME.block_on(CODEC.decode_record::<Request>(header, &value)) {
            Ok(request) => prop_assert!(false, "nobody wrote {request:?}"),
            Err(error) => prop_assert!(!error.is_outage() && error.to_string().len() < 500, "{error}"),
        }
    }

    #[test]
    fn only_signed_bytes_verify(text in mutate::text(SIGNATURES), key_id in "[^:]{1,20}", value: Vec<u8>, other: Vec<u8>) {
        match Signature::parse(&text) {
            Ok(signature) => prop_assert!(signature.verify(&key_digest("sk"), &value).is_err()),
            Err(error) => prop_assert_eq!(error, SignatureError::Malformed),
        }
        let digest = key_digest("sk");
        let signature = Signature::parse(&Signature::sign(&key_id, &digest, &value)).expect("parses");
        prop_assert_eq!(&signature.key_id, &key_id);
        prop_assert!(signature.verify(&digest, &value).is_ok());
        prop_assert_eq!(signature.verify(&digest, &other).is_ok(), value == other);
    }

    #[test]
    fn places_survive_their_text(
        text in mutate::text(SOURCES),
        topic in "[a-z./]{1,20}",
        generation: u32,
        partition in 0..i32::MAX,
        offset in 0..i64::MAX,
        window in 1..u32::MAX,
        epoch: u64,
    ) {
        if let Ok(source) = text.parse::<Source>() {
            prop_assert_eq!(source.to_string().parse(), Ok(source));
        }
        let source = Source { from: Coordinates { topic, generation, partition, offset }, window, epoch };
        prop_assert_eq!(source.to_string().parse(), Ok(source));
    }

    #[test]
    fn only_ids_that_were_given_out_are_known(text in mutate::text(IDS), tenant in ".{0,20}", key in ".{0,40}") {
        prop_assert_eq!(RequestId::parse(&tenant, &text), None, "nobody guesses the check");
        let _ = call_started_at(&text);
        for id in [RequestId::of_key(&tenant, &key), RequestId::fresh(&tenant)] {
            prop_assert_eq!(RequestId::parse(&tenant, id.as_str()), Some(id.clone()));
            prop_assert_eq!(RequestId::parse(&format!("{tenant}x"), id.as_str()), None);
        }
        prop_assert!(call_started_at(&call_id()).is_some());
    }
}
