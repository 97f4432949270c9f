//! What is sent to CloudFormation: parameters, tags, and whether anything is different.

use std::collections::BTreeMap;

use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_cloudformation::types::{Capability, Parameter, Tag};
use sha2::{Digest, Sha256};
use zae_limiter_core::schema::SCHEMA_VERSION;

use super::{Operation, StackManager};
use crate::artifacts::Artifacts;
use crate::summary::{LAMBDA_TAG, SCHEMA_TAG, TEMPLATE_TAG, VERSION_TAG};
use crate::{Architecture, Package, StackError, StackOptions, StackSummary, TEMPLATE, VERSION};

const CODE_BUCKET: &str = "AggregatorCodeBucket";
const CODE_KEY: &str = "AggregatorCodeKey";
const ARCHITECTURE: &str = "LambdaArchitecture";

/// All of a stack that is declared.
pub(super) struct Change {
    /// Those that are not here stay as they are, or are as the template says.
    parameters: BTreeMap<&'static str, String>,
    tags: BTreeMap<String, String>,
    /// Whether the template is left as it is.
    keeps_template: bool,
}

impl Change {
    /// To what the options say.
    pub(super) async fn to(
        manager: &StackManager,
        options: &StackOptions,
        package: Option<&Package>,
        found: Option<&StackSummary>,
    ) -> Result<Self, StackError> {
        let mut parameters = options.to_parameters(&manager.stack_name)?;
        let boundary = parameters.entry("PermissionBoundary").or_default();
        if !boundary.is_empty() && !boundary.starts_with("arn:") {
            let account = manager.services.account().await?;
            let (partition, id) = (&account.partition, &account.id);
            *boundary = format!("arn:{partition}:iam::{id}:policy/{boundary}");
        }
        parameters.insert("SchemaVersion", SCHEMA_VERSION.to_owned());
        let mut change = Self {
            parameters,
            tags: tags(found),
            keeps_template: false,
        };
        if options.has_aggregator() {
            let bucket = options.bucket();
            Box::pin(change.pack(manager, package, bucket, found)).await?;
        } else {
            change.tags.remove(LAMBDA_TAG);
            change.parameters.insert(CODE_BUCKET, String::new());
            change.parameters.insert(CODE_KEY, String::new());
            let any = Architecture::X86_64.to_string();
            change.parameters.insert(ARCHITECTURE, any);
        }
        Ok(change)
    }

    /// To this version of the template and the program, and nothing else.
    pub(super) async fn upgrade(
        manager: &StackManager,
        package: Option<&Package>,
        lambda_only: bool,
        found: &StackSummary,
    ) -> Result<Self, StackError> {
        let mut change = Self {
            parameters: BTreeMap::new(),
            tags: found.tags.clone(),
            keeps_template: lambda_only,
        };
        if !lambda_only {
            change.tags = tags(Some(found));
            let schema = SCHEMA_VERSION.to_owned();
            change.parameters.insert("SchemaVersion", schema);
        }
        if found.parameter("EnableAggregator") == Some("true") {
            let bucket = found.parameter(CODE_BUCKET);
            Box::pin(change.pack(manager, package, bucket, Some(found))).await?;
        }
        Ok(change)
    }

    /// Sees to the aggregator's package: this, if there is one, else the stack's.
    async fn pack(
        &mut self,
        manager: &StackManager,
        package: Option<&Package>,
        bucket: Option<&str>,
        found: Option<&StackSummary>,
    ) -> Result<(), StackError> {
        let Some(package) = package else {
            let packed = found.and_then(|stack| stack.parameter(CODE_KEY));
            return packed.map(drop).ok_or(StackError::NoAggregator);
        };
        let artifacts = Artifacts::of(&manager.services, &manager.stack_name, bucket);
        let location = Box::pin(Box::pin(artifacts).await?.put(package)).await?;
        self.parameters.insert(CODE_BUCKET, location.bucket);
        self.parameters.insert(CODE_KEY, location.key);
        let architecture = package.architecture.to_string();
        self.parameters.insert(ARCHITECTURE, architecture);
        self.tags.insert(LAMBDA_TAG.to_owned(), VERSION.to_owned());
        Ok(())
    }

