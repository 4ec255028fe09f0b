//! containerd on a machine, driven by `ctr` and through its CRI socket ([`super::cri`]).

use std::path::PathBuf;
use std::time::Duration;

use super::cri::Cri;
use super::machine::Machine;
use super::{conf, image};
use crate::cmd::{Cmd, Daemon};
use crate::error::{Context, Result};
use crate::{install, wait};

/// How long it may take to answer, and to end.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Limit of one call of `ctr`.
const LIMIT: Duration = Duration::from_secs(30);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd<'m> {
    daemon: Daemon,
    machine: &'m Machine,
    socket: PathBuf,
}

impl<'m> Containerd<'m> {
    /// Starts it, with the images of [`image`] in the name spaces of `ctr` and of CRI.
    pub fn start(machine: &'m Machine) -> Result<Self> {
        install::need(&["containerd", "ctr", "runc"])?;
        let dir = machine.dir().join("containerd");
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
        std::fs::write(&config, conf::containerd_toml(&dir, &socket)).context(config.display())?;
        let name = format!("containerd on {}", machine.ns().name());
        let daemon = machine
            .cmd("containerd")
            .arg("--config")
            .arg(&config)
            .daemon(&name, &dir.join("containerd.log"))?;
        let mut containerd = Self { daemon, machine, socket };
        let answers = format!("{name} answers");
        wait::until_ok(&answers, START_LIMIT, || {
            Ok(containerd.daemon.check_running().and_then(|()| containerd.ctr(&["version"]).run()))
        })??;
        for space in ["default", "k8s.io"] {
            let import = containerd.ctr(&["-n", space, "images", "import"]);
            import.arg(image::archive()?).run()?;
        }
        Ok(containerd)
    }

    /// `ctr ARGS`.
    pub fn ctr(&self, args: &[&str]) -> Cmd {
        self.machine
            .cmd("ctr")
            .timeout(LIMIT)
            .env("CONTAINERD_ADDRESS", &self.socket)
            .env("CONTAINERD_SNAPSHOTTER", "native")
            .args(args)
    }

    /// Runs a command in a new container with the machine's first CNI network, in the foreground, as
    /// `ctr run --cni` does it: by libcni in the process of `ctr`, whatever containerd is configured for.
    pub fn ctr_run(&self, id: &str, command: &[&str]) -> Cmd {
        self.ctr(&["run", "--rm", "--cni", image::POD, id]).args(command)
    }

    /// A client of its CRI socket.
    pub fn cri(&self) -> Result<Cri> {
        Cri::connect(&self.socket, &self.machine.dir().join("pod-logs"))
    }

    /// The words in front of `task ls` and the like, for people in a lab left standing.
    pub fn enter_command(&self) -> String {
        format!("{} ctr -a {} -n k8s.io", self.machine.enter_command(), self.socket.display())
    }

    /// Ends it; pods go on.
    pub fn stop(mut self) -> Result<()> {
        self.daemon.terminate(START_LIMIT).map(drop)
    }
}
