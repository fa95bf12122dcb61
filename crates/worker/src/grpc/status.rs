//! Errors as gRPC status codes. The text is what clients of the Machines API see; causes follow it
//! only where they help the caller.

use tonic::{Code, Status};

use atoll_driver::DriverError;
use atoll_signals::with_causes;

use crate::error::WorkerError;
use crate::store::StoreError;

impl From<WorkerError> for Status {
    fn from(error: WorkerError) -> Self {
        let code = match &error {
            WorkerError::NotFound { .. } | WorkerError::NoLease => Code::NotFound,
            WorkerError::Precondition(_) => Code::FailedPrecondition,
            WorkerError::Conflict(_) => Code::Aborted,
            WorkerError::Invalid(_) => Code::InvalidArgument,
            WorkerError::TimedOut(_) => Code::DeadlineExceeded,
            WorkerError::NodeFull { .. } | WorkerError::NotRecorded { source: StoreError::Full(_), .. } => {
                Code::ResourceExhausted
            }
            WorkerError::Unavailable { .. } | WorkerError::NotRecorded { .. } => Code::Unavailable,
            WorkerError::Driver { source: DriverError::NotRunning { .. }, .. } => Code::FailedPrecondition,
            // What cannot be executed is the caller's affair, and the reason is all that helps.
            WorkerError::Driver { source: DriverError::Unstartable { .. } | DriverError::Refused { .. }, .. } => {
                Code::InvalidArgument
            }
            WorkerError::Image { .. } => Code::FailedPrecondition,
            WorkerError::Driver { .. } | WorkerError::Seal { .. } | WorkerError::Logs { .. } => Code::Internal,
        };
        let message = match &error {
            WorkerError::Driver {
                source: cause @ (DriverError::Unstartable { .. } | DriverError::Refused { .. }),
                ..
            } => cause.to_string(),
            error => with_causes(error),
        };
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_run_is_the_callers_affair() {
        let machine = atoll_model::MachineId::from_random(1);
        let source = DriverError::Refused { machine, reason: "the program \"x\" is in no folder of PATH".into() };
        let status = Status::from(WorkerError::Driver { machine, action: "run the command", source });
        let text = "machine 00000000000001 cannot run the command: the program \"x\" is in no folder of PATH";
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }

    #[test]
    fn codes_carry_the_documented_texts() {
        let full = Status::from(WorkerError::NodeFull { resource: "memory" });
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert_eq!(
            full.message(),
            "could not reserve resource for machine: insufficient memory available to fulfill request"
        );
        let machine = atoll_model::MachineId::from_random(1);
        let missing = Status::from(WorkerError::NotFound { machine });
        assert_eq!((missing.code(), missing.message()), (Code::NotFound, "machine not found: 00000000000001"));
    }
}
