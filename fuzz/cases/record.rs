//! A record's file: what is taken is written and read as the same, and leads to a plan at either place.

use netdevice::{
    Attachment, DeviceId, LinkState,
    plan::{Location, aged, plan, wanted_in_sandbox},
    record_text::RecordError,
};

pub fn run(bytes: &[u8]) {
    let asked: DeviceId = "dev0".parse().expect("a device id");
    let record = match Attachment::from_json(&asked, bytes) {
        Ok(record) => record,
        Err(RecordError::OtherDevice(device)) => {
            assert_ne!(device, asked);
            Attachment::from_json(&device, bytes).expect("it was refused for its name alone")
        }
        Err(error) => return drop(error.to_string()),
    };
    let again = Attachment::from_json(&record.device, &record.to_json()).expect("what we write we read");
    assert_eq!(again, record);
    let _ = record.owner.to_string();
    let (Some(host), Some(host_again)) = (record.host(), again.host()) else {
        return assert!(record.created().is_some());
    };
    for now in [0, host.read_at, u64::MAX] {
        let wanted = aged(host, || now);
        let bare = LinkState::new(host.name.clone(), host.index);
        for place in [Location::Host, Location::Sandbox] {
            let _ = plan(&wanted, &bare, place);
            let _ = plan(&bare, &wanted, place);
            assert_eq!(plan(&wanted, &wanted, place).len(), plan(host_again, host_again, place).len());
        }
        let inside = wanted_in_sandbox(&wanted, &bare, |_, _, value| value % 2 == 0);
        let _ = plan(&inside, &bare, Location::Sandbox);
    }
}
