//! [`StackManager`]: makes a stack what it is wanted to be, watches, and removes it.

mod change;
mod watch;

use std::fmt;
use std::path::Path;

use serde::Serialize;
use zae_limiter_core::{TABLE_PREFIX, table_name};

use crate::artifacts::Artifacts;
use crate::connect::Services;
use crate::state::State;
use crate::{ConnectOptions, Package, StackError, StackEvent, StackOptions, StackSummary};

use change::Change;

/// What is done, or has been done, to a stack.
///
/// See the example of [`StackManager`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// There was none; it is created.
    Create,
    /// It is changed to what is wanted.
    Update,
    /// It is what is wanted; nothing is done.
    Nothing,
}

/// A stack that is what was wanted.
///
/// See the example of [`StackManager`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Deployment {
    /// What was done for that.
    pub operation: Operation,
    /// The stack.
    pub stack: StackSummary,
}

/// The stack of one limiter.
///
/// Every call looks at the stack first and goes on from what it finds, so whatever was interrupted
/// can be called again: an operation that is under way is waited for, a creation that came to
/// nothing is cleared away. Dropping a future stops the waiting, not CloudFormation.
///
/// ```no_run
/// use zae_limiter_infra::{ConnectOptions, Operation, StackManager, StackOptions};
///
/// # async fn manage() -> Result<(), zae_limiter_infra::StackError> {
/// let stack = StackManager::connect("my-app", ConnectOptions::default()).await?;
/// let done = stack.deploy(&StackOptions::default(), |event| println!("{event}")).await?;
/// if done.operation == Operation::Nothing {
///     println!("{} is what it should be", stack.stack_name());
/// }
/// if let Some(found) = stack.status().await? {
///     println!("{} in {}, by version {:?}", found.status, stack.region(), found.version());
/// }
/// stack.delete(|event| println!("{event}")).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct StackManager {
    services: Services,
    stack_name: String,
}

impl fmt::Debug for StackManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackManager")
            .field("stack_name", &self.stack_name)
            .field("region", &self.services.region)
            .finish_non_exhaustive()
    }
}

impl StackManager {
    /// The stack `ZAEL-{name}` of the limiter called `name`. Nothing is sent yet.
    ///
    /// See the example of [`StackManager`].
    ///
    /// # Errors
    /// [`StackError::Name`] for a name that no limiter can have; [`StackError::Options`] if there
    /// is no region, or one that cannot be, or if the endpoint is not a URL.
    pub async fn connect(name: &str, options: ConnectOptions) -> Result<Self, StackError> {
        let stack_name = table_name(name)?;
        let services = Box::pin(Services::connect(options)).await?;
        Ok(Self {
            services,
            stack_name,
        })
    }

    /// The stack's name, which is the table's.
    ///
    /// See the example of [`StackManager`].
    #[must_use]
    pub fn stack_name(&self) -> &str {
        &self.stack_name
    }

    /// The region that the stack is in.
    ///
    /// See the example of [`StackManager`].
    #[must_use]
    pub fn region(&self) -> &str {
        &self.services.region
    }

