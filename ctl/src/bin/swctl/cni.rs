//! `swctl cni`: the CNI plugin on this node: put it in place, see whether it is, and run it by hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use ctl::plugin;
use serde_json::Value;

use crate::context::{Context, Done, Failure};
use crate::{cni_install, cni_run, cni_status};

/// Name of the plugin's binary, and `type` in a configuration that is ours.
pub const PLUGIN: &str = "swd-cni";
/// Runtimes take the first file in the order of names; most other networks begin with 10 as well.
pub const CONFLIST: &str = "10-swd.conflist";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Whether runtimes find the plugin, its configuration and a ready daemon (default); exit code 6 when not
    Status(Places),
    /// Copy the plugin to where runtimes look for it, then, when the daemon answers, write its configuration
    Install(Box<cni_install::Install>),
    /// Remove the configuration, then the plugin
    Uninstall(Places),
    /// Run the plugins of a configuration as a runtime does, and print their result
    Run(Box<cni_run::Run>),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Status(Places { bin_dir: BIN_DIR.into(), conf_dir: CONF_DIR.into() })
    }
}

const BIN_DIR: &str = "/opt/cni/bin";
const CONF_DIR: &str = "/etc/cni/net.d";

/// Where runtimes look.
#[derive(Args, Clone, Debug)]
pub struct Places {
    /// Directory of the plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    pub bin_dir: PathBuf,
    /// Directory of the network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    pub conf_dir: PathBuf,
}

impl Places {
    pub fn plugin(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    pub fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST)
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Status(places) => cni_status::run(&places, context),
        Verb::Install(args) => cni_install::install(*args, context),
        Verb::Uninstall(places) => cni_install::uninstall(&places, context),
        Verb::Run(args) => cni_run::run(*args, context),
    }
}

/// What a plugin says about itself.
pub struct Probe {
    /// Of the product.
    pub version: String,
    /// Of the specification.
    pub spec_versions: Vec<String>,
}

/// Asks a plugin, as runtimes do before they use it.
pub fn probe(binary: &Path) -> Result<Probe, String> {
    let shown = binary.display();
    let failed = |cause: &str| format!("{shown} is not a CNI plugin of ours: {cause}");
    let reply = plugin::run(binary, [("CNI_COMMAND", "VERSION")], b"{}");
    let reply = reply.map_err(|e| format!("cannot run {shown}: {e}"))?.stdout;
    let reply: Value = serde_json::from_slice(&reply).map_err(|e| failed(&e.to_string()))?;
    let versions = reply["supportedVersions"].as_array().ok_or_else(|| failed("it names no CNI versions"))?;
    let spec_versions = versions.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect();
    let about = Command::new(binary).arg("--version").stdin(Stdio::null()).output();
    let about = about.map_err(|e| format!("cannot run {shown}: {e}"))?.stdout;
    let about = String::from_utf8_lossy(&about).into_owned();
    let version = about.strip_prefix(PLUGIN).and_then(|rest| rest.split_whitespace().next());
    let version = version.ok_or_else(|| failed("it does not say its version"))?.to_owned();
    Ok(Probe { version, spec_versions })
}

/// A failure of a local file.
pub fn file_error(what: &str, path: &Path, e: impl std::fmt::Display) -> Failure {
    Failure::Io(format!("cannot {what} {}: {e}", path.display()))
}
