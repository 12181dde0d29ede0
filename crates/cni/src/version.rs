//! Versions of the CNI specification.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A version of the specification that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the version of its name")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// A version that is not spoken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not `major.minor.micro`.
    #[error("invalid CNI version {0:?}: it must be of the form 1.0.0")]
    Form(String),
    /// A version that does not exist, or a newer one.
    #[error("CNI version {0} is not supported: supported are 0.1.0 to 1.1.0")]
    Unknown(String),
}

impl Version {
    /// All, the oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest one.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads a version that may be missing: configurations and results without one are of version 0.1.0.
    ///
    /// # Errors
    ///
    /// Those of [`Version::from_str`].
    pub fn or_oldest(text: Option<&str>) -> Result<Self, VersionError> {
        text.filter(|text| !text.is_empty()).map_or(Ok(Self::V0_1_0), str::parse)
    }

    /// Whether plugins know CHECK, and get the previous result with DEL.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether plugins know STATUS and GC.
    pub fn has_gc(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        if let Some(version) = Self::ALL.into_iter().find(|version| version.as_str() == text) {
            return Ok(version);
        }
        let is_number =
            |part: &str| !part.is_empty() && part.len() < 10 && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_form = text.split('.').count() == 3 && text.split('.').all(is_number);
        let text = text.chars().take(40).collect();
        Err(if is_form { VersionError::Unknown(text) } else { VersionError::Form(text) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::or_oldest(Some("")), Ok(Version::V0_1_0));
        for unknown in ["0.5.0", "1.2.0", "10.0.0", "0.0.0"] {
            assert!(matches!(unknown.parse::<Version>(), Err(VersionError::Unknown(_))), "{unknown}");
        }
        for form in ["1", "1.0", "v1.0.0", "1.0.0.0", "1.0.x", "", "1..0", "1.0.0-rc1"] {
            assert!(matches!(form.parse::<Version>(), Err(VersionError::Form(_))), "{form}");
        }
    }
}
