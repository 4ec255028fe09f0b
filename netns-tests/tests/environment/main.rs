//! What changes under the daemon is noticed at once and mended where it can be: namespaces and devices that go, links
//! that go down, settings that a pod changes, the underlay. What is not concerned does not notice.
//!
//! `LAB_EVENTS` and `LAB_SEED` make the random run longer or different; long ones need `LAB_TEST_TIMEOUT`. A thousand:
//! `LAB_EVENTS=1000 LAB_TEST_TIMEOUT=1800 cargo test -p netns-tests --test environment -- --test-threads 1
//! random_events`

#[path = "../common/mod.rs"]
mod common;
#[path = "../survival/process.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod process;
#[path = "../survival/stream.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod stream;
#[path = "../survival/talk.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod talk;

mod device;
mod event;
mod link;
mod random;
mod state;
mod underlay;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("a_device_that_goes_is_made_again", device::a_device_that_goes_is_made_again),
        ("a_namespace_that_comes_back_has_its_port", device::a_namespace_that_comes_back_has_its_port),
        ("what_the_kernel_takes_is_given_back", link::what_the_kernel_takes_is_given_back),
        ("what_a_pod_changes_is_told", link::what_a_pod_changes_is_told),
        ("a_flapping_link_holds_up_nobody", link::a_flapping_link_holds_up_nobody),
        (
            "an_underlay_that_comes_back_needs_no_restart",
            underlay::an_underlay_that_comes_back_needs_no_restart,
        ),
        ("pods_follow_the_mtu_of_the_underlay", underlay::pods_follow_the_mtu_of_the_underlay),
        ("without_the_right_it_is_looked_now_and_then", link::without_the_right_it_is_looked_now_and_then),
        ("random_events", random::random_events),
    ])
}
