//! YAML with limits. Aliases expand a short text to a large value, so the expanded text is counted while it is read: memory
//! and time are bounded before they are used.

use serde::de::DeserializeOwned;

/// The limits of the expanded text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sequences, mappings and scalars.
    pub(crate) nodes: usize,
    /// Bytes of all scalars together.
    pub(crate) scalar_bytes: usize,
}

/// Maximum depth of sequences and mappings. A recursive reader needs stack for each.
const MAX_DEPTH: usize = 16;

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct YamlError {
    /// Counted from 1.
    pub(crate) line: u64,
    /// Counted from 1.
    pub(crate) column: u64,
    /// The problem.
    pub(crate) problem: YamlProblem,
}

/// The problem of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum YamlProblem {
    /// The expanded text exceeds the limits.
    TooLarge,
    /// Invalid YAML, or another form than the value; one line, with the position.
    Invalid(String),
}

/// Reads one document.
pub(crate) fn read<T: DeserializeOwned>(text: &str, limits: Limits) -> Result<T, YamlError> {
    let events = limits.nodes * 2;
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            flow_nesting_limit: MAX_DEPTH,
            max_depth: MAX_DEPTH,
            max_nodes: limits.nodes,
            max_events: events,
            max_recorded_anchor_events: events,
            max_recorded_anchor_bytes: limits.scalar_bytes,
            max_total_scalar_bytes: limits.scalar_bytes,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
        YamlError { line, column, problem: problem(&error) }
    })
}

fn problem(error: &serde_saphyr::Error) -> YamlProblem {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::AliasError { error, .. } => problem(error),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => YamlProblem::TooLarge,
        error => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            YamlProblem::Invalid(first.strip_prefix("error: ").unwrap_or(first).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const LIMITS: Limits = Limits { nodes: 100, scalar_bytes: 1000 };

    fn problem_of(text: &str) -> Option<YamlProblem> {
        read::<Value>(text, LIMITS).err().map(|error| error.problem)
    }

    #[test]
    fn what_a_text_unfolds_to_is_counted() {
        let nine = |of: &str| format!("[{}]", [of; 9].join(","));
        let twenty = ["*a"; 20].join(",");
        let table = [
            (format!("[&a {}, {twenty}]", nine("x")), true),
            (format!("[&a {}, &b {}, {}]", nine("x"), nine("*a"), nine("*b")), true),
            (nine("x"), false),
            (format!("[&a {}, *a, *a]", nine("x")), false),
            (format!("[&a {}, *a, *a, *a]", "x".repeat(300)), true),
            (format!("[{}]", ["[]"; 200].join(",")), true),
        ];
        for (text, is_too_large) in table {
            assert_eq!(problem_of(&text) == Some(YamlProblem::TooLarge), is_too_large, "{text}");
        }
    }

    #[test]
    fn depth_is_limited_in_every_form() {
        let flow = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let mapping = |depth: usize| "{a: ".repeat(depth) + &"}".repeat(depth);
        let block = |depth: usize| "- ".repeat(depth) + "x";
        let json = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        for text in [flow, mapping, block, json] {
            assert_eq!(problem_of(&text(MAX_DEPTH)), None, "{}", text(MAX_DEPTH));
            assert!(problem_of(&text(MAX_DEPTH + 1)).is_some());
            assert!(problem_of(&text(10_000)).is_some());
        }
    }

    #[test]
    fn an_alias_of_itself_and_an_unknown_one_are_errors() {
        for text in ["&a [*a]", "*a", "&a {a: *a}"] {
            assert!(problem_of(text).is_some(), "{text}");
        }
    }
}
