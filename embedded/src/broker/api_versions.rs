//! `ApiVersions`, for every client.

use nisshi_broker::Error;
use nisshi_sans_io::{Body, Frame, FrameInput};
use nisshi_service::FrameRouteService;
use rama::Service;

/// The routes, with an answer to `ApiVersions` that leaves its optional fields out.
///
/// nisshi fills them with "none"; librdkafka before 2.2, and with it Debian's kcat, cannot skip
/// an optional field and gives up with "read underflow".
#[derive(Clone, Debug)]
pub(super) struct PlainApiVersions(pub(super) FrameRouteService<Error>);

impl Service<FrameInput> for PlainApiVersions {
    type Output = Frame;
    type Error = Error;

    async fn serve(&self, input: FrameInput) -> Result<Frame, Error> {
        let mut frame = self.0.serve(input).await?;
        if let Body::ApiVersionsResponse(versions) = frame.body {
            let plain = versions
                .supported_features(None)
                .finalized_features_epoch(None)
                .finalized_features(None)
                .zk_migration_ready(None);
            frame.body = Body::ApiVersionsResponse(plain);
        }
        Ok(frame)
    }
}
