//! The images of the tests' containers, made of a static busybox without any registry.
//!
//! One archive in the form of `docker save` (which podman loads and containerd imports) holds two
//! images with one layer: [`POD`], whose containers run any busybox command or `serve WORD [PORT]`,
//! and [`PAUSE`], which holds a pod's namespaces open. Times and owners in the layer are fixed, so
//! that the same busybox gives the same digests.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::cmd::Cmd;
use crate::enter::LAB_DIR;
use crate::error::{Context, Error, Result};
use crate::install;

/// The image of ordinary containers.
pub const POD: &str = "localhost/lab-pod:1";
/// The image of the container that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/lab-pause:1";

/// What containers may call.
const APPLETS: &[&str] = &[
    "cat", "echo", "env", "grep", "hostname", "httpd", "ip", "ls", "nc", "ping", "ping6", "sh", "sleep",
    "wget",
];
/// A web server that answers with one word, and ends at once when told to.
const SERVE: &str = "#!/bin/sh
mkdir -p /www
echo \"$1\" > /www/index.html
trap 'exit 0' TERM
httpd -f -p \"${2:-80}\" -h /www &
wait
";
/// Sleeps for ever, and ends at once when told to, which process 1 does not by itself.
const HOLD: &str = "#!/bin/sh
trap 'exit 0' TERM
sleep 2147483647 &
wait
";

/// The archive with both images, made at the first call.
pub fn archive() -> Result<PathBuf> {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut made = MADE.lock().map_err(|_| Error::failed("a test panicked while it made the images"))?;
    if let Some(path) = made.as_ref() {
        return Ok(path.clone());
    }
    let path = build(&Path::new(LAB_DIR).join("image")).context("the images of the containers")?;
    Ok(made.insert(path).clone())
}

fn build(dir: &Path) -> Result<PathBuf> {
    let (root, parts) = (dir.join("root"), dir.join("parts"));
    lay_out(&root)?;
    std::fs::create_dir_all(&parts).context(parts.display())?;
    let layer = parts.join("layer.tar");
    tar(&root, &layer, &["."])?;
    let sum = Cmd::new("sha256sum").arg(&layer).run()?;
    let digest = sum.split(' ').next().unwrap_or_default();
    let mut manifest = Vec::new();
    for (name, file, command) in
        [(POD, "pod.json", json!(["/bin/hold"])), (PAUSE, "pause.json", json!(["/bin/hold"]))]
    {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Cmd": command, "Env": ["PATH=/bin"], "Labels": { "image": name } },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        });
        write_json(&parts.join(file), &config)?;
        manifest.push(json!({ "Config": file, "RepoTags": [name], "Layers": ["layer.tar"] }));
    }
    write_json(&parts.join("manifest.json"), &Value::Array(manifest))?;
    let archive = dir.join("images.tar");
    tar(&parts, &archive, &["manifest.json", "pod.json", "pause.json", "layer.tar"])?;
    Ok(archive)
}

/// The root file system.
fn lay_out(root: &Path) -> Result<()> {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        let dir = root.join(dir);
        std::fs::create_dir_all(&dir).context(dir.display())?;
    }
    let busybox = install::find("busybox").ok_or_else(|| Error::missing(install::hint("busybox")))?;
    let bytes = std::fs::read(&busybox).context(busybox.display())?;
    if bytes.windows(4).any(|w| w == b"/ld-") {
        let path = busybox.display();
        return Err(Error::missing(format!(
            "{path} needs libraries; to get one that does not: apt-get install busybox-static"
        )));
    }
    executable(&root.join("bin/busybox"), &bytes)?;
    executable(&root.join("bin/serve"), SERVE.as_bytes())?;
    executable(&root.join("bin/hold"), HOLD.as_bytes())?;
    for applet in APPLETS.iter().chain(&["mkdir"]) {
        let link = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link).context(link.display())?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(())
}

fn executable(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes).context(path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context(path.display())
}

fn tar(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    let fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"];
    Cmd::new("tar").args(fixed).arg("-C").arg(from).arg("-cf").arg(to).args(names).run().map(drop)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, value.to_string()).context(path.display())
}

/// The processor's name as images have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
