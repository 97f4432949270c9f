//! Every future of the public surface is `Send`: it can be spawned, boxed, and returned by a web
//! handler. Needs no endpoint.

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use zae_limiter::store::{ConnectOptions, DynamoDbStore, Store};
use zae_limiter::{
    AuditEvent, EntityChange, Error, Lease, Limit, LimitScope, NewEntity, PageRequest, RateLimiter,
    RateLimiterBuilder, UsageQuery, VersionRecord,
};
use zae_limiter_core::BucketKey;
use zae_limiter_core::item::BucketWrite;

/// Calls on a limiter that the future owns, as in a task of an application.
async fn acquire(limiter: RateLimiter) -> Result<(), Error> {
    let limits = [Limit::per_minute("rpm", 100)?];
    let name = String::from("rpm");
    let acquire = || {
        let acquire = limiter.acquire("user", "api").limits(&limits);
        acquire.consume(&name, 1)
    };
    let mut lease = acquire().wait_up_to(Duration::from_secs(1)).await?;
    lease.consume(&name, 1).await?;
    lease.adjust(&name, 1).await?;
    lease.release(&name, 1).await?;
    lease.rollback().await;
    let mut lease: Lease<'static> = acquire().strict(true).await?.into_owned();
    lease.consume(&name, 1).await?;
    lease.adjust(&name, 1).await?;
    lease.release(&name, 1).await?;
    lease.rollback().await;
    let handle = acquire().handle().await?;
    handle.acquire(&[(&name, 1)]).await?.commit();
    acquire().available().await?;
    acquire().check().await?;
    acquire().time_until_available().await?;
    limiter.available("user", "api", &limits).await?;
    limiter.shutdown(Duration::ZERO).await;
    Ok(())
}

/// Work that uses the lease, what it borrows and what it owns.
async fn run(limiter: RateLimiter) -> Result<(), Error> {
    let limits = [Limit::per_minute("rpm", 100)?];
    let name = String::from("rpm");
    let acquire = || limiter.acquire("user", "api").limits(&limits);
    let acquire = || acquire().consume("rpm", 1);
    let mut calls = 0;
    acquire().run(async |_| Ok::<_, Error>(())).await?;
    acquire()
        .run(async |mut lease| {
            calls += 1;
            lease.adjust(&name, 1).await?;
            lease.consume(&name, calls).await
        })
        .await?;
    // What the work returns may be `Send` without being `Sync`.
    acquire()
        .run(async |_| Ok::<_, Error>(Cell::new(0)))
        .await?;
    acquire()
        .run(async move |mut lease| {
            let name = name;
            tokio::task::yield_now().await;
            lease.release(&name, 1).await
        })
        .await
}

async fn administer(limiter: RateLimiter) -> Result<(), Error> {
    let (page, scope) = (PageRequest::default(), LimitScope::system());
    let usage = UsageQuery::entity("user")?;
    limiter.create_entity(NewEntity::new("user")).await?;
    limiter.get_entity("user").await?;
    let change = EntityChange::default();
    limiter.update_entity("user", &change).await?;
    limiter.set_parent("user", None).await?;
    limiter.get_children("user").await?;
    limiter.list_children("user", &page).await?;
    limiter.set_limits(&scope, &[]).await?;
    limiter.get_limits(&scope).await?;
    limiter.delete_limits(&scope).await?;
    limiter.get_audit_events("user", &page).await?;
    limiter.get_resource_capacity("api", "rpm", false).await?;
    let capacity = limiter.list_resource_capacity("api", "rpm", false, &page);
    capacity.await?;
    limiter.get_usage(&usage, &page).await?;
    limiter.summarize_usage(&usage).await?;
    limiter.delete_entity("user").await
}

async fn connect(builder: RateLimiterBuilder) -> Result<RateLimiter, Error> {
    let store = DynamoDbStore::connect(ConnectOptions::new("ZAEL-app")).await?;
    store.create_table().await?;
    store.delete_table().await?;
    builder.connect().await
}

async fn store(
    (store, key, write): (Box<dyn Store>, BucketKey, BucketWrite),
    (event, version): (AuditEvent, VersionRecord),
    usage: UsageQuery,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (page, scope) = (PageRequest::default(), LimitScope::system());
    store.check().await?;
    drop(store.write_bucket(&key, &write).await);
    store.read_bucket(&key).await?;
    let entity = store.read_entity("user").await?.ok_or("no entity")?;
    let _ = store.create_entity(&entity, &event).await?;
    let change = EntityChange::default();
    let _ = store.update_entity("user", &change, &event).await?;
    store.delete_entity("user", &event).await?;
    store.read_entities(&[]).await?;
    store.read_children("user", &page).await?;
    store.write_limits(&scope, &[], &event).await?;
    store.read_limits(&scope.owner()).await?;
    store.read_audit_events("user", &page).await?;
    store.read_usage(&usage, &page).await?;
    store.read_version().await?;
    store.write_version(&version, None).await?;
    store.read_resource_buckets("api", &page).await?;
    Ok(())
}

// Where one of these does not compile, a future of the crate is not `Send`.
#[test]
fn every_public_future_is_send() {
    fn of<A, F: Future<Output: Send> + Send + 'static>(_: impl FnOnce(A) -> F) {}
    of(acquire);
    of(run);
    of(administer);
    of(connect);
    of(|(a, b, c)| store(a, b, c));
}

/// A handler of a web framework, as it is boxed there.
type Handler = fn(RateLimiter) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

#[tokio::test(flavor = "multi_thread")]
async fn work_runs_in_a_task_of_another_thread() {
    let limiter = RateLimiter::builder("send").in_memory().connect().await;
    let limiter = limiter.expect("memory");
    let handler: Handler = |limiter| Box::pin(run(limiter));
    tokio::spawn(handler(limiter))
        .await
        .expect("no panic")
        .expect("tokens");
}

/// The names of the public functions of the crate that are `async`, with the methods of `Store`.
fn public_async_functions(directory: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            public_async_functions(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let is_store = path.ends_with("store/mod.rs");
        let lines = text.lines().map(str::trim_start);
        names.extend(lines.filter_map(|line| {
            let name = (line.strip_prefix("pub async fn "))
                .or_else(|| line.strip_prefix("async fn ").filter(|_| is_store))?;
            let end = name.find(['<', '('])?;
            Some(name[..end].to_owned())
        }));
    }
}

#[test]
fn every_public_future_is_in_this_list() {
    /// With the feature `stack`: see `infra/cli/tests/shallow.rs`.
    const STACK: [&str; 3] = ["create_stack", "delete_stack", "write_deployed"];
    let list = include_str!("send.rs");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sync/src");
    let mut names = Vec::new();
    public_async_functions(&sources, &mut names);
    assert!(names.len() > 40, "{names:?}");
    for name in names.iter().filter(|name| !STACK.contains(&name.as_str())) {
        let called = [format!(".{name}("), format!("::{name}(")];
        assert!(
            called.iter().any(|call| list.contains(call)),
            "{name} is not called here"
        );
    }
}
