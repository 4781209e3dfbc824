//! Objects that are compared and replaced, and parts of files.

use std::time::Duration;

use futures::future::join_all;
use millrace_storage::{Object, Order, PartId, Storage};

use super::unique;

const KIND: &str = "thing";

async fn replace(storage: &Storage, tenant: &str, id: &str, expected: i64, value: Option<&[u8]>) -> bool {
    storage.objects.replace(tenant, KIND, id, expected, value.map(<[u8]>::to_vec)).await.unwrap()
}

pub async fn an_object_is_replaced_by_its_version_only(storage: &Storage) {
    let tenant = unique("t");
    let read = async || storage.objects.object(&tenant, KIND, "a").await.unwrap();
    let is = |version, value: &[u8]| Some(Object { id: "a".to_owned(), version, value: value.to_vec() });
    assert_eq!(read().await, None);
    assert!(!replace(storage, &tenant, "a", 1, Some(b"x")).await, "there is none");
    assert!(!replace(storage, &tenant, "a", 1, None).await, "there is none");
    assert_eq!(read().await, None);
    assert!(replace(storage, &tenant, "a", 0, Some(b"one")).await);
    assert!(!replace(storage, &tenant, "a", 0, Some(b"x")).await, "there is one");
    assert_eq!(read().await, is(1, b"one"));
    assert!(replace(storage, &tenant, "a", 1, Some(b"two")).await);
    assert!(!replace(storage, &tenant, "a", 1, Some(b"x")).await, "a stale version");
    assert!(!replace(storage, &tenant, "a", 1, None).await, "a stale version");
    assert_eq!(read().await, is(2, b"two"));
    assert_eq!(storage.objects.object(&unique("t"), KIND, "a").await.unwrap(), None, "another tenant's");
    assert_eq!(storage.objects.object(&tenant, "other", "a").await.unwrap(), None, "another kind");
    assert!(replace(storage, &tenant, "a", 2, None).await);
    assert_eq!(read().await, None);
    assert!(replace(storage, &tenant, "a", 0, Some(b"again")).await);
    assert_eq!(read().await, is(1, b"again"));
}

pub async fn objects_are_listed_by_id_either_way(storage: &Storage) {
    let tenant = unique("t");
    for id in ["b", "a", "d", "cc"] {
        assert!(replace(storage, &tenant, id, 0, Some(id.as_bytes())).await);
        assert!(storage.objects.replace(&tenant, "thinge", id, 0, Some(Vec::new())).await.unwrap());
    }
    let check = async |after: Option<&str>, order, limit, expected: &[&str]| {
        let found = storage.objects.list(&tenant, KIND, after, order, limit).await.unwrap();
        let ids: Vec<&str> = found.iter().map(|object| object.id.as_str()).collect();
        assert_eq!(ids, expected, "{after:?} {order:?} {limit}");
        assert!(found.iter().all(|object| object.version == 1 && object.value == object.id.as_bytes()));
    };
    check(None, Order::Rising, 10, &["a", "b", "cc", "d"]).await;
    check(None, Order::Falling, 10, &["d", "cc", "b", "a"]).await;
    check(None, Order::Falling, 2, &["d", "cc"]).await;
    check(Some("cc"), Order::Falling, 10, &["b", "a"]).await;
    check(Some("cc"), Order::Rising, 10, &["d"]).await;
    check(Some("c"), Order::Rising, 1, &["cc"]).await;
    check(Some("a"), Order::Falling, 1, &[]).await;
    assert_eq!(storage.objects.list(&unique("t"), KIND, None, Order::Rising, 9).await.unwrap(), []);
}

pub async fn parts_of_files_come_back_as_they_were(storage: &Storage) {
    let tenant = unique("t");
    let id = |epoch, part| PartId { tenant: tenant.clone(), file_id: "file".to_owned(), epoch, part };
    let content: Vec<u8> = (0..millrace_storage::MAX_PART_BYTES).map(|n| (n % 251) as u8).collect();
    storage.parts.put_part(&id(0, 1), content.clone(), None).await.unwrap();
    storage.parts.put_part(&id(1, 1), b"another epoch".to_vec(), None).await.unwrap();
    assert_eq!(storage.parts.part(&id(0, 1)).await.unwrap(), Some(content));
    assert_eq!(storage.parts.part(&id(1, 1)).await.unwrap(), Some(b"another epoch".to_vec()));
    assert_eq!(storage.parts.part(&id(0, 0)).await.unwrap(), None);
    for _ in 0..2 {
        storage.parts.delete_part(&id(0, 1)).await.unwrap();
        assert_eq!(storage.parts.part(&id(0, 1)).await.unwrap(), None);
    }
    assert!(storage.parts.part(&id(1, 1)).await.unwrap().is_some());
}

pub async fn a_part_is_there_for_its_time(storage: &Storage) {
    let tenant = unique("t");
    let id = |part| PartId { tenant: tenant.clone(), file_id: "file".to_owned(), epoch: 0, part };
    let (soon, later) = (Duration::from_secs(1), Duration::from_secs(3_600));
    let put = async |part, kept| storage.parts.put_part(&id(part), vec![1, 2], kept).await.unwrap();
    for (part, kept) in [(0, Some(soon)), (1, Some(later)), (2, None), (3, Some(soon)), (4, Some(soon))] {
        put(part, kept).await;
    }
    put(3, Some(later)).await;
    put(4, None).await;
    tokio::time::sleep(3 * soon).await;
    put(5, Some(later)).await;
    for (part, is_there) in [(0, false), (1, true), (2, true), (3, true), (4, true)] {
        assert_eq!(storage.parts.part(&id(part)).await.unwrap().is_some(), is_there, "{part}");
    }
}

/// Counters that are counted up by several at once: no step is lost, and none is made twice.
pub async fn of_changes_at_once_each_is_made_once(storage: &Storage, races: usize) {
    const COUNTERS: usize = 4;
    const STEPS: usize = 5;
    for _ in 0..races {
        let tenant = unique("t");
        let count = |storage: Storage, tenant: String| async move {
            for _ in 0..STEPS {
                loop {
                    let found = storage.objects.object(&tenant, KIND, "n").await.unwrap();
                    let (version, n) = found.map_or((0, 0), |object| (object.version, object.value[0]));
                    let next = Some(vec![n + 1]);
                    // What an outage leaves open is not repeated here, so a server under load may refuse: try again
                    // only after it said no.
                    if storage.objects.replace(&tenant, KIND, "n", version, next).await.unwrap() {
                        break;
                    }
                }
            }
        };
        let racing = (0..COUNTERS).map(|_| tokio::spawn(count(storage.clone(), tenant.clone())));
        join_all(racing).await.into_iter().for_each(|ended| ended.unwrap());
        let found = storage.objects.object(&tenant, KIND, "n").await.unwrap().unwrap();
        assert_eq!((found.version, usize::from(found.value[0])), ((COUNTERS * STEPS) as i64, COUNTERS * STEPS));
    }
}
