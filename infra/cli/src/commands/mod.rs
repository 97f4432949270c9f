//! The commands, one file each.

mod aggregate;
mod audit;
mod cfn_template;
mod check;
mod completions;
mod delete;
mod deploy;
mod entity;
mod lambda_export;
mod limits;
mod list;
mod resource;
mod status;
mod upgrade;
mod usage;
mod version;
mod watch;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create the stack of a limiter, or change it to what is asked for.
    Deploy(deploy::Arguments),
    /// Delete the stack of a limiter, with its table and all that is stored.
    Delete(delete::Arguments),
    /// Show the stack of a limiter.
    Status(status::Arguments),
    /// List the limiters that are deployed in the region.
    List(list::Arguments),
    /// Write the CloudFormation template.
    CfnTemplate(cfn_template::Arguments),
    /// Write the aggregator's package, for deploying it by other means.
    LambdaExport(lambda_export::Arguments),
    /// Show the versions of this command, of the table and of what is deployed.
    Version(version::Arguments),
    /// Check whether this version goes with what is deployed.
    Check(check::Arguments),
    /// Bring what is deployed to the version of this command.
    Upgrade(upgrade::Arguments),
    /// Create, show and change entities.
    #[command(subcommand)]
    Entity(entity::Command),
    /// Store, show and delete limits of an entity, a resource, or the whole system.
    #[command(subcommand)]
    Limits(limits::Command),
    /// Look at a resource over all entities.
    #[command(subcommand)]
    Resource(resource::Command),
    /// Show what was done to an entity, the newest first.
    Audit(audit::Arguments),
    /// Show what has been consumed, by hour, day or month.
    #[command(subcommand)]
    Usage(usage::Command),
    /// Watch the buckets of an entity.
    Watch(watch::Arguments),
    /// Write usage snapshots from here, where no function in Lambda does.
    Aggregate(aggregate::Arguments),
    /// Write completions for a shell.
    Completions(completions::Arguments),
}

impl Command {
    pub(crate) async fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Deploy(arguments) => deploy::run(arguments, output).await,
            Self::Delete(arguments) => delete::run(arguments, output).await,
            Self::Status(arguments) => status::run(arguments, output).await,
            Self::List(arguments) => list::run(arguments, output).await,
            Self::CfnTemplate(arguments) => cfn_template::run(&arguments),
            Self::LambdaExport(arguments) => lambda_export::run(&arguments, output),
            Self::Version(arguments) => version::run(arguments, output).await,
            Self::Check(arguments) => check::run(arguments, output).await,
            Self::Upgrade(arguments) => upgrade::run(arguments, output).await,
            Self::Entity(command) => entity::run(command, output).await,
            Self::Limits(command) => limits::run(command, output).await,
            Self::Resource(command) => resource::run(command, output).await,
            Self::Audit(arguments) => audit::run(arguments, output).await,
            Self::Usage(command) => usage::run(command, output).await,
            Self::Watch(arguments) => watch::run(arguments, output).await,
            Self::Aggregate(arguments) => aggregate::run(arguments, output).await,
            Self::Completions(arguments) => completions::run(&arguments),
        }
    }
}
