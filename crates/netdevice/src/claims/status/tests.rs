use super::*;
use crate::{configuration::SandboxConfiguration, fixture, owner::Pod};

const NOW: &str = "2026-11-29T10:00:00Z";
const LATER: &str = "2026-11-29T11:00:00Z";

fn owner(request: &str, sandbox: Option<&str>) -> Owner {
    Owner::Claim {
        uid: "c1".into(),
        namespace: "default".into(),
        name: "fast".into(),
        request: request.into(),
        sandbox: sandbox.map(Into::into),
        pod: Some(Pod { namespace: "default".into(), name: "web".into(), uid: "p1".into() }),
    }
}

fn reservation(device: &str, request: &str) -> Reservation {
    let device = device.parse().unwrap();
    Reservation {
        device,
        resource: None,
        owner: owner(request, None),
        acquisition: crate::Acquisition::Move,
        uplink_parents: crate::exclusion::UplinkParents::Refused,
        configuration: None,
        is_of_one_pod: false,
        since: 0,
    }
}

fn record(device: &str, request: &str, configuration: Option<Value>) -> Attachment {
    let mut record = fixture::record(device);
    record.owner = owner(request, Some("s1"));
    record.phase = Phase::Attached;
    record.configuration = configuration.map(|it| serde_json::from_value::<SandboxConfiguration>(it).unwrap());
    record.sandbox.name = "net1".try_into().unwrap();
    record
}

fn result(driver: &str, request: &str, device: &str) -> Value {
    json!({"driver": driver, "pool": "node-1", "device": device, "request": request})
}

fn claim(results: &[Value], devices: &Value) -> Value {
    json!({
        "metadata": {"name": "fast", "uid": "c1", "resourceVersion": "7"},
        "status": {"allocation": {"devices": {"results": results}}, "devices": devices},
    })
}

fn decision(claim: &Value, devices: &[DeviceStatus], now: &str) -> Decision {
    let name_of = |device: &DeviceId| device.to_string();
    decide(claim, &Wanted { uid: "c1", pool: "node-1", devices, name_of: &name_of, now })
}

/// What a patch makes of a claim.
fn patched(claim: &Value, devices: &[DeviceStatus], now: &str) -> Value {
    let Decision::Patch(patch) = decision(claim, devices, now) else { panic!("no patch") };
    assert_eq!(patch["metadata"], json!({"uid": "c1", "resourceVersion": "7"}));
    let mut claim = claim.clone();
    claim["status"]["devices"] = patch["status"]["devices"].clone();
    // written once
    assert_eq!(decision(&claim, devices, LATER), Decision::Nothing);
    claim
}

#[test]
fn an_attached_device_is_described_once_and_the_entries_of_others_stay() {
    let other = json!({"driver": "gpu.example.com", "pool": "p", "device": "gpu0", "data": {"a": [1, 2]}});
    let claim = claim(&[result("gpu.example.com", "gpu", "gpu0"), result(DRIVER, "nic", "eth1")], &json!([other]));
    let configuration = json!({"name": "net1", "addresses": ["10.0.0.2/24", "2001:db8::2/64", "10.0.0.2/24"],
        "mac": "02:00:00:00:00:0a"});
    let record = record("eth1", "nic", Some(configuration));
    let wanted = wanted([&reservation("eth1", "nic")], [&record], None);
    let claim = patched(&claim, &wanted, NOW);
    let expected = json!([other, {
        "driver": DRIVER, "pool": "node-1", "device": "eth1",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Attached", "lastTransitionTime": NOW,
            "message": "attached to pod default/web as net1"}],
        "networkData": {"interfaceName": "net1", "ips": ["10.0.0.2/24", "2001:db8::2/64"],
            "hardwareAddress": "02:00:00:00:00:0a"},
    }]);
    assert_eq!(claim["status"]["devices"], expected);
}

#[test]
fn the_addresses_of_the_host_are_the_pods_if_it_inherits_them() {
    let mut record = record("eth1", "nic", None);
    let host = record.host_mut().unwrap();
    let address = |text: &str, scope: u8| {
        let prefix: IpPrefix = text.parse().unwrap();
        serde_json::from_value::<Address>(json!({"local": prefix.address(), "prefix_len": prefix.prefix_len(),
            "scope": scope, "flags": 0x80}))
        .unwrap()
    };
    host.addresses = vec![
        address("192.0.2.1/24", SCOPE_UNIVERSE),
        address("fe80::1/64", 253),
        address("::ffff:192.0.2.9/128", SCOPE_UNIVERSE),
    ];
    let texts = |record: &Attachment| NetworkData::of(record).ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&record), ["192.0.2.1/24"]);
    let configured = |text: Value| Some(serde_json::from_value(text).unwrap());
    record.configuration = configured(json!({"addresses": ["10.0.0.2/24"]}));
    assert_eq!(texts(&record), ["10.0.0.2/24"]);
    record.configuration = configured(json!({"addresses": ["10.0.0.2/24"], "inherit": true}));
    assert_eq!(texts(&record), ["10.0.0.2/24", "192.0.2.1/24"]);
    let many: Vec<String> = (1..=20).map(|number| format!("10.0.0.{number}/24")).collect();
    record.configuration = configured(json!({"addresses": many}));
    assert_eq!(texts(&record).len(), MAX_ADDRESSES);
}

