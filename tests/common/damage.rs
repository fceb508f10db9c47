//! Damage that etcd itself does not look for.

/// Gives the record of `key`, created and last changed at `revision`, the number of
/// another revision in its value, on every page that has it.
pub(crate) fn change_revision(database: &mut [u8], key: &str, revision: u8) {
    assert!(key.len() < 0x80 && revision < 0x7f, "each takes one byte");
    // `mvccpb.KeyValue`: 1 the key, 2 its creation, 3 its last change.
    let mut record = vec![0x0a, key.len() as u8];
    record.extend_from_slice(key.as_bytes());
    record.extend_from_slice(&[0x10, revision, 0x18, revision]);
    let mut changed = 0;
    for at in record.len()..=database.len() {
        if database[..at].ends_with(&record) {
            database[at - 1] += 1;
            changed += 1;
        }
    }
    assert!(changed > 0, "the record of {key} is in the file");
}
