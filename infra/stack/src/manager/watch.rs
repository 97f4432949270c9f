//! Looking at a stack until it is quiet.

use std::collections::HashSet;
use std::time::Duration;

use aws_sdk_cloudformation::error::ProvideErrorMetadata;

use super::StackManager;
use crate::state::{State, is_success};
use crate::{StackError, StackEvent, StackSummary};

/// How long is waited between the first looks; then ever longer.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(300);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(4);

impl StackManager {
    /// The stack of this name or ARN.
    pub(super) async fn describe(&self, name: &str) -> Result<Option<StackSummary>, StackError> {
        let request = self.services.cloudformation.describe_stacks();
        match request.stack_name(name).send().await {
            Ok(found) => Ok(found.stacks().first().map(StackSummary::new)),
            Err(error) => {
                // There is no code of its own for that.
                let text = error.message().unwrap_or_default();
                if error.code() == Some("ValidationError") && text.contains("does not exist") {
                    return Ok(None);
                }
                let action = format!("look at stack {}", self.stack_name);
                Err(StackError::service(action, error))
            }
        }
    }

    /// Waits for what is under way, and clears away what a failed creation left. What is found
    /// then can be updated.
    pub(super) async fn settle(
        &self,
        progress: &mut impl FnMut(&StackEvent),
    ) -> Result<Option<StackSummary>, StackError> {
        loop {
            let Some(stack) = self.status().await? else {
                return Ok(None);
            };
            match stack.state() {
                State::Absent => return Ok(None),
                State::Settled => return Ok(Some(stack)),
                State::Busy => drop(self.watch(&stack, progress).await?),
                State::Empty => {
                    let request = self.services.cloudformation.delete_stack();
                    let sent = Box::pin(request.stack_name(&stack.id).send()).await;
                    let action = format!("clear away the empty stack {}", self.stack_name);
                    sent.map_err(|error| StackError::service(action, error))?;
                    self.gone(&stack, progress).await?;
                }
                State::Stuck => {
                    return Err(StackError::Stuck {
                        stack_name: stack.name,
                        status: stack.status,
                    });
                }
            }
        }
    }

    /// The stack, which must be there.
    pub(super) async fn found(&self) -> Result<StackSummary, StackError> {
        self.status().await?.ok_or_else(|| self.absent())
    }

    fn absent(&self) -> StackError {
        StackError::Stuck {
            stack_name: self.stack_name.clone(),
            status: "absent: somebody has deleted it".to_owned(),
        }
    }

    /// Waits until the stack is quiet: an error unless it is as it should be.
    pub(super) async fn done(
        &self,
        mut progress: impl FnMut(&StackEvent),
    ) -> Result<StackSummary, StackError> {
        let stack = self.found().await?;
        let (stack, events) = self.watch(&stack, &mut progress).await?;
        let stack = stack.ok_or_else(|| self.absent())?;
        if is_success(&stack.status) {
            return Ok(stack);
        }
        Err(failed(stack, events))
    }

    /// Waits until the stack is no more.
    pub(super) async fn gone(
        &self,
        stack: &StackSummary,
        progress: &mut impl FnMut(&StackEvent),
    ) -> Result<(), StackError> {
        match self.watch(stack, progress).await? {
            (None, _) => Ok(()),
            (Some(stack), events) => Err(failed(stack, events)),
        }
    }

    /// Waits until nothing is under way. Tells what happens, from the beginning of the operation.
    pub(super) async fn watch(
        &self,
        stack: &StackSummary,
        progress: &mut impl FnMut(&StackEvent),
    ) -> Result<(Option<StackSummary>, Vec<StackEvent>), StackError> {
        let (mut events, mut seen) = (Vec::new(), HashSet::new());
        let mut interval = POLL_INTERVAL_MIN;
        loop {
            // By its ARN it is found also when it has been deleted.
            let found = Box::pin(self.describe(&stack.id)).await?;
            let found = found.filter(|stack| stack.state() != State::Absent);
            // After the look, so that the last events are among them.
            for event in Box::pin(self.new_events(&stack.id, &mut seen)).await? {
                progress(&event);
                events.push(event);
            }
            match found {
                Some(stack) if stack.is_busy() => tokio::time::sleep(interval).await,
                quiet => return Ok((quiet, events)),
            }
            interval = (interval * 3 / 2).min(POLL_INTERVAL_MAX);
        }
    }

    /// The events of the last operation that have not been seen, the oldest first.
    async fn new_events(
        &self,
        stack_id: &str,
        seen: &mut HashSet<String>,
    ) -> Result<Vec<StackEvent>, StackError> {
        let mut request = self.services.cloudformation.describe_stack_events();
        request = request.stack_name(stack_id);
        let mut events = Vec::new();
        'pages: loop {
            let page = match request.clone().send().await {
                Ok(page) => page,
                // Some emulators forget a deleted stack at once.
                Err(error) if error.code() == Some("ValidationError") => break,
                Err(error) => {
                    let action = format!("read the events of stack {}", self.stack_name);
                    return Err(StackError::service(action, error));
                }
            };
            for event in page.stack_events() {
                if !seen.insert(event.event_id().unwrap_or_default().to_owned()) {
                    break 'pages;
                }
                let event = StackEvent::new(event);
                let begins = event.resource == self.stack_name
                    && matches!(
                        event.status.as_str(),
                        "CREATE_IN_PROGRESS" | "UPDATE_IN_PROGRESS" | "DELETE_IN_PROGRESS"
                    );
                events.push(event);
                if begins {
                    break 'pages;
                }
            }
            match page.next_token {
                Some(token) => request = request.next_token(token),
                None => break,
            }
        }
        events.reverse();
        Ok(events)
    }
}

fn failed(stack: StackSummary, events: Vec<StackEvent>) -> StackError {
    let first = events.iter().find(|event| event.is_failure());
    let reason = match (first, &stack.reason) {
        (Some(event), _) if event.resource != stack.name => {
            let reason = event.reason.as_deref().unwrap_or("no reason is given");
            format!("{} ({}): {reason}", event.resource, event.resource_type)
        }
        (_, Some(reason)) => reason.clone(),
        (Some(event), None) => event.reason.clone().unwrap_or_default(),
        (None, None) => "no reason is given".to_owned(),
    };
    StackError::Failed {
        stack_name: stack.name,
        status: stack.status,
        reason,
        events,
    }
}
