//! The document as text, TOML or JSON, with errors that say where.

use super::DesiredState;
use crate::error::ApiError;

/// The notation of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// As people write it.
    Toml,
    /// As programs write it.
    Json,
}

impl Notation {
    /// By the extension of a file name, else by the first character: JSON starts with a brace.
    #[must_use]
    pub fn guess(file_name: &str, text: &str) -> Self {
        if file_name.ends_with(".json") {
            Self::Json
        } else if file_name.ends_with(".toml") || !text.trim_start().starts_with('{') {
            Self::Toml
        } else {
            Self::Json
        }
    }
}

impl DesiredState {
    /// Reads a document. Its values are well-formed; call [`DesiredState::check`] for the rest.
    ///
    /// # Errors
    /// [`crate::error::Reason::InvalidArgument`] with the place in the text.
    pub fn parse(text: &str, notation: Notation) -> Result<Self, ApiError> {
        match notation {
            Notation::Toml => {
                toml::from_str(text).map_err(|e| ApiError::invalid("document", e.to_string().trim_end()))
            }
            Notation::Json => serde_json::from_str(text).map_err(|e| ApiError::invalid("document", e)),
        }
    }

    /// Writes the document, ending with a line feed.
    ///
    /// # Errors
    /// [`crate::error::Reason::Internal`]; no state is known that cannot be written.
    pub fn to_text(&self, notation: Notation) -> Result<String, ApiError> {
        let internal = |e: String| ApiError::new(crate::error::Reason::Internal, format!("document: {e}"));
        match notation {
            Notation::Toml => toml::to_string(self).map_err(|e| internal(e.to_string())),
            Notation::Json => {
                let mut text = serde_json::to_string_pretty(self).map_err(|e| internal(e.to_string()))?;
                text.push('\n');
                Ok(text)
            }
        }
    }
}
