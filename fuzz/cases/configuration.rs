//! The YAML of `-config`, the pattern of `-interfaces`, and what they select.

use netdevice::{InterfaceName, Link, Pools, fixture, selector::Pattern};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let names = ["eth0", "dummy0", "a.b:c"].map(|name| InterfaceName::new(name.as_bytes()));
    let links: Vec<Link> = names.into_iter().flatten().map(link).collect();
    if let Ok(pools) = Pools::from_yaml(text) {
        judge(&pools, &links);
    }
    // Almost any text is a valid pattern, and is compiled here twice. Measured with the sanitizer: 280 ms of processor time
    // for a pattern of 16 KiB and 9 ms for one of 256 bytes, where reading either as YAML takes less than 1 ms.
    if text.len() <= 256
        && let Ok(pattern) = text.parse::<Pattern>()
    {
        let short = Pools::by_name(pattern.clone());
        judge(&short, &links);
        let yaml = Pools::yaml_by_name(&pattern);
        assert_eq!(Pools::from_yaml(&yaml).expect("the short form as YAML"), short);
    }
}

fn judge(pools: &Pools, links: &[Link]) {
    for link in links {
        let first = pools.iter().find(|pool| pool.takes(link));
        assert_eq!(pools.of(link).map(|pool| &pool.resource), first.map(|pool| &pool.resource));
        for pool in pools.iter() {
            let _ = (pool.select.conditions(link).count(), pool.health.is_healthy(link));
            assert_eq!(pools.named(&pool.resource).map(|pool| &pool.resource), Some(&pool.resource));
        }
    }
}

fn link(name: InterfaceName) -> Link {
    Link { name, flags: 0, ..fixture::link(7, "any") }
}
