//! A stopped member's data directory: layout, schema, membership, restore, hashes.

pub mod hash;
pub mod inspect;
pub mod layout;
pub mod membership;
pub mod remains;
pub mod restore;
pub mod schema;
