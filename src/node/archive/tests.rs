//! Units, properties and hostile bytes.
