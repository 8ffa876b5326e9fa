//! Why a stage did not finish.

use camino::Utf8PathBuf;

/// Why a stage did not finish. Made with [`StageError::new`] and refined with `.help(..)` and `.param(..)`.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It cannot be done with these parameters and inputs.
    #[error("{message}")]
    Failed {
        /// One sentence: what is wrong, with the figures.
        message: String,
        /// What to change.
        help: Option<String>,
        /// The parameter it concerns, as a dotted path (`model.n_head`), so that the manifest's line can be shown.
        param: Option<String>,
    },
    /// Reading or writing failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// It was asked to stop and has saved a checkpoint (or had none to save).
    #[error("stopped at step {step} as asked")]
    Stopped {
        /// Steps done so far.
        step: u64,
    },
    /// The engine asked for something that this stage does not have.
    #[error("no {what} named `{name}` is connected")]
    NotConnected {
        /// `input` or `output`.
        what: &'static str,
        /// The port.
        name: String,
    },
}

impl StageError {
    /// A failure, in one sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), help: None, param: None }
    }

    /// Adds what to change.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        if let Self::Failed { help, .. } = &mut self {
            *help = Some(text.into());
        }
        self
    }

    /// Names the parameter it concerns, as a dotted path.
    #[must_use]
    pub fn param(mut self, path: impl Into<String>) -> Self {
        if let Self::Failed { param, .. } = &mut self {
            *param = Some(path.into());
        }
        self
    }

    /// An input/output failure with what was being done.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }

    /// A file that cannot be read as what it should be.
    pub fn unreadable(path: &Utf8PathBuf, why: impl std::fmt::Display) -> Self {
        Self::new(format!("{path} cannot be read: {why}"))
    }
}

impl From<std::io::Error> for StageError {
    fn from(source: std::io::Error) -> Self {
        // fs-err's messages already name the operation and the path.
        Self::Io { context: "input/output".to_owned(), source }
    }
}
