//! Idempotency keys and waiters.

use futures::future::join_all;
use millrace_storage::{Claim, Claimed, Storage, Waiter};

use super::unique;

fn claim(n: usize) -> Claim {
    Claim {
        request_id: "request".to_owned(),
        coordinates: format!("requests.batch/0/3/{n}"),
        body_hash: format!("hash {}", n % 2),
    }
}

pub async fn one_of_many_claimants_wins(storage: &Storage, races: usize) {
    for _ in 0..races {
        let tenant = unique("t");
        race(storage, &tenant).await;
        // The same key of another tenant is another key.
        assert_eq!(storage.keys.claim(&unique("t"), "key", &claim(40)).await.unwrap(), Claimed::Ours);
    }
}

async fn race(storage: &Storage, tenant: &str) {
    let claims: Vec<Claim> = (0..32).map(claim).collect();
    let racing: Vec<_> = claims
        .iter()
        .map(|claim| {
            let (storage, tenant, claim) = (storage.clone(), tenant.to_owned(), claim.clone());
            tokio::spawn(async move { settle(&storage, &tenant, &claim).await })
        })
        .collect();
    let answers: Vec<Claimed> = join_all(racing).await.into_iter().map(Result::unwrap).collect();

    let winners: Vec<&Claim> =
        claims.iter().zip(&answers).filter(|(_, answer)| **answer == Claimed::Ours).map(|(claim, _)| claim).collect();
    let [winner] = winners[..] else { panic!("{} claimants won: {winners:?}", winners.len()) };
    for answer in &answers {
        assert!(matches!(answer, Claimed::Ours) || *answer == Claimed::Theirs(winner.clone()), "{answer:?}");
    }
}

/// Thirty-two at once may time each other out on a busy server; a claim is repeated then, as a
/// service would.
async fn settle(storage: &Storage, tenant: &str, claim: &Claim) -> Claimed {
    let mut last = None;
    for _ in 0..10 {
        match storage.keys.claim(tenant, "key", claim).await {
            Ok(claimed) => return claimed,
            Err(error) => last = Some(error),
        }
    }
    panic!("no answer to a claim: {last:?}")
}

pub async fn a_claim_replayed_is_ours(storage: &Storage) {
    let tenant = unique("t");
    let keys = &storage.keys;
    assert_eq!(keys.holder(&tenant, "key").await.unwrap(), None);
    for _ in 0..3 {
        assert_eq!(keys.claim(&tenant, "key", &claim(1)).await.unwrap(), Claimed::Ours);
        assert_eq!(keys.claim(&tenant, "key", &claim(3)).await.unwrap(), Claimed::Theirs(claim(1)));
        assert_eq!(keys.claim(&tenant, "key", &claim(2)).await.unwrap(), Claimed::Theirs(claim(1)));
        assert_eq!(keys.holder(&tenant, "key").await.unwrap(), Some(claim(1)));
        assert_eq!(keys.claim(&tenant, "another key", &claim(2)).await.unwrap(), Claimed::Ours);
    }
}

pub async fn waiters_are_kept_once_each(storage: &Storage) {
    let (tenant, request) = (unique("t"), unique("r"));
    let waiter = |n: u32, replica: Option<&str>, reply_topic: Option<&str>| Waiter {
        coordinates: format!("requests.batch/0/3/{n}"),
        replica: replica.map(str::to_owned),
        reply_topic: reply_topic.map(str::to_owned),
    };
    let waiters =
        vec![waiter(1, Some("ingress-1"), None), waiter(2, None, Some("outcomes.acme")), waiter(3, None, None)];

    assert_eq!(storage.keys.waiters(&tenant, &request).await.unwrap(), []);
    for _ in 0..2 {
        for waiter in &waiters {
            storage.keys.add_waiter(&tenant, &request, waiter).await.unwrap();
        }
    }
    let mut kept = storage.keys.waiters(&tenant, &request).await.unwrap();
    kept.sort();
    assert_eq!(kept, waiters);
    assert_eq!(storage.keys.waiters(&tenant, &unique("r")).await.unwrap(), []);
}
