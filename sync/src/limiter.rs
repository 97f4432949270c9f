//! [`RateLimiter`]: the one thing that users hold, and its builder.

use std::sync::Arc;
use std::time::Duration;

use zae_limiter_core::{Clock, table_name};

use crate::acquire::Acquire;
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::reconciler::{Driver, ShutdownReport};
use crate::settings::{FailureMode, Mode, Overrides, Settings};
use crate::store::{ConnectOptions, DynamoDbStore, MemoryStore, Store};
use crate::{Available, Error, Limit, version};

/// A rate limiter for a fleet: all limiters of one table limit together.
///
/// Cheap to clone; clones share everything. Must be made inside a tokio runtime, on which its
/// reconciler runs. Call [`shutdown`](Self::shutdown) before the process ends, so that the tokens
/// in hand go back to the table at once and not only by refill. When the last clone is dropped
/// without it, the same is tried in the background for two seconds.
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// use std::time::Duration;
///
/// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let another = limiter.clone();
/// let task = tokio::spawn(async move {
///     let limits = [Limit::per_minute("rpm", 100)?];
///     let acquire = another.acquire("user", "api").limits(&limits).consume("rpm", 1);
///     acquire.await.map(drop)
/// });
/// task.await.unwrap()?;
/// limiter.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimiter {
    pub(crate) engine: Arc<Engine>,
    driver: Arc<Driver>,
    /// Who is named in audit events.
    pub(crate) principal: Option<Arc<str>>,
    /// Where its stack is.
    #[cfg(feature = "stack")]
    pub(crate) place: Arc<Settings>,
}

impl RateLimiter {
    /// A builder of a limiter on the table `ZAEL-{name}`.
    ///
    /// See the example of [`RateLimiterBuilder`].
    pub fn builder(name: impl Into<String>) -> RateLimiterBuilder {
        RateLimiterBuilder {
            name: name.into(),
            settings: Settings::default(),
            overrides: Overrides::default(),
            store: None,
            clock: Clock::system(),
            #[cfg(feature = "stack")]
            stack: None,
        }
    }

    /// Begins an acquire of tokens of `resource` for `entity_id`.
    ///
    /// See the example of [`Acquire`].
    #[inline]
    pub fn acquire<'a>(&'a self, entity_id: &'a str, resource: &'a str) -> Acquire<'a> {
        Acquire::new(&self.engine, entity_id, resource)
    }

    /// How much of each limit may be consumed, without consuming it:
    /// [`acquire(..).limits(..).available()`](Acquire::available).
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
    /// for limit in limiter.available("user", "gpt-4", &limits).await? {
    ///     println!("{}: {}", limit.limit_name, limit.estimate);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::Unavailable`] and [`Error::Store`].
    pub async fn available(
        &self,
        entity_id: &str,
        resource: &str,
        limits: &[Limit],
    ) -> Result<Vec<Available>, Error> {
        let acquire = self.acquire(entity_id, resource).limits(limits);
        acquire.available().await
    }

    /// The table's full name.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// assert_eq!(limiter.table_name(), "ZAEL-my-app");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn table_name(&self) -> &str {
        &self.engine.name
    }

    /// What has been counted so far.
    ///
    /// See the example of [`Metrics`].
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let engine = &self.engine;
        let mut metrics = Metrics {
            breaker_opened: engine.breaker.opened(),
            breaker_open: engine.breaker.is_open(),
            cached_buckets: engine.cache.len(),
            ..engine.counters.snapshot()
        };
        engine.catalog.count(&mut metrics);
        metrics
    }

    /// Gives all tokens in hand back to the table, and ends the reconciler. All clones of the
    /// limiter are shut down; their acquires answer [`Error::ShutDown`].
    ///
    /// It ends as soon as everything is given back, or else at the `deadline`. While the table
    /// throttles or fails, each bucket is tried again after a jittered pause that doubles from 250 ms
    /// to at most 2 s, and once more shortly before the deadline; while the table is out of reach it
    /// is only probed. The report says to the token what was given back and what was not: that
    /// expires, and refill replaces it.
    ///
    /// Dropping the future does not stop the shutdown: it goes on in the background until its
    /// deadline, if the runtime lives that long. Calling this again waits for the same shutdown,
    /// with the earlier of the two deadlines, and returns the same report.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// use std::time::Duration;
    ///
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 1);
    /// acquire().await?.commit();
    /// let report = limiter.shutdown(Duration::from_secs(5)).await;
    /// assert!(report.is_complete(), "{} tokens are not given back", report.unreturned);
    /// assert_eq!(acquire().await.unwrap_err().kind(), ErrorKind::ShutDown);
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let report = self.driver.close(deadline).await;
        report.unwrap_or_else(|| {
            let limiter = &self.engine.name;
            tracing::error!(limiter, "the reconciler ended before its time");
            ShutdownReport::without_shutdown(self.engine.cache.all())
        })
    }
}

