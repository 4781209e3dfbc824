//! Which Kafka requests the embedded broker answers, and by what.
//!
//! Everything but `Fetch`, `Produce` and the two deletions is nisshi's own service. Transactions,
//! SASL and ACL requests are left out: the broker's storage does not implement them correctly, and
//! a client that asks for one is told so by `ApiVersions` instead of getting a wrong answer.

use std::sync::Arc;

use nisshi_broker::{
    Error,
    coordinator::group::Coordinator,
    service::{coordinator, storage as api},
};
use nisshi_sans_io::{ApiKey as _, DeleteRecordsRequest, DeleteTopicsRequest, FetchRequest, ProduceRequest};
use nisshi_service::{FrameRequestLayer, FrameRouteBuilder, FrameRouteService};
use nisshi_storage::{ArcDynStorage, DeleteRecordsService, DeleteTopicsService, ProduceService};
use rama::{Layer as _, Service as _, layer::MapErrLayer};

use super::{
    api_versions::PlainApiVersions,
    fetch::LongPollFetch,
    log_ends::{Announcing, Forgetting, LogEnds},
};

type Route = fn(FrameRouteBuilder<Error>, ArcDynStorage) -> Result<FrameRouteBuilder<Error>, Error>;

/// nisshi's services that are used as they are.
const AS_THEY_ARE: [Route; 10] = [
    api::create_topics,
    api::describe_cluster,
    api::describe_configs,
    api::describe_topic_partitions,
    api::find_coordinator,
    api::incremental_alter_configs,
    api::init_producer_id,
    api::list_offsets,
    api::list_partition_reassignments,
    api::metadata,
];

/// Builds the table of requests that one connection is served with.
pub(super) fn routes<C>(storage: ArcDynStorage, groups: C, ends: &Arc<LogEnds>) -> Result<PlainApiVersions, Error>
where
    C: Coordinator,
{
    let builder = AS_THEY_ARE
        .iter()
        .try_fold(FrameRouteService::<Error>::builder(), |builder, route| route(builder, storage.clone()))?;
    let builder = coordinator::services(builder, groups)?;

    let produce = Announcing::new(ProduceService { storage: storage.clone() }, ends.clone());
    let fetch = LongPollFetch::new(storage.clone(), ends.clone());
    let delete_topics = Forgetting::new(DeleteTopicsService { storage: storage.clone() }, ends.clone());
    let delete_records = Forgetting::new(DeleteRecordsService { storage }, ends.clone());

    builder
        .with_capped_route::<ProduceRequest, _>(produce)?
        .with_route(
            FetchRequest::KEY,
            (MapErrLayer::new(Error::from), FrameRequestLayer::<FetchRequest>::new()).into_layer(fetch).boxed(),
        )?
        .with_route(
            DeleteTopicsRequest::KEY,
            (MapErrLayer::new(Error::from), FrameRequestLayer::<DeleteTopicsRequest>::new())
                .into_layer(delete_topics)
                .boxed(),
        )?
        .with_route(
            DeleteRecordsRequest::KEY,
            (MapErrLayer::new(Error::from), FrameRequestLayer::<DeleteRecordsRequest>::new())
                .into_layer(delete_records)
                .boxed(),
        )?
        .build()
        .map(PlainApiVersions)
        .map_err(Into::into)
}
