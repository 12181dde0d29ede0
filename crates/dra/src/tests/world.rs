//! A node with interfaces, an API server with claims and Pods, and instances of the driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    future::pending,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use kube::{Client, client::Body};
use netdevice::{
    Acquisition, DeviceId, Link, Owner, Pod, Pools, Projector, Reservation, Snapshot, View,
    claims::{DRIVER, parameters},
    fixture,
};
use proto::dra as wire;
use serde_json::{Value, json};
use store::{Records, journal};
use tokio::{sync::watch, time::Instant};
use tonic::codegen::http::{Request, Response};
use tower::service_fn;

use crate::{
    driver::{Driver, PATIENCE},
    settings::{Paths, Report, RuntimeState, Settings},
};

pub(super) const NODE: &str = "node-1";

/// The status of an object that is never answered.
pub(super) const SILENT: u16 = 0;

/// After a path: what the API server's cache has there, if that is something else.
pub(super) const CACHED: &str = " cached";

/// What the API server answers, by path.
type Objects = Arc<Mutex<BTreeMap<String, (u16, Vec<u8>)>>>;

pub(super) struct World {
    pub(super) directory: PathBuf,
    /// Removed at the end, unless another process made it.
    _temporary: Option<tempfile::TempDir>,
    pub(super) records: Records,
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) runtime: Arc<Mutex<RuntimeState>>,
    pub(super) reports: Arc<Mutex<Vec<Report>>>,
    objects: Objects,
}

/// What a claim is like.
pub(super) struct ClaimForm<'a> {
    pub(super) uid: &'a str,
    pub(super) name: &'a str,
    /// Requests with devices.
    pub(super) results: &'a [(&'a str, &'a str)],
    /// Parameters of all requests, without apiVersion and kind.
    pub(super) parameters: Option<Value>,
    /// The Pod.
    pub(super) pod: &'a str,
}

impl Default for ClaimForm<'_> {
    fn default() -> Self {
        Self { uid: "c1", name: "fast", results: &[("nic", "eth1")], parameters: None, pod: "web" }
    }
}

impl ClaimForm<'_> {
    pub(super) fn asked(&self) -> wire::Claim {
        wire::Claim { namespace: "default".into(), uid: self.uid.into(), name: self.name.into() }
    }

    pub(super) fn object(&self) -> Value {
        let result = |(request, device): &(&str, &str)| {
            let (request, is_admin) = request.strip_prefix('!').map_or((*request, false), |request| (request, true));
            json!({"request": request, "driver": DRIVER, "pool": NODE, "device": device, "adminAccess": is_admin})
        };
        let config = self.parameters.iter().map(|parameters| {
            let mut parameters = parameters.clone();
            parameters["apiVersion"] = parameters::API_VERSION.into();
            parameters["kind"] = parameters::KIND.into();
            json!({"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": parameters}})
        });
        json!({
            "metadata": {"name": self.name, "namespace": "default", "uid": self.uid},
            "status": {
                "allocation": {"devices": {
                    "results": self.results.iter().map(result).collect::<Vec<_>>(),
                    "config": config.collect::<Vec<_>>(),
                }},
                "reservedFor": [{"resource": "pods", "name": self.pod, "uid": format!("uid-{}", self.pod)}],
            },
        })
    }
}

