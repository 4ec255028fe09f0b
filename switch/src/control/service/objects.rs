//! What the nouns have in common: found by name, added once, deleted when nothing needs them, counted.

use ctl::desired::{DesiredState, Network, Peer, Port};
use ctl::error::{ApiError, Reason};
use ctl::proto;

use super::super::Control;
use super::super::core::Core;
use super::{existing, names};
use crate::datapath::Egress;
use crate::engine::Inspection;

/// An object of the desired state that is known by its name.
pub(super) trait Named: Sized {
    /// The word for it.
    const NOUN: &'static str;

    fn name(&self) -> &str;
    fn all(desired: &DesiredState) -> &[Self];
    fn all_mut(desired: &mut DesiredState) -> &mut Vec<Self>;
    /// The error that says there is none.
    fn missing(name: &str) -> ApiError;
}

macro_rules! named {
    ($type:ident, $noun:literal, $list:ident, $missing:ident) => {
        impl Named for $type {
            const NOUN: &'static str = $noun;

            fn name(&self) -> &str {
                &self.name
            }

            fn all(desired: &DesiredState) -> &[Self] {
                &desired.$list
            }

            fn all_mut(desired: &mut DesiredState) -> &mut Vec<Self> {
                &mut desired.$list
            }

            fn missing(name: &str) -> ApiError {
                ApiError::$missing(name)
            }
        }
    };
}

named!(Network, "network", networks, no_network);
named!(Port, "port", ports, no_port);
named!(Peer, "peer", peers, no_peer);

/// An object with counters of its own in the data path.
pub(super) trait Counted: Named {
    /// Its number there; `None` while it has none.
    fn egress(core: &Core, name: &str) -> Option<Egress>;
}

/// An object by name.
pub(super) fn find<'a, T: Named>(desired: &'a DesiredState, name: &str) -> Result<&'a T, ApiError> {
    T::all(desired).iter().find(|o| o.name() == name).ok_or_else(|| T::missing(name))
}

/// The objects with these names, or all when there are none, sorted by name.
pub(super) fn select<'a, T: Named>(
    desired: &'a DesiredState,
    names: &[String],
) -> Result<Vec<&'a T>, ApiError> {
    for name in names {
        find::<T>(desired, name)?;
    }
    let listed = |o: &&T| names.is_empty() || names.iter().any(|name| name == o.name());
    let mut objects: Vec<&T> = T::all(desired).iter().filter(listed).collect();
    objects.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(objects)
}

/// The answer when everything is as asked already.
pub(super) fn unchanged(core: &Core) -> proto::Ack {
    proto::Ack { generation: core.generation, changed: false }
}

/// Makes `next` the desired state, and answers.
pub(super) fn commit(core: &mut Core, next: DesiredState) -> Result<proto::Ack, ApiError> {
    Ok(proto::Ack { generation: core.commit(next)?, changed: true })
}

/// The answer to adding an object whose name is taken; `None` when it is free.
pub(super) fn declared<T: Named + PartialEq>(
    core: &Core,
    object: &T,
    may_exist: bool,
) -> Result<Option<proto::Ack>, ApiError> {
    let Ok(old) = find::<T>(&core.desired, object.name()) else { return Ok(None) };
    existing(&format!("{} {}", T::NOUN, object.name()), old, object, may_exist)?;
    Ok(Some(unchanged(core)))
}

/// Adds an object whose name is free.
pub(super) fn push<T: Named>(core: &mut Core, object: T) -> Result<proto::Ack, ApiError> {
    let mut next = core.desired.clone();
    T::all_mut(&mut next).push(object);
    commit(core, next)
}

/// Deletes an object. `user` names what would be left without it, which is an error; `clean` deletes what is worth
/// nothing without it.
pub(super) fn delete<T: Named>(
    core: &mut Core,
    name: &str,
    if_exists: bool,
    user: impl FnOnce(&DesiredState, &str) -> Option<String>,
    clean: impl FnOnce(&mut DesiredState, &str),
) -> Result<proto::Ack, ApiError> {
    if let Err(e) = find::<T>(&core.desired, name) {
        return if if_exists { Ok(unchanged(core)) } else { Err(e) };
    }
    if let Some(user) = user(&core.desired, name) {
        return Err(ApiError::new(Reason::InUse, format!("{} {name} is in use by {user}", T::NOUN))
            .hint("delete what uses it first"));
    }
    let mut next = core.desired.clone();
    T::all_mut(&mut next).retain(|o| o.name() != name);
    clean(&mut next, name);
    commit(core, next)
}

/// What came from a port or peer and went there, as [`Control::stats`] takes it.
pub(super) fn counters(i: &Inspection<'_>, who: Egress) -> proto::Counters {
    i.datapath.counters.get(who).map(names::counters).unwrap_or_default()
}

impl Control {
    /// What the worker counts, by name, of the objects with these names or of all; nothing of one that it does not
    /// have. `of` runs between two of its batches.
    pub(super) async fn stats<T: Counted, S: Default + Send + 'static>(
        &self,
        names: &[String],
        of: fn(&Inspection<'_>, Egress) -> S,
    ) -> Result<Vec<(String, S)>, ApiError> {
        let (wanted, answer) = {
            let core = self.core().await;
            let wanted = select::<T>(&core.desired, names)?;
            let who: Vec<_> = wanted.iter().map(|o| T::egress(&core, o.name())).collect();
            let names: Vec<_> = wanted.into_iter().map(|o| o.name().to_owned()).collect();
            let stat =
                move |i: &Inspection<'_>, who: Option<Egress>| who.map(|who| of(i, who)).unwrap_or_default();
            (names, core.ask(move |i| who.into_iter().map(|who| stat(i, who)).collect::<Vec<S>>())?)
        };
        Ok(wanted.into_iter().zip(answer.get().await?).collect())
    }
}
