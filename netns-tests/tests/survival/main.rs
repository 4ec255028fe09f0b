//! The network outlives the daemon: its switch process dies or hangs, over and over, and pods notice a short gap. Their
//! connections, their devices, the configuration, what was learned and what was counted are still there. When the monitor
//! dies too, they keep all but the last two, and their devices are without carrier for a while.
//!
//! `LAB_KILLS`, `LAB_MONITOR_KILLS`, `LAB_HANGS`, `LAB_STARTS`, `LAB_FLOWS`, `LAB_RATE` (datagrams per second and direction) and `LAB_SEED` make the runs
//! longer, heavier or different; long ones need `LAB_TEST_TIMEOUT`. A thousand kills under load:
//! `LAB_KILLS=1000 LAB_FLOWS=100 LAB_RATE=10000 LAB_TEST_TIMEOUT=1800 cargo test -p netns-tests --test survival --
//! --test-threads 1 killed_again_and_again`

#[path = "../common/mod.rs"]
mod common;

mod config;
mod crash_loop;
mod deletion;
mod end;
mod flood;
mod hang;
mod kills;
mod last_good;
mod learned;
mod monitor;
mod process;
mod soak;
mod spin;
mod stream;
mod talk;
mod upgrade;
mod writer;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("killed_again_and_again_bridged", kills::killed_again_and_again_bridged),
        ("killed_again_and_again_routed", kills::killed_again_and_again_routed),
        ("upgraded_there_and_back", upgrade::upgraded_there_and_back),
        (
            "a_version_that_does_not_work_does_not_take_over",
            upgrade::a_version_that_does_not_work_does_not_take_over,
        ),
        (
            "a_version_that_is_killed_on_its_way_does_no_harm",
            upgrade::a_version_that_is_killed_on_its_way_does_no_harm,
        ),
        ("another_monitor_takes_over", upgrade::another_monitor_takes_over),
        ("an_edited_configuration_waits_for_a_restart", config::an_edited_configuration_waits_for_a_restart),
        ("stopped_and_spinning", hang::stopped_and_spinning),
        ("a_control_thread_that_spins", hang::a_control_thread_that_spins),
        ("nothing_passes_before_the_tables", flood::nothing_passes_before_the_tables),
        ("what_was_learned_comes_back", learned::what_was_learned_comes_back),
        ("a_crash_loop_is_held_to_its_pace", crash_loop::a_crash_loop_is_held_to_its_pace),
        ("a_state_that_does_not_hold", last_good::a_state_that_does_not_hold),
        ("a_start_that_hangs", last_good::a_start_that_hangs),
        ("soak", soak::soak),
        (
            "a_stopped_daemon_leaves_pods_their_devices_and_nothing_else",
            end::a_stopped_daemon_leaves_pods_their_devices_and_nothing_else,
        ),
        (
            "a_deleted_port_is_gone_when_that_is_acknowledged",
            deletion::a_deleted_port_is_gone_when_that_is_acknowledged,
        ),
        ("the_monitor_is_killed_again_and_again", monitor::the_monitor_is_killed_again_and_again),
        ("nobody_takes_a_device_that_nobody_serves", monitor::nobody_takes_a_device_that_nobody_serves),
        (
            "a_device_that_somebody_holds_is_told_of_and_comes_back",
            monitor::a_device_that_somebody_holds_is_told_of_and_comes_back,
        ),
    ])
}
