//! Which limiter, and where: the options that commands have in common.

use aws_config::{BehaviorVersion, SdkConfig};
use clap::Args;
use zae_limiter::store::{ConnectOptions, DynamoDbStore};
use zae_limiter::{Mode, RateLimiter, StackConnectOptions, StackManager, table_name};

use crate::failure::Failure;
use crate::named;

/// Where AWS is.
#[derive(Debug, Args)]
pub(crate) struct Region {
    /// The AWS region. Default: what the AWS configuration says.
    #[arg(long, value_parser = named::region)]
    region: Option<String>,
    /// One endpoint for all AWS services: an emulator. Default: those of the region.
    #[arg(long, value_name = "URL", value_parser = named::endpoint_url)]
    endpoint_url: Option<String>,
}

impl Region {
    pub(crate) fn options(&self) -> StackConnectOptions {
        let mut options = StackConnectOptions::default();
        if let Some(region) = &self.region {
            options = options.region(region);
        }
        if let Some(url) = &self.endpoint_url {
            options = options.endpoint_url(url);
        }
        options
    }
}

/// A limiter that must be named.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The limiter's name; its stack and table are called ZAEL-NAME.
    #[arg(short, long, value_parser = named::limiter)]
    name: String,
    #[command(flatten)]
    region: Region,
}

/// A limiter.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The limiter's name; its stack and table are called ZAEL-NAME.
    #[arg(short, long, default_value = "limiter", value_parser = named::limiter)]
    name: String,
    #[command(flatten)]
    region: Region,
}

impl From<Named> for Place {
    fn from(Named { name, region }: Named) -> Self {
        Self { name, region }
    }
}

impl Place {
    /// The name without what is put before it.
    pub(crate) fn name(&self) -> &str {
        let prefix = zae_limiter_core::TABLE_PREFIX;
        self.name.strip_prefix(prefix).unwrap_or(&self.name)
    }

    /// The limiter's stack.
    pub(crate) async fn stack(&self) -> Result<StackManager, Failure> {
        Ok(StackManager::connect(&self.name, self.region.options()).await?)
    }

    /// The limiter's table.
    pub(crate) async fn table(&self) -> Result<DynamoDbStore, Failure> {
        let mut options = ConnectOptions::new(table_name(&self.name)?);
        if let Some(region) = &self.region.region {
            options = options.region(region);
        }
        if let Some(url) = &self.region.endpoint_url {
            options = options.endpoint_url(url);
        }
        Ok(DynamoDbStore::connect(options).await?)
    }

    /// How AWS is reached.
    pub(crate) async fn aws(&self) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &self.region.region {
            loader = loader.region(aws_config::Region::new(region.clone()));
        }
        if let Some(url) = &self.region.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        loader.load().await
    }

    /// A limiter that keeps no tokens in hand.
    pub(crate) async fn limiter(&self) -> Result<RateLimiter, Failure> {
        let store = self.table().await?;
        let builder = RateLimiter::builder(&self.name).mode(Mode::Strict);
        // Who only looks writes nothing.
        let builder = builder.auto_update(false);
        Ok(builder.store(store).connect().await?)
    }
}
