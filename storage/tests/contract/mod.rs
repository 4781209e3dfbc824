//! What every adapter must do. `contract!` turns the cases into tests over one adapter.

#![expect(clippy::unwrap_used, reason = "tests")]

mod backup;
mod kept;
mod keys;
mod ledger;
mod model;
mod objects;
mod random;
mod results;
mod usage;
mod webhooks;

use std::sync::atomic::{AtomicI32, Ordering};

use millrace_storage::{Entry, LogPlace, Rollup, RollupKey, Storage};

pub use backup::*;
pub use kept::*;
pub use keys::*;
pub use ledger::*;
pub use objects::*;
pub use random::*;
pub use results::*;
pub use usage::*;
pub use webhooks::*;

/// Tests over one adapter. `$shared` opens a database that other tests may use at the same time,
/// `$fresh` an empty one; both return `(Storage, guard)`.
#[macro_export]
macro_rules! contract {
    ($shared:path, $fresh:path, seeds: $seeds:expr, races: $races:expr) => {
        $crate::contract!(@over $shared =>
            ping_answers,
            first_in_the_log_wins_in_any_order_of_writes,
            an_earlier_generation_is_earlier,
            the_latest_run_is_read,
            a_result_written_again_stays,
            results_of_tenants_are_apart,
            a_megabyte_comes_back_as_it_was,
            what_is_out_of_range_is_refused,
            a_claim_replayed_is_ours,
            waiters_are_kept_once_each,
            a_flush_is_read_back,
            a_flush_written_again_changes_nothing,
            a_stale_flush_changes_nothing,
            rollups_come_in_the_order_asked_for,
            a_rollup_of_another_partition_is_refused,
            a_flush_out_of_range_is_refused_whole,
            entries_beyond_one_batch_are_all_kept,
            an_empty_flush_moves_the_checkpoint,
            usage_is_of_one_tenant_and_range,
            usage_of_all_times_is_found,
            what_was_asked_is_kept_until_it_is_forgotten,
            every_row_is_exported_and_imported_unchanged,
            an_object_is_replaced_by_its_version_only,
            objects_are_listed_by_id_either_way,
            parts_of_files_come_back_as_they_were,
            a_part_is_there_for_its_time,
            a_delivery_is_what_was_written_last,
            deliveries_are_listed_from_the_newest_on,
            what_is_due_is_kept_by_shard_and_minute,
            pending_deliveries_are_due_once_imported,
        );
        $crate::contract!(@over $fresh => count_counts_outcomes, totals_are_the_sums);

        $crate::contract!(@over $shared => random_orders_end_as_the_model_does($seeds));
        $crate::contract!(@over $shared =>
            one_of_many_claimants_wins($races),
            first_in_the_log_wins_among_writes_at_once($races),
            of_changes_at_once_each_is_made_once($races),
        );
    };
    (@over $open:path => $($case:ident $(($argument:expr))?),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (storage, guard) = $open().await;
            $crate::contract::$case(&storage $(, $argument)?).await;
            drop(storage);
            guard.close().await;
        })*
    };
}

/// A name that no other case uses, nor an earlier run over a database that outlives it.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", unique_partition())
}

/// A partition of the log that no other case uses: checkpoints have no tenant.
pub fn unique_partition() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(0);
    let this_run = i32::try_from(std::process::id() % 30_000).unwrap() << 16;
    this_run + NEXT.fetch_add(1, Ordering::Relaxed)
}

pub async fn ping_answers(storage: &Storage) {
    storage.ping().await.unwrap();
}

pub fn place(generation: u32, offset: i64) -> LogPlace {
    LogPlace { generation, offset }
}

/// A line of the ledger at `place`.
pub fn entry(tenant: &str, hour: i64, partition: i32, place: LogPlace, call_id: &str) -> Entry {
    Entry {
        tenant: tenant.to_owned(),
        hour,
        partition,
        place,
        call_id: call_id.to_owned(),
        kind: "finished".to_owned(),
        user: "user-é".to_owned(),
        request_id: format!("request of {call_id}"),
        operation: "chat.completions".to_owned(),
        provider: "simulated".to_owned(),
        model: "small".to_owned(),
        input_tokens: 100 + place.offset,
        output_tokens: 7,
        cost_nanos: 1_000_003 * (place.offset + 1),
        charge_nanos: 2_000_000,
        currency: "USD".to_owned(),
        price_version: "2026-01".to_owned(),
        estimated: place.offset % 2 == 1,
        at: hour * 3_600_000_000 + 17,
    }
}

pub fn rollup_key(tenant: &str, user: &str, hour: i64, generation: u32, partition: i32) -> RollupKey {
    RollupKey { tenant: tenant.to_owned(), user: user.to_owned(), hour, generation, partition }
}

/// What a fold up to `upto` may have summed up.
pub fn rollup(upto: i64) -> Rollup {
    let calls = upto + 1;
    Rollup {
        upto,
        calls,
        unconfirmed: calls / 3,
        entries: calls,
        input_tokens: 11 * calls,
        output_tokens: 3 * calls,
        cost_nanos: [("EUR".to_owned(), calls), ("USD".to_owned(), 5 * calls)].into(),
        charge_nanos: [("USD".to_owned(), 9 * calls)].into(),
    }
}
