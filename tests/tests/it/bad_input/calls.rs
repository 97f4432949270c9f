//! Calls of the whole surface with whatever arguments.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use zae_limiter::{
    EntityChange, Error, FailureMode, Lease, Limit, LimitScope, NewEntity, PageRequest, PageToken,
    RateLimiter, Share,
};

use super::Watch;

/// One call, or one acquire and what is done with its lease.
#[derive(Clone, Debug)]
pub(super) enum Call {
    CreateEntity(Create),
    GetEntity(String),
    SetParent(String, Option<String>),
    UpdateEntity(String, EntityChange),
    DeleteEntity(String),
    ListChildren(String, PageRequest),
    GetChildren(String),
    SetLimits(Scope, Vec<Numbers>),
    GetLimits(Scope),
    DeleteLimits(Scope),
    GetAuditEvents(String, PageRequest),
    AsPrincipal(String),
    ResourceCapacity(String, String, bool, PageRequest),
    Acquire(Ask, End),
}

#[derive(Clone, Debug)]
pub(super) struct Create {
    id: String,
    name: Option<String>,
    parent: Option<String>,
    metadata: Vec<(String, String)>,
    cascade: bool,
}

/// An entity and a resource.
type Scope = (Option<String>, Option<String>);

/// A limit in the making.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    name: String,
    capacity: u64,
    burst: Option<u64>,
    amount: u64,
    period: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    id: String,
    resource: String,
    limits: Vec<Numbers>,
    consume: Vec<(String, u64)>,
    cascade: Option<bool>,
    stored: bool,
    share: Option<f64>,
    patience: Duration,
}

/// What becomes of an acquire.
#[derive(Clone, Debug)]
pub(super) enum End {
    Await(Vec<Then>),
    Try(Vec<Then>),
    Handle(Vec<(String, u64)>),
    Run(String, i64),
    Check,
    Available,
    TimeUntilAvailable,
}

/// What is done with a lease.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Consume(String, u64),
    Adjust(String, i64),
    Release(String, u64),
}

fn text(known: &'static [&'static str]) -> impl Strategy<Value = String> {
    let odd = [
        "",
        "#",
        "a#b",
        "\0",
        "a\0b",
        " ",
        "é",
        "_default_",
        "#META",
        "$SYSTEM",
        "$RESOURCE:",
        "$RESOURCE:gpt-4",
        "ENTITY#child",
        "{}",
        r#"{"PK":"ENTITY#child","SK":"CHILD#x"}"#,
    ];
    let long = |n| select(vec!["a", "#", "\u{1F600}"]).prop_map(move |part| part.repeat(n));
    prop_oneof![
        8 => select(known).prop_map(str::to_owned),
        1 => vec(any::<char>(), 0..6).prop_map(|chars| chars.into_iter().collect()),
        1 => select(odd.to_vec()).prop_map(str::to_owned),
        1 => select(vec![64, 65, 256, 257, 1_025, 2_049, 500_000]).prop_flat_map(long),
    ]
}

fn id() -> impl Strategy<Value = String> {
    text(&["child", "parent", "other"])
}

fn resource() -> impl Strategy<Value = String> {
    text(&["gpt-4", "api"])
}

fn limit_name() -> impl Strategy<Value = String> {
    text(&["rpm", "tpm", "rpm"])
}

fn tokens() -> impl Strategy<Value = u64> {
    let most = Limit::TOKENS_MAX;
    let odd = [
        0,
        1,
        1 << 30,
        (1 << 30) + 1,
        most,
        most + 1,
        i64::MAX as u64,
        u64::MAX,
    ];
    prop_oneof![6 => 0..20_u64, 1 => select(odd.to_vec()), 1 => any::<u64>()]
}

fn delta() -> impl Strategy<Value = i64> {
    let most = Limit::TOKENS_MAX.cast_signed();
    let odd = [0, most, -most, most + 1, -most - 1, i64::MAX, i64::MIN];
    prop_oneof![6 => -20..20_i64, 1 => select(odd.to_vec()), 1 => any::<i64>()]
}

fn period() -> impl Strategy<Value = Duration> {
    let odd = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Limit::PERIOD_MAX,
        Duration::MAX,
    ];
    let seconds = (1..100_000_u64).prop_map(Duration::from_secs);
    prop_oneof![6 => seconds, 1 => select(odd.to_vec()), 1 => any::<Duration>()]
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let burst = option::weighted(0.3, tokens());
    let all = (limit_name(), tokens(), burst, tokens(), period());
    all.prop_map(|(name, capacity, burst, amount, period)| Numbers {
        name,
        capacity,
        burst,
        amount,
        period,
    })
}

fn page() -> impl Strategy<Value = PageRequest> {
    let size = prop_oneof![Just(0), Just(u32::MAX), 1..10_u32];
    let after = option::of(text(&[
        "child",
        "{\"PK\":\"ENTITY#child\",\"SK\":\"#META\"}",
    ]));
    (size, after).prop_map(|(size, after)| PageRequest {
        size,
        after: after.map(PageToken::from),
    })
}

