//! Kept requests.

use millrace_storage::Storage;

use super::unique;

pub async fn what_was_asked_is_kept_until_it_is_forgotten(storage: &Storage) {
    let (tenant, other) = (unique("kept"), unique("kept"));
    let kept = async |tenant: &str| storage.kept.kept(tenant, "r").await.unwrap();
    assert_eq!(kept(&tenant).await, None);
    for _ in 0..2 {
        storage.kept.keep(&tenant, "r", vec![0xff, 0, 1]).await.unwrap();
        assert_eq!(kept(&tenant).await, Some(vec![0xff, 0, 1]));
    }
    assert_eq!(kept(&other).await, None);

    storage.kept.forget(&tenant, "r").await.unwrap();
    assert_eq!(kept(&tenant).await, Some(Vec::new()));
    // A replay.
    storage.kept.keep(&tenant, "r", vec![0xff, 0, 1]).await.unwrap();
    assert_eq!(kept(&tenant).await, Some(Vec::new()));
    // Before anybody kept it.
    storage.kept.forget(&other, "r").await.unwrap();
    storage.kept.keep(&other, "r", vec![1]).await.unwrap();
    assert_eq!(kept(&other).await, Some(Vec::new()));
}
