//! Where the vault is.
