//! `entity`: creates, shows and changes entities.

use clap::{Args, Subcommand};
use serde_json::json;
use zae_limiter::{ENTITY_TEXT_LEN_MAX, Entity, EntityChange, NewEntity, RateLimiter};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, pairs, table};
use crate::place::Place;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an entity.
    Create(Create),
    /// Show an entity.
    Get(One),
    /// List the children of an entity.
    Children(One),
    /// Change the name, the metadata or the cascading of an entity.
    Update(Update),
    /// Give an entity another parent, or none.
    SetParent(SetParent),
    /// Delete an entity and all that is stored of it, but not its children and its events.
    Delete(Delete),
}

/// An entity that is looked at.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The entity's identifier.
    #[arg(value_parser = named::entity)]
    entity: String,
    #[command(flatten)]
    place: Place,
}

/// An entity that is changed.
#[derive(Debug, Args)]
pub(crate) struct Changed {
    /// The entity's identifier.
    #[arg(value_parser = named::entity)]
    entity: String,
    #[command(flatten)]
    place: Place,
    /// By whom the change is made, for the audit events.
    #[arg(long = "as", value_name = "PRINCIPAL", value_parser = named::principal)]
    principal: Option<String>,
}

impl Changed {
    async fn limiter(&self) -> Result<RateLimiter, Failure> {
        let limiter = self.place.limiter().await?;
        match &self.principal {
            Some(principal) => Ok(limiter.as_principal(principal)?),
            None => Ok(limiter),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    changed: Changed,
    /// A name for people. Default: the identifier.
    #[arg(long, value_name = "TEXT", value_parser = display_name)]
    display_name: Option<String>,
    /// The parent, which must be there.
    #[arg(long, value_name = "ENTITY", value_parser = named::entity)]
    parent: Option<String>,
    /// What else is to be stored; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Acquires that leave it to the entity charge the parent too.
    #[arg(long)]
    cascade: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    changed: Changed,
    /// A name for people.
    #[arg(long, value_name = "TEXT", value_parser = display_name)]
    display_name: Option<String>,
    /// What is to be stored instead of all that was; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Whether acquires that leave it to the entity charge the parent too.
    #[arg(long, value_name = "BOOL")]
    cascade: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct SetParent {
    #[command(flatten)]
    changed: Changed,
    /// The parent, which must be there.
    #[arg(required_unless_present = "none", value_parser = named::entity)]
    parent: Option<String>,
    /// No parent.
    #[arg(long, conflicts_with = "parent")]
    none: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    changed: Changed,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

fn display_name(text: &str) -> Result<String, String> {
    if text.len() > ENTITY_TEXT_LEN_MAX {
        return Err(format!("exceeds {ENTITY_TEXT_LEN_MAX} bytes"));
    }
    Ok(text.to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is not KEY=VALUE")?;
    if !(1..=ENTITY_TEXT_LEN_MAX).contains(&key.len()) {
        return Err(format!(
            "the key must have 1 to {ENTITY_TEXT_LEN_MAX} bytes"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => {
            let limiter = create.changed.limiter().await?;
            let mut entity = NewEntity::new(&create.changed.entity).cascade(create.cascade);
            if let Some(name) = create.display_name {
                entity = entity.name(name);
            }
            if let Some(parent) = create.parent {
                entity = entity.parent(parent);
            }
            for (key, value) in create.metadata {
                entity = entity.metadata(key, value);
            }
            show(&limiter.create_entity(entity).await?, output)
        }
        Command::Get(one) => {
            let found = one.place.limiter().await?.get_entity(&one.entity).await?;
            let absent = || Failure::absent(format!("there is no entity {:?}", one.entity));
            show(&found.ok_or_else(absent)?, output)
        }
        Command::Children(one) => {
            let children = one.place.limiter().await?.get_children(&one.entity).await?;
            output.show(&children, || {
                let rows = children.iter().map(|child| {
                    let cascade = child.cascade.to_string();
                    [
                        child.id.clone(),
                        child.name.clone(),
                        cascade,
                        child.created_at.clone(),
                    ]
                });
                table(["Entity", "Name", "Cascades", "Created"], rows)
            })
        }
        Command::Update(update) => {
            let change = EntityChange {
                name: update.display_name,
                metadata: (!update.metadata.is_empty())
                    .then(|| update.metadata.into_iter().collect()),
                cascade: update.cascade,
                ..EntityChange::default()
            };
            if change == EntityChange::default() {
                let rule = "give one of --display-name, --metadata and --cascade";
                return Err(Failure::invalid(format!("nothing to change: {rule}")));
            }
            let limiter = update.changed.limiter().await?;
            let entity = &update.changed.entity;
            limiter.update_entity(entity, &change).await?;
            done(entity, "changed", output)
        }
        Command::SetParent(set) => {
            let limiter = set.changed.limiter().await?;
            let entity = &set.changed.entity;
            limiter.set_parent(entity, set.parent.as_deref()).await?;
            done(entity, "changed", output)
        }
        Command::Delete(delete) => {
            let entity = &delete.changed.entity;
            let what = format!("entity {entity:?}, its buckets and limits are deleted");
            output.confirm(&what, delete.yes)?;
            let progress = Progress::new(output, format!("deleting entity {entity}"));
            let limiter = delete.changed.limiter().await?;
            limiter.delete_entity(entity).await?;
            drop(progress);
            done(entity, "deleted", output)
        }
    }
}

fn done(entity: &str, what: &str, output: &Output) -> Result<(), Failure> {
    let json = json!({ "entity": entity, "done": what });
    output.show(&json, || format!("{entity} is {what}"))
}

fn show(entity: &Entity, output: &Output) -> Result<(), Failure> {
    output.show(entity, || {
        let parent = entity.parent_id.clone();
        let mut lines = vec![
            ("Entity", entity.id.clone()),
            ("Name", entity.name.clone()),
            ("Parent", parent.unwrap_or_else(|| "none".to_owned())),
            ("Cascades", entity.cascade.to_string()),
            ("Created", entity.created_at.clone()),
        ];
        let metadata = entity.metadata.iter();
        lines.extend(metadata.map(|(key, value)| (key.as_str(), value.clone())));
        pairs(lines)
    })
}
