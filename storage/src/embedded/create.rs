//! Making the directory in one step.
//!
//! fjall cut short (kill -9) while it makes a database leaves files that it can never open again.
//! So a new one is made beside its place and renamed when it is whole: there is a database, or none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::embedded::Tables;
use crate::port::StorageError;

/// Makes the database at `path` unless something is there, be it a database or other files among
/// which fjall then makes one in place.
pub(super) fn unless_present(path: &Path) -> Result<(), StorageError> {
    let failed = |error: io::Error| {
        let path = path.display();
        StorageError::Outage(format!("cannot make {path}: {error}; check the path, its permissions and the disk"))
    };
    if !is_free(path).map_err(failed)? {
        return Ok(());
    }
    // A path like `..` has no place beside it.
    let Some(draft) = draft_of(path) else { return Ok(()) };
    if draft.exists() {
        // A process of this number died here.
        fs::remove_dir_all(&draft).map_err(failed)?;
    }
    fs::create_dir_all(&draft).map_err(failed)?;
    drop(Tables::open_in_place(&draft)?);
    match fs::rename(&draft, path) {
        Ok(()) => Ok(()),
        // Another process was faster: its database counts, and says whether it is in use.
        Err(_) if !is_free(path).map_err(failed)? => fs::remove_dir_all(&draft).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Removes drafts whose makers died. Called by the owner of the database, when nobody can be about
/// to put one in its place.
pub(super) fn remove_drafts(path: &Path) {
    let (Some(parent), Some(prefix)) = (path.parent(), draft_prefix(path)) else { return };
    let prefix = prefix.to_string_lossy().into_owned();
    let Ok(siblings) = fs::read_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) else {
        return;
    };
    for sibling in siblings.flatten() {
        if sibling.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = fs::remove_dir_all(sibling.path())
        {
            tracing::warn!(path = %sibling.path().display(), %error, "left-over directory not removed");
        }
    }
}

/// Nothing there, or an empty directory, which a rename replaces.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn draft_of(path: &Path) -> Option<PathBuf> {
    let mut name = draft_prefix(path)?;
    name.push(std::process::id().to_string());
    Some(path.with_file_name(name))
}

fn draft_prefix(path: &Path) -> Option<OsString> {
    let mut name = path.file_name()?.to_os_string();
    name.push(".making-");
    Some(name)
}