impl World {
    /// A node with the interfaces `eth1` to `eth3`, which are offered by claims, and `wlan1`, which is not selected. The Pod `web`
    /// has a container that names the claim `fast`.
    pub(super) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let world = Self::at(temporary.path().into());
        fs::write(world.paths().hook, "").unwrap();
        fs::create_dir(world.records.directory()).unwrap();
        Self { _temporary: Some(temporary), ..world }
    }

    /// The same in a directory that another process has made.
    pub(super) fn at(directory: PathBuf) -> Self {
        let records = Records::new(directory.join("records"));
        let links = ["eth1", "eth2", "eth3", "wlan1"];
        let links = links.iter().zip(2..).map(|(name, index)| fixture::link(index, name)).collect();
        let world = Self {
            records,
            views: watch::channel(view(links)).0,
            runtime: Arc::new(Mutex::new(RuntimeState::Off)),
            reports: Arc::default(),
            objects: Objects::default(),
            directory,
            _temporary: None,
        };
        world.put_pod("web", &["fast"], false);
        world
    }

    pub(super) fn paths(&self) -> Paths {
        let at = |name: &str| self.directory.join(name);
        let registry = at("plugins_registry");
        fs::create_dir_all(&registry).unwrap();
        Paths {
            registry,
            plugin: at("plugins").join(DRIVER),
            cdi: at("cdi"),
            hook: at("hook").to_str().unwrap().into(),
            state_dir: None,
        }
    }

    pub(super) fn settings(&self, instance: Option<&str>) -> Settings {
        let objects = self.objects.clone();
        let answer = service_fn(move |request: Request<Body>| {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            let objects = objects.lock().unwrap();
            let cached = query.contains("resourceVersion=0").then(|| objects.get(&format!("{path}{CACHED}"))).flatten();
            let found = cached.or_else(|| objects.get(path)).cloned();
            drop(objects);
            let (status, text) = found.unwrap_or((404, b"{}".to_vec()));
            let response = Response::builder().status(status.max(100)).body(Body::from(text)).unwrap();
            async move {
                if status == SILENT {
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(response)
            }
        });
        let (runtime, reports) = (self.runtime.clone(), self.reports.clone());
        Settings {
            node: NODE.into(),
            instance: instance.map(str::to_owned),
            paths: self.paths(),
            records: self.records.clone(),
            views: self.views.subscribe(),
            client: Client::new(answer, "default"),
            runtime: Arc::new(move || runtime.lock().unwrap().clone()),
            reporter: Arc::new(move |report| reports.lock().unwrap().push(report)),
        }
    }

    pub(super) fn driver(&self) -> Driver {
        Driver::new(self.settings(None))
    }

    pub(super) fn put(&self, path: &str, status: u16, text: impl Into<Vec<u8>>) {
        self.objects.lock().unwrap().insert(path.into(), (status, text.into()));
    }

    pub(super) fn delete(&self, claim: &ClaimForm<'_>) {
        self.objects.lock().unwrap().remove(&path_of(claim));
    }

    pub(super) fn put_claim(&self, claim: &ClaimForm<'_>) {
        self.put(&path_of(claim), 200, claim.object().to_string());
    }

    pub(super) fn put_pod(&self, name: &str, named: &[&str], is_host_network: bool) {
        let claims: Vec<Value> = named.iter().map(|claim| json!({"name": claim})).collect();
        let of_pod: Vec<Value> = named.iter().map(|claim| json!({"name": claim, "resourceClaimName": claim})).collect();
        let pod = json!({
            "metadata": {"uid": format!("uid-{name}")},
            "spec": {
                "hostNetwork": is_host_network,
                "resourceClaims": of_pod,
                "containers": [{"resources": {"claims": claims}}],
            },
        });
        self.put(&path_of_pod(name), 200, pod.to_string());
    }

    /// Prepares a claim, with the patience of the kubelet.
    pub(super) async fn prepare(&self, claim: &ClaimForm<'_>) -> Result<Vec<wire::Device>, String> {
        let prepared = self.driver().prepare(&claim.asked(), Instant::now() + PATIENCE).await;
        prepared.map(|(devices, _)| devices).map_err(|(error, _)| error.to_string())
    }

    /// Puts the claim and prepares it.
    pub(super) async fn put_and_prepare(&self, claim: &ClaimForm<'_>) -> Result<Vec<wire::Device>, String> {
        self.put_claim(claim);
        self.prepare(claim).await
    }

    pub(super) async fn unprepare(&self, claim: &ClaimForm<'_>) -> Result<(), String> {
        self.driver().unprepare(&claim.asked(), Instant::now() + PATIENCE).await.map(drop)
    }

    pub(super) fn cdi_file(&self, uid: &str) -> PathBuf {
        crate::cdi_file::path(&self.paths().cdi, uid)
    }

    /// The document of a claim.
    pub(super) fn document(&self, uid: &str) -> Value {
        serde_json::from_slice(&fs::read(self.cdi_file(uid)).unwrap()).unwrap()
    }

    pub(super) fn reserved(&self) -> BTreeSet<String> {
        let reservations = self.records.reservations().unwrap();
        reservations.values().map(|it| format!("{} {}", it.owner.id(), it.device)).collect()
    }

    /// Reserves a device for another owner.
    pub(super) fn reserve(&self, device: &str, owner: Owner) {
        let device: DeviceId = device.parse().unwrap();
        let lock = self.records.lock(&device).unwrap();
        let reservation = Reservation {
            device,
            resource: None,
            owner,
            acquisition: Acquisition::Move,
            uplink_parents: netdevice::exclusion::UplinkParents::Refused,
            configuration: None,
            is_of_one_pod: false,
            since: journal::now(),
        };
        self.records.reserve(&reservation, &lock).unwrap();
    }
}

pub(super) fn path_of(claim: &ClaimForm<'_>) -> String {
    format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{}", claim.name)
}

pub(super) fn path_of_pod(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

pub(super) fn claim_owner(uid: &str, name: &str) -> Owner {
    Owner::Claim {
        uid: uid.into(),
        namespace: "default".into(),
        name: name.into(),
        request: "nic".into(),
        sandbox: None,
        pod: Some(Pod { namespace: "default".into(), name: "old".into(), uid: "uid-old".into() }),
    }
}

/// The view of a node with these links.
pub(super) fn view(links: Vec<Link>) -> Arc<View> {
    view_with(Pools::by_name("^eth".parse().unwrap()).offered_by_claims(), links)
}

/// The same with these pools.
pub(super) fn view_with(pools: Pools, links: Vec<Link>) -> Arc<View> {
    let mut snapshot = Snapshot::default();
    links.into_iter().for_each(|link| snapshot.insert_link(Arc::new(link)));
    let mut projector = Projector::new();
    projector.set_pools(Arc::new(pools));
    projector.set_snapshot(snapshot);
    Arc::new(projector.view().clone())
}
