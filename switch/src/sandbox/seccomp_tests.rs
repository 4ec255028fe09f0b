//! The lists themselves. What they do to a process is in `tests/sandbox.rs`.

use super::*;

#[test]
fn the_lists_are_short() {
    assert!(ThreadKind::Forwarding.calls() <= 30, "{}", ThreadKind::Forwarding.calls());
    assert!(ThreadKind::Reaper.calls() < ThreadKind::Forwarding.calls());
    assert!(ThreadKind::Control.calls() <= 64, "{}", ThreadKind::Control.calls());
}

/// The ways of two lines add up. One without checks beside one with them would be allowed less than it says.
#[test]
fn no_line_takes_from_another() {
    for kind in ThreadKind::ALL {
        let list: Vec<Call> =
            calls::allowed(kind).chain(calls::refused(kind).calls.iter().copied()).collect();
        for call in list.iter().filter(|c| c.ways.is_empty()) {
            assert_eq!(
                list.iter().filter(|c| c.number == call.number).count(),
                1,
                "{kind:?} {}",
                call.number
            );
        }
    }
}

/// What threads start or open they start or open as the lists of their kind say, and nothing else.
#[test]
fn nothing_dangerous_is_listed() {
    let bare =
        |kind: ThreadKind, number: i64| calls::allowed(kind).any(|c| c.number == number && c.ways.is_empty());
    for kind in ThreadKind::ALL {
        for call in calls::allowed(kind) {
            let never = [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_writev,
                libc::SYS_setns,
                libc::SYS_unshare,
                libc::SYS_mount,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_setresuid,
                libc::SYS_capset,
                libc::SYS_kill,
                libc::SYS_clone3,
                libc::SYS_memfd_create,
                libc::SYS_pkey_mprotect,
            ];
            assert!(!never.contains(&call.number), "{kind:?} has {}", call.number);
        }
        for number in [
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_clone,
            libc::SYS_ioctl,
            libc::SYS_socket,
            libc::SYS_setsockopt,
            libc::SYS_prctl,
        ] {
            assert!(!bare(kind, number), "{kind:?} has {number} whatever its arguments");
        }
    }
    for kind in [ThreadKind::Forwarding, ThreadKind::Reaper] {
        assert!(!calls::allowed(kind).any(|c| c.number == libc::SYS_openat || c.number == libc::SYS_clone));
    }
}

#[test]
fn the_lists_compile_for_every_architecture() {
    for arch in [TargetArch::x86_64, TargetArch::aarch64] {
        for kind in ThreadKind::ALL {
            let program =
                compile(calls::allowed(kind), SeccompAction::KillProcess, SeccompAction::Allow, arch)
                    .unwrap();
            assert!(program.len() < 1024, "{kind:?} {arch:?}: {}", program.len());
        }
    }
}