    /// Lists the stacks of all limiters in the account and region.
    ///
    /// ```no_run
    /// # use zae_limiter_infra::{ConnectOptions, StackManager};
    /// # async fn list() -> Result<(), zae_limiter_infra::StackError> {
    /// for stack in StackManager::list(ConnectOptions::default().region("us-east-1")).await? {
    ///     println!("{}: {}", stack.name, if stack.is_healthy() { "fine" } else { &stack.status });
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StackError::Service`].
    pub async fn list(options: ConnectOptions) -> Result<Vec<StackSummary>, StackError> {
        let services = Box::pin(Services::connect(options)).await?;
        let mut pages = services.cloudformation.describe_stacks();
        let mut found = Vec::new();
        loop {
            let page = Box::pin(pages.clone().send()).await;
            let page = page.map_err(|error| StackError::service("list stacks", error))?;
            let ours = page.stacks().iter().map(StackSummary::new);
            found.extend(ours.filter(|stack| stack.name.starts_with(TABLE_PREFIX)));
            match page.next_token {
                Some(token) => pages = pages.next_token(token),
                None => break,
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The stack as it is now; none if there is none.
    ///
    /// See the example of [`StackManager`].
    ///
    /// # Errors
    /// [`StackError::Service`].
    pub async fn status(&self) -> Result<Option<StackSummary>, StackError> {
        let found = Box::pin(self.describe(&self.stack_name)).await?;
        Ok(found.filter(|stack| stack.state() != State::Absent))
    }

    /// Makes the stack what the options say: creates it, changes what is different, or leaves it
    /// alone. Waits until that is done; `progress` is told what happens.
    ///
    /// See the example of [`StackManager`].
    ///
    /// # Errors
    /// [`StackError::Failed`] with the reason of the resource that failed first;
    /// [`StackError::Stuck`] if the stack is in a state to be looked at; [`StackError::Options`],
    /// [`StackError::Package`] and [`StackError::Newer`] before anything is changed;
    /// [`StackError::Service`].
    pub async fn deploy(
        &self,
        options: &StackOptions,
        mut progress: impl FnMut(&StackEvent),
    ) -> Result<Deployment, StackError> {
        let operation = Box::pin(self.begin_deploy(options, &mut progress)).await?;
        Box::pin(self.finish(operation, progress)).await
    }

    /// As [`deploy`](Self::deploy), but only waits for what is under way already, not for what it
    /// begins.
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy).
    pub async fn begin_deploy(
        &self,
        options: &StackOptions,
        mut progress: impl FnMut(&StackEvent),
    ) -> Result<Operation, StackError> {
        options.to_parameters(&self.stack_name)?;
        let package = match options.has_aggregator() {
            true => Package::of(options.program())?,
            false => None,
        };
        let found = Box::pin(self.settle(&mut progress)).await?;
        if let Some(version) = found.as_ref().and_then(StackSummary::newer_version) {
            return Err(StackError::Newer {
                stack_name: self.stack_name.clone(),
                version: version.to_owned(),
            });
        }
        let change = Change::to(self, options, package.as_ref(), found.as_ref());
        let change = Box::pin(change).await?;
        Box::pin(self.submit(change, found)).await
    }

    /// Brings the stack to the version of this crate, with the options that it has: the
    /// aggregator's program, and the template unless `lambda_only`. Waits until that is done.
    ///
    /// ```no_run
    /// # use zae_limiter_infra::StackManager;
    /// # async fn upgrade(stack: &StackManager) -> Result<(), zae_limiter_infra::StackError> {
    /// match stack.upgrade(None, false, |event| println!("{event}")).await? {
    ///     Some(done) => println!("{:?}", done.operation),
    ///     None => println!("there is no stack {}", stack.stack_name()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy); none if there is no stack: that is the answer `None`.
    pub async fn upgrade(
        &self,
        program: Option<&Path>,
        lambda_only: bool,
        mut progress: impl FnMut(&StackEvent),
    ) -> Result<Option<Deployment>, StackError> {
        let package = Package::of(program)?;
        let Some(found) = Box::pin(self.settle(&mut progress)).await? else {
            return Ok(None);
        };
        let change = Change::upgrade(self, package.as_ref(), lambda_only, &found);
        let change = Box::pin(change).await?;
        let operation = Box::pin(self.submit(change, Some(found))).await?;
        Box::pin(self.finish(operation, progress)).await.map(Some)
    }

    /// Removes the stack with its table and all that is stored, and the aggregator's packages.
    /// Waits until that is done. False if there was no stack.
    ///
    /// See the example of [`StackManager`].
    ///
    /// # Errors
    /// [`StackError::Protected`] before anything is changed; [`StackError::Failed`];
    /// [`StackError::Service`].
    pub async fn delete(&self, mut progress: impl FnMut(&StackEvent)) -> Result<bool, StackError> {
        let Some(stack) = Box::pin(self.begin_delete(&mut progress)).await? else {
            return Ok(false);
        };
        Box::pin(self.gone(&stack, &mut progress)).await?;
        // What is left of it is a few files, which the next deletion would take along.
        let packages = stack.parameter("AggregatorCodeBucket");
        if let Some(bucket) = packages {
            let artifacts = Artifacts::of(&self.services, &self.stack_name, Some(bucket));
            Box::pin(Box::pin(artifacts).await?.clear()).await?;
        }
        Ok(true)
    }

    /// As [`delete`](Self::delete), but only waits for what is under way already. None if there is
    /// no stack. The aggregator's packages stay.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub async fn begin_delete(
        &self,
        mut progress: impl FnMut(&StackEvent),
    ) -> Result<Option<StackSummary>, StackError> {
        let Some(mut stack) = self.status().await? else {
            return Ok(None);
        };
        if stack.status.starts_with("UPDATE_") && stack.is_busy() {
            match Box::pin(self.watch(&stack, &mut progress)).await?.0 {
                Some(quiet) => stack = quiet,
                None => return Ok(None),
            }
        }
        if stack.parameter("EnableDeletionProtection") == Some("true") {
            return Err(StackError::Protected(self.stack_name.clone()));
        }
        if !stack.status.starts_with("DELETE_") || !stack.is_busy() {
            let request = self.services.cloudformation.delete_stack();
            let sent = Box::pin(request.stack_name(&stack.id).send()).await;
            let action = format!("delete stack {}", self.stack_name);
            sent.map_err(|error| StackError::service(action, error))?;
        }
        Ok(Some(stack))
    }

    /// Waits until an operation that was begun has ended, well or not.
    async fn finish(
        &self,
        operation: Operation,
        progress: impl FnMut(&StackEvent),
    ) -> Result<Deployment, StackError> {
        let stack = match operation {
            Operation::Nothing => self.found().await?,
            _ => self.done(progress).await?,
        };
        Ok(Deployment { operation, stack })
    }
}
