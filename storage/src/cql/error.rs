//! The driver's errors in our two classes: will the same call work later, or never?
//!
//! Refused is what is certain never to work. Whatever else happens, and whatever a later driver
//! adds, counts as an outage: retrying in vain is seen and repaired, giving up wrongly is not.

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind as SetupError, DbError, ExecutionError,
    FirstRowError, IntoRowsResultError, MaybeFirstRowError, MetadataError, NewSessionError, NextPageError,
    NextRowError, PagerExecutionError, PrepareError, RequestAttemptError, RequestError, RowsError,
    SchemaAgreementError, TypeCheckError, UseKeyspaceError,
};

use crate::port::StorageError;

/// Our two classes, without the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Outage,
    Refused,
}
use Class::{Outage, Refused};

impl Class {
    pub(super) fn error(self, line: &str) -> StorageError {
        match self {
            Outage => StorageError::Outage(one_line(line)),
            Refused => StorageError::Refused(one_line(line)),
        }
    }
}

/// An error of the driver.
pub(super) trait DriverError: std::fmt::Display {
    fn class(&self) -> Class;
}

/// Turns a driver's result into ours.
pub(super) trait Doing<T> {
    /// `what` completes "cannot …".
    fn doing(self, what: &str) -> Result<T, StorageError>;
}

impl<T, E: DriverError> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, StorageError> {
        self.map_err(|error| error.class().error(&format!("cannot {what}: {error}")))
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl DriverError for DbError {
    fn class(&self) -> Class {
        match self {
            DbError::SyntaxError
            | DbError::Invalid
            | DbError::AlreadyExists { .. }
            | DbError::FunctionFailure { .. }
            | DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::ProtocolError => Refused,
            DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::TruncateError
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::ReadFailure { .. }
            | DbError::WriteFailure { .. }
            | DbError::Unprepared { .. }
            | DbError::ServerError
            | DbError::RateLimitReached { .. }
            | DbError::Other(_)
            | _ => Outage,
        }
    }
}

impl DriverError for RequestAttemptError {
    fn class(&self) -> Class {
        match self {
            RequestAttemptError::DbError(error, _) => error.class(),
            RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => Refused,
            RequestAttemptError::UnableToAllocStreamId
            | RequestAttemptError::BrokenConnectionError(_)
            | RequestAttemptError::BodyExtensionsParseError(_)
            | RequestAttemptError::CqlResultParseError(_)
            | RequestAttemptError::CqlErrorParseError(_)
            | RequestAttemptError::UnexpectedResponse(_)
            | RequestAttemptError::RepreparedIdChanged { .. }
            | RequestAttemptError::RepreparedIdMissingInBatch
            | RequestAttemptError::NonfinishedPagingState
            | _ => Outage,
        }
    }
}

/// What is stored is not what we store.
impl DriverError for scylla::deserialize::DeserializationError {
    fn class(&self) -> Class {
        Refused
    }
}

impl DriverError for ExecutionError {
    fn class(&self) -> Class {
        match self {
            ExecutionError::BadQuery(_) => Refused,
            ExecutionError::LastAttemptError(error) => error.class(),
            ExecutionError::PrepareError(error) => error.class(),
            ExecutionError::ConnectionPoolError(error) => error.class(),
            ExecutionError::UseKeyspaceError(error) => error.class(),
            ExecutionError::SchemaAgreementError(error) => error.class(),
            ExecutionError::MetadataError(error) => error.class(),
            ExecutionError::EmptyPlan | ExecutionError::RequestTimeout(_) | _ => Outage,
        }
    }
}

impl DriverError for PrepareError {
    fn class(&self) -> Class {
        match self {
            PrepareError::ConnectionPoolError(error) => error.class(),
            PrepareError::AllAttemptsFailed { first_attempt } => first_attempt.class(),
            PrepareError::PreparedStatementIdsMismatch | _ => Outage,
        }
    }
}

impl DriverError for UseKeyspaceError {
    fn class(&self) -> Class {
        match self {
            UseKeyspaceError::BadKeyspaceName(_) | UseKeyspaceError::KeyspaceNameMismatch { .. } => Refused,
            UseKeyspaceError::RequestError(error) => error.class(),
            UseKeyspaceError::RequestTimeout(_) | _ => Outage,
        }
    }
}

impl DriverError for SchemaAgreementError {
    fn class(&self) -> Class {
        // The nodes do not agree yet; whatever the reason, they may later.
        Outage
    }
}

impl DriverError for MetadataError {
    fn class(&self) -> Class {
        match self {
            MetadataError::ConnectionPoolError(error) => error.class(),
            MetadataError::FetchError(_)
            | MetadataError::Peers(_)
            | MetadataError::Keyspaces(_)
            | MetadataError::Udts(_)
            | MetadataError::Tables(_)
            | MetadataError::ClientRoutes(_)
            | _ => Outage,
        }
    }
}

impl DriverError for ConnectionPoolError {
    fn class(&self) -> Class {
        match self {
            ConnectionPoolError::Broken { last_connection_error } => last_connection_error.class(),
            ConnectionPoolError::Initializing | ConnectionPoolError::NodeDisabledByHostFilter | _ => Outage,
        }
    }
}

impl DriverError for ConnectionError {
    fn class(&self) -> Class {
        match self {
            ConnectionError::ConnectionSetupRequestError(error) => match &error.error {
                SetupError::DbError(error, _) => error.class(),
                SetupError::MissingAuthentication
                | SetupError::StartAuthSessionError(_)
                | SetupError::AuthChallengeEvaluationError(_)
                | SetupError::AuthFinishError(_) => Refused,
                SetupError::CqlRequestSerialization(_)
                | SetupError::BodyExtensionsParseError(_)
                | SetupError::UnableToAllocStreamId
                | SetupError::BrokenConnection(_)
                | SetupError::UnexpectedResponse(_)
                | SetupError::CqlSupportedParseError(_)
                | SetupError::CqlAuthenticateParseError(_)
                | SetupError::CqlAuthSuccessParseError(_)
                | SetupError::CqlAuthChallengeParseError(_)
                | SetupError::CqlErrorParseError(_)
                | _ => Outage,
            },
            ConnectionError::UseKeyspaceError(error) => error.class(),
            ConnectionError::ConnectTimeout
            | ConnectionError::IoError(_)
            | ConnectionError::NoSourcePortForShard(_)
            | ConnectionError::TranslationError(_)
            | ConnectionError::BrokenConnection(_)
            | _ => Outage,
        }
    }
}

impl DriverError for NewSessionError {
    fn class(&self) -> Class {
        match self {
            NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => Refused,
            NewSessionError::MetadataError(error) => error.class(),
            NewSessionError::UseKeyspaceError(error) => error.class(),
            NewSessionError::FailedToResolveAnyHostname(_) | _ => Outage,
        }
    }
}

impl DriverError for PagerExecutionError {
    fn class(&self) -> Class {
        match self {
            PagerExecutionError::SerializationError(_) => Refused,
            PagerExecutionError::PrepareError(error) => error.class(),
            PagerExecutionError::NextPageError(error) => error.class(),
            PagerExecutionError::UseKeyspaceError(error) => error.class(),
            PagerExecutionError::SchemaAgreementError(error) => error.class(),
            PagerExecutionError::MetadataError(error) => error.class(),
            _ => Outage,
        }
    }
}

impl DriverError for NextPageError {
    fn class(&self) -> Class {
        match self {
            NextPageError::PartitionKeyError(_) | NextPageError::TypeCheckError(_) => Refused,
            NextPageError::RequestFailure(error) => error.class(),
            NextPageError::ResultMetadataParseError(_) | _ => Outage,
        }
    }
}

impl DriverError for RequestError {
    fn class(&self) -> Class {
        match self {
            RequestError::LastAttemptError(error) => error.class(),
            RequestError::ConnectionPoolError(error) => error.class(),
            RequestError::EmptyPlan | RequestError::RequestTimeout(_) | _ => Outage,
        }
    }
}

impl DriverError for NextRowError {
    fn class(&self) -> Class {
        match self {
            NextRowError::NextPageError(error) => error.class(),
            NextRowError::RowDeserializationError(_) => Refused,
            _ => Outage,
        }
    }
}

/// The answer has not the shape that the schema promises: it never will.
macro_rules! wrong_shape {
    ($($error:ty),*) => {
        $(impl DriverError for $error {
            fn class(&self) -> Class {
                Refused
            }
        })*
    };
}
wrong_shape!(IntoRowsResultError, MaybeFirstRowError, FirstRowError, RowsError, TypeCheckError);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scylla::frame::types::Consistency;

