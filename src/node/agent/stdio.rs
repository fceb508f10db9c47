//! Standard input and output as the agent's stream.
//!
//! The descriptors are moved away: what else in the process or a child of it reads
//! 0 or writes 1 gets nothing and disturbs nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

use rustix::fs::{FileType, fstat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// The end that the operator's bytes come from.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// The end that the agent's bytes go to.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// How much a pipe may hold, in bytes; more than the usual 64 KiB saves wake-ups.
const PIPE_SIZE: usize = 1 << 20;

/// Takes standard input and output over. Must be called within a runtime, once.
pub fn take() -> io::Result<(Reader, Writer)> {
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok((reader(input)?, writer(output)?))
}

fn reader(fd: OwnedFd) -> io::Result<Reader> {
    Ok(match kind(&fd)? {
        FileType::Fifo => {
            widen(&fd);
            Box::pin(pipe::Receiver::from_owned_fd(fd)?)
        }
        FileType::Socket => Box::pin(socket(fd)?),
        _ => Box::pin(tokio::fs::File::from_std(File::from(fd))),
    })
}

fn writer(fd: OwnedFd) -> io::Result<Writer> {
    Ok(match kind(&fd)? {
        FileType::Fifo => {
            widen(&fd);
            Box::pin(pipe::Sender::from_owned_fd(fd)?)
        }
        FileType::Socket => Box::pin(socket(fd)?),
        _ => Box::pin(tokio::fs::File::from_std(File::from(fd))),
    })
}

fn kind(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

/// Makes a pipe larger where the system allows it.
pub(crate) fn widen(fd: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(fd, PIPE_SIZE);
}

fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