fn scope() -> impl Strategy<Value = Scope> {
    (option::of(id()), option::of(resource()))
}

fn metadata() -> impl Strategy<Value = Vec<(String, String)>> {
    let words = || text(&["plan", "pro", "note"]);
    vec((words(), words()), 0..3)
}

fn call() -> impl Strategy<Value = Call> {
    let create = (
        id(),
        option::of(id()),
        option::of(id()),
        metadata(),
        any::<bool>(),
    );
    let create = create.prop_map(|(id, name, parent, metadata, cascade)| Create {
        id,
        name,
        parent,
        metadata,
        cascade,
    });
    let change = (
        option::of(id()),
        option::of(option::of(id())),
        option::of(metadata()),
        option::of(any::<bool>()),
    );
    let change = change.prop_map(|(name, parent_id, metadata, cascade)| EntityChange {
        name,
        parent_id,
        metadata: metadata.map(|pairs| pairs.into_iter().collect()),
        cascade,
    });
    let administrative = prop_oneof![
        create.prop_map(Call::CreateEntity),
        id().prop_map(Call::GetEntity),
        (id(), option::of(id())).prop_map(|(id, parent)| Call::SetParent(id, parent)),
        (id(), change).prop_map(|(id, change)| Call::UpdateEntity(id, change)),
        id().prop_map(Call::DeleteEntity),
        (id(), page()).prop_map(|(id, page)| Call::ListChildren(id, page)),
        id().prop_map(Call::GetChildren),
        (scope(), vec(numbers(), 0..3)).prop_map(|(scope, limits)| Call::SetLimits(scope, limits)),
        scope().prop_map(Call::GetLimits),
        scope().prop_map(Call::DeleteLimits),
        (id(), page()).prop_map(|(id, page)| Call::GetAuditEvents(id, page)),
        id().prop_map(Call::AsPrincipal),
        (resource(), limit_name(), any::<bool>(), page()).prop_map(
            |(resource, limit, parents, page)| {
                Call::ResourceCapacity(resource, limit, parents, page)
            }
        ),
    ];
    let acquire = (ask(), end()).prop_map(|(ask, end)| Call::Acquire(ask, end));
    prop_oneof![3 => administrative, 2 => acquire]
}

