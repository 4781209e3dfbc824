//! The embedded vector store through qdrant-client.
#![expect(clippy::unwrap_used, reason = "tests")]

use millrace_embedded::{EmbeddedError, Vectors};
use qdrant_client::{
    Qdrant, QdrantError,
    qdrant::{
        Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder,
        Distance, FieldType, Filter, GetPointsBuilder, KeywordIndexParamsBuilder, PointId, PointStruct, PointsIdsList,
        QueryPointsBuilder, ScalarQuantizationBuilder, ScrollPointsBuilder, SearchPointsBuilder,
        SetPayloadPointsBuilder, UpsertPointsBuilder, Value, VectorParams, VectorParamsBuilder, VectorsConfigBuilder,
        vectors_config::Config,
    },
};
use tonic::Code;

const C: &str = "passages";

async fn client(vectors: &Vectors) -> Qdrant {
    Qdrant::from_url(vectors.url()).build().unwrap()
}

fn passage(id: u64, tenant: &str, vector: [f32; 4]) -> PointStruct {
    let text = format!("passage {id}");
    PointStruct::new(
        id,
        vector.to_vec(),
        [("tenant", tenant.into()), ("text", text.into()), ("n", (id as i64).into())] as [(&str, Value); 3],
    )
}

/// A collection as the indexer makes it, with five passages of two tenants.
async fn filled(client: &Qdrant) {
    let create = CreateCollectionBuilder::new(C)
        .vectors_config(VectorParamsBuilder::new(4, Distance::Cosine))
        .quantization_config(ScalarQuantizationBuilder::default());
    assert!(client.create_collection(create).await.unwrap().result);
    let index = CreateFieldIndexCollectionBuilder::new(C, "tenant", FieldType::Keyword)
        .field_index_params(KeywordIndexParamsBuilder::default().is_tenant(true));
    client.create_field_index(index).await.unwrap();
    let points = vec![
        passage(1, "a", [1.0, 0.0, 0.0, 0.0]),
        passage(2, "a", [0.9, 0.1, 0.0, 0.0]),
        passage(3, "b", [1.0, 0.0, 0.0, 0.0]),
        passage(4, "b", [0.0, 1.0, 0.0, 0.0]),
        passage(5, "a", [0.0, 0.0, 1.0, 0.0]),
    ];
    client.upsert_points(UpsertPointsBuilder::new(C, points).wait(true)).await.unwrap();
}

fn of(tenant: &str) -> Filter {
    Filter::must([Condition::matches("tenant", tenant.to_owned())])
}

async fn nearest(client: &Qdrant, tenant: &str) -> Vec<PointId> {
    let query =
        QueryPointsBuilder::new(C).query(vec![1.0, 0.0, 0.0, 0.0]).filter(of(tenant)).limit(10).with_payload(true);
    let found = client.query(query).await.unwrap().result;
    assert!(found.iter().all(|point| point.payload["tenant"].as_str().unwrap() == tenant));
    assert!(found.iter().all(|point| point.payload["text"].as_str().unwrap().starts_with("passage")));
    assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    found.into_iter().map(|point| point.id.unwrap()).collect()
}

