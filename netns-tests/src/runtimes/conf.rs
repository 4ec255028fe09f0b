//! The configuration files of runtimes and of CNI networks.
//!
//! Nothing here is read from the machine's own configuration: every runtime gets a complete file of
//! its own, so that the tests mean the same everywhere.

use std::path::Path;

use serde_json::{Value, json};

use super::image;
use super::machine::{BIN_DIR, CONF_DIR, Machine, STOCK_PLUGINS};
use crate::error::{Context, Result};

/// A network of the stock `bridge` and `host-local` plugins: the control case, in which nothing is ours.
pub fn stock_bridge(name: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": name,
        "plugins": [{
            "type": "bridge",
            "bridge": format!("{name}0"),
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": subnet }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// Puts a configuration list into the machine's directory, under a name that decides its order.
/// Written beside and renamed, as runtimes that watch the directory need it.
pub fn put(machine: &Machine, file: &str, list: &Value) -> Result<()> {
    let dir = machine.conf_dir();
    let (temporary, path) = (dir.join(format!(".{file}.tmp")), dir.join(file));
    std::fs::write(&temporary, format!("{list:#}\n")).context(temporary.display())?;
    std::fs::rename(&temporary, &path).context(path.display())
}

/// Takes it away again.
pub fn take(machine: &Machine, file: &str) -> Result<()> {
    let path = machine.conf_dir().join(file);
    std::fs::remove_file(&path).context(path.display())
}

/// Where podman keeps its containers: files are copied (`vfs`), which works on every file system.
pub(crate) fn storage_conf(dir: &Path) -> String {
    let dir = dir.display();
    format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{dir}/root\"\nrunroot = \"{dir}/run\"\n")
}

/// podman's `containers.conf`: the CNI backend, no systemd, images from nowhere.
///
/// Limits are named because podman otherwise raises them, which takes a privilege that root in a
/// sandbox may lack; runc because crun refuses machines with both versions of cgroups.
pub fn containers_conf(tmp: &Path) -> String {
    format!(
        "[containers]\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         log_driver = \"k8s-file\"\n\
         [network]\n\
         network_backend = \"cni\"\n\
         cni_plugin_dirs = [\"{BIN_DIR}\", \"{STOCK_PLUGINS}\"]\n\
         network_config_dir = \"{CONF_DIR}\"\n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         runtime = \"runc\"\n\
         image_copy_tmp_dir = \"{}\"\n\
         infra_image = \"{}\"\n\
         infra_command = \"/bin/hold\"\n",
        tmp.display(),
        image::PAUSE,
    )
}

/// containerd's configuration, version 2, with everything in `dir`.
///
/// The `native` snapshotter copies files, which works on every file system.
pub fn containerd_toml(dir: &Path, socket: &Path) -> String {
    format!(
        "version = 2\n\
         root = \"{dir}/root\"\n\
         state = \"{dir}/state\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\n\
         address = \"{socket}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{pause}\"\n\
         disable_apparmor = true\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{BIN_DIR}\"\n\
         conf_dir = \"{CONF_DIR}\"\n\
         max_conf_num = 1\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
         snapshotter = \"native\"\n",
        dir = dir.display(),
        socket = socket.display(),
        pause = image::PAUSE,
    )
}
