//! The network configuration that comes on standard input.
//!
//! It stays an untyped document: runtimes, other plugins of the chain and the IPAM plugin have keys of their own
//! in it, and each verb reads only what it needs, so that a wrong `mtu` does not keep DEL from deleting. A key
//! that is not known is ignored, as the specification wants; one that is known and has a bad value is an error
//! that names both. `null` counts as absent, as it does for the runtimes.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::env::is_identifier;
use crate::error::{CniError, Code};
use crate::version::SpecVersion;

/// Name of our own address management in `ipam.type`.
const OWN_IPAM: &str = "swd";

/// A configuration whose name and version are good.
#[derive(Debug)]
pub struct Config {
    document: Value,
    /// As it came, for a delegated plugin.
    pub bytes: Vec<u8>,
    pub name: String,
    pub version: SpecVersion,
}

impl Config {
    pub fn parse(bytes: Vec<u8>) -> Result<Self, CniError> {
        let document: Value = serde_json::from_slice(&bytes).map_err(|e| {
            CniError::new(Code::Decode, format!("network configuration on standard input is not JSON: {e}"))
        })?;
        if !document.is_object() {
            return Err(CniError::new(
                Code::Decode,
                "network configuration on standard input is not an object",
            ));
        }
        let root = Item { path: String::new(), value: &document };
        let Some(name) = root.get("name")? else {
            return Err(CniError::new(Code::InvalidConfig, "network configuration: `name` is missing"));
        };
        let name = name.text().and_then(|text| match is_identifier(text) {
            true => Ok(text.to_owned()),
            false => Err(name.wrong("expected letters, digits and . _ -, starting with a letter or digit")),
        })?;
        let version = version(&root)?;
        Ok(Self { document, bytes, name, version })
    }

    /// The document, to read keys from.
    pub fn root(&self) -> Item<'_> {
        Item { path: String::new(), value: &self.document }
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> Result<PathBuf, CniError> {
        let Some(item) = self.root().get("socket")? else { return Ok(ctl::DEFAULT_SOCKET.into()) };
        let path = PathBuf::from(item.text()?);
        if path.is_absolute() { Ok(path) } else { Err(item.wrong("expected an absolute path")) }
    }

    /// The switch's network; empty for the only one there is.
    pub fn network(&self) -> Result<String, CniError> {
        self.root().get("network")?.map_or(Ok(String::new()), |item| item.text().map(str::to_owned))
    }

    /// The plugin that allocates addresses, when the switch shall not.
    pub fn external_ipam(&self) -> Result<Option<String>, CniError> {
        let Some(kind) = self.root().get("ipam")?.map(|ipam| ipam.get("type")).transpose()?.flatten() else {
            return Ok(None);
        };
        match kind.text()? {
            "" | OWN_IPAM => Ok(None),
            // It is looked for in the plugin directories and nowhere else.
            text if text.contains('/') || text == "." || text == ".." => {
                Err(kind.wrong("expected the name of a plugin, without a directory"))
            }
            text => Ok(Some(text.to_owned())),
        }
    }

    /// The result so far, of the plugins before this one or of the whole ADD.
    pub fn prev_result(&self) -> Result<Option<&Map<String, Value>>, CniError> {
        let Some(item) = self.root().get("prevResult")? else { return Ok(None) };
        item.value.as_object().map(Some).ok_or_else(|| item.wrong("expected an object"))
    }
}

fn version(root: &Item<'_>) -> Result<SpecVersion, CniError> {
    let text = match root.get("cniVersion")? {
        None => SpecVersion::WHEN_ABSENT,
        Some(item) => item
            .value
            .as_str()
            .ok_or_else(|| CniError::new(Code::Decode, item.wrong("expected the text of a version").msg))?,
    };
    SpecVersion::parse(text).ok_or_else(|| {
        let details = format!("config is {text:?}, plugin supports [{}]", SpecVersion::list());
        CniError::new(Code::IncompatibleVersion, "incompatible CNI versions").details(details)
    })
}

/// A value of the configuration together with the way to it, for messages.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    path: String,
    pub value: &'a Value,
}

