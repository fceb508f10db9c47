//! Where recipients, identities and passphrases come from.
