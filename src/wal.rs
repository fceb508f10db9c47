//! etcd's write-ahead log. Pure over bytes.
