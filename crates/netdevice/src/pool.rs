//! Pools: a resource name, a selector, and the health rule of its devices. And the configuration that defines them.

use std::{collections::BTreeSet, fmt};

use serde::Deserialize;

pub use self::ethtool::{EthtoolConsent, NotAllowed};
use crate::{
    children::Children,
    exclusion::UplinkParents,
    link::Link,
    record::Attachment,
    resource::ResourceName,
    selector::{Pattern, Selector},
    yaml::{self, Limits, YamlError, YamlProblem},
};

mod ethtool;

/// When a device on the host is healthy for the kubelet. An attached device is always healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthRule {
    /// The link is administratively up.
    #[default]
    Up,
    /// The link exists.
    Present,
    /// The link is up and has a carrier.
    Carrier,
}

impl HealthRule {
    /// Whether the link is healthy by this rule.
    pub fn is_healthy(self, link: &Link) -> bool {
        match self {
            Self::Present => true,
            Self::Up => link.is_up(),
            Self::Carrier => link.is_up() && link.has_carrier(),
        }
    }
}

/// Which Pods may request devices of a pool in an annotation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "AnnotationsForm")]
pub enum Annotations {
    /// None.
    #[default]
    Refused,
    /// Every Pod.
    Allowed,
    /// The Pods of these Kubernetes namespaces.
    Namespaces(BTreeSet<String>),
}

/// In the configuration: `true`, `false`, or `{namespaces: [a, b]}`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`annotations` is true, false or {namespaces: [...]}")]
enum AnnotationsForm {
    All(bool),
    Some(AnnotationNamespaces),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnotationNamespaces {
    namespaces: BTreeSet<String>,
}

impl From<AnnotationsForm> for Annotations {
    fn from(form: AnnotationsForm) -> Self {
        match form {
            AnnotationsForm::All(true) => Self::Allowed,
            AnnotationsForm::All(false) => Self::Refused,
            AnnotationsForm::Some(some) => Self::Namespaces(some.namespaces),
        }
    }
}

impl fmt::Display for Annotations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => out.write_str("nobody"),
            Self::Allowed => out.write_str("everybody"),
            Self::Namespaces(namespaces) => {
                let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                write!(out, "namespaces: {}", names.join(" "))
            }
        }
    }
}

impl Annotations {
    /// Whether a Pod of that Kubernetes namespace may request a device.
    pub fn allow(&self, namespace: &str) -> bool {
        match self {
            Self::Refused => false,
            Self::Allowed => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// How Pods request the devices of a pool, in addition to annotations and commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OfferForm")]
pub enum Offer {
    /// In their limits: the device plugin offers the devices as an extended resource.
    #[default]
    Resource,
    /// By a ResourceClaim: the devices are in the node's ResourceSlices.
    Claims,
}

/// In the configuration: `resource` or `claims`. A list is read for the sake of its error.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`offer` is resource or claims")]
enum OfferForm {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<OfferForm> for Offer {
    type Error = String;

    fn try_from(form: OfferForm) -> Result<Self, Self::Error> {
        let several = |ways: &str| format!("a pool is offered in one way: `offer` is resource or claims, not {ways}");
        match form {
            OfferForm::One(one) => match one.as_str() {
                "resource" => Ok(Self::Resource),
                "claims" => Ok(Self::Claims),
                "both" => Err(several("both")),
                other => Err(format!("`offer` is resource or claims, not {other:?}")),
            },
            OfferForm::Several(ways) => Err(several(&ways.join(" and "))),
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Resource => "resource",
            Self::Claims => "claims",
        })
    }
}

/// Devices that are offered under one resource name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The name that a Pod has in its limits. Of a pool that is offered by claims it is only the pool's name.
    pub resource: ResourceName,
    /// How Pods request its devices. One way only: two schedulers do not know of each other's allocations.
    #[serde(default)]
    pub offer: Offer,
    /// The links of the pool.
    pub select: Selector,
    /// Links that do not belong to the pool although `select` matches.
    #[serde(default)]
    pub except: Selector,
    /// When a device is healthy.
    #[serde(default)]
    pub health: HealthRule,
    /// Which Pods may request its devices in an annotation, in addition to those that request the resource.
    #[serde(default)]
    pub annotations: Annotations,
    /// Whether devices may be created on a selected link that the node itself is connected by. The link stays on the host.
    #[serde(default, rename = "allowUplinkParent")]
    pub allow_uplink_parent: bool,
    /// What the pool offers in place of the selected links, which stay on the host; none: the links themselves.
    #[serde(default)]
    pub children: Option<Children>,
    /// What of the driver Pods may set.
    #[serde(default)]
    pub ethtool: EthtoolConsent,
}

impl Pool {
    /// Whether devices may be created on the node's own links.
    pub fn uplink_parents(&self) -> UplinkParents {
        UplinkParents::allowed_if(self.allow_uplink_parent)
    }

    /// Whether the pool selects the link.
    pub fn takes(&self, link: &Link) -> bool {
        self.select.matches(link) && !self.except.matches(link)
    }
}

/// All pools. A device belongs to the first pool that selects it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools(Vec<Pool>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    pools: Vec<Pool>,
}

/// Why a configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Invalid YAML, or another form. The text has line and column.
    #[error("{0}")]
    Yaml(String),
    /// Two pools with one resource.
    #[error("two pools have the resource {0}")]
    SameResource(ResourceName),
    /// Two resources with one environment variable.
    #[error("resources {0} and {1} have the same environment variable {2}: rename one")]
    SameVariable(ResourceName, ResourceName, String),
    /// A pool that selects nothing.
    #[error("the pool of resource {0} has no condition under `select`; write `names: [\"\"]` to select every link")]
    NothingSelected(ResourceName),
    /// A text longer than the limit.
    #[error("the configuration is too long: {0} bytes, the limit is {MAX_CONFIGURATION}")]
    TooLarge(usize),
    /// It is nested too deeply, or its aliases expand to too much.
    #[error("the configuration has too many values, or is nested too deeply, at line {line} column {column}")]
    Unfolds {
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
    },
}

