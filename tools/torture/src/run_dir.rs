//! Where a run keeps its data, its histories and the server's log; gone after a PASS unless it was asked for.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Deletes it when dropped.
    temporary: Option<tempfile::TempDir>,
}

impl RunDir {
    /// That directory, which must be new or empty; or one that is deleted in the end.
    pub fn make(asked: Option<&Path>) -> Result<Self, Failure> {
        let cannot = |what: &str, error: std::io::Error| Failure::CannotBegin(format!("{what}: {error}"));
        let dir = match asked {
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("millstream-torture-")
                    .tempdir()
                    .map_err(|error| cannot("no temporary directory", error))?;
                Self { path: temporary.path().to_owned(), temporary: Some(temporary) }
            }
            Some(path) => {
                let failed = |error| cannot(&path.display().to_string(), error);
                std::fs::create_dir_all(path).map_err(failed)?;
                if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
                    let text = format!("{} is not empty: name a new directory for this run", path.display());
                    return Err(Failure::CannotBegin(text));
                }
                // The server runs elsewhere as far as relative paths go.
                Self { path: path.canonicalize().map_err(failed)?, temporary: None }
            }
        };
        std::fs::create_dir(dir.history()).map_err(|error| cannot("the history's directory", error))?;
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub fn history(&self) -> PathBuf {
        self.path.join("history")
    }

    /// What all lives of the server wrote to stderr.
    pub fn server_log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// It stays.
    pub fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // The path is the one that is known already.
            let _ = temporary.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_goes_unless_it_is_kept() {
        let gone = RunDir::make(None).expect("made").path().to_owned();
        assert!(!gone.exists());
        let mut dir = RunDir::make(None).expect("made");
        dir.keep();
        let kept = dir.path().to_owned();
        drop(dir);
        assert!(kept.join("history").is_dir());
        std::fs::remove_dir_all(kept).expect("removed");
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let asked = place.path().join("new");
        assert!(RunDir::make(Some(&asked)).is_ok(), "a new one is made");
        assert!(matches!(RunDir::make(Some(&asked)), Err(Failure::CannotBegin(_))), "its history is in it now");
        assert!(asked.exists());
    }
}