    fn is_in(&self, found: &StackSummary) -> bool {
        let is = |(key, value): (&&str, &String)| found.parameters.get(*key) == Some(value);
        self.parameters.iter().all(is) && self.tags == found.tags
    }

    fn parameters(&self, found: Option<&StackSummary>) -> Vec<Parameter> {
        let given = self.parameters.iter().map(|(key, value)| {
            let parameter = Parameter::builder().parameter_key(*key);
            parameter.parameter_value(value).build()
        });
        let known = |key: &&str| TEMPLATE.contains(&format!("\n  {key}:\n")) || self.keeps_template;
        let kept = found.into_iter().flat_map(|stack| stack.parameters.keys());
        let kept = kept.map(String::as_str).filter(known);
        let kept = kept.filter(|key| !self.parameters.contains_key(key));
        let kept = kept.map(|key| {
            let parameter = Parameter::builder().parameter_key(key);
            parameter.use_previous_value(true).build()
        });
        given.chain(kept).collect()
    }

    fn tags(&self) -> Vec<Tag> {
        let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
        self.tags.iter().map(tag).collect()
    }
}

/// The stack's own tags beside those of others.
fn tags(found: Option<&StackSummary>) -> BTreeMap<String, String> {
    let mut tags = found.map(|stack| stack.tags.clone()).unwrap_or_default();
    let digest = Sha256::digest(TEMPLATE.as_bytes());
    let digest: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let schema = SCHEMA_VERSION.to_owned();
    tags.insert(VERSION_TAG.to_owned(), VERSION.to_owned());
    tags.insert(SCHEMA_TAG.to_owned(), schema);
    tags.insert(TEMPLATE_TAG.to_owned(), digest);
    tags
}

impl StackManager {
    /// Has CloudFormation make the change, unless there is nothing to be changed.
    pub(super) async fn submit(
        &self,
        change: Change,
        found: Option<StackSummary>,
    ) -> Result<Operation, StackError> {
        match found {
            Some(stack) if change.is_in(&stack) => Ok(Operation::Nothing),
            Some(stack) => self.update(&change, &stack).await,
            None => self.create(&change).await,
        }
    }

    async fn create(&self, change: &Change) -> Result<Operation, StackError> {
        let request = self.services.cloudformation.create_stack();
        let request = request
            .stack_name(&self.stack_name)
            .template_body(TEMPLATE)
            .set_parameters(Some(change.parameters(None)))
            .set_tags(Some(change.tags()))
            .capabilities(Capability::CapabilityNamedIam);
        match request.send().await {
            Ok(_) => Ok(Operation::Create),
            // Another process was a moment faster; what it makes is waited for.
            Err(error) if error.code() == Some("AlreadyExistsException") => Ok(Operation::Create),
            Err(error) => {
                let action = format!("create stack {}", self.stack_name);
                Err(StackError::service(action, error))
            }
        }
    }

    async fn update(&self, change: &Change, found: &StackSummary) -> Result<Operation, StackError> {
        let request = self.services.cloudformation.update_stack();
        let request = request
            .stack_name(&self.stack_name)
            .set_parameters(Some(change.parameters(Some(found))))
            .set_tags(Some(change.tags()))
            .capabilities(Capability::CapabilityNamedIam);
        let request = if change.keeps_template {
            request.use_previous_template(true)
        } else {
            request.template_body(TEMPLATE)
        };
        match request.send().await {
            Ok(_) => Ok(Operation::Update),
            Err(error) => {
                let text = error.message().unwrap_or_default();
                if text.contains("No updates are to be performed") {
                    return Ok(Operation::Nothing);
                }
                let action = format!("update stack {}", self.stack_name);
                Err(StackError::service(action, error))
            }
        }
    }
}
