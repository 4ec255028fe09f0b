//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`, how runtimes pass what the configuration does not have.
//!
//! Kubernetes runtimes name the pod with `K8S_POD_*`; podman and people ask for an address and a MAC with `IP`
//! and `MAC`. A key that is not known is an error unless `IgnoreUnknown=1` is among them: so the convention
//! wants it, and it finds typing errors.

use std::collections::BTreeMap;

use crate::error::{CniError, Code};

/// What ADD uses of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Addresses asked for, not checked.
    pub ips: Vec<String>,
    /// Not checked.
    pub mac: Option<String>,
    /// Kept with the port.
    pub metadata: BTreeMap<String, String>,
}

/// Key in `CNI_ARGS`, key in the metadata of the port.
const METADATA: [(&str, &str); 4] = [
    ("K8S_POD_NAME", "k8s/pod"),
    ("K8S_POD_NAMESPACE", "k8s/namespace"),
    ("K8S_POD_UID", "k8s/uid"),
    ("K8S_POD_INFRA_CONTAINER_ID", "k8s/infra-container"),
];

pub fn parse(text: &str) -> Result<Args, CniError> {
    let mut args = Args::default();
    let mut ignore_unknown = false;
    let mut unknown = Vec::new();
    for pair in pairs(text) {
        let Some((key, value)) = pair.split_once('=').filter(|(k, v)| !k.is_empty() && !v.contains('='))
        else {
            return Err(invalid(&format!("`{}` is not KEY=VALUE", pair.escape_default())));
        };
        if let Some((_, kept)) = METADATA.iter().find(|(k, _)| *k == key) {
            if !value.is_empty() {
                args.metadata.insert((*kept).to_owned(), value.to_owned());
            }
            continue;
        }
        match key {
            "IP" => args.ips.extend(value.split(',').filter(|v| !v.is_empty()).map(str::to_owned)),
            "MAC" => args.mac = Some(value.to_owned()).filter(|v| !v.is_empty()),
            "IgnoreUnknown" => {
                ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(invalid(&format!("`IgnoreUnknown` is `{}`", value.escape_default()))),
                }
            }
            _ => unknown.push(key.escape_default().to_string()),
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        let cause = format!("unknown keys {}", unknown.join(", "));
        return Err(invalid(&cause).details("add IgnoreUnknown=1 when they are meant for somebody else"));
    }
    Ok(args)
}

/// The pod, in messages: also from arguments that are otherwise no good.
pub fn pod(text: &str) -> Option<String> {
    let value = |key: &str| {
        let found = pairs(text).filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key);
        found.map(|(_, v)| v).filter(|v| !v.is_empty())
    };
    let name = value("K8S_POD_NAME")?.escape_default();
    Some(match value("K8S_POD_NAMESPACE") {
        Some(namespace) => format!("pod {}/{name}", namespace.escape_default()),
        // Podman gives the name of the container and no namespace.
        None => format!("pod {name}"),
    })
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    // Of an empty text `split` makes one empty pair.
    text.split(';').filter(move |_| !text.is_empty())
}

fn invalid(cause: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_runtimes_write_it() {
        let args = parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=0af;K8S_POD_UID=5",
        )
        .unwrap();
        let kept: Vec<_> = args.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(kept, ["k8s/infra-container=0af", "k8s/namespace=default", "k8s/pod=web-0", "k8s/uid=5"]);

        let args = parse("IgnoreUnknown=1;K8S_POD_NAME=box;IP=10.1.1.9,fd00::9/64;MAC=02:00:00:00:00:09;X=1")
            .unwrap();
        assert_eq!(args.ips, ["10.1.1.9", "fd00::9/64"]);
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:09"));
        assert_eq!(parse("").unwrap(), Args::default());
        assert_eq!(parse("IP=;MAC=;K8S_POD_UID=").unwrap(), Args::default());
    }

    #[test]
    fn unknown_keys() {
        for text in ["A=1", "IgnoreUnknown=0;A=1", "A=1;IgnoreUnknown=false"] {
            let e = parse(text).unwrap_err();
            assert_eq!(e.code, 4);
            assert!(e.msg.contains('A'), "{}", e.msg);
        }
        for text in ["A=1;IgnoreUnknown=1", "IgnoreUnknown=TRUE;A=1"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn malformed() {
        for text in ["A", "=1", "IP=1=2", ";", "IP=10.0.0.1;", "IgnoreUnknown=yes", "IgnoreUnknown=1;B"] {
            assert_eq!(parse(text).unwrap_err().code, 4, "{text}");
        }
    }

    #[test]
    fn pods_in_messages() {
        assert_eq!(pod("K8S_POD_NAME=a;K8S_POD_NAMESPACE=b").unwrap(), "pod b/a");
        assert_eq!(pod("rubbish;K8S_POD_NAME=a\u{7}").unwrap(), "pod a\\u{7}");
        assert_eq!(pod(""), None);
        assert_eq!(pod("K8S_POD_NAME="), None);
    }
}
