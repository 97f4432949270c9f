//! The compiler lays out an application's futures with all that they await, and gives up at a
//! depth of 128, in the application's crate. Here is less, a little more than a request of the AWS
//! SDK takes: where this does not compile, box what the call awaits.

#![recursion_limit = "80"]

use std::time::Duration;

use zae_limiter::store::{ConnectOptions, DynamoDbStore};
use zae_limiter::{
    EntityChange, Error, LimitScope, NewEntity, PageRequest, RateLimiter, StackOptions, UsageQuery,
};
use zae_limiter_infra::StackManager;

async fn connect() -> Result<RateLimiter, Error> {
    let options = StackOptions::default();
    let builder = || RateLimiter::builder("app").stack(options.clone());
    builder().create_stack().await?;
    builder().delete_stack().await?;
    let store = DynamoDbStore::connect(ConnectOptions::new("ZAEL-app")).await?;
    store.create_table().await?;
    store.delete_table().await?;
    builder().connect().await
}

async fn manage() -> Result<(), zae_limiter::StackError> {
    let stack = StackManager::connect("app", Default::default()).await?;
    StackManager::list(Default::default()).await?;
    stack.deploy(&StackOptions::default(), |_| ()).await?;
    stack.begin_deploy(&StackOptions::default(), |_| ()).await?;
    stack.upgrade(None, false, |_| ()).await?;
    stack.begin_delete(|_| ()).await?;
    stack.delete(|_| ()).await?;
    stack.status().await.map(drop)
}

async fn limit(limiter: &RateLimiter) -> Result<(), Error> {
    let acquire = || limiter.acquire("user", "api").consume("rps", 1);
    let mut lease = acquire().wait_up_to(Duration::from_secs(1)).await?;
    lease.consume("rps", 1).await?;
    lease.adjust("rps", 1).await?;
    lease.release("rps", 1).await?;
    lease.rollback().await;
    acquire().run(async |_| Ok::<_, Error>(())).await?;
    let handle = acquire().handle().await?;
    handle.acquire(&[("rps", 1)]).await?.commit();
    acquire().available().await?;
    acquire().check().await?;
    acquire().time_until_available().await?;
    limiter.shutdown(Duration::ZERO).await;
    limiter.delete_stack().await.map(drop)
}

async fn administer(limiter: &RateLimiter, usage: &UsageQuery) -> Result<(), Error> {
    let (page, scope) = (PageRequest::default(), LimitScope::system());
    limiter.create_entity(NewEntity::new("user")).await?;
    limiter.get_entity("user").await?;
    limiter
        .update_entity("user", &EntityChange::default())
        .await?;
    limiter.set_parent("user", None).await?;
    limiter.get_children("user").await?;
    limiter.list_children("user", &page).await?;
    limiter.set_limits(&scope, &[]).await?;
    limiter.get_limits(&scope).await?;
    limiter.delete_limits(&scope).await?;
    limiter.get_audit_events("user", &page).await?;
    limiter.get_resource_capacity("api", "rps", false).await?;
    limiter
        .list_resource_capacity("api", "rps", false, &page)
        .await?;
    limiter.get_usage(usage, &page).await?;
    limiter.summarize_usage(usage).await?;
    limiter.available("user", "api", &[]).await?;
    limiter.delete_entity("user").await
}

async fn application(usage: &UsageQuery) -> Result<(), Error> {
    manage().await?;
    let limiter = connect().await?;
    administer(&limiter, usage).await?;
    limit(&limiter).await
}

fn is_send<T: Send>(_: &T) {}

/// A few calls deep, as an application awaits.
#[test]
fn the_futures_of_all_calls_are_neither_deep_nor_large() {
    let usage = UsageQuery::entity("user").unwrap();
    let application = application(&usage);
    is_send(&application);
    let bytes = size_of_val(&application);
    assert!(bytes < 16_384, "{bytes} bytes");
}
