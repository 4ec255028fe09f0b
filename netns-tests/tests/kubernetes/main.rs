//! What Kubernetes expects of a pod network, on nodes that come up from their plan files and pods that
//! the CNI plugin attaches as a runtime's library would. Each test is named after the statement it
//! proves; each ends with the ledger of every node and the drop reasons that may occur in it.

mod bandwidth;
mod churn;
mod hostports;
mod leaks;
mod reach;
mod reuse;
mod support;

/// The tests of some modules, each under its own name.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => { &[$($((stringify!($name), $module::$name),)*)*] };
}

fn main() -> std::process::ExitCode {
    lab::harness::run(tests! {
        reach:
            every_pod_reaches_every_pod_and_is_seen_by_its_own_address
            a_node_reaches_pods_here_and_elsewhere_with_its_address_on_the_network
            a_pod_reaches_nodes_and_they_see_its_address
            a_pod_reaches_itself_by_its_own_address
            the_outside_sees_the_address_of_the_node
            a_range_without_masquerade_sees_the_address_of_the_pod
            large_requests_pass_between_nodes_and_to_the_outside
            a_node_on_a_shared_subnet_is_told_that_it_needs_an_address_of_its_own
            a_node_comes_up_from_one_file_again_and_again;
        hostports:
            one_host_port_on_different_addresses_and_protocols_leads_to_different_pods
            a_pod_reaches_its_own_host_port
            a_host_port_without_an_address_serves_every_address_of_the_node
            a_host_port_that_is_taken_is_refused_and_the_owner_named
            host_ports_go_with_their_pod_and_others_stay
            a_udp_asker_with_a_fixed_port_reaches_the_pod_that_took_over;
        reuse:
            an_address_reused_at_once_on_its_node_brings_no_frames_for_the_old_pod
            an_address_reused_at_once_on_another_node_brings_no_frames_for_the_old_pod
            a_path_that_leads_to_another_pod_after_a_restart_is_not_followed
            a_released_address_rests_before_it_is_given_again;
        churn:
            sixteen_pods_added_in_parallel_get_different_addresses_and_all_work
            an_add_while_the_daemon_starts_is_told_the_true_cause
            fifty_pods_deleted_while_the_daemon_is_dead_are_reaped_at_its_start
            after_a_reboot_pods_can_be_added_and_the_old_ones_deleted
            pods_survive_kill_9_between_adds
            a_node_with_a_new_underlay_address_is_found_by_its_peers_new_plan;
        leaks:
            nothing_is_left_after_random_adds_deletes_kills_and_reboots
            delete_leaves_the_node_as_it_was;
        bandwidth:
            a_pod_with_the_bandwidth_capability_gets_its_rate_both_ways;
    })
}
