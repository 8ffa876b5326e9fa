//! Exit codes, and the error at the edge.

use crate::diagnostic::Diagnostic;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// 0.
    Fine,
    /// 1: a stage failed, or a check found damage.
    StageFailed,
    /// 2: bad usage or a bad manifest.
    Usage,
    /// 3: the store cannot be used.
    Store,
    /// 130: a signal ended the run.
    Interrupted,
}

impl Exit {
    pub(super) fn code(self) -> std::process::ExitCode {
        std::process::ExitCode::from(match self {
            Exit::Fine => 0,
            Exit::StageFailed => 1,
            Exit::Usage => 2,
            Exit::Store => 3,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command ends early, with its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// What was wrong, one or several.
    pub(super) found: Vec<Diagnostic>,
    /// What places point into.
    pub(super) sources: crate::diagnostic::Sources,
}

impl Failure {
    pub(super) fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::of(Exit::Usage, Diagnostic::error(code, message))
    }

    pub(super) fn of(exit: Exit, found: Diagnostic) -> Self {
        Self { exit, found: vec![found], sources: crate::diagnostic::Sources::default() }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(last) = self.found.last_mut() {
            last.help.push(help.into());
        }
        self
    }
}

impl From<sepia_cache::StoreError> for Failure {
    fn from(error: sepia_cache::StoreError) -> Self {
        Self::of(Exit::Store, Diagnostic::error("store", error.to_string()))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(Exit::Store, Diagnostic::error("io", error.to_string()))
    }
}
