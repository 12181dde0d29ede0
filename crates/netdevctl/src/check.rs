//! `netdevctl config check`.

use std::{io::Write, path::Path};

use netdevice::{pool::HealthRule, selector::Selector};

use crate::{node::read_pools, table::table};

/// Prints the pools of a file.
pub(crate) fn check(file: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let pools = read_pools(file)?;
    let mut rows =
        vec![["RESOURCE", "OFFER", "HEALTH", "ANNOTATIONS", "SELECT", "EXCEPT"].map(|name| Some(name.to_owned()))];
    for pool in pools.iter() {
        let except = Some(&pool.except).filter(|except| !except.is_empty()).map(Selector::to_string);
        let health = match pool.health {
            HealthRule::Up => "up",
            HealthRule::Present => "present",
            HealthRule::Carrier => "carrier",
        };
        rows.push([
            Some(pool.resource.to_string()),
            Some(pool.offer.to_string()),
            Some(health.into()),
            Some(pool.annotations.to_string()),
            Some(pool.select.to_string()),
            except,
        ]);
    }
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}