fn ids<const N: usize>(ids: [u64; N]) -> Vec<PointId> {
    ids.into_iter().map(PointId::from).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, QdrantError>) -> Code {
    match result {
        Err(QdrantError::ResponseError { status }) => status.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_finds_its_own_passages_only_through_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let first = client(&vectors).await;
    assert!(!first.collection_exists(C).await.unwrap());
    filled(&first).await;
    assert_eq!(nearest(&first, "a").await, ids([1, 2, 5]));
    assert_eq!(nearest(&first, "b").await, ids([3, 4]));
    assert_eq!(nearest(&first, "c").await, ids([]));
    drop(first);
    vectors.shutdown().await;

    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let second = client(&vectors).await;
    assert!(second.collection_exists(C).await.unwrap());
    assert_eq!(nearest(&second, "a").await, ids([1, 2, 5]));
    // Changes go on after a restart: an overwritten point and a new one.
    let points = vec![passage(5, "b", [1.0, 0.0, 0.0, 0.1]), passage(6, "a", [1.0, 0.0, 0.1, 0.0])];
    second.upsert_points(UpsertPointsBuilder::new(C, points)).await.unwrap();
    assert_eq!(nearest(&second, "a").await, ids([1, 6, 2]));
    assert_eq!(nearest(&second, "b").await, ids([3, 5, 4]));
    drop(second);
    vectors.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_queried_searched_read_counted_scrolled_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let client = client(&vectors).await;
    filled(&client).await;

    let query = QueryPointsBuilder::new(C).query(vec![2.0, 0.0, 0.0, 0.0]).score_threshold(0.999);
    let found = client.query(query).await.unwrap().result;
    assert_eq!(found.len(), 2);
    assert!(
        found
            .iter()
            .all(|point| (point.score - 1.0).abs() < 1e-5 && point.payload.is_empty() && point.vectors.is_none())
    );
    let like = QueryPointsBuilder::new(C).query(PointId::from(1)).limit(1);
    assert_eq!(client.query(like).await.unwrap().result[0].id, Some(PointId::from(3)));
    let offset = QueryPointsBuilder::new(C).query(vec![1.0, 0.0, 0.0, 0.0]).filter(of("a")).offset(1).limit(1);
    assert_eq!(client.query(offset).await.unwrap().result[0].id, Some(PointId::from(2)));
    let search = SearchPointsBuilder::new(C, vec![0.0, 1.0, 0.0, 0.0], 1).with_payload(true);
    let found = client.search_points(search).await.unwrap().result;
    assert_eq!((found[0].id.clone(), found[0].payload["n"].as_integer()), (Some(PointId::from(4)), Some(4)));

    let got = client.get_points(GetPointsBuilder::new(C, ids([2, 99, 1])).with_vectors(true)).await.unwrap().result;
    assert_eq!(got.iter().map(|point| point.id.clone().unwrap()).collect::<Vec<_>>(), ids([2, 1]));
    assert_eq!(got[1].payload["text"].as_str().unwrap(), "passage 1");
    let count = |filter: Filter| {
        let client = client.clone();
        async move { client.count(CountPointsBuilder::new(C).filter(filter)).await.unwrap().result.unwrap().count }
    };
    assert_eq!((count(of("a")).await, count(of("b")).await, count(Filter::default()).await), (3, 2, 5));

    let page = client.scroll(ScrollPointsBuilder::new(C).limit(3)).await.unwrap();
    assert_eq!(page.result.iter().map(|point| point.id.clone().unwrap()).collect::<Vec<_>>(), ids([1, 2, 3]));
    let rest =
        client.scroll(ScrollPointsBuilder::new(C).limit(3).offset(page.next_page_offset.unwrap())).await.unwrap();
    assert_eq!(rest.result.iter().map(|point| point.id.clone().unwrap()).collect::<Vec<_>>(), ids([4, 5]));
    assert_eq!(rest.next_page_offset, None);

    client.delete_points(DeletePointsBuilder::new(C).points(PointsIdsList { ids: ids([1]) })).await.unwrap();
    client.delete_points(DeletePointsBuilder::new(C).points(of("b"))).await.unwrap();
    assert_eq!((count(of("a")).await, count(of("b")).await), (2, 0));
    drop(client);
    vectors.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_vectors_and_uuids_work() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let client = client(&vectors).await;
    let mut config = VectorsConfigBuilder::default();
    config.add_named_vector_params("title", VectorParamsBuilder::new(2, Distance::Dot));
    config.add_named_vector_params("text", VectorParamsBuilder::new(3, Distance::Euclid));
    client.create_collection(CreateCollectionBuilder::new("named").vectors_config(config)).await.unwrap();
    let id = "550e8400-e29b-41d4-a716-446655440000";
    let named = std::collections::HashMap::from([
        ("title".to_owned(), vec![1.0, 2.0]),
        ("text".to_owned(), vec![1.0, 2.0, 3.0]),
    ]);
    client
        .upsert_points(UpsertPointsBuilder::new(
            "named",
            vec![PointStruct::new(id, named, [("a", 1.into())] as [(&str, Value); 1])],
        ))
        .await
        .unwrap();
    let found = client
        .query(QueryPointsBuilder::new("named").query(vec![1.0, 2.0]).using("title").with_vectors(true))
        .await
        .unwrap();
    assert_eq!(found.result[0].id, Some(PointId::from(id)));
    assert!((found.result[0].score - 5.0).abs() < 1e-5);
    assert!(found.result[0].vectors.is_some());
    drop(client);
    vectors.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_described_listed_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let client = client(&vectors).await;
    filled(&client).await;
    let info = client.collection_info(C).await.unwrap().result.unwrap();
    assert_eq!(info.points_count, Some(5));
    assert!(info.payload_schema.contains_key("tenant"));
    let config = info.config.unwrap().params.unwrap().vectors_config.unwrap().config.unwrap();
    assert!(matches!(config, Config::Params(VectorParams { size: 4, distance: 1, .. })), "{config:?}");
    let names: Vec<_> = client.list_collections().await.unwrap().collections.into_iter().map(|c| c.name).collect();
    assert_eq!(names, [C]);
    let again = CreateCollectionBuilder::new(C).vectors_config(VectorParamsBuilder::new(4, Distance::Dot));
    assert_eq!(code(client.create_collection(again).await), Code::AlreadyExists);

    assert!(client.delete_collection(C).await.unwrap().result);
    assert!(!client.delete_collection(C).await.unwrap().result);
    assert!(!client.collection_exists(C).await.unwrap());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    filled(&client).await;
    assert_eq!(nearest(&client, "a").await.len(), 3);
    drop(client);
    vectors.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_or_not_there_is_refused_with_qdrants_code() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let client = client(&vectors).await;
    assert_eq!(code(client.query(QueryPointsBuilder::new(C).query(vec![1.0])).await), Code::NotFound);
    filled(&client).await;
    let short = PointStruct::new(9, vec![1.0, 2.0], [("a", 1.into())] as [(&str, Value); 1]);
    assert_eq!(code(client.upsert_points(UpsertPointsBuilder::new(C, vec![short])).await), Code::InvalidArgument);
    assert_eq!(code(client.query(QueryPointsBuilder::new(C).query(vec![1.0])).await), Code::InvalidArgument);
    assert_eq!(code(client.query(QueryPointsBuilder::new(C).query(PointId::from(99))).await), Code::NotFound);
    let payload = SetPayloadPointsBuilder::new(C, qdrant_client::Payload::new());
    assert_eq!(code(client.set_payload(payload).await), Code::Unimplemented);
    for name in ["", ".hidden", "a/b", ".."] {
        let create = CreateCollectionBuilder::new(name).vectors_config(VectorParamsBuilder::new(4, Distance::Dot));
        assert_eq!(code(client.create_collection(create).await), Code::InvalidArgument, "{name:?}");
    }
    // A refused change is not there later, and does not stop the next one.
    let count = client.count(CountPointsBuilder::new(C)).await.unwrap().result.unwrap().count;
    assert_eq!(count, 5);
    client.upsert_points(UpsertPointsBuilder::new(C, vec![passage(9, "a", [1.0; 4])])).await.unwrap();
    drop(client);
    vectors.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_damaged_collection_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = Vectors::start(directory.path(), 0).unwrap();
    let port = vectors.url().rsplit(':').next().unwrap().parse().unwrap();
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(Vectors::start(other.path(), port).unwrap_err(), EmbeddedError::PortTaken { .. }));
    std::fs::create_dir(other.path().join("broken")).unwrap();
    let message = Vectors::start(other.path(), 0).unwrap_err().to_string();
    assert!(message.contains("collection broken") && !message.contains('\n'), "{message}");
    vectors.shutdown().await;
}
