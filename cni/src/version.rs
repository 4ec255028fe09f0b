//! The versions of the CNI specification that the plugin speaks, and what differs between them.
//!
//! A version is supported when its text is in the list: the specification asks for equality, not for a range.

use serde_json::{Value, json};

/// In ascending order, so that versions compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub const LATEST: Self = Self::V1_1_0;
    /// What a configuration without `cniVersion` means. Its result has another shape, so it is not supported.
    pub const WHEN_ABSENT: &str = "0.1.0";

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }

    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Each address says with `version` whether it is "4" or "6".
    pub fn ips_have_version(self) -> bool {
        self < Self::V1_0_0
    }

    /// Interfaces have `mtu`.
    pub fn interfaces_have_mtu(self) -> bool {
        self >= Self::V1_1_0
    }

    /// For people.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// The answer to VERSION. It never fails: runtimes probe with less than a network configuration, and take a
/// plugin away whose answer they do not understand.
pub fn reply(stdin: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|v| v.get("cniVersion")).and_then(Value::as_str);
    json!({
        "cniVersion": asked.unwrap_or(SpecVersion::LATEST.as_str()),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_texts() {
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(version.as_str()), Some(version));
        }
        for bad in ["", "1", "1.0", "1.1", "v1.0.0", "1.0.0 ", "1.2.0", "0.2.0", "0.1.0", "2.0.0"] {
            assert_eq!(SpecVersion::parse(bad), None, "{bad}");
        }
        assert!(SpecVersion::ALL.is_sorted() && SpecVersion::ALL.contains(&SpecVersion::LATEST));
    }

    #[test]
    fn what_each_version_has() {
        let row = |v: SpecVersion| (v.has_check(), v.has_gc_and_status(), v.ips_have_version());
        assert_eq!(
            SpecVersion::ALL.map(row),
            [
                (false, false, true),
                (false, false, true),
                (true, false, true),
                (true, false, false),
                (true, true, false),
            ]
        );
    }
}
