//! A client of the container runtime interface: the half of a kubelet that makes and removes pods.
//!
//! Calls block, with a limit of [`LIMIT`] each. The generated types are those of
//! `proto/runtime/v1/cri.proto`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use super::image;
use crate::error::{Context, Error, Result};

/// Generated from the published interface.
#[expect(missing_docs, reason = "generated; the meaning is in the interface's own documents")]
pub mod proto {
    tonic::include_proto!("runtime.v1");
}

use proto::runtime_service_client::RuntimeServiceClient;

/// Limit of one call, above what a runtime allows a CNI plugin.
const LIMIT: Duration = Duration::from_secs(40);

/// A connection to a runtime.
#[derive(Debug)]
pub struct Cri {
    stub: RuntimeServiceClient<Channel>,
    runtime: tokio::runtime::Runtime,
    logs: PathBuf,
}

/// A pod to be made.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Name, namespace and unique id, as a cluster would give them.
    pub name: String,
    /// Name space of the name.
    pub namespace: String,
    /// Ports of the node that lead to it.
    pub ports: Vec<proto::PortMapping>,
    /// Annotations, e.g. `kubernetes.io/ingress-bandwidth`.
    pub annotations: Vec<(String, String)>,
}

/// A pod with one container.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// Of its sandbox: the container id that CNI plugins see.
    pub sandbox: String,
    /// Of its container.
    pub container: String,
    /// Its first address, then the others.
    pub ips: Vec<IpAddr>,
}

/// What a command in a container left.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl PodSpec {
    /// A pod of the name space `default`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), namespace: "default".to_owned(), ..Self::default() }
    }

    /// The unique id that it will have.
    pub fn uid(&self) -> String {
        format!("uid-of-{}", self.name)
    }
}

impl Cri {
    /// Connects; logs of containers go to a directory below `logs`.
    pub(crate) fn connect(socket: &Path, logs: &Path) -> Result<Self> {
        let build = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = build.context("an executor for the CRI client")?;
        let uri = format!("unix:{}", socket.display());
        let endpoint =
            Endpoint::from_shared(uri.clone()).map_err(|e| Error::failed(format!("{uri}: {e}")))?;
        let channel = runtime
            .block_on(async { endpoint.connect_timeout(LIMIT).timeout(LIMIT).connect().await })
            .map_err(|e| Error::failed(format!("connect to {uri}: {e}")))?;
        Ok(Self { stub: RuntimeServiceClient::new(channel), runtime, logs: logs.to_owned() })
    }

