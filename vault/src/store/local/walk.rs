//! Every object below a root, in the order of the keys' bytes.

use std::io;
use std::path::{Path, PathBuf};

use super::is_absent;
use crate::durable::{FileSystem, FileType};
use crate::store::{Key, ObjectInfo};

/// A walk that can be continued. Holds one list of names for each level.
#[derive(Debug)]
pub(super) struct Walk {
    prefix: String,
    start_after: String,
    /// What is left to visit, last first: keys of files, and of directories with
    /// a `/` at the end.
    pending: Vec<String>,
}

impl Walk {
    pub(super) fn new(prefix: &str, start_after: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            start_after: start_after.to_owned(),
            pending: vec![String::new()],
        }
    }

    /// Looks at up to `most` names; `None` when there are no more.
    pub(super) fn next_batch(
        &mut self,
        fs: &dyn FileSystem,
        root: &Path,
        most: usize,
    ) -> io::Result<Option<Vec<ObjectInfo>>> {
        let mut found = Vec::new();
        for _ in 0..most {
            let Some(next) = self.pending.pop() else {
                return Ok((!found.is_empty()).then_some(found));
            };
            if next.is_empty() || next.ends_with('/') {
                self.enter(fs, root, &next)?;
            } else if let Ok(key) = Key::new(next) {
                match fs.metadata(&root.join(key.as_str())) {
                    Ok(file) if file.file_type == FileType::File => found.push(ObjectInfo {
                        key,
                        size: file.size,
                        modified: file.modified.into(),
                    }),
                    Ok(_) => {}
                    // Deleted since its name was read.
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Some(found))
    }

    fn enter(&mut self, fs: &dyn FileSystem, root: &Path, directory: &str) -> io::Result<()> {
        let entries = match fs.read_dir(&root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if !directory.is_empty() && is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut keys: Vec<String> = entries
            .iter()
            .filter_map(|entry| {
                let name = entry.name.to_str().filter(|name| Key::new(*name).is_ok())?;
                match entry.file_type {
                    FileType::File => Some(format!("{directory}{name}")),
                    FileType::Directory => Some(format!("{directory}{name}/")),
                    FileType::Symlink | FileType::Other => None,
                }
            })
            .filter(|key| self.concerns(key))
            .collect();
        // With its `/`, a directory sorts as the keys in it do.
        keys.sort_unstable_by(|a, b| b.cmp(a));
        self.pending.append(&mut keys);
        Ok(())
    }

    fn concerns(&self, key: &str) -> bool {
        if key.ends_with('/') {
            let leads = key.starts_with(&self.prefix) || self.prefix.starts_with(key);
            leads && (key > self.start_after.as_str() || self.start_after.starts_with(key))
        } else {
            key.starts_with(&self.prefix) && key > self.start_after.as_str()
        }
    }
}

/// Calls `each` for every file below `root` whose name starts with a dot.
pub(super) fn temporary_files(
    fs: &dyn FileSystem,
    root: &Path,
    mut each: impl FnMut(&Path, &str) -> io::Result<()>,
) -> io::Result<()> {
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = match fs.read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if directory != root && is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let Some(name) = entry.name.to_str() else { continue };
            match entry.file_type {
                FileType::File if name.starts_with('.') => each(&directory.join(name), name)?,
                FileType::Directory if Key::new(name).is_ok() => pending.push(directory.join(name)),
                _ => {}
            }
        }
    }
    Ok(())
}