impl<'a> Item<'a> {
    /// The value at a key, unless it is absent or null. A key in other letters will do where the right one is not
    /// there: runtimes written in Go hand over capabilities as `HostPort`, and read them in any case.
    pub fn get(&self, key: &str) -> Result<Option<Item<'a>>, CniError> {
        let object = self.value.as_object().ok_or_else(|| self.wrong("expected an object"))?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let any_case = || object.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        let found = object.get(key).or_else(any_case);
        Ok(found.filter(|v| !v.is_null()).map(|value| Item { path, value }))
    }

    /// The value at the end of a way of keys.
    pub fn find(&self, keys: &[&str]) -> Result<Option<Item<'a>>, CniError> {
        let mut at = self.clone();
        for key in keys {
            match at.get(key)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    pub fn items(&self) -> Result<Vec<Item<'a>>, CniError> {
        let array = self.value.as_array().ok_or_else(|| self.wrong("expected an array"))?;
        let item = |(at, value)| Item { path: format!("{}[{at}]", self.path), value };
        Ok(array.iter().enumerate().map(item).collect())
    }

    pub fn text(&self) -> Result<&'a str, CniError> {
        self.value.as_str().ok_or_else(|| self.wrong("expected a string"))
    }

    pub fn boolean(&self) -> Result<bool, CniError> {
        self.value.as_bool().ok_or_else(|| self.wrong("expected true or false"))
    }

    pub fn number(&self) -> Result<u64, CniError> {
        self.value.as_u64().ok_or_else(|| self.wrong("expected a whole number, not negative"))
    }

    /// A number that fits its field.
    pub fn up_to(&self, max: u32) -> Result<u32, CniError> {
        let fits = u32::try_from(self.number()?).ok().filter(|&n| n <= max);
        fits.ok_or_else(|| self.wrong(format!("expected at most {max}")))
    }

    /// The error about this value.
    pub fn wrong(&self, expected: impl std::fmt::Display) -> CniError {
        CniError::bad_key(&self.path, self.value, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, CniError> {
        Config::parse(text.as_bytes().to_vec())
    }

    #[test]
    fn name_and_version() {
        for (text, code) in [
            ("", 6),
            ("{", 6),
            ("[]", 6),
            ("\"a\"", 6),
            ("{}", 7),
            (r#"{"cniVersion":"1.0.0"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":""}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"a/b"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"-a"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":5}"#, 7),
            (r#"{"name":"a"}"#, 1),
            (r#"{"cniVersion":"0.2.0","name":"a"}"#, 1),
            (r#"{"cniVersion":"1.2.0","name":"a"}"#, 1),
            (r#"{"cniVersion":"","name":"a"}"#, 1),
            (r#"{"cniVersion":1,"name":"a"}"#, 6),
        ] {
            assert_eq!(parse(text).unwrap_err().code, code, "{text}");
        }
        let e = parse(r#"{"name":"a"}"#).unwrap_err();
        assert_eq!(e.details, "config is \"0.1.0\", plugin supports [0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0]");
        for version in SpecVersion::ALL {
            let config =
                parse(&format!(r#"{{"cniVersion":"{}","name":"a","x":1}}"#, version.as_str())).unwrap();
            assert_eq!((config.version, config.name.as_str()), (version, "a"));
        }
    }

    fn with(keys: &str) -> Config {
        parse(&format!(r#"{{"cniVersion":"1.1.0","name":"a",{keys}}}"#)).unwrap()
    }

    #[test]
    fn socket_and_network() {
        assert_eq!(with(r#""socket":null"#).socket().unwrap(), PathBuf::from(ctl::DEFAULT_SOCKET));
        assert_eq!(with(r#""socket":"/tmp/s""#).socket().unwrap(), PathBuf::from("/tmp/s"));
        for bad in [r#""socket":"s""#, r#""socket":"""#, r#""socket":5"#] {
            let e = with(bad).socket().unwrap_err();
            assert!(e.code == 7 && e.msg.contains("`socket` is"), "{}", e.msg);
        }
        assert_eq!(with(r#""network":"blue""#).network().unwrap(), "blue");
        assert_eq!(with(r#""x":1"#).network().unwrap(), "");
        assert_eq!(with(r#""network":{}"#).network().unwrap_err().code, 7);
    }

    #[test]
    fn who_allocates() {
        for own in [
            r#""x":1"#,
            r#""ipam":{}"#,
            r#""ipam":null"#,
            r#""ipam":{"type":""}"#,
            r#""ipam":{"type":"swd"}"#,
        ] {
            assert_eq!(with(own).external_ipam().unwrap(), None, "{own}");
        }
        assert_eq!(with(r#""ipam":{"type":"host-local"}"#).external_ipam().unwrap().unwrap(), "host-local");
        for bad in
            [r#""ipam":[]"#, r#""ipam":{"type":5}"#, r#""ipam":{"type":"../a"}"#, r#""ipam":{"type":".."}"#]
        {
            assert_eq!(with(bad).external_ipam().unwrap_err().code, 7, "{bad}");
        }
    }

    #[test]
    fn previous_results() {
        assert!(with(r#""prevResult":null"#).prev_result().unwrap().is_none());
        assert!(with(r#""prevResult":{"a":1}"#).prev_result().unwrap().is_some());
        assert_eq!(with(r#""prevResult":[]"#).prev_result().unwrap_err().code, 7);
    }
}
