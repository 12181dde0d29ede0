//! `netdevctl config check`.

use std::{io::Write, path::Path};

use netdevice::{Pool, pool::HealthRule, selector::Selector};

use crate::{node::read_pools, table::table};

/// How a pool is offered, and what is created on its links.
fn offer(pool: &Pool) -> String {
    let Some(children) = pool.children else { return pool.offer.to_string() };
    format!("{}: {} of {} on each", pool.offer, children.count(), children.first())
}

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
            Some(offer(pool)),
            Some(health.into()),
            Some(pool.annotations.to_string()),
            Some(pool.select.to_string()),
            except,
        ]);
    }
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_that_a_pool_creates_are_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pools = "pools:\n- {resource: a.b/lan, select: {names: [x]}, children: {kind: vlan, id: 100, count: 8}}\n\
                     - {resource: a.b/fast, select: {names: [y]}, offer: claims}\n";
        std::fs::write(file.path(), pools).unwrap();
        let mut out = Vec::new();
        check(file.path(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("a.b/lan ") && text.contains(" resource: 8 of vlan/100 on each "), "{text}");
        assert!(text.contains(" claims "), "{text}");
    }
}
