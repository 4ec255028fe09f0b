//! Named network namespaces made by our own code, so that no helper program is needed, and kept in
//! the same place as iproute2 keeps them, so that `ip netns exec NAME ...` works inside the sandbox.
//!
//! Making one takes well below a millisecond. [`Netns`] removes the name when dropped; the kernel
//! frees the namespace once the last handle, process and device descriptor in it is gone.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::cmd::Cmd;
use crate::error::{Context, Error, Result};

/// Where the names live.
pub const NETNS_DIR: &str = "/run/netns";

/// A handle to a network namespace: cheap to clone, keeps the namespace alive, owns no name.
#[derive(Clone, Debug)]
pub struct Ns {
    name: Arc<str>,
    path: Arc<Path>,
    fd: Arc<OwnedFd>,
}

impl Ns {
    /// The handle of an existing named namespace.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        let file = File::open(&path).context(format!("namespace {}", path.display()))?;
        Ok(Self { name: name.into(), path: path.into(), fd: Arc::new(file.into()) })
    }

    /// The handle of a namespace that somebody else has made and opened for us. Name and path are for messages.
    pub fn of(name: &str, path: &Path, fd: OwnedFd) -> Self {
        Self { name: name.into(), path: path.into(), fd: Arc::new(fd) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its name.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// The descriptor, for those who call setns themselves.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// A command that will run inside.
    pub fn cmd(&self, program: &str) -> Cmd {
        Cmd::new(program).within(self)
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets and TAPs
    /// opened there stay in the namespace wherever they are used later.
    pub fn run_in<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                self.move_this_thread()?;
                Ok(work())
            });
            run.join().unwrap_or_else(|_| Err(Error::failed(format!("work in {} panicked", self.name))))
        })
    }

    /// Starts `work` on a thread inside the namespace and does not wait.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> JoinHandle<Result<R>> {
        let ns = self.clone();
        std::thread::spawn(move || {
            ns.move_this_thread()?;
            work()
        })
    }

    fn move_this_thread(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .context(format!("enter namespace {}", self.name))
    }

    /// Runs many `ip` commands in one process inside the namespace, e.g. `link set lo up`.
    pub fn ip<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) -> Result<()> {
        let lines: Vec<String> = lines.into_iter().map(|l| l.as_ref().to_owned()).collect();
        self.cmd("ip").args(["-batch", "-"]).stdin(lines.join("\n") + "\n").run().map(drop).context(format!(
            "in namespace {}: ip {}",
            self.name,
            lines.join(" ; ip ")
        ))
    }

    /// `ip -j ARGS` inside the namespace.
    pub fn ip_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        self.cmd("ip").arg("-j").args(args).json()
    }

    /// Writes a network setting, e.g. `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run_in(|| std::fs::write(&path, value))?.context(format!("{key}={value} in {}", self.name))
    }

    /// Switches offload features of an interface with ethtool, e.g. `("tx", false)`.
    pub fn ethtool(&self, interface: &str, features: &[(&str, bool)]) -> Result<()> {
        let mut cmd = self.cmd("ethtool").args(["-K", interface]);
        for (feature, on) in features {
            cmd = cmd.args([*feature, if *on { "on" } else { "off" }]);
        }
        cmd.run().map(drop)
    }

    /// The MAC address of an interface as the kernel prints it.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let links = self.ip_json(&["link", "show", "dev", interface])?;
        let text = links[0]["address"].as_str().unwrap_or_default();
        parse_mac(text)
            .ok_or_else(|| Error::failed(format!("{interface} in {}: no MAC: {text:?}", self.name)))
    }
}

/// A named namespace that belongs to its holder: the name goes when this is dropped.
#[derive(Debug)]
pub struct Netns {
    ns: Ns,
}

impl Netns {
    /// Makes a new namespace with its loopback up. The name must be free.
    pub fn create(name: &str) -> Result<Self> {
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || name.contains('/') {
            return Err(Error::failed(format!("{name:?} is no name for a namespace")));
        }
        let path = Path::new(NETNS_DIR).join(name);
        File::create_new(&path).context(format!("create namespace {}", path.display()))?;
        let made = std::thread::scope(|scope| {
            let run = scope.spawn(|| -> Result<()> {
                // SAFETY: only the network namespace is unshared; file descriptors stay shared.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare")?;
                mount_bind("/proc/thread-self/ns/net", &path).context("bind the namespace to its name")
            });
            run.join().unwrap_or_else(|_| Err(Error::failed("panicked")))
        });
        if let Err(e) = made {
            remove_name(&path);
            return Err(e).context(format!("create namespace {name}"));
        }
        let netns = Self {
            ns: Ns::open(name).inspect_err(|_| {
                remove_name(&path);
            })?,
        };
        netns.ip(["link set lo up"])?;
        Ok(netns)
    }

    /// Removes the name now. The namespace lives on while other handles or processes hold it.
    pub fn delete(self) {
        drop(self);
    }
}

impl std::ops::Deref for Netns {
    type Target = Ns;
    fn deref(&self) -> &Ns {
        &self.ns
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_name(&self.ns.path());
    }
}

fn remove_name(path: &Path) {
    // Fails only if somebody removed the name before us, as some tests do on purpose.
    let _ = unmount(path, UnmountFlags::DETACH);
    let _ = std::fs::remove_file(path);
}

/// The names of all namespaces of the sandbox.
pub fn list() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(NETNS_DIR).context(NETNS_DIR)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Reads `aa:bb:cc:dd:ee:ff`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes `aa:bb:cc:dd:ee:ff`.
pub fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
