//! Where the aggregator's package is put for CloudFormation to take it from.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, PublicAccessBlockConfiguration,
};

use crate::connect::{Account, Services};
use crate::{Package, StackError};

/// What buckets of our own begin with.
const OWN_PREFIX: &str = "zae-limiter-artifacts-";

/// A package in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) bucket: String,
    pub(crate) key: String,
}

/// The bucket of the packages of one stack.
pub(crate) struct Artifacts<'a> {
    s3: &'a Client,
    region: &'a str,
    account: &'a Account,
    bucket: String,
    is_own: bool,
    stack_name: &'a str,
}

impl<'a> Artifacts<'a> {
    /// The bucket of this name, else the account's own in this region.
    pub(crate) async fn of(
        services: &'a Services,
        stack_name: &'a str,
        bucket: Option<&str>,
    ) -> Result<Self, StackError> {
        let account = services.account().await?;
        let own = format!("{OWN_PREFIX}{}-{}", account.id, services.region);
        let bucket = bucket.map_or_else(|| own.clone(), ToOwned::to_owned);
        Ok(Self {
            s3: &services.s3,
            region: &services.region,
            account,
            is_own: bucket == own,
            bucket,
            stack_name,
        })
    }

    /// Puts a package into the bucket, unless it is there.
    pub(crate) async fn put(&self, package: &Package) -> Result<Location, StackError> {
        if self.is_own {
            self.create().await?;
        }
        let key = format!("{}/aggregator-{}.zip", self.stack_name, package.sha256);
        let action = format!(
            "upload the aggregator's package to s3://{}/{key}",
            self.bucket
        );
        let found = self.s3.head_object().bucket(&self.bucket).key(&key);
        if found.send().await.is_err() {
            let sent = self
                .s3
                .put_object()
                .bucket(&self.bucket)
                .expected_bucket_owner(&self.account.id)
                .key(&key)
                .content_type("application/zip")
                .body(ByteStream::from(package.zip.clone()))
                .send()
                .await;
            sent.map_err(|error| StackError::service(action, error))?;
        }
        Ok(Location {
            bucket: self.bucket.clone(),
            key,
        })
    }

    /// Removes all packages of the stack, and the bucket if it is our own and was the last's.
    pub(crate) async fn clear(&self) -> Result<(), StackError> {
        let action = || {
            format!(
                "remove the packages of {} from {}",
                self.stack_name, self.bucket
            )
        };
        let prefix = format!("{}/aggregator-", self.stack_name);
        let list = self.s3.list_objects_v2().bucket(&self.bucket);
        let listed = list.prefix(prefix).send().await;
        let packages = match listed {
            Ok(packages) => packages,
            Err(error) => {
                let missing = error.as_service_error();
                if missing.is_some_and(|error| error.is_no_such_bucket()) {
                    return Ok(());
                }
                return Err(StackError::service(action(), error));
            }
        };
        for key in packages.contents().iter().filter_map(|found| found.key()) {
            let delete = self.s3.delete_object().bucket(&self.bucket).key(key);
            let deleted = delete.send().await;
            deleted.map_err(|error| StackError::service(action(), error))?;
        }
        if self.is_own {
            // It stays if there are packages of other stacks in it.
            let deleted = self.s3.delete_bucket().bucket(&self.bucket).send().await;
            if let Err(error) = deleted {
                tracing::debug!(bucket = self.bucket, %error, "the bucket stays");
            }
        }
        Ok(())
    }

    async fn create(&self) -> Result<(), StackError> {
        let action = || format!("create the bucket {} for packages", self.bucket);
        let head = self.s3.head_bucket().bucket(&self.bucket);
        let found = head.expected_bucket_owner(&self.account.id).send().await;
        if found.is_ok() {
            return Ok(());
        }
        // The oldest region is the one that must not be named.
        let place = (self.region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(self.region))
                .build()
        });
        let create = self.s3.create_bucket().bucket(&self.bucket);
        let created = create.set_create_bucket_configuration(place).send().await;
        if let Err(error) = created {
            let ours = error.as_service_error();
            if !ours.is_some_and(|error| error.is_bucket_already_owned_by_you()) {
                return Err(StackError::service(action(), error));
            }
        }
        let private = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .block_public_policy(true)
            .ignore_public_acls(true)
            .restrict_public_buckets(true)
            .build();
        let block = self.s3.put_public_access_block().bucket(&self.bucket);
        let block = block.public_access_block_configuration(private);
        let blocked = block.send().await;
        blocked.map_err(|error| StackError::service(action(), error))?;
        Ok(())
    }
}
