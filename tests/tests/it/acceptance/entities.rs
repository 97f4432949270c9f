//! Entities, and the events that changes leave.

use zae_limiter::store::Store;
use zae_limiter::{
    AuditAction, EntityChange, Error, ErrorKind, LimitOwner, LimitScope, NewEntity, PageRequest,
};
use zae_limiter_core::BucketKey;

use super::world::{SOON, World, per_day};

pub(super) async fn entities_have_names_parents_and_children(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let project = limiter.create_entity(NewEntity::new("project")).await?;
    assert_eq!(
        (project.name.as_str(), project.is_parent()),
        ("project", true)
    );
    let key = |i: usize| {
        let key = NewEntity::new(format!("key-{i}")).parent("project");
        key.name(format!("Key {i}")).metadata("plan", "pro")
    };
    for i in 0..5 {
        limiter.create_entity(key(i)).await?;
    }
    let found = limiter.get_entity("key-3").await?.expect("it was created");
    assert_eq!(
        (found.name.as_str(), found.parent_id.as_deref()),
        ("Key 3", Some("project"))
    );
    assert_eq!(found.metadata["plan"], "pro");
    assert!(limiter.get_entity("nobody").await?.is_none());

    let kind = |result: Result<_, Error>| result.map(drop).expect_err("refused").kind();
    assert_eq!(
        kind(limiter.create_entity(key(3)).await),
        ErrorKind::EntityExists
    );
    let orphan = NewEntity::new("orphan").parent("nobody");
    assert_eq!(
        kind(limiter.create_entity(orphan).await),
        ErrorKind::EntityNotFound
    );
    assert!(limiter.get_entity("orphan").await?.is_none());
    let kind = |result: Result<(), Error>| result.expect_err("refused").kind();
    let to_nobody = limiter.set_parent("key-0", Some("nobody")).await;
    assert_eq!(kind(to_nobody), ErrorKind::EntityNotFound);
    assert_eq!(
        kind(limiter.set_parent("nobody", None).await),
        ErrorKind::EntityNotFound
    );
    assert_eq!(
        kind(limiter.set_parent("key-0", Some("key-0")).await),
        ErrorKind::Validation
    );

    limiter.set_parent("key-0", None).await?;
    let change = EntityChange {
        name: Some("The first".into()),
        ..EntityChange::default()
    };
    limiter.update_entity("key-1", &change).await?;
    limiter.delete_entity("key-2").await?;
    let children = limiter.get_children("project").await?;
    let names: Vec<_> = children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["The first", "Key 3", "Key 4"]);
    let mut page = PageRequest::default().size(2);
    let first = limiter.list_children("project", &page).await?;
    page = page.after(first.next.expect("one more"));
    let rest = limiter.list_children("project", &page).await?;
    assert_eq!([first.items, rest.items].concat(), children);

    limiter.delete_entity("project").await?;
    let child = limiter.get_entity("key-3").await?.expect("children stay");
    assert_eq!(child.parent_id.as_deref(), Some("project"));
    limiter.shutdown(SOON).await;
    Ok(())
}

pub(super) async fn what_is_deleted_stays_deleted(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    limiter.create_entity(NewEntity::new("user")).await?;
    let scope = LimitScope::entity("user")?;
    limiter.set_limits(&scope, &[per_day("rpm", 100)]).await?;
    let acquire = limiter.acquire("user", "gpt-4").use_stored_limits(true);
    let lease = acquire.clone().consume("rpm", 40).go().await?;
    let mut other = acquire.consume("rpm", 10).go().await?;
    limiter.delete_entity("user").await?;
    // To a bucket that is gone.
    other.release("rpm", 5).await?;
    lease.rollback().await;
    let again = limiter.delete_entity("user").await.expect_err("gone");
    assert_eq!(again.kind(), ErrorKind::EntityNotFound, "{again}");
    assert!(limiter.get_entity("user").await?.is_none());
    assert!(limiter.get_limits(&scope).await?.is_empty());
    limiter.shutdown(SOON).await;
    let key = BucketKey::new("user", "gpt-4")?;
    assert_eq!(
        world.table().read_bucket(&key).await?,
        None,
        "{:?}",
        world.mode
    );
    Ok(())
}

pub(super) async fn changes_leave_events(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let by_ada = limiter.as_principal("ada")?;
    by_ada.create_entity(NewEntity::new("project")).await?;
    by_ada.create_entity(NewEntity::new("user")).await?;
    let scope = LimitScope::entity("user")?.on("gpt-4")?;
    by_ada.set_limits(&scope, &[per_day("rpm", 1)]).await?;
    by_ada.set_parent("user", Some("project")).await?;
    assert!(by_ada.delete_limits(&scope).await?);
    assert!(
        !by_ada.delete_limits(&scope).await?,
        "which changes nothing"
    );
    let change = EntityChange {
        cascade: Some(true),
        ..EntityChange::default()
    };
    by_ada.update_entity("user", &change).await?;
    limiter.delete_entity("user").await?;

    let mut page = PageRequest::default().size(4);
    let newest = limiter.get_audit_events("user", &page).await?;
    page = page.after(newest.next.expect("six in all"));
    let rest = limiter.get_audit_events("user", &page).await?;
    assert_eq!(rest.next, None);
    let events = [newest.items, rest.items].concat();
    let actions: Vec<_> = events.iter().map(|event| event.action.clone()).collect();
    let expected = [
        AuditAction::EntityDeleted,
        AuditAction::EntityUpdated,
        AuditAction::LimitsDeleted,
        AuditAction::ParentSet,
        AuditAction::LimitsSet,
        AuditAction::EntityCreated,
    ];
    assert_eq!(actions, expected, "the newest first");
    assert_eq!(events[0].principal, None);
    assert!(
        events[1..]
            .iter()
            .all(|event| event.principal.as_deref() == Some("ada"))
    );
    assert_eq!(events[4].resource.as_deref(), Some("gpt-4"));

    limiter
        .set_limits(&LimitScope::system(), &[per_day("rpm", 1)])
        .await?;
    let system = LimitOwner::System.audit_id();
    let events = limiter
        .get_audit_events(&system, &PageRequest::default())
        .await?;
    assert_eq!(events.items.len(), 1);
    limiter.shutdown(SOON).await;
    Ok(())
}
