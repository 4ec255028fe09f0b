//! Runs the CNI plugin as a container runtime's library (libcni) does: the same environment, the same
//! document on standard input, the result of ADD kept and handed to CHECK and DEL.
//!
//! What a runtime reads of an answer is read here: one JSON object on standard output, an error object
//! with exit code 1 or more, and nothing at all after DEL, CHECK, GC and STATUS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cmd::Output;
use crate::error::{Context, Error, Result};
use crate::netns::parse_mac;
use crate::node::Node;
use crate::runtimes::conf::stock_bridge;
use crate::runtimes::machine::STOCK_PLUGINS;
use crate::swd::binary;

/// Version of the specification that is spoken.
const VERSION: &str = "1.1.0";
/// Longest that a call may take: more than any of the plugin's own limits.
const LIMIT: Duration = Duration::from_secs(40);

/// A plugin and the configuration of one network on one node.
#[derive(Clone, Debug)]
pub struct Plugin<'n> {
    node: &'n Node,
    program: PathBuf,
    conf: Value,
}

/// What one attachment is to be.
#[derive(Clone, Debug)]
pub struct Container {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// The pod, as Kubernetes names it in `CNI_ARGS`.
    pub pod: String,
    /// `runtimeConfig`: addresses asked for, port mappings, bandwidth.
    pub runtime: Value,
}

/// An attachment that ADD made.
#[derive(Clone, Debug)]
pub struct Attached {
    /// What was asked for.
    pub container: Container,
    /// The result, as it came.
    pub result: Value,
    /// Its addresses, without prefix length.
    pub ips: Vec<IpAddr>,
    /// Its MAC.
    pub mac: [u8; 6],
}

/// An error object of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The specification's code, or one from 100 on.
    pub code: u64,
    /// Object and cause.
    pub msg: String,
    /// The next step.
    pub details: String,
}

/// What a plugin answered.
pub type Answer<T> = std::result::Result<T, Refusal>;

impl Container {
    /// `eth0` of a container in a named namespace.
    pub fn new(id: &str, netns: PathBuf) -> Self {
        let (id, pod) = (id.to_owned(), id.to_owned());
        Self { id, netns, ifname: "eth0".into(), pod, runtime: json!({}) }
    }

    /// With a key of `runtimeConfig`.
    pub fn with(mut self, capability: &str, value: Value) -> Self {
        self.runtime[capability] = value;
        self
    }
}

impl Attached {
    /// Its address of a family.
    pub fn ip(&self, v6: bool) -> Result<IpAddr> {
        let found = self.ips.iter().copied().find(|ip| ip.is_ipv6() == v6);
        found.ok_or_else(|| Error::failed(format!("no address of that family: {}", self.result)))
    }
}

impl<'n> Plugin<'n> {
    /// The switch's plugin for a network of that name, here and in the switch.
    pub fn new(node: &'n Node, network: &str) -> Result<Self> {
        let conf = json!({
            "cniVersion": VERSION,
            "name": network,
            "type": "swd-cni",
            "network": network,
            "socket": node.socket(),
        });
        Ok(Self { node, program: binary("swd-cni")?, conf })
    }

    /// The reference plugin `bridge` with `host-local`, in which nothing is ours.
    pub fn stock_bridge(node: &'n Node, name: &str, subnet: &str) -> Result<Self> {
        let program = PathBuf::from(STOCK_PLUGINS).join("bridge");
        crate::install::need(&["/usr/lib/cni/bridge"])?;
        let list = stock_bridge(name, subnet);
        let mut conf = list["plugins"][0].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = name.into();
        conf["ipam"]["dataDir"] = node.dir().join("host-local").display().to_string().into();
        Ok(Self { node, program, conf })
    }

