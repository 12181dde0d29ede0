//! Devices of claims: attached to each sandbox of the Pod, returned with it, and released when the claim ends.

use std::time::{Duration, Instant};

use link::{AttachClaims, AttachRequest, AttachedClaim, Detached, Ended, OpenSandbox};
use netdevice::{
    Acquisition, DeviceId, Owner, Pod, Reservation, SandboxConfiguration,
    acquisition::{ChildKind, MacvlanMode},
    exclusion::UplinkParents,
    oci::State,
};
use serde_json::{Value, json};
use store::Records;

use crate::support::{Host, Sandbox, inject::Order, on_host};

const DEVICES: &str = "link add dev0 type veth peer name wire
     link set wire up addrgenmode none
     link set dev0 up mtu 1400 alias a-nic
     addr add 10.1.0.5/24 dev dev0
     route add 10.50.0.0/16 via 10.1.0.1
     link add dev1 type ifb";

fn pod(name: &str) -> Pod {
    Pod { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") }
}

/// A claim of that Pod, with one device for each request.
struct Claim<'a> {
    host: &'a Host,
    uid: &'a str,
    pod: &'a str,
}

impl Claim<'_> {
    fn records(&self) -> Records {
        Records::new(self.host.state_dir())
    }

    fn owner(&self, sandbox: Option<&Sandbox>) -> Owner {
        Owner::Claim {
            uid: self.uid.into(),
            namespace: "default".into(),
            name: format!("claim-{}", self.uid),
            request: "nic".into(),
            sandbox: sandbox.map(|sandbox| sandbox.id().to_owned()),
            pod: Some(pod(self.pod)),
        }
    }

    /// As Prepare does.
    fn prepare(&self, device: &str, configuration: &Value) -> Result<(), store::Error> {
        self.prepare_as(device, configuration, Acquisition::Move, UplinkParents::Refused)
    }

    fn prepare_as(
        &self,
        device: &str,
        configuration: &Value,
        acquisition: Acquisition,
        uplink_parents: UplinkParents,
    ) -> Result<(), store::Error> {
        let (records, device) = (self.records(), device.parse().unwrap());
        let lock = records.lock(&device)?;
        let configuration: Option<SandboxConfiguration> = serde_json::from_value(configuration.clone()).unwrap();
        let since = store::journal::now();
        let reservation = Reservation {
            device,
            resource: None,
            owner: self.owner(None),
            acquisition,
            uplink_parents,
            configuration,
            is_of_one_pod: false,
            since,
        };
        records.reserve(&reservation, &lock)
    }

    fn unprepare(&self) -> Vec<(String, Detached)> {
        let ended = link::unprepare(&self.records(), self.uid, Instant::now() + Duration::from_secs(5)).unwrap();
        ended.into_iter().map(|(device, result)| (device.to_string(), result.unwrap())).collect()
    }

    /// What its container's hook does where the plugin of the runtime did nothing.
    fn hook(&self, sandbox: &Sandbox, device: &str) -> Result<bool, String> {
        let state = State::from_json(sandbox.state("c1").as_bytes()).unwrap();
        let path = format!("/proc/{}/ns/net", sandbox.pid());
        let described = netdevice::Sandbox::from_oci(&state, Some(path));
        let opened = OpenSandbox::open(&described).unwrap();
        let (records, device) = (self.records(), device.parse().unwrap());
        let reservation = records.reservation(&device).ok_or("not reserved")?;
        let owner = described.claim(&reservation.owner).unwrap();
        let request = AttachRequest {
            device: &device,
            resource: None,
            sandbox: &opened,
            owner: &owner,
            acquisition: reservation.acquisition,
            uplink_parents: reservation.uplink_parents,
            configuration: reservation.configuration.as_ref(),
        };
        link::attach(&records, &request).map(|attached| attached.was_there).map_err(|error| error.to_string())
    }
}

/// As the plugin of the runtime does for each sandbox.
fn run(host: &Host, sandbox: &Sandbox, of: &str) -> Result<Vec<AttachedClaim>, String> {
    let records = Records::new(host.state_dir());
    let pid = Some(sandbox.pid());
    let described =
        netdevice::Sandbox::from_nri(sandbox.id(), pod(of), Some(format!("/proc/{}/ns/net", sandbox.pid())), pid);
    let opened = OpenSandbox::open(&described).map_err(|error| error.to_string())?;
    let request = AttachClaims {
        sandbox: &described,
        opened: &opened,
        resource: &|_| Some("example.com/nic".parse().unwrap()),
        limit: Instant::now() + Duration::from_secs(5),
        is_stopped: &|| false,
        failed: &|_, _, _| {},
    };
    let reservations = link::reserved_by_claims(&records, &pod(of)).unwrap();
    link::attach_claims(&records, &reservations, &request).map_err(|error| error.to_string())
}

/// As the plugin of the runtime does when a sandbox stops.
fn stop(host: &Host, sandbox: &str) -> Vec<Detached> {
    let records = Records::new(host.state_dir());
    let (ledger, _) = records.list().unwrap();
    link::detach_all(&records, &ledger, sandbox, None).map(|(_, result)| result.unwrap()).collect()
}

