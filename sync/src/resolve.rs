//! From what an acquire names to what it charges: the entity's bucket and its parent's, and the
//! limits in force for each.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use tokio::time;
use zae_limiter_core::ValidationError;

use crate::admission::Admission;
use crate::catalog::Family;
use crate::store::StoreError;
use crate::target::{Limits, Loan, Target, Targets};
use crate::{Acquire, Error, Lease, Limit, LimitScope};

/// Why something could not be looked up, if that is known.
pub(crate) type Failure = Option<Arc<StoreError>>;

/// What an acquire said of the limits and the parent. A lease keeps it that was admitted before they
/// could be looked up.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    limits: Limits<'a>,
    cascade: Option<bool>,
    pub(crate) stored: bool,
}

impl Lookup<'_> {
    /// An acquire of the same, for nothing.
    pub(crate) fn acquire<'b>(
        &'b self,
        admission: Admission<'b>,
        entity_id: &'b str,
        resource: &'b str,
    ) -> Acquire<'b> {
        Acquire {
            admission,
            entity_id,
            resource,
            limits: &self.limits,
            consume: smallvec![],
            cascade: self.cascade,
            stored: self.stored,
        }
    }

    pub(crate) fn into_owned(self, own: impl Fn(&[Limit]) -> Arc<[Limit]>) -> Lookup<'static> {
        Lookup {
            limits: Loan::Shared(own(&self.limits)),
            cascade: self.cascade,
            stored: self.stored,
        }
    }
}

impl<'a> Acquire<'a> {
    /// Whether it has to be known who the parent is.
    #[inline(always)]
    pub(crate) fn may_cascade(&self) -> bool {
        (self.cascade).unwrap_or(self.admission.engine.cascade_by_entity)
    }

    /// Where limits for an entity may be stored; the first set there is counts.
    fn scopes(&self, entity_id: &str) -> Result<[LimitScope; 4], ValidationError> {
        let entity = LimitScope::entity(entity_id)?;
        Ok([
            entity.clone().on(self.resource)?,
            entity,
            LimitScope::resource(self.resource)?,
            LimitScope::system(),
        ])
    }

    /// The parent that is charged as well.
    fn parent_in(&self, family: &Family) -> Option<Arc<str>> {
        let cascades = self.cascade.unwrap_or(family.cascade);
        family.parent.clone().filter(|_| cascades)
    }

    /// The targets, looked up in the table where it is not known.
    pub(crate) async fn targets(&self) -> Result<Result<Targets<'a>, Failure>, Error> {
        let engine = self.admission.engine;
        let mut ids: SmallVec<[Arc<str>; 2]> = SmallVec::new();
        if self.may_cascade() {
            match engine.family(self.entity_id).await {
                Ok(family) => ids.extend(self.parent_in(&family)),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let mut targets = Targets::new();
        for id in std::iter::once(self.entity_id).chain(ids.iter().map(|id| &**id)) {
            let stored = if self.stored {
                match engine.stored_limits(&self.scopes(id)?).await {
                    Ok(stored) => stored,
                    Err(failure) => return Ok(Err(failure)),
                }
            } else {
                None
            };
            targets.push(self.target(id, stored)?);
        }
        Ok(Ok(targets))
    }

    /// The targets, if the table says by then what they are.
    pub(crate) async fn targets_by(
        &self,
        deadline: time::Instant,
    ) -> Result<Result<Targets<'a>, Failure>, Error> {
        let targets = time::timeout_at(deadline, self.targets()).await;
        targets.unwrap_or(Ok(Err(None)))
    }

    /// The targets, if they are known without asking the table.
    pub(crate) fn known_targets(&self) -> Result<Option<Targets<'a>>, Error> {
        let engine = self.admission.engine;
        let mut parent = None;
        if self.may_cascade() {
            let Some(family) = engine.known_family(self.entity_id) else {
                return Ok(None);
            };
            parent = self.parent_in(&family);
        }
        let mut targets = Targets::new();
        for id in std::iter::once(self.entity_id).chain(parent.as_deref()) {
            let mut stored = None;
            if self.stored {
                let Some(known) = engine.known_stored_limits(&self.scopes(id)?) else {
                    return Ok(None);
                };
                stored = known;
            }
            targets.push(self.target(id, stored)?);
        }
        Ok(Some(targets))
    }

    /// The targets as far as they are known, old answers included, and whether that is all of them, under
    /// the limits in force.
    fn likely_targets(&self) -> Result<(Targets<'a>, bool), Error> {
        let engine = self.admission.engine;
        let family = if self.may_cascade() {
            engine.last_known_family(self.entity_id)
        } else {
            Some(Arc::default())
        };
        let mut all_known = family.is_some();
        let parent = family.and_then(|family| self.parent_in(&family));
        let mut targets = Targets::new();
        for id in std::iter::once(self.entity_id).chain(parent.as_deref()) {
            let mut stored = None;
            if self.stored {
                let known = engine.last_known_stored_limits(&self.scopes(id)?);
                all_known &= known.is_some();
                stored = known.flatten();
            }
            if stored.is_none() && self.limits.is_empty() {
                let failure = engine.breaker.failure();
                return Err(engine.unavailable_for(self.entity_id, self.resource, failure));
            }
            targets.push(self.target(id, stored)?);
        }
        Ok((targets, all_known))
    }

    /// The answer when the table could not be asked, or not in time: of what is charged, or for it.
    pub(crate) fn without_table(&self, failure: Failure) -> Result<Lease<'a>, Error> {
        let (targets, all_known) = self.likely_targets()?;
        let mut lease = match self.admission.free(&targets)? {
            Some(lease) => lease,
            None => self.admission.fail(&targets, 0, failure)?,
        };
        if !all_known {
            lease.look_up_later(Lookup {
                limits: Loan::Borrowed(self.limits),
                cascade: self.cascade,
                stored: self.stored,
            });
        }
        Ok(lease)
    }

    fn target(&self, entity_id: &str, stored: Option<Arc<[Limit]>>) -> Result<Target<'a>, Error> {
        let limits: Limits<'a> = match stored {
            Some(stored) => Loan::Shared(stored),
            None => Loan::Borrowed(self.limits),
        };
        let mut consume = self.consume.clone();
        if entity_id != self.entity_id {
            // A parent may have other limits; what it does not limit it is not charged for.
            consume.retain(|(name, _)| limits.iter().any(|limit| limit.name() == *name));
        }
        let engine = self.admission.engine;
        let target = Target {
            bucket: engine.bucket(entity_id, self.resource, &limits)?,
            limits,
            consume,
            ticket: None,
        };
        if self.stored {
            if target.limits.is_empty() {
                let rule = "no limits are stored for it, for the resource or for the system, and \
                            none were given; see set_limits, or pass some to limits(..)";
                return Err(ValidationError::new("entity_id", entity_id, rule).into());
            }
            target.request().validate()?;
        }
        Ok(target)
    }
}