    /// ADD, whatever the plugin says.
    pub fn try_add(&self, container: &Container) -> Result<Answer<Attached>> {
        let result = match self.call("ADD", Some(container), &json!({}))? {
            Ok(result) => result,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let bad = || Error::failed(format!("ADD of {}: not a result: {result}", container.id));
        let ips = result["ips"].as_array().ok_or_else(bad)?.iter().map(|ip| {
            let text = ip["address"].as_str().and_then(|a| a.split('/').next()).ok_or_else(bad)?;
            Ok(text.parse()?)
        });
        let ips = ips.collect::<Result<Vec<IpAddr>>>()?;
        let interfaces = result["interfaces"].as_array().ok_or_else(bad)?;
        let own = interfaces.iter().find(|i| i["name"] == *container.ifname && i["sandbox"].is_string());
        let mac = own.and_then(|i| parse_mac(i["mac"].as_str()?)).ok_or_else(bad)?;
        Ok(Ok(Attached { container: container.clone(), ips, mac, result }))
    }

    /// ADD that must succeed.
    pub fn add(&self, container: &Container) -> Result<Attached> {
        self.try_add(container)?.map_err(|r| r.unexpected("ADD", &container.id))
    }

    /// ADD that must be refused.
    pub fn add_refused(&self, container: &Container) -> Result<Refusal> {
        match self.try_add(container)? {
            Err(refusal) => Ok(refusal),
            Ok(made) => {
                Err(Error::failed(format!("ADD of {} was not refused: {}", container.id, made.result)))
            }
        }
    }

    /// DEL with the result of ADD, as libcni keeps it.
    pub fn del(&self, attached: &Attached) -> Result<()> {
        self.silent("DEL", &attached.container, Some(&attached.result))
    }

    /// DEL of a container whose ADD gave no result, or of one whose namespace is gone.
    pub fn del_unknown(&self, container: &Container) -> Result<()> {
        self.silent("DEL", container, None)
    }

    /// CHECK, whatever the plugin says.
    pub fn check(&self, attached: &Attached) -> Result<Answer<Value>> {
        self.call("CHECK", Some(&attached.container), &json!({ "prevResult": attached.result }))
    }

    /// GC with the attachments that are still wanted.
    pub fn gc<'a>(&self, valid: impl IntoIterator<Item = &'a Attached>) -> Result<()> {
        let key = |a: &Attached| json!({ "containerID": a.container.id, "ifname": a.container.ifname });
        let valid: Vec<Value> = valid.into_iter().map(key).collect();
        let more = json!({ "cni.dev/valid-attachments": valid, "cni.dev/attachments": valid });
        quiet("GC", "-", self.call("GC", None, &more)?)
    }

    /// STATUS, whatever the plugin says.
    pub fn status(&self) -> Result<Answer<Value>> {
        self.call("STATUS", None, &json!({}))
    }

    fn silent(&self, verb: &str, container: &Container, previous: Option<&Value>) -> Result<()> {
        let more = previous.map_or_else(|| json!({}), |result| json!({ "prevResult": result }));
        quiet(verb, &container.id, self.call(verb, Some(container), &more)?)
    }

    fn call(&self, verb: &str, container: Option<&Container>, more: &Value) -> Result<Answer<Value>> {
        let mut conf = self.conf.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        let mut cmd = self.node.cmd(&self.program).timeout(LIMIT).env("CNI_COMMAND", verb);
        let dir = self.program.parent().unwrap_or(std::path::Path::new("/"));
        cmd = cmd.env("CNI_PATH", dir);
        // libcni exports every variable for every verb.
        let (mut id, mut netns, mut ifname, mut args) = Default::default();
        if let Some(c) = container {
            (id, netns, ifname) = (c.id.clone(), c.netns.display().to_string(), c.ifname.clone());
            args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=u-{}",
                c.pod, c.id, c.id
            );
            if c.runtime.as_object().is_some_and(|r| !r.is_empty()) {
                conf["runtimeConfig"] = c.runtime.clone();
            }
        }
        for (key, value) in [("CONTAINERID", &id), ("NETNS", &netns), ("IFNAME", &ifname), ("ARGS", &args)] {
            cmd = cmd.env(format!("CNI_{key}"), value);
        }
        read(verb, &cmd.stdin(conf.to_string()).output()?)
    }
}

impl Refusal {
    fn unexpected(self, verb: &str, id: &str) -> Error {
        Error::failed(format!("{verb} of {id}: code {}: {} ({})", self.code, self.msg, self.details))
    }
}

fn quiet(verb: &str, id: &str, answer: Answer<Value>) -> Result<()> {
    match answer {
        Ok(Value::Null) => Ok(()),
        Ok(said) => Err(Error::failed(format!("{verb} of {id} printed {said}"))),
        Err(refusal) => Err(refusal.unexpected(verb, id)),
    }
}

/// Reads an answer as libcni does.
fn read(verb: &str, output: &Output) -> Result<Answer<Value>> {
    let said = || format!("{verb}: exit code {}: {}{}", output.code, output.stdout, output.stderr);
    if output.stdout.trim().is_empty() {
        return if output.code == 0 { Ok(Ok(Value::Null)) } else { Err(Error::failed(said())) };
    }
    let value: Value = serde_json::from_str(&output.stdout).context(said())?;
    if output.code == 0 {
        return Ok(Ok(value));
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let code = value["code"].as_u64().ok_or_else(|| Error::failed(said()))?;
    Ok(Err(Refusal { code, msg: text("msg"), details: text("details") }))
}