/// Builds a [`RateLimiter`].
///
/// What is set here wins over the environment
/// ([`MODE_VARIABLE`](crate::settings::MODE_VARIABLE) and its like), and that over
/// [`settings`](Self::settings), in whatever order they are called.
///
/// ```no_run
/// # use zae_limiter::{FailureMode, Mode, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let limiter = RateLimiter::builder("my-app") // the table ZAEL-my-app
///     .region("us-east-1")
///     .endpoint_url("http://localhost:4566") // an emulator; leave it out for AWS
///     .mode(Mode::leased())
///     .failure_mode(FailureMode::Closed)
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until connect is called"]
pub struct RateLimiterBuilder {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    overrides: Overrides,
    store: Option<Arc<dyn Store>>,
    clock: Clock,
    #[cfg(feature = "stack")]
    pub(crate) stack: Option<zae_limiter_infra::StackOptions>,
}

impl RateLimiterBuilder {
    /// All settings that are plain data. Default: [`Settings::default`].
    ///
    /// ```
    /// # use zae_limiter::{LeasedOptions, Mode, RateLimiter, Settings};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let settings = Settings {
    ///     mode: Mode::Leased(LeasedOptions { lease_ttl_ms: 3_000, ..LeasedOptions::default() }),
    ///     limits_ttl_ms: 5_000,
    ///     ..Settings::default()
    /// };
    /// let limiter = RateLimiter::builder("my-app").settings(settings).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How acquires are paid. Default: leased.
    ///
    /// ```
    /// # use zae_limiter::{Mode, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").mode(Mode::Strict).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn mode(mut self, mode: Mode) -> Self {
        self.overrides.mode = Some(mode);
        self
    }

    /// What an acquire answers when the table cannot be reached. Default: closed.
    ///
    /// ```
    /// # use zae_limiter::{FailureMode, RateLimiter, Share};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let tenth = FailureMode::Local(Share::new(0.1)?); // of a fleet of ten
    /// let limiter = RateLimiter::builder("my-app").failure_mode(tenth).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn failure_mode(mut self, failure_mode: FailureMode) -> Self {
        self.overrides.failure_mode = Some(failure_mode);
        self
    }

    /// The AWS region. Default: what the AWS configuration says.
    ///
    /// See the example of [`RateLimiterBuilder`].
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.overrides.region = Some(region.into());
        self
    }

    /// Another endpoint than the region's, as a URL. Default: none.
    ///
    /// See the example of [`RateLimiterBuilder`].
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.overrides.endpoint_url = Some(url.into());
        self
    }

    /// Whether connecting may write the version record that a table lacks. Default: true.
    ///
    /// Deployed functions are not brought up to date by this, as they were by the Python library:
    /// `zae-limiter upgrade` and `deploy` do that, and the builder's `stack` (of the crate's
    /// feature of that name), where the aggregator's program is installed.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// // An application that may only read and acquire leaves the record to who deploys.
    /// let limiter = RateLimiter::builder("my-app").auto_update(false).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn auto_update(mut self, auto_update: bool) -> Self {
        self.overrides.auto_update = Some(auto_update);
        self
    }

    /// Whether functions that were deployed by a version too old for this one keep the limiter
    /// from connecting; else the log says so. Default: true.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// // Usage may be counted wrong for a while; limiting does not depend on it.
    /// let limiter = RateLimiter::builder("my-app").strict_version(false).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn strict_version(mut self, strict: bool) -> Self {
        self.overrides.strict_version = Some(strict);
        self
    }

    /// Whether the limiter connects to a table of whatever version. What it does there is not
    /// foreseen, unless the table is all right but for its record. Default: false.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").skip_version_check(true).in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn skip_version_check(mut self, skip: bool) -> Self {
        self.overrides.skip_version_check = Some(skip);
        self
    }

    /// A store of one's own making. Default: DynamoDB.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::MemoryStore;
    ///
    /// let table = MemoryStore::new(); // two processes of a fleet, in one test
    /// let one = RateLimiter::builder("my-app").store(table.clone()).connect().await?;
    /// let two = RateLimiter::builder("my-app").store(table).connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// A table of its own in memory, for tests.
    ///
    /// ```
    /// # use zae_limiter::{RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn in_memory(self) -> Self {
        self.store(MemoryStore::new())
    }

    /// Where time comes from. Default: the system's clocks.
    ///
    /// ```
    /// # use zae_limiter::{Clock, Limit, Mode, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use std::time::Duration;
    ///
    /// let (clock, hands) = Clock::manual();
    /// let builder = RateLimiter::builder("my-app").clock(clock).mode(Mode::Strict);
    /// let limiter = builder.in_memory().connect().await?;
    /// let limits = [Limit::per_hour("jobs", 1)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits).consume("jobs", 1);
    /// acquire().await?.commit();
    /// assert!(acquire().await.is_err());
    /// hands.advance(Duration::from_secs(3_600));
    /// acquire().await?.commit();
    /// # Ok(()) }
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What is set, by whatever way.
    pub(crate) fn all_settings(&self) -> Result<Settings, Error> {
        let settings = self.settings.clone().overridden_by_environment()?;
        Ok(self.overrides.clone().over(settings))
    }

    /// Makes sure that the table may be used, and starts the reconciler.
    ///
    /// See the example of [`RateLimiterBuilder`].
    ///
    /// # Errors
    /// [`Error::Validation`] for a name that no limiter can have, [`Error::Settings`],
    /// [`Error::Store`] if the table is missing, may not be used, or does not answer, and
    /// [`Error::VersionMismatch`] and [`Error::IncompatibleSchema`] if it does not go with this
    /// version of the crate.
    pub async fn connect(self) -> Result<RateLimiter, Error> {
        let table_name = table_name(&self.name)?;
        let settings = self.all_settings()?;
        settings.validate()?;
        #[cfg(feature = "stack")]
        let deployed = match &self.stack {
            Some(options) => {
                Box::pin(crate::stack::connect(&self.name, &settings, options)).await?
            }
            None => None,
        };
        let store = match self.store {
            Some(store) => store,
            None => {
                let mut options = ConnectOptions::new(&table_name);
                if let Some(region) = &settings.region {
                    options = options.region(region);
                }
                if let Some(url) = &settings.endpoint_url {
                    options = options.endpoint_url(url);
                }
                Arc::new(Box::pin(DynamoDbStore::connect(options)).await?)
            }
        };
        #[cfg(feature = "stack")]
        if let Some(deployed) = deployed {
            crate::stack::record(&*store, &deployed, &self.clock).await?;
        }
        if settings.skip_version_check {
            store.check().await?;
        } else {
            version::check::check(&*store, &table_name, &settings, &self.clock).await?;
        }
        let engine = Arc::new(Engine::new(table_name, store, self.clock, &settings));
        let driver = Arc::new(Driver::start(engine.clone()));
        Ok(RateLimiter {
            engine,
            driver,
            principal: None,
            #[cfg(feature = "stack")]
            place: Arc::new(settings),
        })
    }
}
