//! What real clusters hold, made deterministically.
