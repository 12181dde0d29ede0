//! One device of the list.

use serde_json::Value;

use super::{DeviceRequest, Problem, Wanted};
use crate::configuration::{
    SandboxConfiguration,
    fields::{Field, Key, Spelling},
    read,
};

const NAME: Key = Key::new("name");
const POOL: Key = Key::new("pool");

/// Reads one device.
pub(super) fn device(value: &Value) -> Result<DeviceRequest, Problem> {
    let known: Vec<Key> = [NAME, POOL].into_iter().chain(read::CONFIGURATION).chain(read::ANNOTATION_ONLY).collect();
    let fields = Field::whole(value, Spelling::Annotation).mapping(&known)?;
    let name = fields.read(NAME, |field| field.text(read::sandbox_name))?;
    let pool =
        fields.read(POOL, |field| field.text(|text| text.parse().map_err(|_| "invalid pool name".to_owned())))?;
    let device = match (name, pool) {
        (Some(name), None) => Wanted::Name(name.as_interface_name().clone()),
        (None, Some(pool)) => Wanted::Pool(pool),
        (None, None) => return Err(Problem::NoName),
        (Some(_), Some(_)) => return Err(Problem::NameAndPool),
    };
    let read = read::configuration(&fields, Spelling::Annotation)?;
    let (acquisition, configuration) = read.resolve_as(Spelling::Annotation)?;
    Ok(DeviceRequest { device, acquisition, configuration })
}

/// Reads the configuration of a device that is moved.
pub(super) fn configuration(value: &Value) -> Result<SandboxConfiguration, Problem> {
    let of_moved = read::CONFIGURATION.into_iter().filter(|key| *key != read::CREATE);
    let known: Vec<Key> = of_moved.chain(read::ANNOTATION_ONLY).collect();
    let fields = Field::whole(value, Spelling::Annotation).mapping(&known)?;
    let (_, configuration) = read::configuration(&fields, Spelling::Annotation)?.resolve_as(Spelling::Annotation)?;
    Ok(configuration)
}
