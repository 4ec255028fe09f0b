//! Real container runtimes with our CNI plugin: podman, containerd by its CRI socket, `ctr`, and the plugin called
//! as libcni calls it; alone and in one chain with the stock plugins.
//!
//! Each test has machines of its own (see [`lab::runtimes`]); nothing of the machine the tests run on is
//! configured. The control cases come first: they tell a machine that cannot run containers from a fault of ours.

mod by_hand;
mod chain;
mod control;
mod cri;
mod ctr;
mod demo;
mod documented;
mod plugin;
mod podman;
mod publish;
mod support;

fn main() -> std::process::ExitCode {
    lab::harness::run_as_root(
        &[
            ("a_machine_leaves_nothing", control::a_machine_leaves_nothing),
            ("podman_runs_with_stock_plugins", control::podman_runs_with_stock_plugins),
            ("containerd_runs_with_stock_plugins", control::containerd_runs_with_stock_plugins),
            ("plugin_every_version", plugin::every_version),
            ("plugin_version_and_status_as_libcni_asks", plugin::version_and_status_as_libcni_asks),
            ("plugin_deletes_in_every_state", plugin::deletes_in_every_state),
            ("plugin_adds_that_are_repeated_or_refused", plugin::adds_that_are_repeated_or_refused),
            ("plugin_checks", plugin::checks),
            ("plugin_checks_inside_the_pod", plugin::checks_inside_the_pod),
            ("plugin_collects_garbage", plugin::collects_garbage),
            ("plugin_without_the_daemon", plugin::without_the_daemon),
            ("swctl_cni_by_hand", by_hand::swctl_cni),
            ("podman_containers_reach_each_other", podman::containers_reach_each_other),
            ("podman_pods_share_localhost", podman::pods_share_localhost),
            ("podman_addresses_asked_for", podman::addresses_asked_for),
            ("podman_the_daemon_is_killed", podman::the_daemon_is_killed),
            ("podman_published_ports", publish::published_ports),
            ("podman_the_way_out", publish::the_way_out),
            ("cri_pods_of_a_cluster", cri::pods_of_a_cluster),
            ("cri_install_makes_the_network_ready", cri::install_makes_the_network_ready),
            ("cri_the_daemon_is_killed", cri::the_daemon_is_killed),
            ("cri_containerd_is_restarted", cri::containerd_is_restarted),
            ("ctr_in_the_foreground", ctr::in_the_foreground),
            ("ctr_in_the_background", ctr::in_the_background),
            ("chain_with_podman", chain::with_podman),
            ("chain_with_containerd", chain::with_containerd),
            ("documented_commands", documented::commands),
            ("demo_with_namespaces", demo::with_namespaces),
            ("demo_with_podman", demo::with_podman),
            ("demo_with_containerd", demo::with_containerd),
        ],
        "runtimes make cgroups and mounts; the run as root makes these claims",
    )
}
