//! How AWS is reached: region, endpoint, account.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zae_limiter_core::{ValidationError, validate_endpoint_url, validate_region};

use crate::{StackError, StackOptions};

/// How to reach AWS: plain data for [`StackManager::connect`](crate::StackManager::connect).
///
/// ```
/// use zae_limiter_infra::ConnectOptions;
///
/// let emulator = ConnectOptions::default().region("us-east-1").endpoint_url("http://localhost:4566");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct ConnectOptions {
    region: Option<String>,
    endpoint_url: Option<String>,
}

impl ConnectOptions {
    /// The AWS region. Default: what the environment and the AWS configuration say.
    ///
    /// See the example of [`ConnectOptions`].
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// One endpoint for all services, as a URL: an emulator. Default: those of the region.
    ///
    /// See the example of [`ConnectOptions`].
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint_url = Some(url.into());
        self
    }
}

/// The account that the credentials are of.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: String,
    /// `aws`, `aws-cn`, ...
    pub(crate) partition: String,
}

/// Clients of the services that a stack takes.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) cloudformation: aws_sdk_cloudformation::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) region: String,
    sts: aws_sdk_sts::Client,
    account: Arc<OnceCell<Account>>,
}

impl Services {
    pub(crate) async fn connect(options: ConnectOptions) -> Result<Self, StackError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = options.region {
            loader = loader.region(Region::new(region));
        }
        if let Some(url) = options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config: SdkConfig = loader.load().await;
        let region = config.region().map(ToString::to_string);
        let Some(region) = region.filter(|region| !region.is_empty()) else {
            let rule = "none is configured: give one, or set AWS_REGION";
            let missing = ValidationError::new("region", "", rule);
            return Err(StackError::Options(vec![missing]));
        };
        let url = config.endpoint_url();
        let wrong = [
            validate_region(&region),
            url.map_or(Ok(()), validate_endpoint_url),
        ];
        StackOptions::wrong(wrong.into_iter().filter_map(Result::err).collect())?;
        let s3 = aws_sdk_s3::config::Builder::from(&config);
        // Emulators have no host name for each bucket.
        let s3 = s3.force_path_style(config.endpoint_url().is_some());
        Ok(Self {
            cloudformation: aws_sdk_cloudformation::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            region,
            sts: aws_sdk_sts::Client::new(&config),
            account: Arc::default(),
        })
    }

    /// Whose credentials these are.
    pub(crate) async fn account(&self) -> Result<&Account, StackError> {
        let ask = async || {
            let sent = self.sts.get_caller_identity().send().await;
            let found = sent.map_err(|error| StackError::service("ask for the account", error))?;
            let arn = found.arn().unwrap_or_default();
            Ok(Account {
                id: found.account().unwrap_or_default().to_owned(),
                partition: arn.split(':').nth(1).unwrap_or("aws").to_owned(),
            })
        };
        self.account.get_or_try_init(ask).await
    }
}
