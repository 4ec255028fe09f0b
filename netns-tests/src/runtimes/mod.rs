//! Container runtimes as they are, for tests of what they do with our CNI plugin: podman, containerd
//! through its CRI socket, and `ctr`.
//!
//! A node becomes a [`machine::Machine`]: its network namespace together with mount and process
//! namespaces and cgroups of its own, in which the runtime and the daemon see the same /run/netns
//! and the same process ids. [`image`] makes the images without a registry, [`conf`] writes the
//! configurations, and the other modules drive one program each.

pub mod conf;
pub mod containerd;
pub mod cri;
pub mod image;
pub mod machine;
pub mod podman;

pub(crate) mod cgroup;
pub(crate) mod init;
