//! `netdevctl forget`: ends a claim that nobody unprepares any longer.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use link::{Detached, Diagnosis, Ended, RouteSocket, Unprepared};
use netdevice::{Attachment, Owner, claims::document};
use store::Records;

/// How long other programs that work on a device are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The arguments of `forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArguments {
    /// The claim: NAMESPACE/NAME or its UID
    pub(crate) claim: String,
    /// Also if the sandbox of its Pod runs: the Pod loses its devices
    #[arg(long)]
    pub(crate) force: bool,
    /// Directory of the records
    #[arg(long, value_name = "DIR", default_value = store::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    /// Directory of the claims' CDI files
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi")]
    pub(crate) cdi_dir: PathBuf,
}

/// What the node has of one claim.
#[derive(Debug)]
struct Found {
    owner: Owner,
    attached: Vec<Arc<Attachment>>,
}

/// Ends a claim: its devices return to the host, and its reservations and CDI file are removed.
pub(crate) fn forget(arguments: &ForgetArguments, out: &mut impl Write) -> anyhow::Result<()> {
    let records = Records::new(&arguments.state_dir);
    let claims = claims(&records).with_context(|| format!("cannot read {}", arguments.state_dir.display()))?;
    let (uid, found) = select(&arguments.claim, claims, |uid| cdi_file(arguments, uid).exists())?;
    let name = found.as_ref().map_or_else(|| format!("claim {uid}"), |found| found.owner.to_string());
    if let Some(record) = found.iter().flat_map(|found| &found.attached).find(|record| is_alive(record))
        && !arguments.force
    {
        bail!(
            "device {} of {name} is in a sandbox that runs: delete the pod, or use -force, with which the pod loses the device",
            record.device
        );
    }
    let Some(_lock) = records.try_lock_claim(&uid).context("cannot lock the claim")? else {
        bail!("{name} is being prepared or unprepared: try again in a moment")
    };
    // first: no container starts with a device that it cannot keep
    let file = cdi_file(arguments, &uid);
    match fs::remove_file(&file) {
        Ok(()) => writeln!(out, "removed {}", file.display())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
    }
    let ended = link::unprepare(&records, &uid, Instant::now() + PATIENCE).context("cannot read the records")?;
    let mut failed = 0;
    for ended in &ended {
        failed += usize::from(ended.1.as_ref().is_err_and(|error| !error.is_quarantined()));
        writeln!(out, "{}", line(ended))?;
    }
    if failed > 0 {
        bail!("{failed} of {} devices of {name} are not released: run the command again", ended.len());
    }
    writeln!(out, "{name} is forgotten on this node")?;
    Ok(())
}

fn cdi_file(arguments: &ForgetArguments, uid: &str) -> PathBuf {
    arguments.cdi_dir.join(document::file_name(uid))
}

/// The claims of the node, by UID.
fn claims(records: &Records) -> io::Result<BTreeMap<String, Found>> {
    // first the reservations: an attach writes the record later
    let reservations = records.reservations()?;
    let mut claims = BTreeMap::new();
    for reservation in reservations.values().filter(|reservation| matches!(reservation.owner, Owner::Claim { .. })) {
        let uid = reservation.owner.id().to_owned();
        claims.entry(uid).or_insert_with(|| Found { owner: reservation.owner.clone(), attached: Vec::new() });
    }
    for record in records.list()?.0.into_values().filter(|record| matches!(record.owner, Owner::Claim { .. })) {
        let uid = record.owner.id().to_owned();
        let found = claims.entry(uid).or_insert_with(|| Found { owner: record.owner.clone(), attached: Vec::new() });
        found.attached.push(record);
    }
    Ok(claims)
}

/// The claim that is meant; without what the node has of it if only its CDI file is left.
fn select(
    text: &str,
    mut claims: BTreeMap<String, Found>,
    has_file: impl Fn(&str) -> bool,
) -> anyhow::Result<(String, Option<Found>)> {
    if let Some(found) = claims.remove(text) {
        return Ok((text.to_owned(), Some(found)));
    }
    let is_named = |owner: &Owner| match owner {
        Owner::Claim { namespace, name, .. } => text.split_once('/') == Some((namespace.as_str(), name.as_str())),
        _ => false,
    };
    let uids: Vec<String> =
        claims.iter().filter(|(_, found)| is_named(&found.owner)).map(|(uid, _)| uid.clone()).collect();
    match &uids[..] {
        [uid] => Ok((uid.clone(), claims.remove(uid))),
        [] if netdevice::claims::claim::is_uid(text) && has_file(text) => Ok((text.to_owned(), None)),
        [] => bail!(
            "this node has nothing of a claim {text:?}: name it as NAMESPACE/NAME, as `netdevctl ls` shows it, or by its UID"
        ),
        uids => bail!("this node has several claims {text}: choose one of the UIDs {}", uids.join(", ")),
    }
}

