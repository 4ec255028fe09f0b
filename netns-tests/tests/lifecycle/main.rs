//! The life of the real switch: ports that come and go, namespaces that vanish, daemons that end in
//! every way with traffic running, state that survives, and every form of `swctl` that scripts use.

#[path = "../common/mod.rs"]
mod common;

mod control;
mod hand;
mod kill9;
mod ports;
mod restart;
mod state;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("kill9_200", kill9::kill9_200),
        ("many_ports", ports::many_ports),
        ("ports_come_and_go_under_load", ports::ports_come_and_go_under_load),
        ("a_namespace_goes", ports::a_namespace_goes),
        ("a_device_goes", ports::a_device_goes),
        ("restart_bridged", restart::restart_bridged),
        ("restart_routed", restart::restart_routed),
        ("kill_bridged", restart::kill_bridged),
        ("kill_routed", restart::kill_routed),
        ("hand_forms", hand::hand_forms),
        ("a_single_node_without_underlay", hand::a_single_node_without_underlay),
        ("export_and_apply", control::export_and_apply),
        ("generations", control::generations),
        ("trace_across_nodes", control::trace_across_nodes),
        ("exit_codes_of_status", control::exit_codes_of_status),
        ("a_second_daemon_is_refused", state::a_second_daemon_is_refused),
        ("a_damaged_state_file", state::a_damaged_state_file),
    ])
}
