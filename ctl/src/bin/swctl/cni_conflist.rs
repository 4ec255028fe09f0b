//! Network configurations of runtimes: lists of plugins that are run one after the other.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cni::PLUGIN;

/// The newest version of the specification that is known here; newer ones in a list are passed over, as the
/// runtimes' library does.
const NEWEST: [u32; 3] = [1, 1, 0];

/// A configuration that was read.
#[derive(Clone, Debug)]
pub struct Conflist {
    pub name: String,
    pub version: String,
    pub plugins: Vec<Map<String, Value>>,
    document: Value,
}

/// What our own configuration says.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub network: Option<&'a str>,
    pub socket: &'a Path,
    pub chain: &'a [String],
}

impl Wanted<'_> {
    /// As a file, for people to read too.
    pub fn render(&self) -> String {
        let mut own = json!({
            "type": PLUGIN,
            "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true },
        });
        if self.socket != Path::new(ctl::DEFAULT_SOCKET) {
            own["socket"] = self.socket.to_string_lossy().into();
        }
        if let Some(network) = self.network {
            own["network"] = network.into();
        }
        let chained = self.chain.iter().map(|kind| json!({ "type": kind }));
        let plugins: Vec<_> = std::iter::once(own).chain(chained).collect();
        let list = json!({ "cniVersion": self.version, "name": self.name, "plugins": plugins });
        format!("{list:#}\n")
    }
}

impl Conflist {
    /// Reads a file; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let shown = path.display();
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&bytes).map(Some).map_err(|e| format!("{shown}: {e}")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("cannot read {shown}: {e}")),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
        let name = document["name"].as_str().filter(|n| !n.is_empty()).ok_or("`name` is missing")?.to_owned();
        let plugins =
            document["plugins"].as_array().ok_or("`plugins` is missing: expected a list of plugins")?;
        let plugins: Option<Vec<_>> =
            plugins.iter().map(|p| p.as_object().filter(|p| kind(p).is_some()).cloned()).collect();
        let plugins = plugins.filter(|p| !p.is_empty()).ok_or("`plugins` must be objects with a `type`")?;
        let version = version(&document)?;
        Ok(Self { name, version, plugins, document })
    }

    pub fn is_ours(&self) -> bool {
        self.plugins.iter().any(|p| kind(p) == Some(PLUGIN))
    }

    /// `disableCheck` and `disableGC` may be written as text.
    pub fn is_set(&self, key: &str) -> bool {
        self.document[key] == true
            || self.document[key].as_str().is_some_and(|t| t.eq_ignore_ascii_case("true"))
    }

    /// `a.b.c` of the version is at least this.
    pub fn at_least(&self, version: [u32; 3]) -> bool {
        number(&self.version).is_some_and(|v| v >= version)
    }
}

/// `type` of a plugin.
pub fn kind(plugin: &Map<String, Value>) -> Option<&str> {
    plugin.get("type")?.as_str().filter(|t| !t.is_empty())
}

/// The highest of `cniVersions` that is known, else `cniVersion`.
fn version(document: &Value) -> Result<String, String> {
    let listed = document["cniVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let listed = listed.iter().filter_map(Value::as_str).chain(document["cniVersion"].as_str());
    let known = listed.filter_map(|text| Some((number(text)?, text))).filter(|(n, _)| *n <= NEWEST);
    let highest = known.max().map(|(_, text)| text.to_owned());
    highest.ok_or_else(|| "`cniVersion` is missing or unknown: expected 1.1.0 or older".to_owned())
}

fn number(version: &str) -> Option<[u32; 3]> {
    let parts: Vec<u32> = version.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

/// The configurations that a runtime would take before this one, because their names come first.
pub fn before(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let other = entry?.path();
        let taken = other.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json");
        if taken && other.file_name().is_some_and(|n| n < name) {
            found.push(other);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_read_back() {
        let chain = ["tuning".to_owned()];
        let socket = Path::new("/tmp/s");
        let wanted = Wanted { name: "pods", version: "1.0.0", network: Some("blue"), socket, chain: &chain };
        let list = Conflist::parse(wanted.render().as_bytes()).unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.plugins.len()), ("pods", "1.0.0", 2));
        assert!(list.is_ours() && list.at_least([1, 0, 0]) && !list.at_least([1, 1, 0]));
        assert_eq!(list.plugins[0]["socket"], "/tmp/s");
        assert_eq!(
            (&list.plugins[0]["network"], &list.plugins[1]["type"]),
            (&json!("blue"), &json!("tuning"))
        );

        let plain = Wanted { network: None, socket: Path::new(ctl::DEFAULT_SOCKET), chain: &[], ..wanted };
        let list = Conflist::parse(plain.render().as_bytes()).unwrap();
        assert!(!list.plugins[0].contains_key("socket") && !list.plugins[0].contains_key("network"));
    }

    #[test]
    fn versions() {
        let of = |keys: Value| version(&keys);
        assert_eq!(of(json!({ "cniVersion": "0.4.0" })).unwrap(), "0.4.0");
        assert_eq!(
            of(json!({ "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "9.0.0"] })).unwrap(),
            "1.1.0"
        );
        assert_eq!(of(json!({ "cniVersions": ["0.3.1", "x", 5] })).unwrap(), "0.3.1");
        for bad in [json!({}), json!({ "cniVersion": "9.0.0" }), json!({ "cniVersion": "1.0" })] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_list() {
        for bad in [
            "{",
            "{}",
            r#"{"cniVersion":"1.0.0","name":"a","type":"bridge"}"#,
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#,
        ] {
            assert!(Conflist::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let foreign = r#"{"cniVersion":"1.0.0","name":"a","disableGC":"true","plugins":[{"type":"bridge"}]}"#;
        let foreign = Conflist::parse(foreign.as_bytes()).unwrap();
        assert!(!foreign.is_ours() && foreign.is_set("disableGC") && !foreign.is_set("disableCheck"));
    }
}
