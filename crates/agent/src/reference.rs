//! Compares `docs/reference.md` with the program: a flag, metric or kind of problem that is not in it is an error.

use std::{collections::BTreeSet, sync::Arc};

use clap::CommandFactory;
use netdevice::{Pools, ResourceName, View};

use crate::{arguments::Arguments, metrics::Metrics, problem::Kind};

const REFERENCE: &str = include_str!("../../../docs/reference.md");

#[test]
fn the_reference_has_every_flag_with_its_default() {
    let mut command = Arguments::command();
    command.build();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        let named = REFERENCE.lines().find(|line| line.starts_with('|') && line.contains(&format!("`-{flag}")));
        let line = named.unwrap_or_else(|| panic!("docs/reference.md has no flag -{flag}"));
        if argument.get_action().takes_values() && !argument.is_hide_default_value_set() {
            for default in argument.get_default_values() {
                let default = default.to_str().unwrap();
                assert!(
                    line.contains(&format!("`{default}`")),
                    "docs/reference.md: the default of -{flag} is {default}"
                );
            }
        }
    }
}

#[test]
fn the_reference_has_every_metric_and_no_other() {
    let metrics = Metrics::default();
    metrics.set_runtime(tokio::sync::watch::channel(nri::ConnectionState::Starting).1);
    metrics.set_events();
    metrics.set_claims(tokio::sync::watch::channel(dra::RegistrationState::Pending).1);
    metrics.set_slices(Arc::default());
    metrics.set_inventory(Arc::default());
    // metrics of a resource are printed when there is one
    metrics.add_plugin(ResourceName::default(), Arc::default());
    let mut view = View::default();
    view.pools = Arc::new(Pools::by_name("dummy".parse().unwrap()));
    metrics.set_views(tokio::sync::watch::channel(Arc::new(view)).1);
    // a counter of the text ends with _total, an info with _info: TYPE names them without
    let text = metrics.text();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split_once(' '));
    let program: BTreeSet<String> = kinds
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let words = REFERENCE.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let documented: BTreeSet<String> = words.filter(|word| word.starts_with("netdevice_")).map(str::to_owned).collect();
    assert_eq!(documented, program);
}

#[test]
fn the_reference_and_troubleshooting_have_every_kind_of_problem() {
    for text in [REFERENCE, include_str!("../../../docs/troubleshooting.md")] {
        for (_, name) in Kind::ALL {
            assert!(text.contains(&format!("`{name}`")), "no `{name}`");
        }
    }
}