fn returned() -> Detached {
    Detached::Done(Ended::Returned { renamed: None, skipped: Vec::new() })
}

fn owner_of(host: &Host, device: &str) -> Option<Owner> {
    let device: DeviceId = device.parse().unwrap();
    Records::new(host.state_dir()).read(&device).unwrap().map(|record| record.owner)
}

/// Between Prepare and the sandbox the parent became the node's uplink.
#[test]
fn what_the_pool_allowed_when_the_claim_was_prepared_holds_when_the_device_is_created() {
    on_host(|host| {
        host.ip(DEVICES);
        let sandbox = host.sandbox("web");
        let claim = Claim { host, uid: "0c1d", pod: "web" };
        let macvlan = Acquisition::Create(ChildKind::Macvlan { mode: MacvlanMode::Bridge });
        let prepare = |uplinks| claim.prepare_as("dev0:1", &json!({"name": "net1"}), macvlan, uplinks).unwrap();
        prepare(UplinkParents::Refused);
        host.ip("route add default via 10.1.0.1");
        let words = "no device is created on dev0 because the node's IPv4 default route (table 254) goes through it";
        assert!(run(host, &sandbox, "web").unwrap_err().contains(words));
        assert!(claim.hook(&sandbox, "dev0:1").unwrap_err().contains(words));
        prepare(UplinkParents::Allowed);
        assert!(!claim.hook(&sandbox, "dev0:1").unwrap());
        assert_eq!(run(host, &sandbox, "web").unwrap().len(), 1);
        assert!(sandbox.has_link("net1"));
        claim.unprepare();
        assert!(!sandbox.has_link("net1"));
    });
}

#[test]
fn each_sandbox_of_the_pod_gets_the_devices_until_the_claim_ends() {
    on_host(|host| {
        host.ip(DEVICES);
        let (before, web) = (host.settled(), host.sandbox("web"));
        let claim = Claim { host, uid: "1", pod: "web" };
        claim.prepare("dev0", &json!({"name": "net1", "addresses": ["10.0.0.2/24"], "mtu": 1300})).unwrap();
        claim.prepare("dev1", &Value::Null).unwrap();
        assert!(run(host, &host.sandbox("other"), "other").unwrap().is_empty());
        let attached = run(host, &web, "web").unwrap();
        assert!(attached.iter().all(|device| !device.attached.was_there) && attached.len() == 2);
        assert!(
            run(host, &web, "web").unwrap().iter().all(|device| device.attached.was_there),
            "a container asks again"
        );
        assert!(claim.hook(&web, "dev0").unwrap(), "and its hook");
        let inside = web.show("address show dev net1");
        assert!(inside.contains("10.0.0.2/24") && inside.contains("mtu 1300") && web.has_link("dev1"), "{inside}");
        assert_eq!(owner_of(host, "dev0"), Some(claim.owner(Some(&web))));
        let record = claim.records().read(&"dev0".parse().unwrap()).unwrap().unwrap();
        assert_eq!(record.resource.map(|resource| resource.to_string()).as_deref(), Some("example.com/nic"));

        // the sandbox stops; its successor comes without a Prepare
        assert_eq!(stop(host, web.id()), [returned(), returned()]);
        assert_eq!(stop(host, web.id()), []);
        assert!(host.has_link("dev0") && claim.records().reservation(&"dev0".parse().unwrap()).is_some());
        let next = host.sandbox("web");
        run(host, &next, "web").unwrap();
        assert!(next.has_link("net1"));

        assert_eq!(claim.unprepare(), [("dev0".into(), returned()), ("dev1".into(), returned())]);
        assert_eq!(claim.unprepare(), []);
        host.assert_same(&before);
        // what was begun before the claim ended
        assert!(run(host, &next, "web").unwrap().is_empty());
    });
}

#[test]
fn a_new_sandbox_takes_the_device_and_the_late_end_of_the_old_one_leaves_it_there() {
    on_host(|host| {
        host.ip(DEVICES);
        let (before, old, new) = (host.settled(), host.sandbox("web"), host.sandbox("web"));
        let claim = Claim { host, uid: "1", pod: "web" };
        claim.prepare("dev0", &json!({"name": "net1"})).unwrap();
        run(host, &old, "web").unwrap();
        run(host, &new, "web").unwrap();
        assert!(new.has_link("net1") && !old.has_link("net1"));
        assert_eq!(owner_of(host, "dev0"), Some(claim.owner(Some(&new))));
        assert_eq!(stop(host, old.id()), []);
        let records = claim.records();
        let late = link::detach_from_sandbox(&records, &"dev0".parse().unwrap(), old.id(), None);
        assert_eq!(late.unwrap(), Detached::TakenOver);
        assert!(new.has_link("net1"));
        assert_eq!(stop(host, new.id()), [returned()]);
        claim.unprepare();
        host.assert_same(&before);
    });
}

