//! Requests that run again, over the same fakes.

use millrace_schemas::RecordHeader;

use super::*;

/// An operator's redrive of `first`, at this offset of `redrives.batch`.
fn again(bench: &Bench, offset: i64, first: &Received, run: i32) -> Received {
    let headers = first.headers.iter().map(|(name, value)| RecordHeader { name: name.clone(), value: value.clone() });
    let redrive = Redrive {
        run,
        letters: vec!["3/57".to_owned()],
        topic: first.at.topic.clone(),
        generation: 0,
        partition: first.at.partition,
        offset: first.at.offset,
        timestamp: first.timestamp,
        key: first.key.clone(),
        value: first.value.clone(),
        headers: headers.collect(),
        at: now_micros(),
    };
    received("redrives.batch", offset, bench.builder.codec.encode(&redrive).unwrap(), &[])
}

#[tokio::test]
async fn it_is_judged_like_the_first_run_with_a_deadline_of_its_own() {
    let bench = bench().await;
    let long_ago = Request { received_at: Some(5_000), deadline: Some(2), ..keyed(BODY) };
    let record = bench.signed(1, &Request { idempotency_key: None, ..long_ago });
    let first = bench.poisoned(&record, "deadline_exceeded").await;
    let second = bench.built(&again(&bench, 0, &record, 1)).await;
    assert_eq!(second.meta.request_id, first.meta.request_id);
    assert_eq!((first.meta.run, second.meta.run), (0, 1));
    assert_eq!(second.body.as_deref(), Some(BODY.as_bytes()));
    assert_eq!(second.meta.reply_topic.as_deref(), Some("acme.outcomes"));
    assert_eq!(second.meta.reply_replica, None, "nobody waits any more");
    assert!(second.meta.deadline > now_millis() && second.meta.received_at > 5_000);
}

#[tokio::test]
async fn a_fault_that_persists_is_a_dead_letter_of_the_next_run() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(br#"{"model":"none","messages":[]}"#.to_vec()));
    let first = bench.poisoned(&record, "model_not_found").await;
    let second = bench.poisoned(&again(&bench, 0, &record, 1), "model_not_found").await;
    assert_eq!((&second.meta.request_id, second.meta.run), (&first.meta.request_id, 1));
    // It proves its tenant as it did then, so a redrive is no way around a signature.
    let stranger = received("requests.batch", 2, record.value.clone(), &[]);
    let turned_away = bench.poisoned(&again(&bench, 1, &stranger, 1), "unknown_tenant").await;
    assert_eq!(turned_away.meta.tenant, SYSTEM_TENANT);
}

#[tokio::test]
async fn of_several_redrives_one_becomes_the_run_and_a_replay_of_it_goes_on() {
    let bench = bench().await;
    let record = bench.signed(1, &Request::new(BODY.as_bytes().to_vec()));
    let winner = again(&bench, 7, &record, 1);
    let second = bench.built(&winner).await;
    for loser in [again(&bench, 8, &record, 1), again(&bench, 9, &record, 1)] {
        let plan = bench.builder.process(&loser).await.unwrap();
        assert!(plan.primary.is_none() && plan.then.is_empty());
    }
    assert_eq!(bench.built(&winner).await.meta, second.meta, "a crash came between");
    assert_eq!(bench.built(&again(&bench, 10, &record, 2)).await.meta.run, 2);
}

#[tokio::test]
async fn a_key_stays_with_its_request() {
    let bench = bench().await;
    let record = bench.signed(1, &keyed(BODY));
    let first = bench.built(&record).await;
    let second = bench.built(&again(&bench, 0, &record, 1)).await;
    assert_eq!((&second.meta.request_id, second.meta.run), (&first.meta.request_id, 1));
    // Another record with the key waits for it, and does not run.
    let plan = bench.builder.process(&bench.signed(2, &keyed(BODY))).await.unwrap();
    assert!(plan.primary.is_none());
    // A refusal of the key is refused again: the key is still somebody else's.
    let other = bench.signed(3, &keyed(ASKING));
    let refused = bench.poisoned(&other, "idempotency_key_reused").await;
    let again = bench.poisoned(&again(&bench, 1, &other, 1), "idempotency_key_reused").await;
    assert_eq!((&again.meta.request_id, again.meta.run), (&refused.meta.request_id, 1));
}

#[tokio::test]
async fn what_is_no_redrive_is_a_dead_letter_of_the_system() {
    let bench = bench().await;
    let nonsense = received("redrives.batch", 0, b"nonsense".to_vec(), &[]);
    assert_eq!(bench.poisoned(&nonsense, "undecodable").await.meta.tenant, SYSTEM_TENANT);
}
