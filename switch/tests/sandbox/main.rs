//! The sandbox from outside: what is left to a process that has entered it, as the kernel reports it, and what happens
//! when it does what it may no longer do.
//!
//! Nothing of this can be undone, so every case runs in a process of its own: this program, started again with the
//! case's name, which ends the harness before it begins (a process with one thread is what [`sandbox::enter`] wants).
//! Cases run as root; as an ordinary user in a user namespace of its own, with one id mapped; and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod child;
mod daemon;
mod forbidden;
mod parent;
mod serve;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// As whom a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Namespace,
    User,
}

impl Who {
    const ALL: [Self; 3] = [Self::Root, Self::Namespace, Self::User];

    const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Namespace => "namespace",
            Self::User => "user",
        }
    }
}

/// Names the case to a process that was started for one.
const CASE: &str = "SWD_TEST_SANDBOX_CASE";

fn main() -> ExitCode {
    if let Ok(case) = std::env::var(CASE) {
        return child::run(&case);
    }
    let mut trials = Vec::new();
    for who in Who::ALL {
        let mut add = |name: &str, test: fn(Who)| {
            trials.push(Trial::test(format!("{name}::{}", who.name()), move || {
                test(who);
                Ok(())
            }));
        };
        add("nothing_is_left", daemon::nothing_is_left);
        add("files", daemon::files);
        add("a_daemon_serves", serve::a_daemon_serves);
    }
    for (name, kind, end) in forbidden::CASES {
        trials.push(Trial::test(format!("forbidden::{}::{name}", kind.name()), move || {
            forbidden::ends_as_it_must(name, *kind, *end);
            Ok(())
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
