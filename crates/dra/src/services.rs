//! All services on one socket, by the path of a request: tonic's own router is a large crate.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use proto::{
    dra::dra_plugin_server::DraPluginServer,
    dra_v1beta1::dra_plugin_server::{DraPluginServer as DraPluginServerV1beta1, SERVICE_NAME as V1BETA1},
    drahealth::dra_resource_health_server::{DraResourceHealthServer, SERVICE_NAME as HEALTH},
    drahealth_v1alpha1::dra_resource_health_server::{
        DraResourceHealthServer as DraResourceHealthServerV1alpha1, SERVICE_NAME as HEALTH_V1ALPHA1,
    },
};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service as TowerService, http},
};

use crate::{health::HealthService, service::Service};

/// The services.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    v1: DraPluginServer<Service>,
    v1beta1: DraPluginServerV1beta1<Service>,
    health: DraResourceHealthServer<HealthService>,
    health_v1alpha1: DraResourceHealthServerV1alpha1<HealthService>,
}

impl Services {
    pub(crate) fn new(service: Service, health: HealthService) -> Self {
        Self {
            v1: DraPluginServer::new(service.clone()),
            v1beta1: DraPluginServerV1beta1::new(service),
            health: DraResourceHealthServer::new(health.clone()),
            health_v1alpha1: DraResourceHealthServerV1alpha1::new(health),
        }
    }
}

impl TowerService<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // /package.Service/Method
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            V1BETA1 => self.v1beta1.call(request),
            HEALTH => self.health.call(request),
            HEALTH_V1ALPHA1 => self.health_v1alpha1.call(request),
            // it answers UNIMPLEMENTED to what is not its own
            _ => self.v1.call(request),
        }
    }
}
