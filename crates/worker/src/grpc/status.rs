//! Errors as gRPC status codes. The text is what clients of the Machines API see; causes follow it
//! only where they help the caller.

use tonic::{Code, Status};

use crate::error::{WorkerError, chain};
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
            WorkerError::Driver { source: atoll_driver::DriverError::NotRunning { .. }, .. } => {
                Code::FailedPrecondition
            }
            // A command that cannot be executed is the caller's affair.
            WorkerError::Driver { source: atoll_driver::DriverError::Unstartable { .. }, .. } => Code::InvalidArgument,
            WorkerError::Image { .. } => Code::FailedPrecondition,
            WorkerError::Driver { .. } | WorkerError::Seal { .. } | WorkerError::Logs { .. } => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
