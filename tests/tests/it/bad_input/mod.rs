//! Whatever is passed in: success or an error that says which rule was broken, never a panic, and
//! on an error the table is as it was.

mod calls;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Builder;
use zae_limiter::store::{MemoryStore, Store};
use zae_limiter::{
    Clock, EntityChange, Error, ErrorKind, LeasedOptions, Limit, LimitScope, METADATA_LEN_MAX,
    Mode, NewEntity, PageRequest, PageToken, RateLimiter, STORED_LIMITS_MAX, Settings,
};
use zae_limiter_tests::{client_for, consumed, endpoint, fresh_table, level};

use calls::calls;

/// What looks at the table before and after each step.
pub(crate) struct Watch {
    table: Table,
    /// Whether nothing but the step itself writes to it.
    alone: bool,
}

enum Table {
    Memory(MemoryStore),
    Real(Client, String),
}

#[derive(PartialEq)]
enum Contents {
    Memory(MemoryStore),
    Real(Vec<String>),
}

impl Watch {
    async fn contents(&self) -> Contents {
        match &self.table {
            Table::Memory(table) => {
                // What was begun before is written.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                Contents::Memory(table.copy())
            }
            Table::Real(client, name) => {
                let scan = client.scan().table_name(name).consistent_read(true);
                let items = scan
                    .into_paginator()
                    .items()
                    .send()
                    .collect::<Result<Vec<_>, _>>();
                let items = items.await.expect("a table");
                let mut items: Vec<_> = items.into_iter().map(|item| sorted(&item)).collect();
                items.sort();
                Contents::Real(items)
            }
        }
    }

    /// Makes one step; none if it fails. Who waits for long is cancelled.
    async fn step<T>(&self, step: impl Future<Output = Result<T, Error>>) -> Option<T> {
        let before = self.contents().await;
        match self.whatever(step).await {
            Ok(done) => Some(done),
            // Known only after the table was asked: a limit may have been converted by then, or
            // a child charged and credited again.
            Err(Some(ErrorKind::RateLimitExceeded | ErrorKind::WouldWait) | None) => None,
            Err(Some(kind)) => {
                let unchanged = !self.alone || self.contents().await == before;
                assert!(unchanged, "{kind:?}, and the table is another");
                None
            }
        }
    }

    /// Makes one step that may leave anything behind.
    async fn whatever<T>(
        &self,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Option<ErrorKind>> {
        let patience = match self.table {
            Table::Memory(_) => Duration::from_millis(20),
            Table::Real(..) => Duration::from_secs(20),
        };
        match tokio::time::timeout(patience, step).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                use ErrorKind::{
                    EntityExists, EntityNotFound, RateLimitExceeded, Validation, WouldWait,
                };
                let (kind, text) = (error.kind(), error.to_string());
                let expected = [
                    Validation,
                    EntityExists,
                    EntityNotFound,
                    RateLimitExceeded,
                    WouldWait,
                ];
                assert!(expected.contains(&kind), "{kind:?}: {text}");
                Err(Some(kind))
            }
            Err(_) => Err(None),
        }
    }
}

/// An item, the same text whenever it is the same.
fn sorted(item: &HashMap<String, AttributeValue>) -> String {
    let text = |value: &AttributeValue| match value {
        AttributeValue::M(fields) => sorted(fields),
        other => format!("{other:?}"),
    };
    let fields = item.iter().map(|(name, value)| (name, text(value)));
    format!("{:?}", fields.collect::<BTreeMap<_, _>>())
}

async fn prepared(store: impl Store, mode: Mode, clock: Clock) -> Result<RateLimiter, Error> {
    let settings = Settings {
        mode,
        acquire_timeout_ms: 30_000,
        ..Settings::default()
    };
    let builder = RateLimiter::builder("bad-input").store(store).clock(clock);
    let limiter = builder.settings(settings).connect().await?;
    limiter.create_entity(NewEntity::new("parent")).await?;
    limiter
        .create_entity(NewEntity::new("child").parent("parent"))
        .await?;
    let limits = [Limit::per_minute("rpm", 10)?];
    limiter
        .set_limits(&LimitScope::entity("child")?, &limits)
        .await?;
    Ok(limiter)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })
}

