//! The plan of a node: networks, peers and the node's own port as a file of the node's configuration says.
//!
//! A plan is applied at each start as `swctl apply` would, before any port is opened: its objects are added or
//! replace those of the same name, others stay. So a node comes up from one file, and what was added by hand or by
//! a container runtime lives on beside it.

use ctl::desired::DesiredState;
use ctl::error::{ApiError, Reason};

use super::state::{Loaded, Store};
use super::{Settings, bounds, rules};

/// Merges a plan into the state that was loaded, and makes the result durable if it differs.
///
/// # Errors
/// When the two contradict each other, or the result cannot be written. Then the state on disk is as before.
pub fn adopt(
    settings: &Settings,
    store: &mut Store,
    loaded: Loaded,
    plan: DesiredState,
) -> Result<Loaded, ApiError> {
    let (desired, changes) = loaded.desired.merged(plan, false);
    if changes.is_empty() {
        return Ok(loaded);
    }
    bounds::check(&desired)?;
    desired.check()?;
    rules::check(settings, &desired)?;
    let generation = loaded.generation + 1;
    store
        .save(&desired, generation)
        .map_err(|e| ApiError::new(Reason::NotDurable, format!("the plan was not adopted: {e}")))?;
    for change in changes {
        tracing::info!(kind = change.kind, name = change.name, action = ?change.action, "from the plan");
    }
    let before = loaded.before.into_iter().chain(loaded.desired.ports).collect();
    Ok(Loaded { desired, generation, problem: loaded.problem, before })
}

#[cfg(test)]
mod tests {
    use super::super::fs::RealFs;
    use super::super::testing;
    use super::*;

    #[test]
    fn a_plan_is_adopted_once_and_leaves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let settings = testing::settings();
        let mut store = Store::new(Box::new(RealFs::open(dir.path()).unwrap()));
        let first = store.load().unwrap();
        let state = testing::state();
        let hand =
            DesiredState { networks: state.networks.clone(), ports: state.ports.clone(), ..state.clone() };
        let loaded = adopt(&settings, &mut store, first, DesiredState { peers: vec![], ..hand }).unwrap();
        let plan = || DesiredState { peers: state.peers.clone(), ..DesiredState::default() };
        let loaded = adopt(&settings, &mut store, loaded, plan()).unwrap();
        assert_eq!((loaded.generation, loaded.desired.ports.len(), loaded.desired.peers.len()), (2, 2, 1));
        let again = adopt(&settings, &mut store, store_load(dir.path()), plan()).unwrap();
        assert_eq!(again, loaded);
    }

    fn store_load(path: &std::path::Path) -> Loaded {
        Store::new(Box::new(RealFs::open(path).unwrap())).load().unwrap()
    }

    #[test]
    fn a_plan_that_contradicts_the_state_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let settings = testing::settings();
        let mut store = Store::new(Box::new(RealFs::open(dir.path()).unwrap()));
        let first = store.load().unwrap();
        let loaded = adopt(&settings, &mut store, first, testing::state()).unwrap();
        let other = testing::network("other", 1, &["10.9.0.0/24"]);
        let plan = DesiredState { networks: vec![other], ..DesiredState::default() };
        let e = adopt(&settings, &mut store, loaded, plan).unwrap_err();
        assert_eq!(e.reason, Reason::Conflict, "{e}");
        assert_eq!(store_load(dir.path()).generation, 1);
    }
}
