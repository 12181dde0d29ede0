//! The configuration in the flags, by the rules of the annotation.

use anyhow::{Result, anyhow, bail};
use netdevice::{
    SandboxConfiguration,
    annotation::{self, Problem},
    configuration::FieldError,
};
use serde_json::{Map, Value, json};

use super::DeviceRequestArguments;

impl DeviceRequestArguments {
    /// The configuration that the flags request.
    ///
    /// # Errors
    ///
    /// The first flag that breaks a rule of the annotation's fields, with the rule.
    pub(super) fn configuration(&self) -> Result<SandboxConfiguration> {
        let routes: Vec<Value> = elements(&self.routes).map(route).collect::<Result<_>>()?;
        let mtu = self.mtu.as_ref().map(|mtu| mtu.parse::<u64>().map_or_else(|_| json!(mtu), |mtu| json!(mtu)));
        let fields = json!({
            "new_name": self.name,
            "addresses": elements(&self.ips).collect::<Vec<_>>(),
            "routes": routes,
            "mtu": mtu,
            "mac": self.mac,
            "inherit": self.inherit,
        });
        annotation::configuration(&fields).map_err(|problem| of_flag(&problem))
    }
}

/// The elements of a flag that may be repeated, and may have several elements separated by commas.
fn elements(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split(',')).map(str::trim)
}

/// Reads `TO [via GATEWAY] [metric NUMBER]`.
fn route(text: &str) -> Result<Value> {
    let mut words = text.split_whitespace();
    let mut fields = Map::new();
    fields.insert("to".into(), words.next().into());
    while let Some(key) = words.next() {
        if !matches!(key, "via" | "metric") || fields.contains_key(key) {
            bail!("-routes: {text:?}: write TO [via GATEWAY] [metric NUMBER]");
        }
        let Some(value) = words.next() else { bail!("-routes: {text:?}: {key} has no value") };
        let number = (key == "metric").then(|| value.parse::<u64>().ok()).flatten();
        fields.insert(key.into(), number.map_or_else(|| value.into(), Value::from));
    }
    Ok(Value::Object(fields))
}

/// The problem of a field, by the flag that it is from.
fn of_flag(problem: &Problem) -> anyhow::Error {
    let Problem::Field(FieldError { path, rule }) = problem else { return anyhow!("{problem}") };
    let (field, inside) = path.split_once('[').unwrap_or((path, ""));
    let flag = flag(field);
    let number = |at: &str| at.parse().map_or(0, |at: usize| at + 1);
    match inside.split_once("].") {
        Some((at, inner)) => anyhow!("{flag}: route {}: {inner}: {rule}", number(at)),
        None => anyhow!("{flag}: {rule}"),
    }
}

fn flag(field: &str) -> &'static str {
    match field {
        "new_name" => "-name",
        "addresses" | "address" | "prefix" => "-ips",
        "mtu" => "-mtu",
        "mac" => "-mac",
        "routes" => "-routes",
        _ => "-inherit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(edit: impl FnOnce(&mut DeviceRequestArguments)) -> DeviceRequestArguments {
        let mut arguments = DeviceRequestArguments { device: "dev0".into(), ..DeviceRequestArguments::default() };
        edit(&mut arguments);
        arguments
    }

    #[test]
    fn the_flags_say_what_the_annotation_says() {
        let flags = arguments(|flags| {
            flags.name = Some("net1".into());
            flags.ips = vec!["10.0.0.2/24, 2001:db8::2/64".into(), "10.0.1.2/24".into()];
            flags.mtu = Some("9000".into());
            flags.mac = Some("02:00:00:00:00:0a".into());
            flags.routes =
                vec!["198.51.100.0/24 via 10.0.0.1 metric 5,203.0.113.0/24".into(), "2001:db8:9::/48".into()];
            flags.inherit = true;
        });
        let annotation =
            "[{name: dev0, new_name: net1, addresses: [10.0.0.2/24, '2001:db8::2/64', 10.0.1.2/24], mtu: 9000,
            mac: '02:00:00:00:00:0a', inherit: true, routes: [{to: 198.51.100.0/24, via: 10.0.0.1, metric: 5},
            {to: 203.0.113.0/24}, {to: '2001:db8:9::/48'}]}]";
        let expected = annotation::parse(annotation).unwrap().remove(0).configuration;
        assert_eq!(flags.configuration().unwrap(), expected);
        assert_eq!(arguments(|_| {}).configuration().unwrap(), SandboxConfiguration::default());
    }

    #[test]
    fn what_a_flag_cannot_say_is_refused_with_the_flag_and_the_rule() {
        type Edit = fn(&mut DeviceRequestArguments);
        let table: [(Edit, &str); 17] = [
            (|flags| flags.name = Some("a/b".into()), "-name: the byte 0x2f is not allowed in an interface name"),
            (|flags| flags.name = Some(String::new()), "-name: empty name"),
            (|flags| flags.name = Some("longer-than-fifteen".into()), "-name: too long: 19 bytes, the limit is 15"),
            (|flags| flags.ips = vec!["10.0.0.300/24".into()], "-ips: must be an IPv4 or IPv6 address"),
            (|flags| flags.ips = vec!["10.0.0.2/33".into()], "-ips: the prefix length must be between 0 and 32"),
            (|flags| flags.ips = vec!["127.0.0.1/8".into()], "-ips: an interface cannot have this address"),
            (|flags| flags.ips = vec!["10.0.0.2/24,10.0.0.2/25".into()], "-ips: the same address is listed twice"),
            (|flags| flags.ips = vec!["10.0.0.2/24,".into()], "-ips: must be an IPv4 or IPv6 address"),
            (|flags| flags.mtu = Some("67".into()), "-mtu: must be a number from 68 to 65535"),
            (|flags| flags.mtu = Some("big".into()), "-mtu: must be a number from 68 to 65535"),
            (|flags| flags.mac = Some("02:00".into()), "-mac: must be six pairs of hex digits separated by colons"),
            (|flags| flags.mac = Some("01:00:00:00:00:01".into()), "-mac: a multicast address is not allowed"),
            (
                |flags| flags.routes = vec!["10.1.0.0/16,0.0.0.0/0 via 10.0.0.1".into()],
                "-routes: route 2: to: a default route is not allowed: list the networks behind the device, or set a table",
            ),
            (
                |flags| flags.routes = vec!["10.1.0.0/16 via 2001:db8::1".into()],
                "-routes: route 1: via: the gateway and the destination must be of one address family",
            ),
            (
                |flags| flags.routes = vec!["10.1.0.0/16 metric much".into()],
                "-routes: route 1: metric: must be a number from 0 to 4294967295",
            ),
            (
                |flags| flags.routes = vec!["10.1.0.0/16 dev eth0".into()],
                "-routes: \"10.1.0.0/16 dev eth0\": write TO [via GATEWAY] [metric NUMBER]",
            ),
            (|flags| flags.routes = vec!["10.1.0.0/16 via".into()], "-routes: \"10.1.0.0/16 via\": via has no value"),
        ];
        for (edit, expected) in table {
            assert_eq!(arguments(edit).configuration().unwrap_err().to_string(), expected);
        }
        let missing = arguments(|flags| flags.routes = vec![String::new()]);
        assert_eq!(missing.configuration().unwrap_err().to_string(), "-routes: route 1: to: missing");
    }
}