#[test]
fn neither_another_claim_nor_another_pod_takes_a_device_from_a_living_sandbox() {
    on_host(|host| {
        host.ip(DEVICES);
        let (before, web, other) = (host.settled(), host.sandbox("web"), host.sandbox("other"));
        let claim = Claim { host, uid: "1", pod: "web" };
        claim.prepare("dev0", &Value::Null).unwrap();
        run(host, &web, "web").unwrap();
        let held = "it is held by claim default/claim-1 of pod default/web";
        // force-deleted: the device is allocated anew before the old claim is unprepared
        let next = Claim { host, uid: "2", pod: "other" };
        assert!(next.prepare("dev0", &Value::Null).unwrap_err().to_string().starts_with(held));
        // a second Pod that shares the claim, by its hook
        let error = claim.hook(&other, "dev0").unwrap_err();
        assert!(error.starts_with(held), "{error}");
        // nor a container to which the kubelet gave it, or an annotation, of the same Pod or another one
        host.attach(&other, "c1", "dev0").fails_with(held);
        host.attach(&host.sandbox("web"), "c2", "dev0").fails_with(held);
        Order::new(host, &web, &json!([["dev0", {}]])).fails_with(held);
        assert!(web.has_link("dev0"));
        // it has the right, and the device is still in a living sandbox of the first Pod
        let limit = || Instant::now() + Duration::from_secs(5);
        link::hand_claim_over(&claim.records(), "1", &pod("other"), limit()).unwrap();
        let error = run(host, &other, "other").unwrap_err();
        assert!(error.starts_with(&format!("claim default/claim-1: device dev0: {held}")), "{error}");
        assert!(web.has_link("dev0") && claim.records().reservation(&"dev0".parse().unwrap()).is_some());
        stop(host, web.id());
        run(host, &other, "other").unwrap();
        assert!(other.has_link("dev0"));
        claim.unprepare();
        next.prepare("dev0", &Value::Null).unwrap();
        assert_eq!(claim.unprepare(), [], "the device is another claim's");
        next.unprepare();
        host.assert_same(&before);
    });
}

#[test]
fn all_devices_of_a_pods_claims_are_attached_or_none_and_the_reservations_stay() {
    on_host(|host| {
        host.ip(DEVICES);
        let (before, web) = (host.settled(), host.sandbox("web"));
        web.ip("link add net2 type ifb");
        let [first, second] = ["1", "2"].map(|uid| Claim { host, uid, pod: "web" });
        first.prepare("dev0", &json!({"name": "net1"})).unwrap();
        second.prepare("dev1", &json!({"name": "net2"})).unwrap();
        let error = run(host, &web, "web").unwrap_err();
        assert!(error.starts_with("claim default/claim-2: device dev1: the name net2 is taken"), "{error}");
        assert!(host.has_link("dev0") && first.records().reservation(&"dev0".parse().unwrap()).is_some());
        web.ip("link del net2");
        run(host, &web, "web").unwrap();
        assert!(web.has_link("net1") && web.has_link("net2"));
        // each claim ends for itself
        assert_eq!(first.unprepare(), [("dev0".into(), returned())]);
        assert!(web.has_link("net2"));
        second.unprepare();
        host.assert_same(&before);
    });
}

#[test]
fn what_the_hook_attached_stays_when_its_container_ends_and_ends_with_the_sandbox() {
    on_host(|host| {
        host.ip(DEVICES);
        let (before, web) = (host.settled(), host.sandbox("web"));
        let claim = Claim { host, uid: "1", pod: "web" };
        assert_eq!(claim.hook(&web, "dev0"), Err("not reserved".into()));
        claim.prepare("dev0", &json!({"name": "net1"})).unwrap();
        assert!(!claim.hook(&web, "dev0").unwrap());
        let record = claim.records().read(&"dev0".parse().unwrap()).unwrap().unwrap();
        // the sandbox's process, not the container's: here it is the same one, in whose namespace both are
        assert_eq!(record.owner, claim.owner(Some(&web)));
        // a poststop of the container, which claims have none of
        host.detach("c1", "dev0").succeeds();
        assert!(web.has_link("net1"));
        assert!(run(host, &web, "web").unwrap()[0].attached.was_there);
        assert_eq!(stop(host, web.id()), [returned()]);
        claim.unprepare();
        host.assert_same(&before);
    });
}

#[test]
fn a_device_that_was_lost_in_the_pod_does_not_keep_the_claim_from_ending() {
    on_host(|host| {
        host.ip(DEVICES);
        let web = host.sandbox("web");
        let claim = Claim { host, uid: "1", pod: "web" };
        claim.prepare("dev0", &Value::Null).unwrap();
        claim.prepare("dev1", &Value::Null).unwrap();
        run(host, &web, "web").unwrap();
        web.ip("link del dev0");
        assert_eq!(claim.unprepare(), [("dev0".into(), Detached::Done(Ended::Lost)), ("dev1".into(), returned())]);
        assert_eq!(host.records(), Vec::<String>::new());
    });
}
