//! `limits`: stores, shows and deletes limits.

use clap::{Args, Subcommand};
use serde_json::json;
use zae_limiter::{Limit, LimitScope, RateLimiter};

use crate::failure::Failure;
use crate::limit_spec::{self, FORM};
use crate::named;
use crate::output::{Output, table};
use crate::place::Place;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store limits in place of those that are stored.
    Set(Set),
    /// Show the limits that are stored.
    Get(Get),
    /// Delete the limits that are stored.
    Delete(Delete),
}

/// Whose limits: those of an entity for a resource or for any, of a resource, or, if neither is
/// given, of the whole system.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// The entity. Default: all of them.
    #[arg(short, long, value_parser = named::entity)]
    entity: Option<String>,
    /// The resource. Default: all of them.
    #[arg(short, long, value_parser = named::resource)]
    resource: Option<String>,
    #[command(flatten)]
    place: Place,
}

impl Scope {
    fn scope(&self) -> Result<LimitScope, Failure> {
        let scope = match &self.entity {
            None => LimitScope::system(),
            Some(entity) => LimitScope::entity(entity)?,
        };
        match &self.resource {
            None => Ok(scope),
            Some(resource) => Ok(scope.on(resource)?),
        }
    }

    async fn limiter(&self, principal: Option<&str>) -> Result<RateLimiter, Failure> {
        let limiter = self.place.limiter().await?;
        match principal {
            Some(principal) => Ok(limiter.as_principal(principal)?),
            None => Ok(limiter),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    scope: Scope,
    /// A limit, as in rpm=100/minute,burst=200; may be given several times. The period is second,
    /// minute, hour, day, or seconds as in 90s.
    #[arg(short, long = "limit", required = true, value_name = FORM,
          value_parser = limit_spec::parse)]
    limits: Vec<Limit>,
    /// By whom the change is made, for the audit events.
    #[arg(long = "as", value_name = "PRINCIPAL", value_parser = named::principal)]
    principal: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    scope: Scope,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    scope: Scope,
    /// By whom the change is made, for the audit events.
    #[arg(long = "as", value_name = "PRINCIPAL", value_parser = named::principal)]
    principal: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Set(set) => {
            let scope = set.scope.scope()?;
            let limiter = set.scope.limiter(set.principal.as_deref()).await?;
            limiter.set_limits(&scope, &set.limits).await?;
            show(&set.limits, output)
        }
        Command::Get(get) => {
            let scope = get.scope.scope()?;
            let limits = get.scope.limiter(None).await?.get_limits(&scope).await?;
            show(&limits, output)
        }
        Command::Delete(delete) => {
            let scope = delete.scope.scope()?;
            output.confirm(&format!("the limits of {scope} are deleted"), delete.yes)?;
            let limiter = delete.scope.limiter(delete.principal.as_deref()).await?;
            let found = limiter.delete_limits(&scope).await?;
            let json = json!({ "scope": scope, "found": found });
            output.show(&json, || match found {
                true => format!("the limits of {scope} are deleted"),
                false => format!("{scope} has no limits; nothing was done"),
            })
        }
    }
}

fn show(limits: &[Limit], output: &Output) -> Result<(), Failure> {
    output.show(&limits, || {
        let rows = limits.iter().map(|limit| {
            let seconds = limit.refill_period().as_secs();
            [
                limit.name().to_owned(),
                limit.capacity().to_string(),
                limit.burst_tokens().to_string(),
                format!("{} per {seconds} s", limit.refill_amount()),
            ]
        });
        table(["Limit", "Capacity", "Burst", "Refill"], rows)
    })
}
