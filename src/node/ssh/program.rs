//! The program that is sent to nodes: its file and digest.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

/// A program's file, read once for its digest.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) file: Arc<File>,
    pub(crate) digest: String,
    pub(crate) length: u64,
}

impl Program {
    /// The program at `path`.
    pub(crate) async fn open(path: PathBuf) -> io::Result<Self> {
        let read = move || {
            let file = File::open(&path)?;
            // Its length and digest are of one and the same open file.
            let length = file.metadata()?.len();
            let digest = digest_of(&file)?;
            Ok(Self { file: Arc::new(file), digest, length })
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// The running program, read once in its life.
    pub(crate) async fn own() -> io::Result<Self> {
        static OWN: OnceCell<Program> = OnceCell::const_new();
        OWN.get_or_try_init(|| Self::open(crate::node::remote::own_program())).await.cloned()
    }
}

/// The SHA-256 of a file, in hex.
pub(crate) fn digest(path: &Path) -> io::Result<String> {
    digest_of(&File::open(path)?)
}

fn digest_of(mut file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