    use super::*;

    fn check(error: impl DriverError, class: Class) {
        assert_eq!(error.class(), class, "{error}");
    }

    #[test]
    fn outages_and_refusals() {
        let attempt =
            |error: DbError| ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new()));
        let consistency = Consistency::Quorum;
        check(attempt(DbError::Unavailable { consistency, required: 2, alive: 1 }), Outage);
        check(attempt(DbError::Overloaded), Outage);
        check(attempt(DbError::ServerError), Outage);
        check(attempt(DbError::Other(0x4242)), Outage);
        check(ExecutionError::RequestTimeout(Duration::from_secs(1)), Outage);
        check(ExecutionError::EmptyPlan, Outage);
        check(attempt(DbError::Unauthorized), Refused);
        check(attempt(DbError::Invalid), Refused);
        check(attempt(DbError::SyntaxError), Refused);
        check(NewSessionError::EmptyKnownNodesList, Refused);
        check(NewSessionError::FailedToResolveAnyHostname(vec!["db".to_owned()]), Outage);
    }

    #[test]
    fn a_message_is_one_line() {
        let failed: Result<(), _> = Err(ExecutionError::RequestTimeout(Duration::from_secs(12)));
        let message = failed.doing("store an outcome").map_err(|error| error.to_string());
        assert_eq!(
            message,
            Err("the store does not answer: cannot store an outcome: Request execution exceeded a client timeout of 12000ms".to_owned())
        );
        assert_eq!(one_line("a\n  b"), "a b");
    }
}
