//! Claims at the start of a sandbox: a Pod that shares a claim with another one, for which the kubelet calls no Prepare, gets
//! the devices when its turn comes, and is refused until then.

use std::{collections::BTreeMap, io, sync::Arc, time::Instant};

use dra::{
    ClaimName,
    holders::{ClaimHolders, Sharing},
    status::Failures,
};
use link::AttachClaimsError;
use netdevice::{DeviceId, Owner, Pod, claims::status::Failure};
use store::Records;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// A claim of a namespace that is prepared for another Pod of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfOther {
    uid: String,
    namespace: String,
    name: String,
    holder: Pod,
    /// One of its devices.
    device: DeviceId,
}

/// Why a Pod does not start yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum SharedError {
    /// The claim's devices are another Pod's.
    #[error(
        "claim {}: device {device}: it is held by {owner}: a device is in one pod at a time; delete that pod or use a claim for each pod",
        name_of(owner)
    )]
    Held { device: DeviceId, owner: Box<Owner> },
    /// The claim's devices cannot be made this Pod's.
    #[error("claim {claim}: {error}")]
    HandOver { claim: String, error: link::Error },
    #[error("cannot read the records of this node: {0}")]
    Records(#[from] io::Error),
    #[error("the task that reads the records failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

fn name_of(owner: &Owner) -> String {
    match owner {
        Owner::Claim { namespace, name, .. } => format!("{namespace}/{name}"),
        other => other.to_string(),
    }
}

/// Whether everything that concerns a Pod was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// It was.
    Completely,
    /// The API server did not say of each claim.
    InPart,
}

/// Checks the claims of a Pod's namespace that are prepared for other Pods: those that are also for this Pod become its own, if
/// that other Pod has ended.
///
/// # Errors
///
/// The first claim that is also for this Pod, and whose devices are another one's.
pub(super) async fn check_shared(
    holders: &dyn ClaimHolders,
    records: &Records,
    pod: &Pod,
    limit: Instant,
) -> Result<Checked, SharedError> {
    let (store, own) = (records.clone(), pod.clone());
    let others = spawn_blocking(move || claims_of_others(&store, &own)).await??;
    let mut checked = Checked::Completely;
    for claim in others {
        let pods = match holders.sharing(&claim.namespace, &claim.name, &claim.uid).await {
            Ok(Sharing::Pods(pods)) => pods,
            Ok(Sharing::One | Sharing::Gone) => continue,
            // a Pod without claims must start; of one that shares this claim, containers that name it do not
            Err(error) => {
                warn!(%pod, claim = format!("{}/{}", claim.namespace, claim.name), "cannot find out whether the pod shares the claim: {error}");
                checked = Checked::InPart;
                continue;
            }
        };
        if !pods.contains(&pod.uid) {
            continue;
        }
        if pods.contains(&claim.holder.uid) {
            let OfOther { uid, namespace, name, holder, device } = claim;
            let owner = Owner::Claim { uid, namespace, name, request: String::new(), sandbox: None, pod: Some(holder) };
            return Err(SharedError::Held { device, owner: owner.into() });
        }
        let (store, own, uid) = (records.clone(), pod.clone(), claim.uid.clone());
        let handed = spawn_blocking(move || link::hand_claim_over(&store, &uid, &own, limit)).await?;
        let name = format!("{}/{}", claim.namespace, claim.name);
        handed.map_err(|error| SharedError::HandOver { claim: name.clone(), error })?;
        info!(%pod, claim = name, "the claim is this pod's now: {} has ended", claim.holder);
    }
    Ok(checked)
}