#[test]
fn a_failure_is_said_with_its_reason_until_the_device_is_attached() {
    let claim = claim(&[result(DRIVER, "a/vf", "eth1"), result(DRIVER, "b", "eth2")], &Value::Null);
    let reservations = [reservation("eth1", "a/vf"), reservation("eth2", "b")];
    let failure = Failure { device: Some("eth2".parse().unwrap()), message: "the name net1 is taken".into() };
    let claim = patched(&claim, &wanted(&reservations, [], Some(&failure)), NOW);
    let devices = claim["status"]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1, "of the other one nothing is known yet");
    assert_eq!(devices[0]["device"], "eth2");
    let ready = &devices[0]["conditions"][0];
    assert_eq!((&ready["status"], &ready["message"]), (&json!("False"), &json!("the name net1 is taken")));
    let [first, second] = [record("eth1", "a/vf", None), record("eth2", "b", None)];
    let claim = patched(&claim, &wanted(&reservations, [&first, &second], None), LATER);
    let devices = claim["status"]["devices"].as_array().unwrap();
    assert!(devices.len() == 2 && devices.iter().all(|device| device["conditions"][0]["status"] == "True"));
    assert_eq!(devices[0]["conditions"][0]["lastTransitionTime"], LATER);
    // of a claim that was not prepared
    let failure = Failure { device: None, message: "ä".repeat(2000) };
    let claim = patched(&claim, &wanted([], [], Some(&failure)), LATER);
    let devices = claim["status"]["devices"].as_array().unwrap();
    assert!(
        devices.iter().all(|device| device["conditions"][0]["status"] == "False" && device["networkData"].is_null())
    );
    let message = devices[0]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.len() <= MAX_MESSAGE && message.ends_with("ä…"));
}

#[test]
fn a_device_that_is_reserved_is_not_ready_only_after_it_was() {
    let reserved = [reservation("eth1", "nic")];
    let allocated = claim(&[result(DRIVER, "nic", "eth1")], &Value::Null);
    assert_eq!(decision(&allocated, &wanted(&reserved, [], None), NOW), Decision::Nothing);
    let attached = patched(&allocated, &wanted(&reserved, [&record("eth1", "nic", None)], None), NOW);
    let mut changing = record("eth1", "nic", None);
    changing.phase = Phase::Detaching;
    assert_eq!(decision(&attached, &wanted(&reserved, [&changing], None), LATER), Decision::Nothing);
    let ended = patched(&attached, &wanted(&reserved, [], None), LATER);
    let entry = &ended["status"]["devices"][0];
    assert_eq!((&entry["conditions"][0]["status"], &entry["networkData"]), (&json!("False"), &Value::Null));
    // the claim was unprepared, and is still allocated
    assert!(patched(&ended, &[], LATER)["status"]["devices"].is_null());
    assert_eq!(decision(&allocated, &[], LATER), Decision::Nothing);
}

#[test]
fn a_claim_that_ended_or_is_another_one_gets_nothing() {
    let wanted = wanted([], [&record("eth1", "nic", None)], None);
    let mut gone = claim(&[result(DRIVER, "nic", "eth1")], &Value::Null);
    gone["metadata"]["uid"] = json!("c2");
    assert_eq!(decision(&gone, &wanted, NOW), Decision::Gone);
    let mut deallocated = claim(&[], &Value::Null);
    deallocated["status"] = json!({"reservedFor": []});
    assert_eq!(decision(&deallocated, &wanted, NOW), Decision::Gone);
    assert_eq!(decision(&Value::Null, &wanted, NOW), Decision::Gone);
    // allocated to another device of the same request
    let other = claim(&[result(DRIVER, "nic", "eth9")], &Value::Null);
    assert_eq!(decision(&other, &wanted, NOW), Decision::Nothing);
}

#[test]
fn what_others_wrote_into_our_entry_stays_and_the_share_is_named() {
    let mut shared = result(DRIVER, "nic", "eth1");
    shared["shareID"] = json!("5a");
    let entry = json!({"driver": DRIVER, "pool": "node-1", "device": "eth1", "shareID": "5a", "data": {"x": 1},
        "conditions": [{"type": "Other", "status": "True"}]});
    let claim = claim(&[shared], &json!([entry]));
    let mut record = record("eth1", "nic", None);
    record.device = "eth1:3".parse().unwrap();
    let claim = patched(&claim, &wanted([], [&record], None), NOW);
    let entry = &claim["status"]["devices"][0];
    assert_eq!((&entry["shareID"], &entry["data"]["x"]), (&json!("5a"), &json!(1)));
    assert_eq!(entry["conditions"].as_array().unwrap().len(), 2);
}

#[test]
fn each_share_of_a_device_has_one_of_those_that_are_created_on_it() {
    let share = |id: &str| {
        let mut result = result(DRIVER, "nic", "eth1");
        result["shareID"] = json!(id);
        result
    };
    let claim = claim(&[share("5a"), share("5b")], &Value::Null);
    let child = |number: u16, name: &str| {
        let mut record = record("eth1", "nic", None);
        record.device = format!("eth1:{number}").parse().unwrap();
        record.sandbox.name = name.try_into().unwrap();
        record
    };
    let (second, tenth) = (child(2, "eth1-2"), child(10, "eth1-10"));
    let names = |claim: &Value| {
        let entries = claim["status"]["devices"].as_array().unwrap().iter();
        let name = |entry: &Value| format!("{} {}", entry["shareID"], entry["networkData"]["interfaceName"]);
        entries.map(name).collect::<Vec<_>>().join(", ").replace('"', "")
    };
    let one = patched(&claim, &wanted([], [&second], None), NOW);
    assert_eq!(names(&one), "5a eth1-2");
    let both = patched(&one, &wanted([], [&tenth, &second], None), NOW);
    assert_eq!(names(&both), "5a eth1-2, 5b eth1-10");
    let failure = Failure { device: None, message: "the node is on fire".into() };
    let failed = patched(&claim, &wanted([], [], Some(&failure)), NOW);
    assert_eq!(failed["status"]["devices"].as_array().unwrap().len(), 2);
}