fn ask() -> impl Strategy<Value = Ask> {
    let patience = prop_oneof![
        6 => Just(Duration::ZERO),
        1 => Just(Duration::from_millis(1)),
        1 => Just(Duration::MAX),
    ];
    let all = (
        (id(), resource()),
        vec(numbers(), 0..4),
        vec((limit_name(), tokens()), 0..3),
        option::of(any::<bool>()),
        any::<bool>(),
        option::weighted(0.2, any::<f64>()),
        patience,
    );
    all.prop_map(
        |((id, resource), limits, consume, cascade, stored, share, patience)| Ask {
            id,
            resource,
            limits,
            consume,
            cascade,
            stored,
            share,
            patience,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    let then = || {
        let then = prop_oneof![
            (limit_name(), tokens()).prop_map(|(name, tokens)| Then::Consume(name, tokens)),
            (limit_name(), delta()).prop_map(|(name, delta)| Then::Adjust(name, delta)),
            (limit_name(), tokens()).prop_map(|(name, tokens)| Then::Release(name, tokens)),
        ];
        vec(then, 0..4)
    };
    prop_oneof![
        then().prop_map(End::Await),
        then().prop_map(End::Try),
        vec((limit_name(), tokens()), 0..3).prop_map(End::Handle),
        (limit_name(), delta()).prop_map(|(name, delta)| End::Run(name, delta)),
        Just(End::Check),
        Just(End::Available),
        Just(End::TimeUntilAvailable),
    ]
}

pub(super) fn calls() -> impl Strategy<Value = Vec<Call>> {
    vec(call(), 1..12)
}

impl Numbers {
    fn limit(&self) -> Result<Limit, Error> {
        let limit = Limit::custom(&self.name, self.capacity, self.amount, self.period)?;
        Ok(match self.burst {
            Some(burst) => limit.burst(burst)?,
            None => limit,
        })
    }
}

fn limits(numbers: &[Numbers]) -> Result<Vec<Limit>, Error> {
    numbers.iter().map(Numbers::limit).collect()
}

fn scope_of((id, resource): &Scope) -> Result<LimitScope, Error> {
    let scope = match id {
        Some(id) => LimitScope::entity(id)?,
        None => LimitScope::system(),
    };
    Ok(match resource {
        Some(resource) => scope.on(resource)?,
        None => scope,
    })
}

impl Create {
    fn entity(self) -> NewEntity {
        let mut entity = NewEntity::new(self.id).cascade(self.cascade);
        if let Some(name) = self.name {
            entity = entity.name(name);
        }
        if let Some(parent) = self.parent {
            entity = entity.parent(parent);
        }
        let metadata = self.metadata.into_iter();
        metadata.fold(entity, |entity, (key, value)| entity.metadata(key, value))
    }
}

impl Call {
    /// Makes the call; every step of it is watched.
    pub(super) async fn make(self, limiter: &RateLimiter, watch: &Watch) {
        match self {
            Self::CreateEntity(create) => {
                watch.step(limiter.create_entity(create.entity())).await;
            }
            Self::GetEntity(id) => drop(watch.step(limiter.get_entity(&id)).await),
            Self::SetParent(id, parent) => {
                watch.step(limiter.set_parent(&id, parent.as_deref())).await;
            }
            Self::UpdateEntity(id, change) => {
                watch.step(limiter.update_entity(&id, &change)).await;
            }
            Self::DeleteEntity(id) => drop(watch.step(limiter.delete_entity(&id)).await),
            Self::ListChildren(id, page) => {
                watch.step(limiter.list_children(&id, &page)).await;
            }
            Self::GetChildren(id) => drop(watch.step(limiter.get_children(&id)).await),
            Self::SetLimits(scope, numbers) => {
                let set = async {
                    let (scope, limits) = (scope_of(&scope)?, limits(&numbers)?);
                    limiter.set_limits(&scope, &limits).await
                };
                watch.step(set).await;
            }
            Self::GetLimits(scope) => {
                let get = async { limiter.get_limits(&scope_of(&scope)?).await };
                watch.step(get).await;
            }
            Self::DeleteLimits(scope) => {
                let delete = async { limiter.delete_limits(&scope_of(&scope)?).await };
                watch.step(delete).await;
            }
            Self::GetAuditEvents(id, page) => {
                watch.step(limiter.get_audit_events(&id, &page)).await;
            }
            Self::AsPrincipal(name) => {
                watch.step(async { limiter.as_principal(&name) }).await;
            }
            Self::ResourceCapacity(resource, limit, parents, page) => {
                let all = limiter.get_resource_capacity(&resource, &limit, parents);
                watch.step(all).await;
                let page = limiter.list_resource_capacity(&resource, &limit, parents, &page);
                watch.step(page).await;
            }
            Self::Acquire(ask, end) => ask.make(limiter, end, watch).await,
        }
    }
}

impl Ask {
    async fn make(self, limiter: &RateLimiter, end: End, watch: &Watch) {
        let Some(limits) = watch.step(async { limits(&self.limits) }).await else {
            return;
        };
        let mut acquire = limiter.acquire(&self.id, &self.resource).limits(&limits);
        acquire = acquire.use_stored_limits(self.stored);
        for (name, tokens) in &self.consume {
            acquire = acquire.consume(name, *tokens);
        }
        if let Some(cascade) = self.cascade {
            acquire = acquire.cascade(cascade);
        }
        if let Some(share) = self.share {
            let share = watch.step(async { Ok(Share::new(share)?) }).await;
            acquire = acquire.failure_mode(share.map_or(FailureMode::Open, FailureMode::Local));
        }
        acquire = acquire.wait_up_to(self.patience);
        match end {
            End::Await(then) => {
                let lease = watch.step(acquire.into_future()).await;
                with(lease, then, watch).await;
            }
            End::Try(then) => {
                let lease = watch.step(async { acquire.try_acquire() }).await;
                with(lease, then, watch).await;
            }
            End::Handle(consume) => {
                let Some(handle) = watch.step(acquire.handle()).await else {
                    return;
                };
                let consume: Vec<_> = consume
                    .iter()
                    .map(|(name, n)| (name.as_str(), *n))
                    .collect();
                watch.step(handle.acquire(&consume)).await;
                watch.step(async { handle.try_acquire(&consume) }).await;
            }
            End::Run(name, delta) => {
                // The acquire may be made, and then what it took is given back.
                let run = acquire.run(async |mut lease| lease.adjust(&name, delta).await);
                let _ = watch.whatever(run).await;
            }
            End::Check => drop(watch.step(acquire.check()).await),
            End::Available => drop(watch.step(acquire.available()).await),
            End::TimeUntilAvailable => {
                watch.step(acquire.time_until_available()).await;
            }
        }
    }
}

async fn with(lease: Option<Lease<'_>>, then: Vec<Then>, watch: &Watch) {
    let Some(mut lease) = lease else { return };
    for then in then {
        match then {
            Then::Consume(name, tokens) => watch.step(lease.consume(&name, tokens)).await,
            Then::Adjust(name, delta) => watch.step(lease.adjust(&name, delta)).await,
            Then::Release(name, tokens) => watch.step(lease.release(&name, tokens)).await,
        };
        let _ = lease.consumed();
    }
    if lease.consumed().len() % 2 == 0 {
        lease.rollback().await;
    }
}
