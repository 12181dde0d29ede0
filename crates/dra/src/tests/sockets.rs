use std::{fs, path::Path, time::Duration};

use kubelet::{RegistrationState, connect};
use netdevice::fixture;
use proto::{
    dra::{self, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest, dra_plugin_client::DraPluginClient},
    dra_v1beta1::dra_plugin_client::DraPluginClient as DraPluginClientV1beta1,
    drahealth::NodeWatchResourcesRequest,
    drahealth_v1alpha1::dra_resource_health_client::DraResourceHealthClient,
    pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient},
};
use tokio::{
    sync::watch,
    task::{JoinSet, yield_now},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::world::{ClaimForm, World, view};
use crate::{registration::Sockets, settings::Outcome};

const SOON: Duration = Duration::from_secs(20);

struct Running {
    tasks: JoinSet<()>,
    state: watch::Receiver<RegistrationState>,
    shutdown: CancellationToken,
    sockets: Sockets,
}

fn run(world: &World, instance: Option<&str>) -> Running {
    let (sender, state) = watch::channel(RegistrationState::default());
    let (mut tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
    let sockets = Sockets::of(&world.paths(), instance);
    tasks.spawn(crate::serve(world.settings(instance), sender, shutdown.clone()));
    Running { tasks, state, shutdown, sockets }
}

async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            yield_now().await;
        }
    };
    timeout(SOON, wait).await.unwrap();
}

/// As the kubelet registers a plugin.
async fn register(socket: &Path) -> PluginInfo {
    until(|| socket.exists()).await;
    let mut client = RegistrationClient::new(connect(socket, SOON).await.unwrap());
    let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };
    client.notify_registration_status(registered).await.unwrap();
    info
}

#[tokio::test]
async fn the_kubelet_registers_the_driver_and_calls_both_versions() {
    let world = World::new();
    let mut running = run(&world, None);
    let info = register(&running.sockets.registration).await;
    assert_eq!(info.r#type, "DRAPlugin");
    assert_eq!(info.supported_versions[..2], ["v1.DRAPlugin", "v1beta1.DRAPlugin"]);
    timeout(SOON, running.state.wait_for(|state| *state == RegistrationState::Registered)).await.unwrap().unwrap();
    let channel = connect(Path::new(&info.endpoint), SOON).await.unwrap();
    let (mut v1, mut v1beta1) = (DraPluginClient::new(channel.clone()), DraPluginClientV1beta1::new(channel));
    let claim = ClaimForm::default();
    world.put_claim(&claim);
    let missing = ClaimForm { uid: "c2", name: "missing", ..ClaimForm::default() };
    let request = NodePrepareResourcesRequest { claims: vec![claim.asked(), missing.asked()] };
    let answer = v1.node_prepare_resources(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer, v1beta1.node_prepare_resources(request).await.unwrap().into_inner());
    assert_eq!(answer.claims.len(), 2, "one entry for each claim");
    assert_eq!((answer.claims["c1"].devices.len(), answer.claims["c1"].error.as_str()), (1, ""));
    assert_eq!(
        answer.claims["c2"].error,
        "the claim default/missing does not exist any longer: delete the pod if it is still there"
    );
    let request = NodeUnprepareResourcesRequest { claims: vec![claim.asked(), missing.asked()] };
    let answer = v1beta1.node_unprepare_resources(request.clone()).await.unwrap().into_inner();
    assert!(answer.claims.len() == 2 && answer.claims.values().all(|claim| claim.error.is_empty()));
    v1.node_unprepare_resources(request).await.unwrap();
    assert!(world.reserved().is_empty());
    let outcomes: Vec<Outcome> = world.reports.lock().unwrap().iter().map(|report| report.outcome.clone()).collect();
    assert_eq!(outcomes[0], Outcome::Prepared);
    assert!(matches!(&outcomes[1], Outcome::Refused(reason) if reason.contains("missing")));
    let mut health = DraResourceHealthClient::new(connect(Path::new(&info.endpoint), SOON).await.unwrap());
    // an open stream does not keep the driver from ending
    let mut lists = health.node_watch_resources(NodeWatchResourcesRequest {}).await.unwrap().into_inner();
    let list = lists.message().await.unwrap().unwrap();
    let names: Vec<String> = list.devices.into_iter().map(|it| it.device.unwrap().device_name).collect();
    assert_eq!(names, ["eth1", "eth2", "eth3"]);
    world.views.send_replace(view(vec![fixture::link(2, "eth1")]));
    assert_eq!(lists.message().await.unwrap().unwrap().devices.len(), 1);
    running.shutdown.cancel();
    timeout(SOON, running.tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(!running.sockets.registration.exists() && !running.sockets.service.exists());
}

#[tokio::test]
async fn sockets_that_were_deleted_are_made_anew() {
    let world = World::new();
    let mut running = run(&world, Some("uid-1"));
    let Sockets { registration, service } = running.sockets.clone();
    for deleted in [&registration, &service] {
        register(&registration).await;
        let before = [&registration, &service].map(|path| wake::FileIdentity::of(path));
        fs::remove_file(deleted).unwrap();
        until(|| {
            let now = [&registration, &service].map(|path| wake::FileIdentity::of(path));
            now.iter().all(Option::is_some) && now[0] != before[0] && now[1] != before[1]
        })
        .await;
    }
    register(&registration).await;
    timeout(SOON, running.state.wait_for(|state| *state == RegistrationState::Registered)).await.unwrap().unwrap();
    running.shutdown.cancel();
    timeout(SOON, running.tasks.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn two_instances_serve_side_by_side_and_a_killed_one_leaves_nothing_that_stays() {
    let world = World::new();
    let (old, mut new) = (run(&world, Some("uid-1")), run(&world, Some("uid-2")));
    let infos = [register(&old.sockets.registration).await, register(&new.sockets.registration).await];
    assert_ne!(infos[0].endpoint, infos[1].endpoint);
    let claim = ClaimForm::default();
    world.put_claim(&claim);
    let mut first = DraPluginClient::new(connect(Path::new(&infos[0].endpoint), SOON).await.unwrap());
    let mut second = DraPluginClient::new(connect(Path::new(&infos[1].endpoint), SOON).await.unwrap());
    let prepare = NodePrepareResourcesRequest { claims: vec![claim.asked()] };
    let answer = first.node_prepare_resources(prepare.clone()).await.unwrap().into_inner();
    assert_eq!(answer, second.node_prepare_resources(prepare).await.unwrap().into_inner());
    let unprepare = NodeUnprepareResourcesRequest { claims: vec![claim.asked()] };
    let _: dra::NodeUnprepareResourcesResponse = second.node_unprepare_resources(unprepare).await.unwrap().into_inner();
    assert!(world.reserved().is_empty());
    // the old one ends, and its sockets with it; those of the new one stay
    old.shutdown.cancel();
    let Running { mut tasks, sockets, .. } = old;
    timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(!sockets.registration.exists() && new.sockets.registration.exists());
    // what a killed instance left is removed by the next one
    let stale = world.paths().registry.join("netdevice.networking.k8s.io-uid-0-reg.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    new.shutdown.cancel();
    timeout(SOON, new.tasks.join_next()).await.unwrap().unwrap().unwrap();
    let next = run(&world, Some("uid-3"));
    register(&next.sockets.registration).await;
    assert!(!stale.exists());
}