/// The file in the state directory with the configuration that the agent uses, in the format of `-config`. The agent writes
/// it when it applies a configuration; `netdevctl` reads it.
pub const EFFECTIVE_CONFIGURATION: &str = "config.yaml";

/// Longest configuration in bytes.
pub const MAX_CONFIGURATION: usize = 1 << 20;

/// What the aliases of a configuration may expand to.
const UNFOLDED: Limits = Limits { nodes: 1 << 16, scalar_bytes: MAX_CONFIGURATION };

/// A character in a YAML string in double quotes. A JSON string is not always one: YAML does not allow DEL and C1 control
/// characters (YAML 1.2.2, 5.1).
fn in_double_quotes(character: char) -> String {
    match character {
        '"' | '\\' => format!("\\{character}"),
        ' '..='~' => character.to_string(),
        _ => format!("\\U{:08X}", u32::from(character)),
    }
}

impl Pools {
    /// The one pool of `-interfaces PATTERN`.
    pub fn by_name(pattern: Pattern) -> Self {
        Self(vec![Pool {
            resource: ResourceName::default(),
            offer: Offer::default(),
            select: Selector::by_name(pattern),
            except: Selector::default(),
            health: HealthRule::default(),
            annotations: Annotations::default(),
            allow_uplink_parent: false,
            children: None,
            ethtool: EthtoolConsent::default(),
        }])
    }

    /// The same pools, available to the annotations of every Pod.
    #[must_use]
    pub fn with_annotations(mut self) -> Self {
        self.0.iter_mut().for_each(|pool| pool.annotations = Annotations::Allowed);
        self
    }

    /// The same pools, offered by claims.
    #[must_use]
    pub fn offered_by_claims(mut self) -> Self {
        self.0.iter_mut().for_each(|pool| pool.offer = Offer::Claims);
        self
    }

    /// Whether a pool is offered by claims.
    pub fn has_claims(&self) -> bool {
        self.0.iter().any(|pool| pool.offer == Offer::Claims)
    }

    /// The configuration that equals `-interfaces PATTERN`: [`Pools::by_name`] as YAML.
    pub fn yaml_by_name(pattern: &Pattern) -> String {
        let resource = ResourceName::default();
        let pattern: String = pattern.as_str().chars().map(in_double_quotes).collect();
        format!("pools:\n- resource: {resource}\n  select:\n    names: [\"{pattern}\"]\n")
    }

