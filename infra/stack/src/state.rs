//! What can be done with a stack in each of CloudFormation's states.

/// What a state means for who wants to change the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There is nothing.
    Absent,
    /// An operation is under way: wait for it.
    Busy,
    /// It can be updated.
    Settled,
    /// Its creation came to nothing, and nothing is left in it: delete it before creating.
    Empty,
    /// Somebody has to look at it.
    Stuck,
}

impl State {
    pub(crate) fn of(status: &str) -> Self {
        match status {
            "DELETE_COMPLETE" => Self::Absent,
            "REVIEW_IN_PROGRESS" | "ROLLBACK_COMPLETE" => Self::Empty,
            "CREATE_COMPLETE"
            | "UPDATE_COMPLETE"
            | "UPDATE_ROLLBACK_COMPLETE"
            | "IMPORT_COMPLETE"
            | "IMPORT_ROLLBACK_COMPLETE"
            | "UPDATE_FAILED" => Self::Settled,
            _ if status.ends_with("_IN_PROGRESS") => Self::Busy,
            _ => Self::Stuck,
        }
    }
}

/// Whether an operation has ended well.
pub(crate) fn is_success(status: &str) -> bool {
    matches!(
        status,
        "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "DELETE_COMPLETE" | "IMPORT_COMPLETE"
    )
}

/// Whether a stack in this state has what it should have.
pub(crate) fn is_healthy(status: &str) -> bool {
    let failed = status.contains("FAILED") || status.contains("ROLLBACK");
    !failed || status == "UPDATE_ROLLBACK_COMPLETE"
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudformation::types::StackStatus;

    use super::*;

    #[test]
    fn every_state_of_cloudformation_is_one_of_these() {
        for status in StackStatus::values() {
            let state = State::of(status);
            let busy = status.ends_with("_IN_PROGRESS") && *status != "REVIEW_IN_PROGRESS";
            assert_eq!(state == State::Busy, busy, "{status}");
            let failed = status.ends_with("_FAILED") && *status != "UPDATE_FAILED";
            assert_eq!(state == State::Stuck, failed, "{status}");
            assert!(!is_success(status) || !busy, "{status}");
        }
    }
}