/// Whether the sandbox that has the device runs.
fn is_alive(record: &Attachment) -> bool {
    let diagnosis = RouteSocket::open().map(|mut node| link::diagnose(record, &mut node));
    // what is not known may be so
    !matches!(diagnosis, Ok(Diagnosis::HolderEnded | Diagnosis::SandboxEnded))
}

fn line((device, detached): &Unprepared) -> String {
    match detached {
        Ok(Detached::NotAttached) => format!("{device}: released; it is on the node"),
        Ok(Detached::TakenOver) => format!("{device}: released; another owner has it"),
        Ok(Detached::Done(Ended::Returned { renamed: None, .. })) => format!("{device}: returned to the node"),
        Ok(Detached::Done(Ended::Returned { renamed: Some(name), .. })) => {
            format!("{device}: returned to the node as {name}: its name is taken")
        }
        Ok(Detached::Done(Ended::Deleted)) => format!("{device}: deleted, as it was created for the pod"),
        Ok(Detached::Done(Ended::Lost)) => format!("{device}: lost: it was deleted or unplugged"),
        Ok(Detached::Done(Ended::OutOfReach)) => {
            format!("{device}: released; it is not on the node yet, and the agent looks for it")
        }
        Err(error) if error.is_quarantined() => format!("{device}: released; {error}"),
        Err(error) => format!("{device}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::reservations;

    fn arguments(directory: &tempfile::TempDir, claim: &str) -> ForgetArguments {
        let (state_dir, cdi_dir) = (directory.path().join("state"), directory.path().join("cdi"));
        ForgetArguments { claim: claim.into(), force: false, state_dir, cdi_dir }
    }

    fn run(arguments: &ForgetArguments) -> Result<String, String> {
        let mut out = Vec::new();
        let result = forget(arguments, &mut out).map_err(|error| format!("{error:#}"));
        result.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_claim_is_forgotten_by_its_name_or_its_uid_with_its_file() {
        for claim in ["default/fast", "1-2-4"] {
            let directory = tempfile::tempdir().unwrap();
            let arguments = arguments(&directory, claim);
            let records = Records::new(&arguments.state_dir);
            // the first one is the kubelet's
            for reservation in reservations(&["eth0", "eth1", "eth2"]).values() {
                records.reserve(reservation, &records.lock(&reservation.device).unwrap()).unwrap();
            }
            fs::create_dir(&arguments.cdi_dir).unwrap();
            let file = cdi_file(&arguments, "1-2-4");
            fs::write(&file, "{}").unwrap();
            let text = run(&arguments).unwrap();
            assert!(text.contains("eth1: released; it is on the node\neth2: released"), "{text}");
            assert!(text.ends_with("claim default/fast is forgotten on this node\n") && !file.exists(), "{text}");
            assert_eq!(records.reservations().unwrap().len(), 1);
            let error = run(&arguments).unwrap_err();
            assert!(error.contains("has nothing of a claim"), "{error}");
        }
    }

    #[test]
    fn a_device_whose_record_cannot_be_used_is_released_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments(&directory, "1-2-4");
        let records = Records::new(&arguments.state_dir);
        for reservation in reservations(&["eth0", "eth1"]).values() {
            records.reserve(reservation, &records.lock(&reservation.device).unwrap()).unwrap();
        }
        fs::write(arguments.state_dir.join("eth1.json"), "no record").unwrap();
        let text = run(&arguments).unwrap();
        assert!(text.starts_with("eth1: released; its record was moved to "), "{text}");
        assert!(text.ends_with("claim default/fast is forgotten on this node\n"), "{text}");
        assert!(records.reservation(&"eth1".parse().unwrap()).is_none());
        assert_eq!(records.list().unwrap().1.len(), 1, "it is in quarantine");
    }

    #[test]
    fn a_file_that_alone_is_left_is_removed_and_a_text_that_is_no_claim_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let of = |claim: &str| arguments(&directory, claim);
        fs::create_dir(of("x").cdi_dir).unwrap();
        fs::write(cdi_file(&of("x"), "0c1d"), "{}").unwrap();
        assert!(run(&of("0c1d")).unwrap().ends_with("claim 0c1d is forgotten on this node\n"));
        for claim in ["0c1d", "default/fast", "../x", ""] {
            assert!(run(&of(claim)).is_err(), "{claim}");
        }
    }

    #[test]
    fn a_sandbox_that_may_run_keeps_its_device() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments(&directory, "default/fast");
        let records = Records::new(&arguments.state_dir);
        let owner = reservations(&["eth0", "eth1"]).into_values().nth(1).unwrap().owner;
        // its process is this one
        let mut record = Attachment { owner, ..netdevice::fixture::record("eth1") };
        record.phase = netdevice::Phase::Attached;
        record.process = None;
        fs::create_dir_all(&arguments.state_dir).unwrap();
        records.write(&record).unwrap();
        let error = run(&arguments).unwrap_err();
        assert!(error.starts_with("device eth1 of claim default/fast is in a sandbox that runs: "), "{error}");
        assert!(records.read(&record.device).unwrap().is_some());
    }
}