    /// A condition of the runtime, such as `NetworkReady`: whether it holds, and what is said about it.
    pub fn condition(&mut self, name: &str) -> Result<(bool, String)> {
        let request = proto::StatusRequest { verbose: false };
        let reply = self.runtime.block_on(self.stub.status(request)).map_err(said("Status"))?.into_inner();
        let conditions = reply.status.map(|s| s.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.r#type == name);
        let found = found.ok_or_else(|| Error::failed(format!("the runtime has no condition {name}")))?;
        Ok((found.status, format!("{} {}", found.reason, found.message)))
    }

    /// The texts of the runtime's verbose status.
    pub fn status_info(&mut self) -> Result<Value> {
        let request = proto::StatusRequest { verbose: true };
        let reply = self.runtime.block_on(self.stub.status(request)).map_err(said("Status"))?.into_inner();
        let mut info = serde_json::Map::new();
        for (key, text) in reply.info {
            info.insert(key, serde_json::from_str(&text).unwrap_or(Value::String(text)));
        }
        Ok(Value::Object(info))
    }

    fn config(&self, spec: &PodSpec) -> proto::PodSandboxConfig {
        proto::PodSandboxConfig {
            metadata: Some(proto::PodSandboxMetadata {
                name: spec.name.clone(),
                uid: spec.uid(),
                namespace: spec.namespace.clone(),
                attempt: 0,
            }),
            hostname: spec.name.clone(),
            log_directory: self.logs.join(&spec.name).display().to_string(),
            dns_config: Some(proto::DnsConfig { servers: vec!["192.0.2.53".into()], ..Default::default() }),
            port_mappings: spec.ports.clone(),
            annotations: spec.annotations.iter().cloned().collect(),
            linux: Some(proto::LinuxPodSandboxConfig::default()),
            ..Default::default()
        }
    }

    /// Makes a pod's sandbox, which is when the CNI plugins are called; gives its id.
    pub fn run_sandbox(&mut self, spec: &PodSpec) -> Result<String> {
        let dir = self.logs.join(&spec.name);
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let request =
            proto::RunPodSandboxRequest { config: Some(self.config(spec)), runtime_handler: String::new() };
        let reply =
            self.runtime.block_on(self.stub.run_pod_sandbox(request)).map_err(said("RunPodSandbox"))?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    /// Makes a pod with one container that runs `command`.
    pub fn run_pod(&mut self, spec: &PodSpec, command: &[&str]) -> Result<RunningPod> {
        let sandbox = self.run_sandbox(spec)?;
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(proto::ContainerConfig {
                metadata: Some(proto::ContainerMetadata { name: "main".into(), attempt: 0 }),
                image: Some(proto::ImageSpec { image: image::POD.into() }),
                command: command.iter().map(|&c| c.to_owned()).collect(),
                log_path: "main.log".into(),
                ..Default::default()
            }),
            sandbox_config: Some(self.config(spec)),
        };
        let reply =
            self.runtime.block_on(self.stub.create_container(request)).map_err(said("CreateContainer"))?;
        let container = reply.into_inner().container_id;
        let request = proto::StartContainerRequest { container_id: container.clone() };
        self.runtime.block_on(self.stub.start_container(request)).map_err(said("StartContainer"))?;
        let ips = self.addresses(&sandbox)?;
        Ok(RunningPod { sandbox, container, ips })
    }

    /// What the runtime took from the CNI result.
    pub fn addresses(&mut self, sandbox: &str) -> Result<Vec<IpAddr>> {
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let reply =
            self.runtime.block_on(self.stub.pod_sandbox_status(request)).map_err(said("PodSandboxStatus"))?;
        let network = reply.into_inner().status.and_then(|s| s.network).unwrap_or_default();
        let texts = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        texts.filter(|t| !t.is_empty()).map(|t| t.parse::<IpAddr>().context(t)).collect()
    }

    /// The sandboxes there are: id, and whether it is ready.
    pub fn sandboxes(&mut self) -> Result<Vec<(String, bool)>> {
        let request = proto::ListPodSandboxRequest {};
        let reply =
            self.runtime.block_on(self.stub.list_pod_sandbox(request)).map_err(said("ListPodSandbox"))?;
        let ready = proto::PodSandboxState::SandboxReady;
        Ok(reply.into_inner().items.into_iter().map(|s| (s.id.clone(), s.state() == ready)).collect())
    }

    /// Runs a command in a container, whatever its exit code.
    pub fn exec(&mut self, container: &str, command: &[&str]) -> Result<Executed> {
        let request = proto::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&c| c.to_owned()).collect(),
            timeout: 20,
        };
        let reply =
            self.runtime.block_on(self.stub.exec_sync(request)).map_err(said("ExecSync"))?.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Executed { code: reply.exit_code, stdout: text(reply.stdout), stderr: text(reply.stderr) })
    }

    /// Stops a pod: its containers end and the CNI plugins are called with DEL.
    pub fn stop(&mut self, sandbox: &str) -> Result<()> {
        let request = proto::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.runtime.block_on(self.stub.stop_pod_sandbox(request)).map_err(said("StopPodSandbox")).map(drop)
    }

    /// Removes a stopped pod.
    pub fn remove(&mut self, sandbox: &str) -> Result<()> {
        let request = proto::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.runtime
            .block_on(self.stub.remove_pod_sandbox(request))
            .map_err(said("RemovePodSandbox"))
            .map(drop)
    }
}

fn said(call: &str) -> impl Fn(tonic::Status) -> Error {
    move |status| Error::failed(format!("{call}: {}", status.message()))
}
