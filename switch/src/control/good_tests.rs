use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What is done about generations that are in force at these seconds, while everything works.
fn steps(proving: &mut Proving, from: Instant, in_force: &[(u64, u64)]) -> Vec<Due> {
    let each = in_force.iter().map(|&(second, generation)| {
        let now = from + SECOND * second as u32;
        let due = proving.due(generation, now);
        match due {
            Due::Nothing => {}
            Due::Nominate => proving.nominated(generation, true, now),
            Due::Promote => proving.promoted(),
        }
        due
    });
    each.collect()
}

#[test]
fn a_state_is_proven_by_a_process_that_lives() {
    let mut proving = Proving::new(AFTER);
    let done = steps(&mut proving, Instant::now(), &[(0, 0), (1, 7), (2, 7), (60, 7), (61, 7), (62, 7)]);
    assert_eq!(done, [Due::Nothing, Due::Nominate, Due::Nothing, Due::Nothing, Due::Promote, Due::Nothing]);
    assert_eq!(proving.proven, Some(7));
}

#[test]
fn a_state_that_changes_all_the_time_is_proven_all_the_same() {
    let mut proving = Proving::new(AFTER);
    let changes: Vec<(u64, u64)> = (0..=600).map(|second| (second, 1 + second)).collect();
    let done = steps(&mut proving, Instant::now(), &changes);
    assert_eq!(done.iter().filter(|&&due| due == Due::Promote).count(), 9);
    assert!(proving.proven.unwrap() > 601 - 2 * AFTER.as_secs() - 2, "{proving:?}");
}

#[test]
fn what_fails_is_tried_again_later() {
    let (mut proving, now) = (Proving::new(AFTER), Instant::now());
    assert_eq!(proving.due(1, now), Due::Nominate);
    proving.failed(now);
    assert_eq!(proving.due(1, now + AFTER / 2), Due::Nothing);
    assert_eq!(proving.due(1, now + AFTER), Due::Nominate);
    proving.nominated(1, false, now + AFTER);
    assert_eq!(proving.due(1, now + AFTER * 3), Due::Nothing);
    assert_eq!(proving.due(2, now + AFTER * 3), Due::Nominate);
}

#[test]
fn the_alarm_names_both_generations_the_file_and_the_next_step() {
    let suspect = |n, generation| Suspect { name: format!("state.suspect.{n}"), generation };
    let dir = std::path::Path::new("/var/lib/swd");
    assert_eq!(alarm(&[], dir), None);
    let (message, hint) = alarm(&[suspect(0, Some(10))], dir).unwrap();
    for word in ["generation 10", "generation 11", "/var/lib/swd/state.suspect.0"] {
        assert!(message.contains(word), "{message}");
    }
    assert!(
        hint.contains("tail -n +2 /var/lib/swd/state.suspect.0") && hint.contains("swctl apply -f"),
        "{hint}"
    );
    let (message, _) = alarm(&[suspect(0, Some(10)), suspect(1, None)], dir).unwrap();
    assert!(message.contains("state.suspect.1, and 1 more"), "{message}");
}
