//! One error type for the whole lab, so that tests can use `?` everywhere.
//!
//! It separates what went wrong from what the machine lacks: the harness turns the second kind
//! into a loud SKIPPED line (and into a failure where skipping is not allowed). What another test
//! of the same run covers is SKIPPED everywhere.

use std::fmt;

/// What kind of trouble an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something was tried and did not work, or a claim did not hold.
    Failed,
    /// The machine does not have, or does not allow, what the test needs.
    Missing,
    /// The claim cannot be tested here and is tested by somebody else in the same run: never a failure.
    Excused,
}

/// An error with a message that names the object, the cause and where possible the next step.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Result of everything in the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the ordinary kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into() }
    }

    /// An error that says what the machine lacks.
    pub fn missing(message: impl Into<String>) -> Self {
        Self { kind: Kind::Missing, message: message.into() }
    }

    /// An error that says why the claim is tested elsewhere instead.
    pub fn excused(message: impl Into<String>) -> Self {
        Self { kind: Kind::Excused, message: message.into() }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// The same as Display: `main` and the test harness print errors with `{:?}`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::failed(e.to_string())
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        Self::failed(std::io::Error::from(e).to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::failed(format!("bad JSON: {e}"))
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::failed(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::failed(message)
    }
}

impl From<std::net::AddrParseError> for Error {
    fn from(e: std::net::AddrParseError) -> Self {
        Self::failed(e.to_string())
    }
}

/// Adds the object and the attempted action in front of an error's text.
pub trait Context<T> {
    /// `what` is put in front: "cannot create namespace x: Operation not permitted".
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| {
            let e: Error = e.into();
            Error { kind: e.kind, message: format!("{what}: {}", e.message) }
        })
    }
}

/// Fails with the message unless the claim holds: an `assert!` that does not panic.
#[macro_export]
macro_rules! ensure {
    ($claim:expr, $($message:tt)+) => {
        if !$claim {
            return Err($crate::Error::failed(format!($($message)+)));
        }
    };
}
