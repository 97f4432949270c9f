//! A [`BucketWrite`] in DynamoDB's expression language: it means what `BucketItem::apply` means.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::item::{
    BucketWrite, Kept, LimitAction, LimitChange, LimitGuard, Ring, RingChange, RingGuard, ZChange,
};
use zae_limiter_core::{BucketKey, schema};

use super::codec::{
    CONSUMED, CONSUMED_AT, ENTITY_ID, INCARNATION, RESOURCE, RING, RING_DEMAND, RING_EPOCH,
    RING_HELD, RING_LEASE_TTL, SEQUENCE, TERMS, Z, encode_limit, encode_ring, encode_terms, number,
    text,
};

/// The expressions of one `UpdateItem`.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    /// What must hold; none if nothing.
    pub(super) condition: Option<String>,
    /// What changes then.
    pub(super) update: String,
    /// What the `#` placeholders stand for.
    pub(super) names: HashMap<String, String>,
    /// What the `:` placeholders stand for.
    pub(super) values: HashMap<String, AttributeValue>,
}

/// Translates `write` to the bucket at `key`.
///
/// # Errors
/// What is wrong, if the write adds to a ring that its own guard does not say is there: the
/// expression language cannot make one up.
pub(super) fn expressions(
    key: &BucketKey,
    write: &BucketWrite,
) -> Result<Expressions, &'static str> {
    let mut out = Writer::default();
    if let Some(known) = write.incarnation {
        let incarnation = out.name(INCARNATION, INCARNATION);
        out.compare(&incarnation, "=", number(known));
    }
    out.keep(write.kept);
    let consumed_at = out.name(CONSUMED_AT, CONSUMED_AT);
    out.set_to(consumed_at, number(write.consumed_at_ms));
    let sequence = out.name(SEQUENCE, SEQUENCE);
    let is_create = |w: &_| matches!(w, LimitAction::Create(_));
    let mut numbered = sequence.clone();
    if write.limits.is_empty() || write.limits.iter().any(|w| is_create(&w.action)) {
        // Only such a write can be the item's first.
        let gsi2_pk = schema::resource(key.resource());
        for (attribute, value) in [
            (ENTITY_ID, text(key.entity_id())),
            (RESOURCE, text(key.resource())),
            (schema::GSI2_PK, text(gsi2_pk)),
            (schema::GSI2_SK, text(schema::bucket_of(key.entity_id()))),
        ] {
            let path = out.name(attribute, attribute);
            out.set_to(path, value);
        }
        let from = out.value(number(write.sequence_from));
        numbered = format!("if_not_exists({sequence}, {from})");
        let incarnation = out.name(INCARNATION, INCARNATION);
        out.sets.push(format!(
            "{incarnation} = if_not_exists({incarnation}, {from})"
        ));
    }
    let one = out.value(number(1));
    out.sets.push(format!("{sequence} = {numbered} + {one}"));
    for (i, w) in write.limits.iter().enumerate() {
        let limit = out.name(&format!("l{i}"), &schema::limit_attribute(&w.name));
        match &w.action {
            LimitAction::Create(item) => {
                out.require(format!("attribute_not_exists({limit})"));
                out.set_to(limit, encode_limit(item));
            }
            LimitAction::Update { guard, change } => {
                out.guard(&limit, guard);
                out.change(&limit, guard, change)?;
            }
        }
    }
    Ok(out.finish())
}