/// Reports for a claim's status why its device is not attached. While another sandbox has the device by the same claim, the status
/// is about that one.
pub(super) fn report_failure(failures: &Failures, error: &AttachClaimsError) {
    let Owner::Claim { uid, namespace, name, .. } = &*error.claim else { return };
    let is_held_by_itself = matches!(
        &*error.error.error,
        link::Error::Store(store::Error::Held(holder)) if holder.is_same_claim(&error.claim)
    );
    if !is_held_by_itself {
        let claim = ClaimName { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
        let message = format!("device {}: {}", error.error.device, error.error.error);
        failures.report(claim, Failure { device: Some(error.error.device.clone()), message });
    }
}

/// The claims of a Pod's namespace that are prepared for other Pods.
fn claims_of_others(records: &Records, pod: &Pod) -> io::Result<Vec<OfOther>> {
    let mut found = BTreeMap::new();
    for (device, reservation) in records.reservations()? {
        if let Owner::Claim { uid, namespace, name, pod: Some(holder), .. } = reservation.owner
            && namespace == pod.namespace
            && holder != *pod
        {
            found.entry(uid.clone()).or_insert(OfOther { uid, namespace, name, holder, device });
        }
    }
    Ok(found.into_values().collect())
}

/// Who knows for which Pods claims are reserved; none if this agent does not give devices by claims.
pub(crate) type Holders = Option<Arc<dyn ClaimHolders>>;

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        time::{Duration, SystemTime},
    };

    use dra::holders::Answer;
    use netdevice::Reservation;

    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { namespace: "default".into(), name: format!("pod-{uid}"), uid: uid.into() }
    }

    /// An API server that knows one claim, and what it was asked.
    #[derive(Debug)]
    struct Known(Result<Sharing, String>, Mutex<Vec<String>>);

    impl ClaimHolders for Known {
        fn sharing<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a str) -> Answer<'a> {
            self.1.lock().unwrap().push(format!("{namespace}/{name} {uid}"));
            Box::pin(async { self.0.clone() })
        }
    }

    struct Node {
        _directory: tempfile::TempDir,
        records: Records,
    }

    fn node(claims: &[(&str, &str, &str)]) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        for (device, uid, namespace) in claims {
            let owner = Owner::Claim {
                uid: (*uid).into(),
                namespace: (*namespace).into(),
                name: format!("claim-{uid}"),
                request: "nic".into(),
                sandbox: None,
                pod: Some(Pod { namespace: (*namespace).into(), ..pod("first") }),
            };
            let since = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let device: DeviceId = device.parse().unwrap();
            let lock = records.lock(&device).unwrap();
            records
                .reserve(
                    &Reservation {
                        device,
                        resource: None,
                        owner,
                        acquisition: netdevice::Acquisition::Move,
                        configuration: None,
                        since,
                    },
                    &lock,
                )
                .unwrap();
        }
        Node { _directory: directory, records }
    }

    async fn check(node: &Node, pod: &Pod, known: &Known) -> Result<Checked, String> {
        let limit = Instant::now() + Duration::from_secs(5);
        check_shared(known, &node.records, pod, limit).await.map_err(|error| error.to_string())
    }

    fn pods(uids: &[&str]) -> Result<Sharing, String> {
        Ok(Sharing::Pods(uids.iter().map(|uid| (*uid).to_owned()).collect()))
    }

    #[tokio::test]
    async fn a_second_pod_is_refused_with_the_holders_name_until_that_one_has_ended() {
        let node = node(&[("eth1", "1", "default"), ("eth2", "1", "default")]);
        let second = pod("second");
        let error = check(&node, &second, &Known(pods(&["first", "second"]), Mutex::default())).await.unwrap_err();
        assert!(
            error.starts_with(
                "claim default/claim-1: device eth1: it is held by claim default/claim-1 of pod default/pod-first: "
            ),
            "{error}"
        );
        assert!(link::reserved_by_claims(&node.records, &second).unwrap().is_empty());
        let known = Known(pods(&["second"]), Mutex::default());
        assert_eq!(check(&node, &second, &known).await, Ok(Checked::Completely));
        assert_eq!(link::reserved_by_claims(&node.records, &second).unwrap().len(), 2);
        assert_eq!(*known.1.lock().unwrap(), ["default/claim-1 1"], "one request for each claim");
        assert_eq!(check(&node, &second, &known).await, Ok(Checked::Completely));
        assert_eq!(known.1.lock().unwrap().len(), 1, "none for its own");
    }

    #[tokio::test]
    async fn claims_that_are_not_shared_do_not_concern_the_pod() {
        let node = node(&[("eth1", "1", "default"), ("eth2", "2", "other")]);
        for sharing in [pods(&["first"]), Ok(Sharing::One), Ok(Sharing::Gone)] {
            let known = Known(sharing, Mutex::default());
            assert_eq!(check(&node, &pod("second"), &known).await, Ok(Checked::Completely));
            assert_eq!(*known.1.lock().unwrap(), ["default/claim-1 1"], "only those of the namespace");
        }
        assert_eq!(link::reserved_by_claims(&node.records, &pod("first")).unwrap().len(), 1);
        assert_eq!(check(&node, &pod("first"), &Known(pods(&[]), Mutex::default())).await, Ok(Checked::Completely));
    }

    #[tokio::test]
    async fn a_pod_starts_although_the_api_server_does_not_answer_and_is_checked_again() {
        let node = node(&[("eth1", "1", "default")]);
        let known = Known(Err("no answer".into()), Mutex::default());
        assert_eq!(check(&node, &pod("second"), &known).await, Ok(Checked::InPart));
    }
}
