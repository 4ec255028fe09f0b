//! podman with its CNI backend on a machine.
//!
//! It has no daemon: each call is a process that ends. Storage, state and configuration are below
//! the machine's directory, and found by environment variables, so that commands read as people
//! type them.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::machine::Machine;
use super::{conf, image};
use crate::cmd::{Cmd, Output};
use crate::error::{Context, Error, Result};
use crate::install;

/// Limit of one call. The longest wait within is for a container that does not end by itself (10 s).
const LIMIT: Duration = Duration::from_secs(40);

const CONF: &str = "containers.conf";
const STORAGE_CONF: &str = "storage.conf";

/// podman on one machine.
#[derive(Debug)]
pub struct Podman<'m> {
    machine: &'m Machine,
    dir: PathBuf,
}

impl<'m> Podman<'m> {
    /// Prepares it, with the images of [`image`] loaded.
    pub fn new(machine: &'m Machine) -> Result<Self> {
        install::need(&["podman", "conmon", "runc"])?;
        let dir = machine.dir().join("podman");
        std::fs::create_dir_all(&dir).context(dir.display())?;
        for (name, text) in [(CONF, conf::containers_conf(&dir)), (STORAGE_CONF, conf::storage_conf(&dir))] {
            std::fs::write(dir.join(name), text).context(name)?;
        }
        let podman = Self { machine, dir };
        let backend = podman.run(&["info", "--format", "{{.Host.NetworkBackend}}"])?;
        if backend.trim() != "cni" {
            return Err(Error::missing(format!("podman's network backend is {}, not cni", backend.trim())));
        }
        podman.cmd(&["load", "--quiet", "--input"]).arg(image::archive()?).run()?;
        Ok(podman)
    }

    /// Where it runs.
    pub fn machine(&self) -> &'m Machine {
        self.machine
    }

    /// The words in front of `ps` and the like, for people in a lab left standing.
    pub fn enter_command(&self) -> String {
        let (enter, dir) = (self.machine.enter_command(), self.dir.display());
        format!(
            "{enter} env CONTAINERS_CONF={dir}/{CONF} CONTAINERS_STORAGE_CONF={dir}/{STORAGE_CONF} podman"
        )
    }

    /// `podman ARGS`.
    pub fn cmd(&self, args: &[&str]) -> Cmd {
        self.machine
            .cmd("podman")
            .env("CONTAINERS_CONF", self.dir.join(CONF))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join(STORAGE_CONF))
            .timeout(LIMIT)
            .args(args)
    }

    /// Runs it; an exit code other than 0 is an error. Gives back what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.cmd(args).run()
    }

    /// Runs it, whatever its exit code.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        self.cmd(args).output()
    }

    /// Starts a container in the background: `podman run --detach --name NAME MORE IMAGE COMMAND`.
    pub fn start(&self, name: &str, more: &[&str], command: &[&str]) -> Result<()> {
        let mut args = vec!["run", "--detach", "--name", name];
        args.extend(more);
        args.push(image::POD);
        args.extend(command);
        self.run(&args).map(drop)
    }

    /// Runs a program in a container; an exit code other than 0 is an error.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<String> {
        self.run(&[&["exec", name], command].concat())
    }

    /// What podman knows about a container.
    pub fn inspect(&self, name: &str) -> Result<Value> {
        let list = self.cmd(&["inspect", name]).json()?;
        list.get(0)
            .cloned()
            .ok_or_else(|| Error::failed(format!("podman inspect {name} prints an empty list")))
    }

    /// Removes containers and pods at once, without waiting for them to end.
    pub fn remove_all(&self) -> Result<()> {
        self.run(&["pod", "rm", "--all", "--force"])?;
        self.run(&["rm", "--all", "--force", "--time", "0"]).map(drop)
    }
}