/// Time stands still, so that nothing is written but what a step asks for.
fn in_memory(mode: Mode) {
    let outcome = runner(400).run(&calls(), |calls| {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let table = MemoryStore::new();
            let limiter = prepared(table.clone(), mode, Clock::manual().0).await;
            let limiter = limiter.expect("memory");
            let watch = Watch {
                table: Table::Memory(table),
                alone: true,
            };
            for call in calls {
                call.make(&limiter, &watch).await;
            }
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn strict_in_memory() {
    in_memory(Mode::Strict);
}

#[test]
fn leased_in_memory() {
    in_memory(Mode::leased());
}

fn on_a_table(mode: Mode) {
    let outcome = runner(25).run(&calls(), |calls| {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let table = fresh_table("bad-input").await;
            let limiter = prepared(table.store(), mode, Clock::system()).await;
            let limiter = limiter.expect("a table");
            let client = client_for(&endpoint());
            let watch = Watch {
                table: Table::Real(client, table.name().to_owned()),
                alone: mode == Mode::Strict,
            };
            for call in calls {
                call.make(&limiter, &watch).await;
            }
            limiter.shutdown(Duration::from_secs(20)).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn strict_on_a_table() {
    on_a_table(Mode::Strict);
}

#[test]
fn leased_on_a_table() {
    on_a_table(Mode::leased());
}

/// Named: what the properties above have found, or would find only now and then.
mod regressions {
    use super::*;

    async fn limiter() -> (RateLimiter, MemoryStore) {
        let table = MemoryStore::new();
        let limiter = prepared(table.clone(), Mode::leased(), Clock::system()).await;
        (limiter.expect("memory"), table)
    }

    fn kind<T>(result: Result<T, Error>) -> ErrorKind {
        match result {
            Ok(_) => panic!("it should have been refused"),
            Err(error) => error.kind(),
        }
    }

    /// The sum of a patience and a timeout, and of a time and either, were too large for clocks.
    #[tokio::test]
    async fn who_would_wait_for_ever_waits() -> Result<(), Error> {
        let (limiter, _) = limiter().await;
        let limits = [Limit::per_second("rps", 10)?];
        let acquire = || {
            limiter
                .acquire("user", "api")
                .limits(&limits)
                .consume("rps", 10)
        };
        for _ in 0..2 {
            acquire().wait_up_to(Duration::MAX).await?.commit();
        }
        assert_eq!(limiter.shutdown(Duration::MAX).await.unreturned, 0);
        Ok(())
    }

    /// An expression of DynamoDB has at most 4 kB and 300 operators: writes of 20 limits failed.
    #[tokio::test]
    async fn as_many_limits_as_a_bucket_may_have_are_written() -> Result<(), Error> {
        for mode in [Mode::Strict, Mode::leased()] {
            let table = fresh_table("bad-input").await;
            let limiter = prepared(table.store(), mode, Clock::system()).await?;
            let name = |i: usize| format!("{:x<62}{i:02}", "limit");
            let names: Vec<_> = (0..=STORED_LIMITS_MAX).map(name).collect();
            let limits = names.iter().map(|name| Limit::per_day(name, 1_000));
            let limits: Vec<_> = limits.collect::<Result<_, _>>()?;
            let acquire = |n: usize| {
                let acquire = limiter.acquire("user", "api").limits(&limits[..n]);
                let names = names[..n].iter();
                names.fold(acquire, |acquire, name| acquire.consume(name, 10))
            };
            for _ in 0..3 {
                let mut lease = acquire(STORED_LIMITS_MAX).await?;
                for name in &names[..STORED_LIMITS_MAX] {
                    lease.adjust(name, 5).await?;
                }
            }
            // Their numbers are changed, all at once.
            let set = limits[..STORED_LIMITS_MAX]
                .iter()
                .cloned()
                .map(|limit| limit.burst(2_000));
            let set: Vec<_> = set.collect::<Result<_, _>>()?;
            limiter
                .set_limits(&LimitScope::entity("user")?, &set)
                .await?;
            let stored = acquire(STORED_LIMITS_MAX).use_stored_limits(true);
            stored.await?.rollback().await;
            assert_eq!(
                kind(acquire(STORED_LIMITS_MAX + 1).await),
                ErrorKind::Validation
            );
            limiter.shutdown(Duration::from_secs(20)).await;
            for limit in &set {
                let consumed = consumed(&table.store(), "user", "api", limit.name()).await;
                assert_eq!(consumed, 45, "{mode:?}");
            }
        }
        Ok(())
    }

    /// Names and metadata that no item holds were sent to the table.
    #[tokio::test]
    async fn what_no_item_holds_is_not_sent() -> Result<(), Error> {
        let (limiter, table) = limiter().await;
        let before = table.copy();
        let long = "x".repeat(1_025);
        let much = "x".repeat(350_000);
        for entity in [
            NewEntity::new("user").name(long.as_str()),
            NewEntity::new("user").metadata("", "value"),
            NewEntity::new("user").metadata(long.as_str(), "value"),
            NewEntity::new("user").metadata("key", much.as_str()),
        ] {
            assert_eq!(
                kind(limiter.create_entity(entity).await),
                ErrorKind::Validation
            );
        }
        for change in [
            EntityChange {
                name: Some(long),
                ..EntityChange::default()
            },
            EntityChange {
                metadata: Some([("key".to_owned(), much)].into()),
                ..EntityChange::default()
            },
        ] {
            let update = limiter.update_entity("child", &change).await;
            assert_eq!(kind(update), ErrorKind::Validation);
        }
        assert!(table == before);
        Ok(())
    }

    /// All that is allowed at once fits an item.
    #[tokio::test]
    async fn what_is_allowed_fits_an_item() -> Result<(), Error> {
        let table = fresh_table("bad-input").await;
        let limiter = prepared(table.store(), Mode::Strict, Clock::system()).await?;
        let id = "x".repeat(256);
        let name = "\u{1F600}".repeat(256);
        let entity = NewEntity::new(&id).name(&name).parent("parent");
        let entity = entity.metadata(&name, "x".repeat(METADATA_LEN_MAX - name.len() - 8));
        limiter.create_entity(entity.clone()).await?;
        let many = (0..METADATA_LEN_MAX / 14).map(|i| (format!("{i:06}"), String::new()));
        let change = EntityChange {
            metadata: Some(many.collect()),
            ..EntityChange::default()
        };
        limiter.update_entity(&id, &change).await?;
        let found = limiter.get_children("parent").await?;
        let metadata = found.iter().map(|child| child.metadata.len()).max();
        assert_eq!(metadata, Some(METADATA_LEN_MAX / 14));
        Ok(())
    }

    /// Tokens of another list were the service's to refuse, as a defect.
    #[tokio::test]
    async fn a_page_begins_where_the_one_before_ended_or_nowhere() -> Result<(), Error> {
        let table = fresh_table("bad-input").await;
        let limiter = prepared(table.store(), Mode::Strict, Clock::system()).await?;
        limiter
            .create_entity(NewEntity::new("second").parent("parent"))
            .await?;
        limiter.delete_entity("child").await?;
        let first = PageRequest::default().size(1);
        let events = limiter.get_audit_events("child", &first).await?;
        let token = events.next.expect("more than one event");
        for token in [
            token,
            PageToken::from("7".to_owned()),
            PageToken::from(String::new()),
        ] {
            let page = first.clone().after(token.clone());
            let children = limiter.list_children("parent", &page).await;
            assert_eq!(kind(children), ErrorKind::Validation, "{token}");
            let events = limiter.get_audit_events("parent", &page).await;
            assert_eq!(kind(events), ErrorKind::Validation, "{token}");
        }
        Ok(())
    }

    /// An identifier that no event can have was looked up.
    #[tokio::test]
    async fn events_of_nobody_are_not_looked_for() -> Result<(), Error> {
        let (limiter, _) = limiter().await;
        let page = PageRequest::default();
        for id in [
            "",
            "a#b",
            "$RESOURCE:",
            "$RESOURCE:a b",
            "$NOBODY",
            &"x".repeat(3_000),
        ] {
            let events = limiter.get_audit_events(id, &page).await;
            assert_eq!(kind(events), ErrorKind::Validation, "{id:?}");
        }
        for id in ["child", "$SYSTEM", "$RESOURCE:gpt-4"] {
            limiter.get_audit_events(id, &page).await?;
        }
        Ok(())
    }

    /// Debt is counted in whole numbers, however much it is and however slowly it goes.
    #[tokio::test]
    async fn the_largest_debts_are_counted() -> Result<(), Error> {
        for mode in [Mode::Strict, Mode::leased()] {
            let table = fresh_table("bad-input").await;
            let limiter = prepared(table.store(), mode, Clock::system()).await?;
            let slow = Limit::custom("rpd", 1, 1, Limit::PERIOD_MAX)?;
            let fast = Limit::per_second("rps", Limit::TOKENS_MAX)?;
            let limits = [slow, fast];
            let acquire = || limiter.acquire("user", "api").limits(&limits);
            let mut lease = acquire().consume("rpd", 1).consume("rps", 1).await?;
            for _ in 0..10 {
                for name in ["rpd", "rps"] {
                    let most = Limit::TOKENS_MAX.cast_signed();
                    lease.adjust(name, most).await?;
                }
            }
            let wait = acquire().consume("rpd", 1).time_until_available().await?;
            assert!(wait > Duration::from_secs(86_400 * 365 * 500), "{wait:?}");
            limiter.shutdown(Duration::from_secs(20)).await;
            let debt = level(&table.store(), "user", "api", &limits[0]).await;
            assert_eq!(debt, -10 * Limit::TOKENS_MAX.cast_signed(), "{mode:?}");
        }
        Ok(())
    }

    /// Settings and addresses of whatever sort are refused, or lead nowhere.
    #[tokio::test]
    async fn settings_that_cannot_be_are_refused() {
        let odd = [0, 1, 99, u64::MAX];
        for (renewal_interval_ms, lease_ttl_ms) in odd.map(|a| odd.map(|b| (a, b))).concat() {
            let settings = Settings {
                mode: Mode::Leased(LeasedOptions {
                    renewal_interval_ms,
                    lease_ttl_ms,
                }),
                ..Settings::default()
            };
            let builder = RateLimiter::builder("bad-input").in_memory();
            assert_eq!(
                kind(builder.settings(settings).connect().await),
                ErrorKind::Settings
            );
        }
        for name in ["", "ZAEL-", "a b", "a_b", "é", "\0", "7up", &"x".repeat(39)] {
            let builder = RateLimiter::builder(name).in_memory();
            assert_eq!(
                kind(builder.connect().await),
                ErrorKind::Validation,
                "{name:?}"
            );
        }
        for (region, url) in [
            ("", "http://127.0.0.1:1"),
            ("a b", "http://127.0.0.1:1"),
            ("é\0", "http://127.0.0.1:1"),
            ("us-east-1", ""),
            ("us-east-1", "not a url"),
            ("us-east-1", "http://"),
            ("us-east-1", "\0"),
        ] {
            let builder = RateLimiter::builder("bad-input")
                .region(region)
                .endpoint_url(url);
            assert!(builder.connect().await.is_err(), "{region:?} {url:?}");
        }
    }
}
