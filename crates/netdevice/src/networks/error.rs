//! Why an annotation or a NetworkAttachmentDefinition is not valid.

use super::{MAX_ANNOTATION, MAX_ELEMENTS};
use crate::name::InterfaceNameError;

/// Why an annotation or the configuration of a NetworkAttachmentDefinition is not valid. Elements are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// More bytes than [`MAX_ANNOTATION`].
    #[error("the annotation has {0} bytes: the limit is {MAX_ANNOTATION}")]
    TooLong(usize),
    /// More elements than [`MAX_ELEMENTS`].
    #[error("the annotation has {0} elements: the limit is {MAX_ELEMENTS}")]
    TooMany(usize),
    /// The text has one of the characters that only JSON has, and is not JSON.
    #[error("the annotation is invalid JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// JSON, but not a list.
    #[error("the annotation must be a JSON list of objects")]
    NotAList,
    /// An element of the list that is not an object.
    #[error("element {element} must be an object")]
    NotAnObject {
        /// The element's position.
        element: usize,
    },
    /// An item of a comma list that is not `[namespace/]name[@interface]`.
    #[error("element {element} must be [namespace/]name[@interface]")]
    Item {
        /// The element's position.
        element: usize,
    },
    /// A key with a value that is not valid.
    #[error("element {element}: {key} {problem}")]
    Key {
        /// The element's position.
        element: usize,
        /// The key.
        key: &'static str,
        /// What the value must be.
        problem: &'static str,
    },
    /// A name that no interface can have in a Pod.
    #[error("element {element}: {source}")]
    Interface {
        /// The element's position.
        element: usize,
        /// The rule.
        source: InterfaceNameError,
    },
    /// Two elements with the same interface.
    #[error("elements {first} and {second} have the same interface")]
    SameInterface {
        /// The position of the one.
        first: usize,
        /// The position of the other.
        second: usize,
    },
    /// Two elements with default-route.
    #[error("elements {first} and {second} have default-route: only one element can have it")]
    SeveralDefaultRoutes {
        /// The position of the one.
        first: usize,
        /// The position of the other.
        second: usize,
    },
    /// `spec.config` of a NetworkAttachmentDefinition is not JSON.
    #[error("spec.config of the NetworkAttachmentDefinition {nad:?} is invalid JSON at line {line}, column {column}")]
    Configuration {
        /// The name of the NetworkAttachmentDefinition.
        nad: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// `spec.config` of a NetworkAttachmentDefinition is not an object.
    #[error("spec.config of the NetworkAttachmentDefinition {0:?} must be a JSON object")]
    ConfigurationForm(String),
}
