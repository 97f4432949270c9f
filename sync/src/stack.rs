//! A limiter that brings its own infrastructure: the feature `stack`.

use zae_limiter_core::Clock;
use zae_limiter_infra::{ConnectOptions, Deployment, StackError, StackManager, StackOptions};

use crate::store::Store;
use crate::{Error, RateLimiter, RateLimiterBuilder, Settings, VersionRecord};

impl From<StackError> for Error {
    fn from(error: StackError) -> Self {
        match error {
            StackError::Name(error) => Self::Validation(error),
            error => Self::Stack(Box::new(error)),
        }
    }
}

/// The stack of a limiter.
pub(crate) async fn manager(name: &str, settings: &Settings) -> Result<StackManager, Error> {
    let mut options = ConnectOptions::default();
    if let Some(region) = &settings.region {
        options = options.region(region);
    }
    if let Some(url) = &settings.endpoint_url {
        options = options.endpoint_url(url);
    }
    Ok(Box::pin(StackManager::connect(name, options)).await?)
}

/// Makes the stack what is declared, and says in the log what happens.
async fn ensure(
    name: &str,
    settings: &Settings,
    options: &StackOptions,
) -> Result<Deployment, Error> {
    let manager = manager(name, settings).await?;
    let log = |event: &zae_limiter_infra::StackEvent| {
        tracing::info!(stack = manager.stack_name(), %event, "stack");
    };
    Ok(Box::pin(manager.deploy(options, log)).await?)
}

/// The same when a limiter connects. A stack that a newer version has deployed is left to that:
/// processes of both are there while a fleet is brought up to date.
pub(crate) async fn connect(
    name: &str,
    settings: &Settings,
    options: &StackOptions,
) -> Result<Option<Deployment>, Error> {
    match ensure(name, settings, options).await {
        Err(Error::Stack(error)) if matches!(*error, StackError::Newer { .. }) => {
            tracing::warn!(limiter = name, %error, "the stack is left as it is");
            Ok(None)
        }
        ensured => ensured.map(Some),
    }
}

/// Writes down what has been deployed, so that nobody takes the functions for older ones.
pub(crate) async fn record(
    store: &dyn Store,
    deployed: &Deployment,
    clock: &Clock,
) -> Result<(), Error> {
    let functions = deployed.stack.lambda_version();
    let by = concat!("client:", env!("CARGO_PKG_VERSION"));
    Ok(VersionRecord::write_deployed(store, functions, by, clock).await?)
}

impl RateLimiterBuilder {
    /// Declares the infrastructure: [`connect`](Self::connect) first creates the stack
    /// `ZAEL-{name}`, changes it to what is declared, or leaves it alone if it is that already.
    /// Default: none; the table must be there.
    ///
    /// That includes the aggregator's function: if the program `zae-limiter-aggregator` is beside
    /// the running one or in `PATH`, or is named by
    /// [`aggregator_program`](StackOptions::aggregator_program), the function becomes that program.
    /// Where it is not, the function that is deployed stays, whatever its version. A stack that a
    /// newer version of this crate has deployed is left as it is.
    ///
    /// Creating takes a minute or two. Whoever connects needs permission for all that is in the
    /// stack; fleets rather deploy it once, with the command `zae-limiter deploy`.
    ///
    /// ```no_run
    /// use zae_limiter::{RateLimiter, StackOptions};
    ///
    /// # async fn connect() -> Result<(), zae_limiter::Error> {
    /// let options = StackOptions::default().enable_aggregator(false);
    /// let limiter = RateLimiter::builder("my-app").stack(options).connect().await?;
    /// limiter.delete_stack().await?;
    /// # Ok(()) }
    /// ```
    pub fn stack(mut self, options: StackOptions) -> Self {
        self.stack = Some(options);
        self
    }

    /// Makes the stack what was declared by [`stack`](Self::stack), else what it is by default,
    /// without connecting.
    ///
    /// # Errors
    /// [`Error::Stack`], [`Error::Validation`] and [`Error::Settings`].
    pub async fn create_stack(&self) -> Result<Deployment, Error> {
        let options = self.stack.clone().unwrap_or_default();
        let settings = self.all_settings()?;
        Box::pin(ensure(&self.name, &settings, &options)).await
    }

    /// Deletes the stack with its table and all that is stored. False if there was none, which is
    /// no error.
    ///
    /// # Errors
    /// [`Error::Stack`], [`Error::Validation`] and [`Error::Settings`].
    pub async fn delete_stack(&self) -> Result<bool, Error> {
        let settings = self.all_settings()?;
        let manager = manager(&self.name, &settings).await?;
        Ok(manager.delete(|_| ()).await?)
    }
}

impl RateLimiter {
    /// Deletes the stack of this limiter with its table and all that is stored. False if there
    /// was none, which is no error. Limiters that go on find no table.
    ///
    /// # Errors
    /// [`Error::Stack`].
    pub async fn delete_stack(&self) -> Result<bool, Error> {
        let manager = manager(self.table_name(), &self.place).await?;
        Ok(manager.delete(|_| ()).await?)
    }
}
