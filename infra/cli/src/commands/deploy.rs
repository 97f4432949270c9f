//! `deploy`: creates the stack, or changes it to what is asked for.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use zae_limiter::{Operation, StackOptions};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, print};
use crate::place::Place;
use crate::progress::{Progress, watched};
use crate::record;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Over which windows usage is summed up: hourly, daily, monthly, separated by commas.
    #[arg(long, value_name = "WINDOWS", default_value = "hourly,daily")]
    snapshot_windows: String,
    /// For how many days usage snapshots are kept: 1 to 3650.
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    retention_days: u32,
    /// Write usage snapshots, by a function in Lambda (the default).
    #[arg(long, overrides_with = "no_aggregator")]
    enable_aggregator: bool,
    /// Write no usage snapshots.
    #[arg(long)]
    no_aggregator: bool,
    /// The program that the function's package is made of. Default: zae-limiter-aggregator beside
    /// this command or in PATH, else what is deployed.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "no_aggregator",
          value_parser = named::program)]
    aggregator: Option<PathBuf>,
    /// The bucket that the package is uploaded to. Default: one that is created for all limiters
    /// of the account and region.
    #[arg(long, value_name = "BUCKET")]
    artifact_bucket: Option<String>,
    /// For how many days the table can be restored to any point in time: 1 to 35. Default: not at
    /// all.
    #[arg(long, value_name = "DAYS")]
    pitr_recovery_days: Option<u32>,
    /// For how many days the function's log is kept: 1, 3, 5, 7, 14, 30, 60, 90, ...
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    log_retention_days: u32,
    /// How long one run of the function may take: 1 to 900.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    lambda_timeout: u32,
    /// The function's memory: 128 to 3008.
    #[arg(long, value_name = "MB", default_value_t = 256)]
    lambda_memory: u32,
    /// Create alarms (the default).
    #[arg(long, overrides_with = "no_alarms")]
    enable_alarms: bool,
    /// Create no alarms.
    #[arg(long)]
    no_alarms: bool,
    /// The SNS topic that every alarm notifies.
    #[arg(long, value_name = "ARN")]
    alarm_sns_topic: Option<String>,
    /// Which share of its timeout the function may take before the alarm is raised: 1 to 100.
    #[arg(long, value_name = "PERCENT", default_value_t = 80)]
    lambda_duration_threshold_pct: u32,
    /// The policy that bounds the function's role, by name or ARN.
    #[arg(long, value_name = "POLICY")]
    permission_boundary: Option<String>,
    /// How the function's role is called, with {} for ZAEL-NAME-aggregator-role.
    #[arg(long, value_name = "FORMAT")]
    role_name_format: Option<String>,
    /// Have the table refuse to be deleted.
    #[arg(long, overrides_with = "no_deletion_protection")]
    deletion_protection: bool,
    /// Let the table be deleted (the default).
    #[arg(long)]
    no_deletion_protection: bool,
    /// The key that the table is encrypted with: aws-owned, aws-managed, or a key of your own: its
    /// id, alias/NAME, or the ARN of either.
    #[arg(long, value_name = "KEY", default_value = "aws-owned")]
    encryption_key: String,
    /// Create no policies for applications.
    #[arg(long)]
    no_policies: bool,
    /// Create no dashboard.
    #[arg(long)]
    no_dashboard: bool,
    /// Wait until it is done (the default).
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

impl Arguments {
    fn options(&self) -> StackOptions {
        let mut options = StackOptions::default()
            .snapshot_windows(&self.snapshot_windows)
            .retention_days(self.retention_days)
            .enable_aggregator(!self.no_aggregator)
            .log_retention_days(self.log_retention_days)
            .lambda_timeout(self.lambda_timeout)
            .lambda_memory(self.lambda_memory)
            .enable_alarms(!self.no_alarms)
            .lambda_duration_threshold_pct(self.lambda_duration_threshold_pct)
            .deletion_protection(self.deletion_protection)
            .encryption_key(&self.encryption_key)
            .enable_policies(!self.no_policies)
            .enable_dashboard(!self.no_dashboard);
        if let Some(program) = &self.aggregator {
            options = options.aggregator_program(program);
        }
        if let Some(bucket) = &self.artifact_bucket {
            options = options.artifact_bucket(bucket);
        }
        if let Some(days) = self.pitr_recovery_days {
            options = options.pitr_recovery_days(days);
        }
        if let Some(topic) = &self.alarm_sns_topic {
            options = options.alarm_sns_topic(topic);
        }
        if let Some(policy) = &self.permission_boundary {
            options = options.permission_boundary(policy);
        }
        if let Some(format) = &self.role_name_format {
            options = options.role_name_format(format);
        }
        options
    }
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let options = arguments.options();
    options.validate()?;
    let place = &arguments.place;
    let stack = place.stack().await?;
    let name = stack.stack_name();
    let progress = Progress::new(output, format!("deploying {name} in {}", stack.region()));
    if arguments.no_wait {
        let begun = stack.begin_deploy(&options, |event| progress.event(event));
        let operation = watched(begun, &stack, place).await?;
        drop(progress);
        let begun = json!({ "operation": operation, "stack": { "name": name } });
        return output.show(&begun, || match operation {
            Operation::Nothing => format!("{name} is what it should be"),
            _ => format!(
                "{name} is on its way: zae-limiter status --name {}",
                place.name()
            ),
        });
    }
    let deployed = stack.deploy(&options, |event| progress.event(event));
    let deployed = watched(deployed, &stack, place).await?;
    drop(progress);
    record::write(place, deployed.stack.lambda_version()).await?;
    output.show(&deployed, || match deployed.operation {
        Operation::Create => format!("{name} is deployed"),
        Operation::Update => format!("{name} is updated"),
        Operation::Nothing => format!("{name} is what it should be; nothing was done"),
    })?;
    if !output.json && deployed.operation == Operation::Create {
        for policy in ["AcquirePolicyArn", "AdminPolicyArn", "ReadOnlyPolicyArn"] {
            if let Some(arn) = deployed.stack.outputs.get(policy) {
                print(&format!("{policy}  {arn}"))?;
            }
        }
    }
    Ok(())
}
