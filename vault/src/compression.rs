//! Objects as independent zstd frames with a seek table at the end.
pub const MAX_FRAMES: u64 = 1 << 24;
pub const MAX_FRAME_SIZE: usize = 16 << 20;
