//! Claims at the start of a sandbox: a Pod that shares a claim with another one, for which the kubelet calls no Prepare, gets
//! the devices when its turn comes, and is refused until then.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use dra::{
    ClaimName,
    holders::{ClaimHolders, Sharing},
    status::Failures,
};
use link::AttachClaimsError;
use netdevice::{DeviceId, Owner, Pod, claims::status::Failure};
use store::Records;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tracing::{info, warn};

/// How long the API server may take to say which of a namespace's claims concern a Pod: less than a runtime waits for a request.
const ASK: Duration = Duration::from_secs(1);
/// Questions to the API server at a time.
const MAX_QUESTIONS: usize = 16;

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
    /// It is not known for which Pods the claim is.
    #[error(
        "cannot find out whether the pod shares claim {claim}, which {holder} has: {reason}: the container is tried again; check that the node reaches the API server"
    )]
    Unknown { claim: String, holder: Pod, reason: String },
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
#[derive(Debug)]
pub(super) enum Checked {
    /// It was.
    Completely,
    /// The API server did not say of each claim; the first of these, and why.
    InPart(SharedError),
}

/// Checks the claims of a Pod's namespace that are prepared for other Pods: those that are also for this Pod become its own, if
/// that other Pod has ended.
///
/// # Errors
///
/// The first claim that is also for this Pod, and whose devices are another one's.
pub(super) async fn check_shared(
    holders: &Arc<dyn ClaimHolders>,
    records: &Records,
    pod: &Pod,
    limit: Instant,
) -> Result<Checked, SharedError> {
    let (store, own) = (records.clone(), pod.clone());
    let others = spawn_blocking(move || claims_of_others(&store, &own)).await??;
    let mut checked = Checked::Completely;
    for (claim, sharing) in ask(holders, others).await {
        let pods = match sharing {
            Ok(Sharing::Pods(pods)) => pods,
            Ok(Sharing::One | Sharing::Gone) => continue,
            Err(reason) => {
                let name = format!("{}/{}", claim.namespace, claim.name);
                warn!(%pod, claim = name, "cannot find out whether the pod shares the claim: {reason}");
                if matches!(checked, Checked::Completely) {
                    checked = Checked::InPart(SharedError::Unknown { claim: name, holder: claim.holder, reason });
                }
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

/// Asks which Pods share claims, of several at a time. What was not answered in time is an error.
async fn ask(holders: &Arc<dyn ClaimHolders>, claims: Vec<OfOther>) -> Vec<(OfOther, Result<Sharing, String>)> {
    let (mut questions, permits) = (JoinSet::new(), Arc::new(Semaphore::new(MAX_QUESTIONS)));
    for (at, claim) in claims.iter().enumerate() {
        let (holders, permits, claim) = (holders.clone(), permits.clone(), claim.clone());
        questions.spawn(async move {
            let _permit = permits.acquire().await;
            (at, holders.sharing(&claim.namespace, &claim.name, &claim.uid).await)
        });
    }
    let mut answers = BTreeMap::new();
    let all = async {
        while let Some(answer) = questions.join_next().await {
            answers.extend(answer.ok());
        }
    };
    // the questions that are left end here
    let _ = timeout(ASK, all).await;
    let answer = |at| answers.remove(&at).unwrap_or_else(|| Err(format!("no answer within {ASK:?}")));
    let answers: Vec<_> = (0..claims.len()).map(answer).collect();
    claims.into_iter().zip(answers).collect()
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

/// The claims of a Pod's namespace that are prepared for other Pods, except those that were made for one Pod.
fn claims_of_others(records: &Records, pod: &Pod) -> io::Result<Vec<OfOther>> {
    let mut found = BTreeMap::new();
    for (device, reservation) in records.reservations()? {
        if !reservation.is_of_one_pod
            && let Owner::Claim { uid, namespace, name, pod: Some(holder), .. } = reservation.owner
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

    fn known(answer: Result<Sharing, String>) -> Arc<Known> {
        Arc::new(Known(answer, Mutex::default()))
    }

    /// An API server that answers for one claim only.
    #[derive(Debug)]
    struct Hanging;

    impl ClaimHolders for Hanging {
        fn sharing<'a>(&'a self, _: &'a str, _: &'a str, uid: &'a str) -> Answer<'a> {
            Box::pin(async move {
                match uid {
                    "9" => pods(&["first", "second"]),
                    _ => std::future::pending().await,
                }
            })
        }
    }

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
        node_of(claims, false)
    }

    fn node_of(claims: &[(&str, &str, &str)], is_of_one_pod: bool) -> Node {
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
                        uplink_parents: netdevice::exclusion::UplinkParents::Refused,
                        configuration: None,
                        is_of_one_pod,
                        since,
                    },
                    &lock,
                )
                .unwrap();
        }
        Node { _directory: directory, records }
    }

    /// Empty if everything was found out; else what was not.
    async fn check(node: &Node, pod: &Pod, known: &Arc<Known>) -> Result<String, String> {
        let limit = Instant::now() + Duration::from_secs(5);
        match check_shared(&(known.clone() as Arc<dyn ClaimHolders>), &node.records, pod, limit).await {
            Ok(Checked::Completely) => Ok(String::new()),
            Ok(Checked::InPart(unknown)) => Ok(unknown.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn pods(uids: &[&str]) -> Result<Sharing, String> {
        Ok(Sharing::Pods(uids.iter().map(|uid| (*uid).to_owned()).collect()))
    }

    #[tokio::test]
    async fn a_second_pod_is_refused_with_the_holders_name_until_that_one_has_ended() {
        let node = node(&[("eth1", "1", "default"), ("eth2", "1", "default")]);
        let second = pod("second");
        let error = check(&node, &second, &known(pods(&["first", "second"]))).await.unwrap_err();
        assert!(
            error.starts_with(
                "claim default/claim-1: device eth1: it is held by claim default/claim-1 of pod default/pod-first: "
            ),
            "{error}"
        );
        assert!(link::reserved_by_claims(&node.records, &second).unwrap().is_empty());
        let known = known(pods(&["second"]));
        assert_eq!(check(&node, &second, &known).await, Ok(String::new()));
        assert_eq!(link::reserved_by_claims(&node.records, &second).unwrap().len(), 2);
        assert_eq!(*known.1.lock().unwrap(), ["default/claim-1 1"], "one request for each claim");
        assert_eq!(check(&node, &second, &known).await, Ok(String::new()));
        assert_eq!(known.1.lock().unwrap().len(), 1, "none for its own");
    }

    #[tokio::test]
    async fn claims_that_are_not_shared_do_not_concern_the_pod() {
        let node = node(&[("eth1", "1", "default"), ("eth2", "2", "other")]);
        for sharing in [pods(&["first"]), Ok(Sharing::One), Ok(Sharing::Gone)] {
            let known = known(sharing);
            assert_eq!(check(&node, &pod("second"), &known).await, Ok(String::new()));
            assert_eq!(*known.1.lock().unwrap(), ["default/claim-1 1"], "only those of the namespace");
        }
        assert_eq!(link::reserved_by_claims(&node.records, &pod("first")).unwrap().len(), 1);
        assert_eq!(check(&node, &pod("first"), &known(pods(&[]))).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn what_the_api_server_does_not_say_is_named_with_the_pod_that_has_the_claim() {
        let node = node(&[("eth1", "1", "default")]);
        let known = known(Err("no answer".into()));
        let unknown = check(&node, &pod("second"), &known).await.unwrap();
        let expected =
            "cannot find out whether the pod shares claim default/claim-1, which default/pod-first has: no answer: ";
        assert!(unknown.starts_with(expected), "{unknown}");
    }

    #[tokio::test]
    async fn nobody_is_asked_about_a_claim_that_was_made_for_one_pod() {
        let (node, known) = (node_of(&[("eth1", "1", "default")], true), known(Err("no answer".into())));
        assert_eq!(check(&node, &pod("second"), &known).await, Ok(String::new()));
        assert!(known.1.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_is_waited_for_once_however_many_claims_there_are() {
        let claims: Vec<(String, String)> = (10..60).map(|at| (format!("eth{at}"), at.to_string())).collect();
        let mut claims: Vec<_> =
            claims.iter().map(|(device, uid)| (device.as_str(), uid.as_str(), "default")).collect();
        let (others, holders): (_, Arc<dyn ClaimHolders>) = (node(&claims), Arc::new(Hanging));
        let (limit, before) = (Instant::now() + Duration::from_secs(5), tokio::time::Instant::now());
        let checked = check_shared(&holders, &others.records, &pod("second"), limit).await.unwrap();
        assert!(matches!(checked, Checked::InPart(_)));
        assert_eq!(before.elapsed().as_secs(), 1, "in the time of the test");
        // an answer counts although others are missing
        claims.truncate(MAX_QUESTIONS - 1);
        claims.push(("eth9", "9", "default"));
        let error = check_shared(&holders, &node(&claims).records, &pod("second"), limit).await.unwrap_err();
        assert!(error.to_string().starts_with("claim default/claim-9: device eth9: it is held by"), "{error}");
    }
}
