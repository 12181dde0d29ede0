//! The annotation of a Pod's networks: every rule of its form, its plan, its status and its events.

mod annotation;
mod configuration;
mod events;
mod plans;
mod properties;
mod status;

use netdevice::{
    InterfaceName,
    networks::{NetworkSelection, parse},
};

fn parsed(text: &str) -> Vec<NetworkSelection> {
    parse(text, "default").unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    match parse(text, "default") {
        Ok(selections) => panic!("{text}: {selections:?}"),
        Err(error) => error.to_string(),
    }
}

fn interface(name: &str) -> InterfaceName {
    name.try_into().expect("a name")
}