    /// Reads the YAML of `-config`.
    ///
    /// # Errors
    ///
    /// The first problem, with its line if the text is invalid.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigurationError> {
        if text.len() > MAX_CONFIGURATION {
            return Err(ConfigurationError::TooLarge(text.len()));
        }
        let yaml_error = |error: YamlError| match error.problem {
            YamlProblem::Invalid(reason) => ConfigurationError::Yaml(reason),
            YamlProblem::TooLarge => ConfigurationError::Unfolds { line: error.line, column: error.column },
        };
        let Configuration { pools } = yaml::read(text, UNFOLDED).map_err(yaml_error)?;
        for (at, pool) in pools.iter().enumerate() {
            for earlier in &pools[..at] {
                if earlier.resource == pool.resource {
                    return Err(ConfigurationError::SameResource(pool.resource.clone()));
                }
                let variable = pool.resource.environment_variable();
                if earlier.resource.environment_variable() == variable {
                    let (one, other) = (earlier.resource.clone(), pool.resource.clone());
                    return Err(ConfigurationError::SameVariable(one, other, variable));
                }
            }
            if pool.select.is_empty() {
                return Err(ConfigurationError::NothingSelected(pool.resource.clone()));
            }
        }
        Ok(Self(pools))
    }

    /// The pool of a link.
    pub fn of(&self, link: &Link) -> Option<&Pool> {
        self.0.iter().find(|pool| pool.takes(link))
    }

    /// The pool with that resource.
    pub fn named(&self, resource: &ResourceName) -> Option<&Pool> {
        self.0.iter().find(|pool| pool.resource == *resource)
    }

    /// Whether a device was created as its pool of children creates it.
    pub fn creates(&self, record: &Attachment) -> bool {
        let pool = record.resource.as_ref().and_then(|resource| self.named(resource));
        let offered = pool.and_then(|pool| pool.children?.kind_of(&record.device));
        offered.is_some() && offered == record.created().map(|created| created.kind)
    }

    /// All pools, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_names_pools_in_order() {
        let pools = Pools::from_yaml(
            "pools:\n- resource: example.com/fast\n  select: {drivers: [ice]}\n  except: {names: [^ens1$]}\n  health: carrier\n\
             - resource: networking.k8s.io/netdevice\n  select: {names: [dummy]}\n",
        )
        .unwrap();
        let names: Vec<_> = pools.iter().map(|pool| (pool.resource.as_str(), pool.health)).collect();
        assert_eq!(names, [("example.com/fast", HealthRule::Carrier), ("networking.k8s.io/netdevice", HealthRule::Up)]);
    }

    #[test]
    fn annotations_are_for_nobody_everybody_or_some_namespaces() {
        let pool = |more: &str| format!("pools:\n- {{resource: a.b/cc, select: {{names: [a]}}{more}}}");
        let allowed = |more: &str| {
            let pools = Pools::from_yaml(&pool(more)).unwrap();
            ["default", "team-a"].map(|namespace| pools.iter().all(|pool| pool.annotations.allow(namespace)))
        };
        assert_eq!(allowed(""), [false, false]);
        assert_eq!(allowed(", annotations: false"), [false, false]);
        assert_eq!(allowed(", annotations: true"), [true, true]);
        assert_eq!(allowed(", annotations: {namespaces: [team-a, b]}"), [false, true]);
        assert_eq!(allowed(", annotations: {namespaces: []}"), [false, false]);
        for wrong in ["yes please", "{namespace: [a]}", "[a]", "{namespaces: a}"] {
            let error = Pools::from_yaml(&pool(&format!(", annotations: {wrong}"))).unwrap_err().to_string();
            assert!(error.contains("`annotations` is true, false or {namespaces: [...]}"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_pool_is_offered_as_a_resource_or_by_claims() {
        let pools =
            |offer: &str| Pools::from_yaml(&format!("pools:\n- {{resource: a.b/cc, select: {{names: [a]}}{offer}}}"));
        let offers = |offer: &str| pools(offer).unwrap().iter().map(|pool| pool.offer).collect::<Vec<_>>();
        assert_eq!(offers(""), [Offer::Resource]);
        assert_eq!(offers(", offer: resource"), [Offer::Resource]);
        assert_eq!(offers(", offer: claims"), [Offer::Claims]);
        assert_eq!(pools(", offer: claims").unwrap(), pools("").unwrap().offered_by_claims());
        assert!(!pools("").unwrap().has_claims() && pools(", offer: claims").unwrap().has_claims());
        for (both, ways) in [("[resource, claims]", "resource and claims"), ("both", "both")] {
            let error = pools(&format!(", offer: {both}")).unwrap_err().to_string();
            let expected = format!("a pool is offered in one way: `offer` is resource or claims, not {ways}");
            assert!(error.contains(&expected), "{error}");
        }
        let error = pools(", offer: claim").unwrap_err().to_string();
        assert!(error.contains("`offer` is resource or claims, not \"claim\""), "{error}");
        let error = pools(", offer: {a: b}").unwrap_err().to_string();
        assert!(error.contains("`offer` is resource or claims"), "{error}");
    }

    #[test]
    fn wrong_configurations_are_refused_with_place_and_reason() {
        let table = [
            ("", "unexpected end of input at line 1"),
            ("pools:\n- resource: x\n  select: {names: [a]}", "line 2"),
            ("pools:\n- resource: a.b/cc\n  select: {names: ['[']}", "line 3"),
            ("pools:\n- resource: a.b/cc\n  select: {names: [a]}\n  helth: up", "unknown field `helth`"),
            (
                "pools:\n- {resource: a.b/cc, select: {names: [a]}}\n- {resource: a.b/cc, select: {names: [a]}}",
                "two pools",
            ),
            (
                "pools:\n- {resource: a.b/cc, select: {names: [a]}}\n- {resource: a.b/CC, select: {names: [a]}}",
                "the same environment variable",
            ),
            ("pools:\n- {resource: a.b/cc, select: {}}", "no condition"),
        ];
        for (yaml, part) in table {
            let error = Pools::from_yaml(yaml).unwrap_err().to_string();
            assert!(error.contains(part), "{yaml}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(!error.starts_with("error"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_short_form_is_written_as_yaml(text in "[\\PC\\x00-\\x1f\\x7f-\\x9f]{0,20}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                let yaml = Pools::yaml_by_name(&pattern);
                prop_assert_eq!(Pools::from_yaml(&yaml).unwrap(), Pools::by_name(pattern), "{}", yaml);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = Pools::from_yaml(&text);
        }
    }
}
