//! Objects as independent zstd frames with a seek table at the end.
//!
//! - Every frame decodes by itself, carries its content size and the checksum of
//!   its content, and holds at most [`MAX_FRAME_SIZE`] plain bytes.
//! - The last thing is a skippable frame with the seek table of zstd's seekable
//!   format (`contrib/seekable_format/zstd_seekable_compression_format.md @ v1.5.7`),
//!   with checksums: those are XXH64's low 32 bits, the very bytes in which each
//!   frame ends.
//! - Plain `zstd -d` decodes the whole.
//!
//! Writing and reading run on threads with bounded buffers; [`frame`] and
//! [`table`] are pure over bytes.

pub mod frame;
pub mod table;

pub(crate) mod reader;
pub(crate) mod writer;

/// Plain bytes in each frame but the last, as written here.
pub const FRAME_SIZE: usize = 4 << 20;
/// The most plain bytes in a frame that is read.
pub const MAX_FRAME_SIZE: usize = 16 << 20;
/// The most frames of an object: the seek table of as many has 12 MiB.
pub const MAX_FRAMES: u64 = 1 << 20;
/// The level when nothing else is said. It is not zstd's own of that number: it
/// takes as much room and less time.
pub const LEVEL: i32 = 3;

pub use frame::{FrameError, FrameSplitter, RawFrame};
pub use table::{FrameEntry, FrameTable, TableError};
