//! The gRPC services that the kubelet calls, v1 and the versions before it with the same messages.

use std::{collections::HashMap, sync::Arc};

use netdevice::Pod;
use proto::{
    dra::{self as wire, dra_plugin_server::DraPlugin},
    dra_v1beta1::dra_plugin_server::DraPlugin as DraPluginV1beta1,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{
    driver::{Driver, PATIENCE},
    settings::{ClaimName, Outcome, Report},
};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) Arc<Driver>);

impl Service {
    /// One claim after the other: a later one must see the names of an earlier one. They share the time.
    async fn prepare_all(&self, request: wire::NodePrepareResourcesRequest) -> wire::NodePrepareResourcesResponse {
        let deadline = Instant::now() + PATIENCE;
        let mut claims = HashMap::new();
        for claim in request.claims {
            let prepared = self.0.prepare(&claim, deadline).await;
            let uid = claim.uid.clone();
            let answer = match prepared {
                Ok((devices, pod)) => {
                    tracing::info!(claim = name(&claim), devices = devices.len(), "prepared");
                    self.report(claim, pod, Outcome::Prepared);
                    wire::NodePrepareResourceResponse { devices, error: String::new() }
                }
                Err((error, pod)) => {
                    let error = error.to_string();
                    tracing::warn!(claim = name(&claim), "not prepared: {error}");
                    self.report(claim, pod, Outcome::Refused(error.clone()));
                    wire::NodePrepareResourceResponse { devices: Vec::new(), error }
                }
            };
            claims.insert(uid, answer);
        }
        wire::NodePrepareResourcesResponse { claims }
    }

    async fn unprepare_all(
        &self,
        request: wire::NodeUnprepareResourcesRequest,
    ) -> wire::NodeUnprepareResourcesResponse {
        let deadline = Instant::now() + PATIENCE;
        let mut claims = HashMap::new();
        for claim in request.claims {
            let unprepared = self.0.unprepare(&claim, deadline).await;
            let uid = claim.uid.clone();
            let error = match unprepared {
                Ok(on_host) => {
                    tracing::info!(claim = name(&claim), "unprepared");
                    self.report(claim, None, Outcome::Unprepared(on_host));
                    String::new()
                }
                Err(error) => {
                    tracing::warn!(claim = name(&claim), "not unprepared: {error}");
                    self.report(claim, None, Outcome::NotUnprepared(error.clone()));
                    error
                }
            };
            claims.insert(uid, wire::NodeUnprepareResourceResponse { error });
        }
        wire::NodeUnprepareResourcesResponse { claims }
    }

    fn report(&self, claim: wire::Claim, pod: Option<Pod>, outcome: Outcome) {
        let wire::Claim { namespace, uid, name } = claim;
        (self.0.settings.reporter)(Report { claim: ClaimName { namespace, name, uid }, pod, outcome });
    }
}

fn name(claim: &wire::Claim) -> String {
    format!("{}/{}", claim.namespace, claim.name)
}

/// Both versions have the same calls and messages.
macro_rules! serve {
    ($($version:ident),*) => {$(
        #[tonic::async_trait]
        impl $version for Service {
            async fn node_prepare_resources(
                &self,
                request: Request<wire::NodePrepareResourcesRequest>,
            ) -> Result<Response<wire::NodePrepareResourcesResponse>, Status> {
                Ok(Response::new(self.prepare_all(request.into_inner()).await))
            }

            async fn node_unprepare_resources(
                &self,
                request: Request<wire::NodeUnprepareResourcesRequest>,
            ) -> Result<Response<wire::NodeUnprepareResourcesResponse>, Status> {
                Ok(Response::new(self.unprepare_all(request.into_inner()).await))
            }
        }
    )*};
}
serve!(DraPlugin, DraPluginV1beta1);
