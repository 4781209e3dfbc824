//! The calls about collections.

use std::time::Instant;

use qdrant_client::qdrant::{
    CollectionDescription, CollectionExists, CollectionExistsRequest, CollectionExistsResponse,
    CollectionOperationResponse, CreateCollection, DeleteCollection, GetCollectionInfoRequest,
    GetCollectionInfoResponse, ListCollectionsRequest, ListCollectionsResponse, collections_server::Collections,
};
use tonic::{Request, Response, Status};

use super::{
    request,
    response::{info, seconds},
    store::Store,
    unsupported,
};

#[tonic::async_trait]
impl Collections for Store {
    async fn get(
        &self,
        request: Request<GetCollectionInfoRequest>,
    ) -> Result<Response<GetCollectionInfoResponse>, Status> {
        let since = Instant::now();
        let name = request.into_inner().collection_name;
        let found =
            self.with(&name, |collection| collection.read(|shard| Ok(info(&shard.config(), &shard.info())))).await?;
        Ok(Response::new(GetCollectionInfoResponse { result: Some(found), time: seconds(since) }))
    }

    async fn list(&self, _: Request<ListCollectionsRequest>) -> Result<Response<ListCollectionsResponse>, Status> {
        let since = Instant::now();
        let collections = self.names().into_iter().map(|name| CollectionDescription { name }).collect();
        Ok(Response::new(ListCollectionsResponse { collections, time: seconds(since) }))
    }

    async fn create(
        &self,
        request: Request<CreateCollection>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let since = Instant::now();
        let request = request.into_inner();
        let name = request.collection_name.clone();
        self.create(name, request::config(request)?).await?;
        Ok(Response::new(CollectionOperationResponse { result: true, time: seconds(since) }))
    }

    async fn delete(
        &self,
        request: Request<DeleteCollection>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let since = Instant::now();
        let result = self.delete(request.into_inner().collection_name).await?;
        Ok(Response::new(CollectionOperationResponse { result, time: seconds(since) }))
    }

    async fn collection_exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> Result<Response<CollectionExistsResponse>, Status> {
        let since = Instant::now();
        let exists = self.find(&request.into_inner().collection_name).is_some();
        let result = Some(CollectionExists { exists });
        Ok(Response::new(CollectionExistsResponse { result, time: seconds(since) }))
    }

    unsupported! {
        update(UpdateCollection) -> CollectionOperationResponse;
        update_aliases(ChangeAliases) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        list_aliases(ListAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}