#[derive(Debug, Default)]
struct Writer {
    conditions: Vec<String>,
    sets: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Writer {
    /// A placeholder for an attribute's name: names may be reserved words or hold dots.
    fn name(&mut self, placeholder: &str, name: &str) -> String {
        let placeholder = format!("#{placeholder}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    /// A field of a limit, by its initial: expressions may be no longer than 4 kB.
    fn field(&mut self, limit: &str, field: &str) -> String {
        let name = self.name(&field[..1], field);
        format!("{limit}.{name}")
    }

    fn require(&mut self, condition: String) {
        self.conditions.push(condition);
    }

    fn compare(&mut self, path: &str, operator: &str, value: AttributeValue) {
        let value = self.value(value);
        self.require(format!("{path} {operator} {value}"));
    }

    fn set_to(&mut self, path: String, value: AttributeValue) {
        let value = self.value(value);
        self.sets.push(format!("{path} = {value}"));
    }

    fn add(&mut self, path: String, value: i128) {
        if value != 0 {
            let value = self.value(number(value));
            self.sets.push(format!("{path} = {path} + {value}"));
        }
    }

    fn keep(&mut self, kept: Kept) {
        if kept == Kept::AsItIs {
            return;
        }
        let ttl = self.name(schema::TTL, schema::TTL);
        match kept {
            Kept::AsItIs => {}
            Kept::AtLeast(least) => self.compare(&ttl, ">=", number(least)),
            Kept::Until(until) => {
                let until = self.value(number(until));
                self.require(format!("(attribute_not_exists({ttl}) OR {ttl} < {until})"));
                self.sets.push(format!("{ttl} = {until}"));
            }
        }
    }

    fn guard(&mut self, limit: &str, guard: &LimitGuard) {
        let terms = self.field(limit, TERMS);
        self.compare(&terms, "=", encode_terms(&guard.terms));
        // Not BETWEEN: it is an error, not a refusal, where the bounds have crossed.
        if guard.z_min.is_some() || guard.z_max.is_some() {
            let z = self.field(limit, Z);
            match (guard.z_min, guard.z_max) {
                (Some(min), Some(max)) if min == max => self.compare(&z, "=", number(min)),
                (min, max) => {
                    if let Some(min) = min {
                        self.compare(&z, ">=", number(min));
                    }
                    if let Some(max) = max {
                        self.compare(&z, "<=", number(max));
                    }
                }
            }
        }
        match &guard.ring {
            RingGuard::Any => {}
            RingGuard::Absent => {
                let ring = self.field(limit, RING);
                self.require(format!("attribute_not_exists({ring})"));
            }
            RingGuard::Unchanged(seen) => {
                let ring = self.field(limit, RING);
                let at = |i: usize| format!("{ring}[{i}]");
                self.compare(&at(RING_LEASE_TTL), "=", number(seen.lease_ttl_ms));
                self.compare(&at(RING_EPOCH), "=", number(seen.epoch));
                for (slot, held) in seen.held.into_iter().enumerate() {
                    self.compare(&at(RING_HELD + slot), "=", number(held));
                }
            }
            &RingGuard::Live {
                lease_ttl_ms,
                epoch,
                held_max,
                held_before_max,
            } => {
                let ring = self.field(limit, RING);
                let slots = Slots::of(epoch);
                let at = |i: usize| format!("{ring}[{i}]");
                self.compare(&at(RING_LEASE_TTL), "=", number(lease_ttl_ms));
                self.compare(&at(RING_EPOCH), ">=", number(epoch.saturating_sub(1)));
                self.compare(&at(RING_EPOCH), "<=", number(epoch));
                self.compare(&at(RING_HELD + slots.this), "<=", number(held_max));
                self.compare(&at(RING_HELD + slots.last), "<=", number(held_before_max));
            }
        }
    }

    fn change(
        &mut self,
        limit: &str,
        guard: &LimitGuard,
        change: &LimitChange,
    ) -> Result<(), &'static str> {
        match change.z {
            ZChange::Add(0) => {}
            ZChange::Add(ticks) => {
                let z = self.field(limit, Z);
                self.add(z, ticks);
            }
            ZChange::Set(ticks) => {
                let z = self.field(limit, Z);
                self.set_to(z, number(ticks));
            }
        }
        if let Some(terms) = change.terms.filter(|terms| *terms != guard.terms) {
            let path = self.field(limit, TERMS);
            self.set_to(path, encode_terms(&terms));
        }
        if change.consumed != 0 {
            let consumed = self.field(limit, CONSUMED);
            self.add(consumed, change.consumed.into());
        }
        match change.ring {
            RingChange::Keep => {}
            RingChange::Reset(fresh) => {
                let ring = self.field(limit, RING);
                self.set_to(ring, encode_ring(&fresh));
            }
            RingChange::Add {
                epoch,
                held,
                held_before,
                demand_milli,
                demand_before_milli,
            } => {
                if matches!(guard.ring, RingGuard::Any | RingGuard::Absent) {
                    return Err("it adds to a ring that its guard does not say is there");
                }
                let ring = self.field(limit, RING);
                let slots = Slots::of(epoch);
                let at = |i: usize| format!("{ring}[{i}]");
                self.set_to(at(RING_EPOCH), number(epoch));
                self.add(at(RING_HELD + slots.this), held.into());
                self.add(at(RING_HELD + slots.last), held_before.into());
                self.add(at(RING_DEMAND + slots.this), demand_milli.into());
                self.add(at(RING_DEMAND + slots.last), demand_before_milli.into());
                self.set_to(at(RING_HELD + slots.next), number(0));
                self.set_to(at(RING_DEMAND + slots.next), number(0));
            }
        }
        Ok(())
    }

    fn finish(self) -> Expressions {
        Expressions {
            condition: (!self.conditions.is_empty()).then(|| self.conditions.join(" AND ")),
            update: format!("SET {}", self.sets.join(", ")),
            names: self.names,
            values: self.values,
        }
    }
}

/// Where an epoch and its neighbours stand among the three slots of a ring.
struct Slots {
    this: usize,
    next: usize,
    last: usize,
}

impl Slots {
    fn of(epoch: u64) -> Self {
        Self {
            this: Ring::slot(epoch),
            next: Ring::slot(epoch.wrapping_add(1)),
            // As the ring itself counts it; of three, the slot before is the second next.
            last: Ring::slot(epoch.wrapping_add(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zae_limiter_core::item::LimitWrite;
    use zae_limiter_core::{LIMITS_MAX, Terms};

    const TERMS_OF_TEN: Terms = Terms {
        capacity: 10,
        burst: 10,
        refill_amount: 10,
        refill_period_seconds: 60,
    };

    fn update(guard: RingGuard, z: ZChange, ring: RingChange) -> BucketWrite {
        BucketWrite {
            incarnation: Some(49),
            limits: vec![LimitWrite {
                name: "rpm".into(),
                action: LimitAction::Update {
                    guard: LimitGuard {
                        terms: TERMS_OF_TEN,
                        z_min: Some(1),
                        z_max: None,
                        ring: guard,
                    },
                    change: LimitChange {
                        z,
                        terms: Some(TERMS_OF_TEN),
                        consumed: 0,
                        ring,
                    },
                },
            }],
            sequence_from: 50,
            consumed_at_ms: 60,
            kept: Kept::Until(99),
        }
    }

    fn key() -> BucketKey {
        BucketKey::new("user-1", "gpt-4").unwrap()
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        let write = update(RingGuard::Absent, ZChange::Add(0), RingChange::Keep);
        let made = expressions(&key(), &write).unwrap();
        assert_eq!(
            made.update,
            "SET #ttl = :1, #consumed_at_ms = :2, #seq = #seq + :3"
        );
        assert_eq!(
            made.condition.as_deref(),
            Some(
                "#inc = :0 AND (attribute_not_exists(#ttl) OR #ttl < :1) AND #l0.#t = :4 AND \
                 #l0.#z >= :5 AND attribute_not_exists(#l0.#r)"
            )
        );
        assert_eq!(made.names["#l0"], "limit#rpm");
        // Every placeholder that is declared is used: the service insists on it.
        let text = made.update + made.condition.as_deref().unwrap();
        assert!(made.names.keys().all(|name| text.contains(name)));
        assert!(made.values.keys().all(|value| text.contains(value)));
    }

    #[test]
    fn only_a_creating_write_says_whose_bucket_it_is() {
        let write = update(RingGuard::Any, ZChange::Add(5), RingChange::Keep);
        let made = expressions(&key(), &write).unwrap();
        assert!(!made.names.contains_key("#GSI2PK"));
        let nothing = BucketWrite {
            incarnation: None,
            limits: vec![],
            sequence_from: 1,
            consumed_at_ms: 1,
            kept: Kept::AsItIs,
        };
        let made = expressions(&key(), &nothing).unwrap();
        assert_eq!(made.condition, None);
        assert!(made.values.values().any(|v| *v == text("RESOURCE#gpt-4")));
        assert!(made.values.values().any(|v| *v == text("BUCKET#user-1")));
    }

    #[test]
    fn a_ring_is_changed_slot_by_slot() {
        let live = RingGuard::Live {
            lease_ttl_ms: 10_000,
            epoch: 4,
            held_max: 7,
            held_before_max: 8,
        };
        let add = RingChange::Add {
            epoch: 4,
            held: 1,
            held_before: -2,
            demand_milli: 0,
            demand_before_milli: -3,
        };
        let made = expressions(&key(), &update(live, ZChange::Set(3), add)).unwrap();
        let ring: Vec<_> = made.update.split(['=', ',']).collect();
        // Slot 1 is this epoch's, slot 0 the last one's, slot 2 the next one's.
        for changed in [
            "#l0.#r[1]",
            "#l0.#r[3]",
            "#l0.#r[2]",
            "#l0.#r[4]",
            "#l0.#r[5]",
        ] {
            assert!(ring.iter().any(|part| part.trim() == changed), "{ring:?}");
        }
        assert!(!made.update.contains("#r[6]"), "no demand was reported");
        assert!(
            made.update.contains("#r[7] ="),
            "the coming slot is cleared"
        );
    }

    /// What the service holds every expression to.
    #[test]
    fn a_write_of_all_that_a_bucket_may_have_is_not_too_long() {
        let large = 9_999_999_999_999;
        let live = RingGuard::Live {
            lease_ttl_ms: large as u64,
            epoch: large as u64,
            held_max: large,
            held_before_max: large,
        };
        let add = RingChange::Add {
            epoch: large as u64,
            held: large,
            held_before: large,
            demand_milli: large,
            demand_before_milli: large,
        };
        let mut write = update(live, ZChange::Add(large.into()), add);
        let LimitAction::Update { guard, change } = &mut write.limits[0].action else {
            panic!("it is an update")
        };
        guard.z_max = Some(2);
        guard.terms.burst = 11;
        change.consumed = large;
        write.limits = vec![write.limits[0].clone(); LIMITS_MAX];
        let made = expressions(&key(), &write).unwrap();
        let condition = made.condition.unwrap();
        for expression in [&made.update, &condition] {
            assert!(expression.len() <= 4_096, "{}", expression.len());
            let words = ["AND", "=", "<=", ">=", "+"];
            let operators = expression.split(' ').filter(|word| words.contains(word));
            assert!(operators.count() <= 300);
        }
    }

    #[test]
    fn a_ring_that_may_not_be_there_is_not_added_to() {
        let add = RingChange::Add {
            epoch: 4,
            held: 1,
            held_before: 0,
            demand_milli: 0,
            demand_before_milli: 0,
        };
        for guard in [RingGuard::Any, RingGuard::Absent] {
            let write = update(guard, ZChange::Add(1), add);
            assert!(expressions(&key(), &write).is_err());
        }
    }
}
