//! GC: deletes the attachments of this CNI network that the runtime does not list.
//!
//! Only an explicit list is taken: without the key nothing is deleted, because the runtimes' library leaves it
//! out when it was told nothing. An empty list means that nothing is valid. An entry that cannot be understood
//! stops GC before it begins: it may stand for an attachment that is in use.

use ctl::proto;

use crate::config::{Config, Item};
use crate::daemon::{self, Daemon};
use crate::delegate::Delegate;
use crate::env::{Command, Env};
use crate::error::{CniError, Code, both};

/// The second is what the first was called when 1.1.0 was tagged; runtimes send both.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

pub fn run(env: &Env, config: &Config) -> Result<(), CniError> {
    let valid = valid(&config.root())?;
    let socket = config.socket()?;
    let delegate = Delegate::of(env, config)?;
    let request = proto::CollectAttachmentsRequest { cni_network: config.name.clone(), valid };
    let collected = Daemon::connect(&socket, daemon::GC)
        .and_then(|mut d| d.call(async |s| s.collect_attachments(request).await))
        .map(drop)
        .map_err(|e| CniError::from_api(&format!("cannot clean up network {}", config.name), e));
    both(collected, delegate.map_or(Ok(()), |d| d.tell(Command::Gc)))
}

fn valid(root: &Item<'_>) -> Result<Vec<proto::AttachmentKey>, CniError> {
    for key in KEYS {
        if let Some(list) = root.get(key)? {
            return list.items()?.iter().map(entry).collect();
        }
    }
    let msg = format!("network configuration: `{}` is missing", KEYS[0]);
    Err(CniError::new(Code::InvalidConfig, msg)
        .details("nothing was deleted; an empty list would delete every attachment of the network"))
}

fn entry(item: &Item<'_>) -> Result<proto::AttachmentKey, CniError> {
    let text = |key: &str| match item.get(key)? {
        Some(text) if !text.text()?.is_empty() => Ok(text.text()?.to_owned()),
        _ => Err(item.wrong(format!("`{key}` is missing; nothing was deleted"))),
    };
    Ok(proto::AttachmentKey { container_id: text("containerID")?, ifname: text("ifname")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut keys: serde_json::Value) -> Result<Vec<String>, CniError> {
        keys["cniVersion"] = "1.1.0".into();
        keys["name"] = "pods".into();
        let config = Config::parse(keys.to_string().into_bytes()).unwrap();
        let valid = valid(&config.root())?;
        Ok(valid.into_iter().map(|k| format!("{}/{}", k.container_id, k.ifname)).collect())
    }

    #[test]
    fn lists() {
        let list = json!([{ "containerID": "a", "ifname": "eth0" }, { "containerID": "b", "ifname": "net1", "x": 1 }]);
        assert_eq!(read(json!({ "cni.dev/valid-attachments": list })).unwrap(), ["a/eth0", "b/net1"]);
        assert_eq!(read(json!({ "cni.dev/attachments": list })).unwrap().len(), 2);
        let both = json!({ "cni.dev/valid-attachments": list, "cni.dev/attachments": [] });
        assert_eq!(read(both).unwrap().len(), 2, "the name of the specification wins");
        assert_eq!(read(json!({ "cni.dev/valid-attachments": [] })).unwrap(), [""; 0]);
    }

    #[test]
    fn nothing_is_deleted_by_mistake() {
        for bad in [
            json!({}),
            json!({ "cni.dev/valid-attachments": null }),
            json!({ "cni.dev/valid-attachments": {} }),
            json!({ "cni.dev/valid-attachments": ["a/eth0"] }),
            json!({ "cni.dev/valid-attachments": [{ "containerID": "a" }] }),
            json!({ "cni.dev/valid-attachments": [{ "containerID": "a", "ifname": "" }] }),
            json!({ "cni.dev/valid-attachments": [{ "containerID": 5, "ifname": "eth0" }] }),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().code, 7, "{bad}");
        }
    }
}
