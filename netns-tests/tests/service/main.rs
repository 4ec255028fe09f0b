//! The daemon below a service manager: it says how it is, is watched, and its descriptors are kept while it is not
//! there.

#[path = "../common/mod.rs"]
mod common;
#[path = "../survival/process.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod process;
#[path = "../survival/stream.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod stream;

mod store;
mod unit;
mod watchdog;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("killed_monitors_cost_no_carrier", store::killed_monitors_cost_no_carrier),
        ("what_is_let_go_is_not_kept", store::what_is_let_go_is_not_kept),
        ("signs_of_life", watchdog::signs_of_life),
        ("signs_of_life_without_a_monitor", watchdog::signs_of_life_without_a_monitor),
        ("pods_work_under_the_unit", unit::pods_work_under_the_unit),
    ])
}
