//! What the daemon says about its ports and itself.

use std::time::{Duration, Instant};

use lab::{Error, Node, Ns, Result, ensure, wait};
use serde_json::Value;

/// No change may take longer to be noticed. Not a claim about speed.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A port as `swctl port show` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub state: String,
    pub problem: String,
    pub ifindex: u64,
}

pub fn port(node: &Node, name: &str) -> Result<Shown> {
    let shown = node.swctl(&["port", "show", name])?;
    let text = |key: &str| shown[0][key].as_str().unwrap_or_default().to_owned();
    let ifindex = shown[0]["ifindex"].as_u64().unwrap_or_default();
    Ok(Shown { state: text("state"), problem: text("problem"), ifindex })
}

impl Shown {
    /// Nothing is wrong with it.
    pub fn well(&self) -> bool {
        self.state == "up" && self.problem.is_empty()
    }
}

/// Waits until a port is as it is to be; gives how long that took since `since`.
pub fn until_port(
    node: &Node,
    name: &str,
    what: &str,
    since: Instant,
    wanted: impl Fn(&Shown) -> bool,
) -> Result<Duration> {
    wait::until_ok(&format!("port {name} {what}"), LIMIT, || {
        let shown = port(node, name)?;
        ensure!(wanted(&shown), "{shown:?}");
        Ok(since.elapsed())
    })
}

/// As it says in `swctl status`, whatever that exits with.
pub fn status(node: &Node) -> Result<Value> {
    let output = node.swctl_output(&["-o", "json", "status"])?;
    serde_json::from_str(&output.stdout).map_err(|e| Error::failed(format!("{e}: {}", output.stderr)))
}

/// Waits until `swctl status` says that something is wrong with an object, in these words; the hint is not empty.
pub fn until_told(node: &Node, object: &str, words: &str, since: Instant) -> Result<Duration> {
    wait::until_ok(&format!("{object}: {words}"), LIMIT, || {
        let status = status(node)?;
        let text = |d: &Value, key: &str| d[key].as_str().unwrap_or_default().to_owned();
        let list = status["degraded"].as_array().cloned().unwrap_or_default();
        let about = list.iter().find(|d| text(d, "object") == object && text(d, "message").contains(words));
        let about = about.ok_or_else(|| Error::failed(format!("degraded: {list:?}")))?;
        ensure!(!text(about, "hint").is_empty(), "no next step: {about}");
        Ok(since.elapsed())
    })
}

/// The names of the devices in a namespace, without the loopback.
pub fn devices(ns: &Ns) -> Result<Vec<String>> {
    let links = ns.ip_json(&["link"])?;
    let names = links.as_array().into_iter().flatten().filter_map(|l| l["ifname"].as_str());
    Ok(names.filter(|&n| n != "lo").map(str::to_owned).collect())
}

/// Waits until a namespace has these devices.
pub fn until_devices(ns: &Ns, wanted: &[&str]) -> Result<()> {
    wait::until_ok(&format!("devices of {}", ns.name()), LIMIT, || {
        let found = devices(ns)?;
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        Ok(())
    })
}
