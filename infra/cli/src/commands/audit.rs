//! `audit`: what was done to an entity.

use clap::{ArgGroup, Args};
use zae_limiter::{LimitOwner, PageRequest, PageToken};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, table};
use crate::place::Place;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["entity", "resource", "system"]).required(true))]
pub(crate) struct Arguments {
    /// The entity's identifier.
    #[arg(value_parser = named::entity)]
    entity: Option<String>,
    /// What was done to the limits of a resource instead.
    #[arg(long, value_parser = named::resource)]
    resource: Option<String>,
    /// What was done to the limits of the whole system instead.
    #[arg(long)]
    system: bool,
    #[command(flatten)]
    place: Place,
    /// How many events to show at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max: u32,
    /// Where the last list ended, as it said.
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let id = match (arguments.entity, arguments.resource) {
        (Some(entity), _) => entity,
        (None, Some(resource)) => LimitOwner::Resource(resource).audit_id(),
        (None, None) => LimitOwner::System.audit_id(),
    };
    let mut request = PageRequest::default().size(arguments.max);
    if let Some(token) = arguments.after {
        request = request.after(PageToken::from(token));
    }
    let limiter = arguments.place.limiter().await?;
    let events = limiter.get_audit_events(&id, &request).await?;
    output.show(&events, || {
        let rows = events.items.iter().map(|event| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let details = event
                .details
                .iter()
                .map(|(key, value)| format!("{key}={value}"));
            [
                event.timestamp.clone(),
                event.action.to_string(),
                text(&event.principal),
                text(&event.resource),
                details.collect::<Vec<_>>().join(" "),
            ]
        });
        let mut text = table(["Time", "Action", "By", "Resource", "Details"], rows);
        if let Some(next) = &events.next {
            text.push_str(&format!("\nthere is more: --after {next}"));
        }
        text
    })
}
